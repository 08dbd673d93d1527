//! Pods on veths by tc: super-packets cross margay whole, the whole pipeline has a say in what such
//! pods send and receive, and nothing is left of them when they or the daemon go.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use margay::lab::greeter::{self, Greeter};
use margay::lab::measure::{self, IperfSpec, Load, PingSpec};
use margay::lab::namespace::Namespace;
use margay::lab::network::{NODE_ADDRESSES, Network};
use margay::lab::process::wait_for;
use margay::lab::store::write_yaml;
use margay::lab::{requirements, steps};
use serde_json::{Value, json};

use crate::frames;
use crate::taps::carries;

const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;
/// What a stream brings, in pieces of so many bytes.
pub(crate) const STREAM: usize = 48 << 20;
const PIECE: usize = 64 << 10;

/// The usual pods, two by tc on the first node and one on the second.
fn network() -> Network {
    let mut network = crate::network(1500);
    for (node, name) in [(0, "tc-a"), (0, "tc-c"), (1, "tc-b")] {
        network.add_pod(node, name).unwrap();
    }
    network
}

fn port(network: &mut Network, pod: &str) -> Value {
    let device = network.nodes[0].pod(pod).unwrap().host_device().to_owned();
    let ports = network.nodes[0].daemon().unwrap().show("ports").unwrap();
    let found = ports.as_array().unwrap().iter().find(|port| port["name"] == device.as_str());
    found.cloned().unwrap_or_default()
}

pub(crate) fn answers(from: &Namespace, target: IpAddr) {
    wait_for(&format!("{target} to answer"), LIMIT, || {
        let spec = PingSpec { count: 1, ..PingSpec::to(target) };
        Ok((measure::ping(from, spec)?.received == 1).then_some(()))
    })
    .unwrap();
}

/// The TAPs beside veths of the first node.
fn taps(network: &Network) -> usize {
    let links = network.nodes[0].namespace().read("/proc/net/dev").unwrap();
    links.lines().filter(|line| line.trim_start().starts_with("mgytc")).count()
}

#[test]
fn tcp_between_tc_and_every_other_attachment() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let network = network();
    let pod = |node: usize, name: &str| network.nodes[node].pod(name).unwrap();
    let (tc_a, tc_b, tc_c) = (pod(0, "tc-a"), pod(1, "tc-b"), pod(0, "tc-c"));
    let (tap_a, veth_a, narrow) = (pod(0, "tap-a"), pod(0, "veth-a"), pod(0, "narrow-a"));
    let outside = network.outside_addresses().unwrap();
    let ways = [
        ("tc to tc, one node", tc_a.namespace(), tc_c.namespace(), tc_c.addresses()),
        ("tc to tc, across nodes", tc_a.namespace(), tc_b.namespace(), tc_b.addresses()),
        ("tc to veth", tc_a.namespace(), veth_a.namespace(), veth_a.addresses()),
        ("veth to tc", veth_a.namespace(), tc_a.namespace(), tc_a.addresses()),
        ("tc to a narrow veth", tc_a.namespace(), narrow.namespace(), narrow.addresses()),
        ("tc to TAP", tc_a.namespace(), tap_a.namespace(), tap_a.addresses()),
        ("TAP to tc", tap_a.namespace(), tc_a.namespace(), tc_a.addresses()),
        ("tc to outside", tc_a.namespace(), &network.outside, outside),
        ("outside to tc", &network.outside, tc_a.namespace(), tc_a.addresses()),
    ];
    carries(&ways);
    assert_eq!(steps::checksum_errors(&network).unwrap(), 0);
    for pod in [tc_a, tc_b, tc_c] {
        assert_eq!(measure::checksum_errors(pod.namespace()).unwrap(), 0);
    }
}

/// Sends a stream that no two pieces of are alike; the hashes of what was sent and received.
pub(crate) fn stream(client: &Namespace, server: &Namespace, target: IpAddr) -> [u64; 2] {
    let at = SocketAddr::new(target, PORT);
    let listener = server.enter(|| Ok(TcpListener::bind(at)?)).unwrap();
    let mut sender = client.enter(|| Ok(TcpStream::connect_timeout(&at, LIMIT)?)).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(LIMIT)).unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut hasher, mut bytes, mut total) = (DefaultHasher::new(), vec![0; PIECE], 0);
        loop {
            match receiver.read(&mut bytes).unwrap() {
                0 => break,
                len => {
                    total += len;
                    hasher.write(&bytes[..len]);
                }
            }
        }
        assert_eq!(total, STREAM);
        hasher.finish()
    });
    let (mut hasher, mut state) = (DefaultHasher::new(), 1u64);
    for _ in 0..STREAM / PIECE {
        let mut piece = Vec::with_capacity(PIECE);
        while piece.len() < PIECE {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            piece.extend(state.to_be_bytes());
        }
        hasher.write(&piece);
        sender.write_all(&piece).unwrap();
    }
    drop(sender);
    [hasher.finish(), reader.join().unwrap()]
}

#[test]
fn super_packets_stay_whole_and_bring_what_was_sent() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = network();
    let [from, to] = ["tc-a", "tc-c"].map(|name| network.nodes[0].pod(name).unwrap().clone());
    to.addresses().into_iter().for_each(|address| answers(from.namespace(), address));
    for target in to.addresses() {
        let before = ["tc-a", "tc-c"].map(|name| port(&mut network, name));
        let [sent, received] = stream(from.namespace(), to.namespace(), target);
        assert_eq!(sent, received, "to {target}");
        let after = ["tc-a", "tc-c"].map(|name| port(&mut network, name));
        let number = |port: &Value, name: &str| port[name].as_u64().unwrap();
        for (at, [packets, bytes]) in [(0, ["rxPackets", "rxBytes"]), (1, ["txPackets", "txBytes"])]
        {
            let of = |name| number(&after[at], name) - number(&before[at], name);
            let mean = of(bytes) / of(packets).max(1);
            println!("{target}: {} of {mean} bytes", of(packets));
            assert!(of(bytes) > STREAM as u64, "{} bytes seen", of(bytes));
            assert!(mean > 6000, "packets of {mean} bytes are no super-packets");
        }
    }
    let shown = port(&mut network, "tc-a");
    assert_eq!((&shown["role"], &shown["driver"]), (&json!("tc"), &json!("tc")), "{shown}");
    // Through an uplink of 1500 bytes they are cut, and arrive all the same.
    let pod = network.nodes[0].pod("tc-a").unwrap().clone();
    for address in network.outside_addresses().unwrap() {
        let [sent, received] = stream(pod.namespace(), &network.outside, address);
        assert_eq!(sent, received, "to {address}");
    }
    frames::demand_all(network.nodes[0].daemon().unwrap());
}

fn connects(from: &Namespace, at: SocketAddr) -> bool {
    let wait = Duration::from_millis(500);
    from.enter(|| Ok(TcpStream::connect_timeout(&at, wait).is_ok())).unwrap()
}

#[test]
fn policy_translation_and_limits_hold() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = network();
    let [pod, other] = ["tc-a", "tc-c"].map(|name| network.nodes[0].pod(name).unwrap().clone());
    let _servers: Vec<Greeter> = [PORT, PORT + 1]
        .into_iter()
        .flat_map(|port| other.addresses().map(|address| SocketAddr::new(address, port)))
        .map(|at| Greeter::start(other.namespace(), at, "other").unwrap())
        .collect();
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "one-port" },
        "spec": { "selector": "pod == 'tc-c'", "types": ["Ingress"], "ingress": [
            { "action": "Allow", "protocol": "TCP", "destination": { "ports": [PORT] } },
        ] },
    });
    write_yaml(&network.store().unwrap().directory().join("one-port.yaml"), &policy).unwrap();
    for address in other.addresses() {
        let at = |port| SocketAddr::new(address, port);
        wait_for("the pod to be reached", LIMIT, || {
            Ok(connects(pod.namespace(), at(PORT)).then_some(()))
        })
        .unwrap();
        wait_for("policy to be in force", LIMIT, || {
            Ok((!connects(pod.namespace(), at(PORT + 1))).then_some(()))
        })
        .unwrap();
        assert!(connects(pod.namespace(), at(PORT)), "{address}");
    }
    translated(&mut network);
    let limits = json!({ "egressBandwidth": 20_000_000, "egressBurst": 1_000_000 });
    let node = network.nodes[0].name().to_owned();
    network.store().unwrap().put_limited_endpoint(&node, &pod, &limits, false).unwrap();
    wait_for("the limit to be in force", LIMIT, || {
        let shown = network.nodes[0].daemon()?.show("limits")?;
        Ok((shown[0]["egress"]["bandwidth"] == 20_000_000).then_some(()))
    })
    .unwrap();
    let target = network.outside_addresses().unwrap()[0];
    let load = Load::Udp { length: 1200, rate: 40_000_000 };
    let (client, server) = (pod.namespace(), &network.outside);
    let result = measure::iperf(IperfSpec { client, server, target, load, seconds: 3 }).unwrap();
    // Headers count for the limit; a burst passes at once.
    assert!((10e6..22e6).contains(&result.bits_per_s), "{} of 20 Mbit/s", result.bits_per_s / 1e6);
    assert!(result.lost > 0);
}

/// The pod looks like its node outside while its pool says so.
fn translated(network: &mut Network) {
    let pod = network.nodes[0].pod("tc-a").unwrap().clone();
    let hosts = network.outside_addresses().unwrap().map(|host| SocketAddr::new(host, PORT));
    let _servers = hosts.map(|at| Greeter::start(&network.outside, at, "outside").unwrap());
    for on in [true, false] {
        network.put_pools(on).unwrap();
        for (family, at) in hosts.into_iter().enumerate() {
            let own = pod.addresses()[family];
            let expected = if on { NODE_ADDRESSES[0][family].parse().unwrap() } else { own };
            wait_for(&format!("outside to see {expected}"), LIMIT, || {
                // A connection that the change comes upon may end without an answer.
                let seen = greeter::ask(pod.namespace(), at);
                Ok(seen.is_ok_and(|(_, seen)| seen == expected).then_some(()))
            })
            .unwrap();
        }
    }
}

#[test]
fn nothing_is_left_of_pods_that_go_and_daemons_that_die() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = network();
    let pod = network.nodes[0].pod("tc-c").unwrap().clone();
    pod.addresses().into_iter().for_each(|address| answers(&network.outside, address));
    assert_eq!(taps(&network), 2);
    network.nodes[0].remove_pod("tc-a").unwrap();
    wait_for("the TAP to go", LIMIT, || Ok((taps(&network) == 1).then_some(()))).unwrap();
    frames::demand_all(network.nodes[0].daemon().unwrap());

    let node = network.nodes[0].namespace().clone();
    network.nodes[0].daemon().unwrap().kill();
    wait_for("the TAP to go", LIMIT, || Ok((taps(&network) == 0).then_some(()))).unwrap();
    // The kernel has the pod's link back.
    pod.addresses().into_iter().for_each(|address| answers(&node, address));
    let daemon = network.nodes[0].daemon().unwrap();
    daemon.restart().unwrap();
    daemon.wait_ready().unwrap();
    pod.addresses().into_iter().for_each(|address| answers(&network.outside, address));
    assert_eq!(taps(&network), 1);

    network.nodes[0].stop_daemon().unwrap();
    assert_eq!(taps(&network), 0);
}

#[test]
fn a_pod_goes_over_to_tc_and_back() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = network();
    let (pod, node) = (network.nodes[0].pod("veth-a").unwrap().clone(), network.nodes[0].name());
    let (store, node) = (network.store().unwrap(), node.to_owned());
    for attachment in ["tc", "veth", "tc"] {
        let annotations = json!({ "margay.io/attachment": attachment });
        store.put_annotated_endpoint(&node, &pod, &json!({}), &annotations).unwrap();
        wait_for("the port to change", LIMIT, || {
            let shown = port(&mut network, "veth-a");
            Ok((shown["role"] == attachment && shown["state"] == "open").then_some(()))
        })
        .unwrap();
        assert_eq!(taps(&network), if attachment == "tc" { 3 } else { 2 });
        pod.addresses().into_iter().for_each(|address| answers(&network.outside, address));
    }
    frames::demand_all(network.nodes[0].daemon().unwrap());
}
