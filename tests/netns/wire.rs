//! What margay puts on the wire, captured by tcpdump and read by tshark with all its checksum
//! checks on: nothing malformed, nothing longer than the link.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use margay::lab::measure::{self, IperfSpec, Load, PingSpec};
use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, UPLINK};
use margay::lab::process::{self, Process};
use margay::lab::requirements::{self, Tool};
use nix::sys::signal::Signal;

pub(crate) const TOOLS: &[Tool] = &[
    Tool { program: "ethtool", package: "ethtool" },
    Tool { program: "tcpdump", package: "tcpdump" },
    Tool { program: "tshark", package: "tshark" },
];

/// Most packets that a capture keeps: tshark is slow.
const PACKETS: &str = "4000";
const LIMIT: Duration = Duration::from_secs(60);

/// What tshark says of a packet that is wrong.
const WRONG: &str = "_ws.malformed || _ws.expert.group == \"Malformed\" || \
    ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || \
    icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || ip.len > 1500 || ipv6.plen > 1460";

/// Packets that come in by `device`, so what margay sent.
pub(crate) struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    fn start(network: &Network, namespace: &Namespace, device: &str) -> Capture {
        let file = network.scope().directory().join(format!("{}.capture", namespace.name()));
        Capture::to_file(namespace, device, file)
    }

    /// The device joins no packets from now on: seen is what comes.
    pub(crate) fn to_file(namespace: &Namespace, device: &str, file: PathBuf) -> Capture {
        let ethtool =
            |args: &[&str]| process::run_ok(namespace.command("ethtool", args), "", LIMIT).unwrap();
        if ethtool(&["-k", device]).contains("generic-receive-offload: on") {
            ethtool(&["-K", device, "gro", "off"]);
            // It takes no redirected frames either then, which margay sees when it looks next.
            std::thread::sleep(Duration::from_secs(2));
        }
        let name = file.to_str().unwrap();
        let args =
            ["-i", device, "-Q", "in", "-Z", "root", "-c", PACKETS, "--immediate-mode", "-w", name];
        let log = file.with_extension("log");
        let process = Process::start_logged(namespace.command("tcpdump", &args), &log).unwrap();
        process::wait_for("tcpdump to listen", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            Ok(text.contains("listening on").then_some(()))
        })
        .unwrap();
        Capture { process, file }
    }

    pub(crate) fn finish(mut self) -> PathBuf {
        if self.process.exit_status().unwrap().is_none() {
            self.process.end(Signal::SIGINT, Duration::from_secs(10)).unwrap();
        }
        self.file
    }
}

/// One line for each packet that `filter` selects.
fn packets(file: &Path, filter: &str) -> Vec<String> {
    let mut args = vec!["-n", "-r", file.to_str().unwrap(), "-Y", filter];
    let checks = ["ip", "tcp", "udp"].map(|layer| format!("{layer}.check_checksum:TRUE"));
    for check in &checks {
        args.extend(["-o", check]);
    }
    let output = process::run_ok(process::command("tshark", &args), "", LIMIT).unwrap();
    output.lines().map(str::to_owned).collect()
}

/// A sender, a receiver, and the receiver's address.
type Way<'a> = (&'a Namespace, &'a Namespace, IpAddr);

/// Captures one load at the first device behind margay, and judges what came.
fn judge(network: &Network, (client, server, target): Way, load: Load) {
    let (place, device) =
        if *server == network.outside { (&network.tor, "edge1") } else { (server, "eth0") };
    let capture = Capture::start(network, place, device);
    measure::iperf(IperfSpec { client, server, target, load, seconds: 1 }).unwrap();
    demand_right_packets(&capture.finish(), 20);
}

pub(crate) fn demand_right_packets(file: &Path, least: usize) {
    let count = packets(file, "ip || ipv6").len();
    let wrong = packets(file, WRONG);
    let first: Vec<&String> = wrong.iter().take(5).collect();
    println!("{}: {count} packets, {} wrong", file.display(), wrong.len());
    assert!(count >= least, "{} has only {count} packets", file.display());
    assert!(wrong.is_empty(), "{} of {count} wrong: {first:#?}", wrong.len());
    demand_that_a_flipped_bit_is_found(file);
}

#[test]
fn tshark_finds_nothing_wrong_on_the_wire() {
    let tools = [requirements::STEPS, TOOLS].concat();
    let Some(_turn) = crate::turn(&tools) else { return };
    let network = crate::network(1500);
    let pod = |name: &str| network.nodes[0].pod(name).unwrap();
    let (veth, tap, narrow) = (pod("veth-a"), pod("tap-a"), pod("narrow-a"));
    // A veth carries super-packets and unfinished checksums as no wire does.
    for device in [UPLINK, veth.host_device()] {
        let off = network.nodes[0].namespace().command("ethtool", &["-K", device, "tx", "off"]);
        process::run_ok(off, "", LIMIT).unwrap();
    }
    let udp = Load::Udp { length: 4000, rate: 10_000_000 };
    for (family, outside) in network.outside_addresses().unwrap().into_iter().enumerate() {
        let ways = [
            (veth.namespace(), &network.outside, outside),
            (tap.namespace(), &network.outside, outside),
            (&network.outside, veth.namespace(), veth.addresses()[family]),
            (tap.namespace(), veth.namespace(), veth.addresses()[family]),
        ];
        for way in ways {
            judge(&network, way, Load::Tcp);
            judge(&network, way, udp);
        }
    }
    let capture = Capture::start(&network, narrow.namespace(), "eth0");
    let large = PingSpec { size: 1500, count: 10, ..PingSpec::to(narrow.v4()) };
    measure::ping(&network.outside, large).unwrap();
    demand_right_packets(&capture.finish(), 20);
}

/// The same capture with the last bit of each packet turned over is not accepted.
fn demand_that_a_flipped_bit_is_found(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    // The file's head has 24 bytes; each packet's 16, with its length as the third word.
    let mut at = 24;
    while at < bytes.len() {
        let length = u32::from_ne_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        at += 16 + length as usize;
        bytes[at - 1] ^= 1;
    }
    let copy = file.with_extension("flipped");
    std::fs::write(&copy, bytes).unwrap();
    assert!(!packets(&copy, WRONG).is_empty(), "tshark checks no checksums here");
}
