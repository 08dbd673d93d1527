//! Flow offload of pods on veths by tc: the program carries their super-packets whole, and nothing
//! but the worker's time tells the difference.
//!
//! ```text
//!   tc-a 10.65...  --+
//!   tc-b 10.65...  --+-- edge1 (masquerades) --- outside 172.31.1.254
//! ```

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use margay::lab::measure::{self, IperfSpec, Load};
use margay::lab::namespace::Namespace;
use margay::lab::pod::PodSpec;
use margay::lab::process::wait_for;
use margay::lab::requirements;
use margay::lab::store::write_yaml;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::frames;
use crate::offload::{ECHO, Lab, receive_numbers};
use crate::tc::{STREAM, answers, stream};

const LIMIT: Duration = Duration::from_secs(20);
const OUTSIDE: [&str; 2] = ["172.31.1.254", "fd31:1::fe"];
const PODS: [&str; 2] = ["tc-a", "tc-b"];
/// Numbers of one turn, and turns.
const NUMBERS: u64 = 20_000;
const ROUNDS: u64 = 6;

/// A lab with two pods by tc.
fn lab(offload: bool) -> Lab {
    let mut lab = Lab::new(offload);
    for name in PODS {
        let spec = PodSpec::new(name, lab.scope.namespace(name).unwrap(), 1500);
        lab.node.add_pod(spec).unwrap();
    }
    wait_for("the pods' ports", LIMIT, || {
        Ok(PODS.iter().all(|name| port(&mut lab, name)["state"] == "open").then_some(()))
    })
    .unwrap();
    lab
}

fn pod(lab: &Lab, name: &str) -> (Namespace, [IpAddr; 2]) {
    let pod = lab.node.pod(name).unwrap();
    (pod.namespace().clone(), pod.addresses())
}

fn port(lab: &mut Lab, pod: &str) -> Value {
    let device = match pod {
        "uplink0" => pod.to_owned(),
        pod => lab.node.pod(pod).unwrap().host_device().to_owned(),
    };
    let ports = lab.node.daemon().unwrap().show("ports").unwrap();
    let found = ports.as_array().unwrap().iter().find(|port| port["name"] == device.as_str());
    found.cloned().unwrap_or_default()
}

fn count(port: &Value, name: &str) -> u64 {
    port[name].as_u64().unwrap_or_else(|| panic!("no {name} in {port}"))
}

/// What a port's counter has grown by.
fn grown(lab: &mut Lab, pod: &str, before: &Value, name: &str) -> u64 {
    count(&port(lab, pod), name) - count(before, name)
}

#[test]
fn streams_between_pods_are_carried_whole() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    for offload in [true, false] {
        let mut lab = lab(offload);
        let ((from, _), (to, addresses)) = (pod(&lab, "tc-a"), pod(&lab, "tc-b"));
        for target in addresses {
            answers(&from, target);
            let before = PODS.map(|name| port(&mut lab, name));
            let [sent, received] = stream(&from, &to, target);
            assert_eq!(sent, received, "to {target}");
            let of = |lab: &mut Lab, at: usize, name| grown(lab, PODS[at], &before[at], name);
            let rx = of(&mut lab, 0, "rxPackets");
            let carried = of(&mut lab, 0, "offloadedRxPackets");
            let mean = of(&mut lab, 0, "rxBytes") / rx;
            println!("{target}: {carried} of {rx} carried, of {mean} bytes");
            assert!(mean > 6000, "packets of {mean} bytes are no super-packets");
            let of_all = if offload { rx / 2..=rx } else { 0..=0 };
            assert!(of_all.contains(&carried), "{carried} of {rx} were carried");
            assert_eq!(of(&mut lab, 1, "offloadedTxPackets"), carried);
            assert!(of(&mut lab, 1, "txBytes") > STREAM as u64);
        }
        for (pod, _) in [pod(&lab, "tc-a"), pod(&lab, "tc-b")] {
            assert_eq!(measure::checksum_errors(&pod).unwrap(), 0);
        }
        frames::demand_all(lab.node.daemon().unwrap());
    }
}

#[test]
fn streams_to_outside_are_translated_and_cut_by_the_device_alone() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab(true);
    lab.outside.ip("route add fd65::/48 via fd31:1::1").unwrap();
    let (from, _) = pod(&lab, "tc-a");
    for target in OUTSIDE.map(|text| text.parse().unwrap()) {
        answers(&from, target);
        let before = port(&mut lab, "uplink0");
        let [sent, received] = stream(&from, &lab.outside, target);
        assert_eq!(sent, received, "to {target}");
        let carried = grown(&mut lab, "uplink0", &before, "offloadedTxPackets");
        println!("{target}: {carried} segments carried");
        // Counted as what they are on the wire.
        assert!(carried > (STREAM / 1500) as u64 / 2, "{carried} segments");
        assert!(grown(&mut lab, "uplink0", &before, "txBytes") > STREAM as u64);
    }
    assert_eq!(measure::checksum_errors(&lab.outside).unwrap(), 0);
    assert_eq!(measure::checksum_errors(&from).unwrap(), 0);
}

#[test]
fn a_flow_tells_its_tier_and_comes_back_when_it_ends() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab(true);
    let (from, _) = pod(&lab, "tc-a");
    let at: SocketAddr = ECHO.parse().unwrap();
    let echo = lab.outside.enter(|| Ok(UdpSocket::bind(at)?)).unwrap();
    let socket = from.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.connect(at).unwrap();
    for socket in [&echo, &socket] {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let mut bytes = [0; 64];
    wait_for("the flow's tier", LIMIT, || {
        for _ in 0..30 {
            socket.send(b"are you there")?;
            let (length, from) = echo.recv_from(&mut bytes)?;
            assert_eq!(from.ip(), IpAddr::from([172, 31, 1, 1]), "it is translated");
            echo.send_to(&bytes[..length], from)?;
            assert_eq!(socket.recv(&mut bytes)?, length);
        }
        let flows = lab.node.daemon()?.show("flows --port 9000")?;
        Ok((flows[0]["tier"] == "tc").then_some(()))
    })
    .unwrap();
}

/// Keeps the calling thread on one core: what a socket sends on several may change places on any
/// veth.
fn stay_on_a_core() {
    let mut set = CpuSet::new();
    set.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

#[test]
fn flows_keep_their_order_when_the_program_takes_them_over() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab(true);
    let ((from, _), (to, [v4, _])) = (pod(&lab, "tc-a"), pod(&lab, "tc-b"));
    let outside = lab.outside.clone();
    for (receiver, at) in [(to, SocketAddr::new(v4, 9000)), (outside, ECHO.parse().unwrap())] {
        // What waits for a link address may come behind what follows it.
        answers(&from, at.ip());
        let before = port(&mut lab, "tc-a");
        let server = receiver.enter(|| Ok(UdpSocket::bind(at)?)).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let done = AtomicBool::new(false);
        let (count, late) = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive_numbers(&server, &done));
            let sender = scope.spawn(|| {
                stay_on_a_core();
                lab.send_numbers(&from, at, (ROUNDS, NUMBERS));
            });
            sender.join().unwrap();
            done.store(true, Ordering::Relaxed);
            receiver.join().unwrap()
        });
        let carried = grown(&mut lab, "tc-a", &before, "offloadedRxPackets");
        println!("to {at}: {count} of {} arrived, {carried} carried", NUMBERS * ROUNDS);
        assert!(carried > NUMBERS, "only {carried} were carried");
        assert_eq!(late, 0, "of {count} that arrived so many came behind a later one");
    }
}

fn policy(action: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "to-b" },
        "spec": { "selector": "pod == 'tc-b'", "types": ["Ingress"], "ingress": [
            { "action": action, "protocol": "UDP", "destination": { "ports": [9000] } },
        ] },
    })
}

#[test]
fn a_change_of_policy_stops_a_flow_that_is_carried() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab(true);
    let path = lab.store.directory().join("to-b.yaml");
    write_yaml(&path, &policy("Allow")).unwrap();
    let settings = json!({ "policy": { "reevaluateFlows": true } });
    lab.node.daemon().unwrap().reconfigure(settings).unwrap();
    let ((from, _), (to, [v4, _])) = (pod(&lab, "tc-a"), pod(&lab, "tc-b"));
    let at = SocketAddr::new(v4, 9000);
    let server = to.enter(|| Ok(UdpSocket::bind(at)?)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let socket = from.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.connect(at).unwrap();
    let mut bytes = [0; 8];
    // How many of ten arrive.
    let mut turn = || {
        (0..10)
            .filter(|_| {
                // Refused by an error that came back is a state in between.
                let _ = socket.send(b"number");
                server.recv(&mut bytes).is_ok()
            })
            .count()
    };
    for _ in 0..2 {
        let mut before = 0;
        wait_for("the flow to be carried", LIMIT, || {
            let (arrived, now) = (turn(), count(&port(&mut lab, "tc-a"), "offloadedRxPackets"));
            let grown = now - std::mem::replace(&mut before, now);
            Ok((arrived == 10 && before > grown && grown >= 10).then_some(()))
        })
        .unwrap();
        write_yaml(&path, &policy("Deny")).unwrap();
        wait_for("nothing to pass", LIMIT, || Ok((turn() == 0).then_some(()))).unwrap();
        assert_eq!(turn(), 0);
        write_yaml(&path, &policy("Allow")).unwrap();
    }
}

#[test]
fn limits_hold_for_what_is_carried() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab(true);
    let (server, [target, _]) = pod(&lab, "tc-b");
    let (client, _) = pod(&lab, "tc-a");
    for (shaped, load) in [
        (false, Load::Udp { length: 1200, rate: 40_000_000 }),
        (true, Load::Udp { length: 1200, rate: 40_000_000 }),
        (true, Load::Streams(1)),
    ] {
        let limits = json!({ "egressBandwidth": 20_000_000, "egressBurst": 1_000_000 });
        let a = lab.node.pod("tc-a").unwrap().clone();
        lab.store.put_limited_endpoint("edge1", &a, &limits, shaped).unwrap();
        wait_for("the limit to be in force", LIMIT, || {
            let shown = lab.node.daemon()?.show("limits")?;
            let way = &shown[0]["egress"];
            let is_new = way["bandwidth"] == 20_000_000 && shown[0]["shaped"] == shaped;
            Ok(is_new.then_some(()))
        })
        .unwrap();
        let before = port(&mut lab, "tc-a");
        let spec = IperfSpec { client: &client, server: &server, target, load, seconds: 3 };
        let result = measure::iperf(spec).unwrap();
        let carried = grown(&mut lab, "tc-a", &before, "offloadedRxPackets");
        println!("shaped: {shaped}, {} Mbit/s, {carried} carried", result.bits_per_s / 1e6);
        // Headers count for the limit; a burst passes at once.
        assert!((10e6..22e6).contains(&result.bits_per_s), "{}", result.bits_per_s / 1e6);
        assert!(shaped || carried > 1000, "only {carried} were carried");
    }
}
