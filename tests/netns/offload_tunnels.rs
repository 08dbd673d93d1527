//! Flow offload into a tunnel whose far end is the kernel's own VXLAN device: the XDP program
//! writes the outer headers, and packets arrive in the order in which they were sent.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use margay::lab::namespace::Namespace;
use margay::lab::network::Encap;
use margay::lab::requirements::Tool;

use crate::offload::{OTHER_MAC, THIRD_MAC, receive_numbers};
use crate::tunnels::{FAR_POD, Rig};

const TOOLS: &[Tool] = &[Tool { program: "ethtool", package: "ethtool" }];
const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 9000;
/// Numbers of one turn, and turns.
const NUMBERS: u64 = 10_000;
const ROUNDS: u64 = 6;
/// Numbers that are sent at once.
const AT_ONCE: u64 = 50;

fn ethtool(namespace: &Namespace, args: &[&str]) {
    let output = namespace.run("ethtool", args, LIMIT).unwrap();
    assert!(output.status.success(), "ethtool: {}", output.stderr);
}

/// Sends numbers, and has the flow decided anew in the middle of each turn.
fn send_numbers(rig: &Rig, pod: &Namespace, to: SocketAddr) {
    let socket = pod.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.connect(to).unwrap();
    for round in 0..ROUNDS {
        for number in 0..NUMBERS {
            // What finds no room is lost, which is no fault here.
            let _ = socket.send(&(round * NUMBERS + number).to_be_bytes());
            if number % AT_ONCE == 0 {
                std::thread::sleep(Duration::from_micros(500));
            }
            if number == NUMBERS / 2 {
                let mac = if round % 2 == 0 { OTHER_MAC } else { THIRD_MAC };
                rig.mid.ip(&format!("link set edge1 address {mac}")).unwrap();
                let line = format!("neigh replace 172.30.1.254 lladdr {mac} dev uplink0");
                rig.node.namespace().ip(&line).unwrap();
            }
        }
    }
}

#[test]
fn a_flow_that_goes_into_a_tunnel_is_carried_in_its_order() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    let mut rig = Rig::new(Encap::Vxlan, [1500, 1500]);
    rig.kernel_vxlan();
    let pod = rig.pod("veth", 1430);
    // Finished checksums, and NAPI for frames that are redirected there.
    ethtool(&pod, &["-K", "eth0", "tx", "off", "gro", "on"]);
    ethtool(&rig.mid, &["-K", "edge1", "gro", "on"]);
    let before = rig.checksum_errors();
    let to = SocketAddr::new(FAR_POD[0].parse().unwrap(), PORT);
    let server = rig.far.enter(|| Ok(UdpSocket::bind(to)?)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let done = AtomicBool::new(false);
    let (count, late) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_numbers(&server, &done));
        send_numbers(&rig, &pod, to);
        done.store(true, Ordering::Relaxed);
        receiver.join().unwrap()
    });
    let ports = rig.node.daemon().unwrap().show("ports").unwrap();
    let ports = ports.as_array().unwrap().iter();
    let carried: u64 = ports.map(|port| port["offloadedTxPackets"].as_u64().unwrap()).sum();
    let tunnel = rig.tunnels()[0].clone();
    println!("{count} of {} arrived, {carried} of them carried; {tunnel}", NUMBERS * ROUNDS);
    assert!(carried > NUMBERS / 10, "only {carried} were carried");
    assert_eq!(late, 0, "of {count} that arrived so many came behind a later one");
    assert!(tunnel["txPackets"].as_u64() >= Some(count), "{tunnel}, {count} arrived");
    assert_eq!(rig.checksum_errors(), before);
}
