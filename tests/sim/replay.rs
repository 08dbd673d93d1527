//! `margay replay` as a script runs it: a store in a directory, a capture, one JSON summary.

use margay_fastpath::port::pcap::{Capture, Writer};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STORE: &str = r#"
apiVersion: projectcalico.org/v3
kind: NodeList
items:
- {kind: Node, metadata: {name: edge1}, spec: {bgp: {ipv4Address: 172.31.0.1/24}}}
- {kind: Node, metadata: {name: edge2}, spec: {bgp: {ipv4Address: 172.31.0.2/24}}}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: edge2-10-65-2-0-26}
spec: {state: confirmed, node: edge2, cidr: 10.65.2.0/26, deleted: "false"}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: edge1-10-65-1-0-26}
spec: {state: confirmed, node: edge1, cidr: 10.65.1.0/26, deleted: "false"}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: edge1-k8s-web-eth0, namespace: default}
spec:
  orchestrator: k8s
  node: edge1
  pod: web
  endpoint: eth0
  interfaceName: cali0123
  ipNetworks: [10.65.1.2/32]
"#;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path =
            std::env::temp_dir().join(format!("margay-replay-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("store"))
            .expect("the scratch directory and the binary are there");
        std::fs::write(path.join("store/all.yaml"), STORE)
            .expect("the scratch directory and the binary are there");
        Scratch(path)
    }

    fn capture(&self, packets: &[Vec<u8>]) -> PathBuf {
        let path = self.0.join("in.pcapng");
        let mut writer =
            Writer::create(&path).expect("the scratch directory and the binary are there");
        let interface =
            writer.interface("in").expect("the scratch directory and the binary are there");
        for (at, packet) in packets.iter().enumerate() {
            writer
                .bytes(at as u64 * 1_000_000, interface, packet, None)
                .expect("the scratch directory and the binary are there");
        }
        writer.flush().expect("the scratch directory and the binary are there");
        path
    }

    fn replay(&self, capture: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
        command.arg("replay").arg(capture).arg("--store").arg(self.0.join("store"));
        command.args(more).output().expect("the scratch directory and the binary are there")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn udp(dst: [u8; 4], ttl: u8) -> Vec<u8> {
    let link = ethernet::header(Mac([2, 9, 9, 9, 9, 9]), Mac([2, 8, 8, 8, 8, 8]), ethernet::IPV4);
    let src = Ipv4Addr::new(198, 51, 100, 7);
    let header = ipv4::header(src, dst.into(), protocol::UDP, ttl, 12);
    [&link[..], &header, &[0, 7, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

#[test]
fn replay_accounts_for_every_packet_by_fate() {
    let scratch = Scratch::new("fates");
    let mut truncated = udp([10, 65, 1, 2], 64);
    truncated.truncate(30);
    let capture = scratch.capture(&[
        udp([10, 65, 1, 2], 64),
        udp([10, 65, 2, 9], 64),
        udp([10, 65, 1, 9], 64),
        udp([172, 31, 0, 1], 64),
        udp([8, 8, 8, 8], 64),
        udp([10, 65, 1, 2], 1),
        truncated,
    ]);
    let out = scratch.0.join("out.pcapng");
    let flags = ["--node", "edge1", "-w", out.to_str().unwrap()];
    let output = scratch.replay(&capture, &flags);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = serde_json::json!({
        "packets": 7, "forwarded": {"cali0123": 1, "uplink": 1}, "punted": 1, "answered": 0,
        "waiting": 0, "dropped": {"route-blackhole": 1, "no-route": 1, "ttl-exceeded": 1,
        "truncated": 1},
    });
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&summary[key], value, "{key} of {summary}");
    }
    let written = Capture::read(&out).unwrap();
    assert_eq!(written.len() as u64, summary["sent"].as_u64().unwrap() + 4);
}

#[test]
fn hostile_captures_are_accounted_for_on_every_port() {
    let scratch = Scratch::new("hostile");
    let packets: Vec<Vec<u8>> = crate::hostile::packets(7, 500);
    let capture = scratch.capture(&packets);
    for port in ["uplink", "cali0123"] {
        let output = scratch.replay(&capture, &["--node", "edge1", "--in-port", port]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let sum = |key: &str| -> u64 {
            let counts = summary[key].as_object().unwrap();
            counts.values().map(|count| count.as_u64().unwrap()).sum()
        };
        let number = |key: &str| summary[key].as_u64().unwrap();
        let fates = sum("forwarded") + sum("dropped") + number("punted") + number("answered");
        assert_eq!(fates + number("waiting"), packets.len() as u64, "{summary}");
    }
}

#[test]
fn what_is_wrong_is_named_with_the_mend() {
    let scratch = Scratch::new("wrong");
    let capture = scratch.capture(&[udp([10, 65, 1, 2], 64)]);
    let said = |flags: &[&str]| {
        let output = scratch.replay(&capture, flags);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = said(&["--node", "edge7"]);
    assert!(text.contains("no Node named 'edge7'") && text.contains("edge1, edge2"), "{text}");
    let text = said(&["--node", "edge1", "--in-port", "eth7"]);
    assert!(text.contains("no port named 'eth7'") && text.contains("uplink, cali0123"), "{text}");
}
