//! Flow offload into a tunnel whose far end is the kernel's own VXLAN device: the XDP program
//! writes the outer headers, packets arrive in the order in which they were sent, and no more are
//! lost than where workers carry all of them.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use margay::lab::namespace::Namespace;
use margay::lab::network::Encap;
use margay::lab::process::wait_for;
use margay::lab::requirements::Tool;

use crate::offload::{self, receive_numbers};
use crate::tunnels::{FAR_POD, Rig};

const TOOLS: &[Tool] = &[Tool { program: "ethtool", package: "ethtool" }];
const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 9000;
/// Numbers of one turn, and turns.
const NUMBERS: u64 = 10_000;
const ROUNDS: u64 = 6;
/// Numbers that are sent at once.
const AT_ONCE: u64 = 50;
/// Threads that take the cores from the worker.
const BUSY: usize = 2;
const TRIES: usize = 3;

/// What became of the numbers.
struct Outcome {
    arrived: u64,
    /// They came behind a larger one.
    late: u64,
    carried: u64,
    /// For want of room on their way to the worker.
    lost: u64,
}

fn ethtool(namespace: &Namespace, args: &[&str]) {
    let output = namespace.run("ethtool", args, LIMIT).unwrap();
    assert!(output.status.success(), "ethtool: {}", output.stderr);
}

/// The next hop has another link address from now on.
fn move_next_hop(rig: &Rig, mac: &str) {
    rig.mid.ip(&format!("link set edge1 address {mac}")).unwrap();
    let line = format!("neigh replace 172.30.1.254 lladdr {mac} dev uplink0");
    rig.node.namespace().ip(&line).unwrap();
}

/// Sends numbers, and has the flow decided anew in the middle of each turn.
fn send_numbers(rig: &Rig, socket: &UdpSocket) {
    let sent = |number| {
        if number % AT_ONCE == 0 {
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    offload::send_numbers(socket, (ROUNDS, NUMBERS), sent, |mac| move_next_hop(rig, mac));
}

impl Rig {
    /// Packets that programs have sent, and those that found no room on their way to the worker.
    fn carried_and_lost(&mut self) -> (u64, u64) {
        let daemon = self.node.daemon().unwrap();
        let ports = daemon.show("ports").unwrap();
        let ports = ports.as_array().unwrap().iter();
        let carried = ports.map(|port| port["offloadedTxPackets"].as_u64().unwrap()).sum();
        let drops = daemon.drops().unwrap();
        let reasons = ["rx-ring-full", "rx-no-frame-posted"];
        (carried, reasons.iter().filter_map(|reason| drops.get(*reason)).sum())
    }
}

/// Numbers from a pod into the tunnel, while so many threads are busy beside.
fn numbers_into_a_tunnel(offload: bool, busy: usize) -> Outcome {
    let mut rig = Rig::start(Encap::Vxlan, [1500, 1500], offload);
    rig.kernel_vxlan();
    let pod = rig.pod("veth", 1430);
    // Finished checksums, and NAPI for frames that are redirected there.
    ethtool(&pod, &["-K", "eth0", "tx", "off", "gro", "on"]);
    ethtool(&rig.mid, &["-K", "edge1", "gro", "on"]);
    let checksum_errors = rig.checksum_errors();
    let to = SocketAddr::new(FAR_POD[0].parse().unwrap(), PORT);
    let server = rig.far.enter(|| Ok(UdpSocket::bind(to)?)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let socket = pod.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.connect(to).unwrap();
    // Margay looks once a second which devices take redirected frames.
    wait_for("the flow to be carried", LIMIT, || {
        (0..AT_ONCE).for_each(|_| drop(socket.send(&0_u64.to_be_bytes())));
        Ok((!offload || rig.carried_and_lost().0 > 0).then_some(()))
    })
    .unwrap();
    let before = rig.carried_and_lost();
    let done = AtomicBool::new(false);
    let (arrived, late) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_numbers(&server, &done));
        for _ in 0..busy {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        send_numbers(&rig, &socket);
        done.store(true, Ordering::Relaxed);
        receiver.join().unwrap()
    });
    let after = rig.carried_and_lost();
    let (carried, lost) = (after.0 - before.0, after.1 - before.1);
    let tunnel = rig.tunnels()[0].clone();
    println!("offload {offload}, {busy} busy: of {} {arrived} arrived", NUMBERS * ROUNDS);
    println!("{carried} carried, {lost} found no room; {tunnel}");
    assert!(tunnel["txPackets"].as_u64() >= Some(arrived), "{tunnel}, {arrived} arrived");
    assert_eq!(rig.checksum_errors(), checksum_errors);
    Outcome { arrived, late, carried, lost }
}

#[test]
fn a_flow_that_goes_into_a_tunnel_is_carried_in_its_order() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    let Outcome { arrived, late, carried, .. } = numbers_into_a_tunnel(true, 0);
    assert!(carried > NUMBERS * ROUNDS / 2, "only {carried} were carried");
    assert_eq!(late, 0, "of {arrived} that arrived so many came behind a later one");
}

/// A worker that gets its core only now and then loses what comes meanwhile, with offload what
/// comes until it has decided anew. How much that is differs from time to time.
#[test]
fn with_offload_no_more_is_lost_on_a_busy_machine() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let [with, without] = [true, false].map(|offload| numbers_into_a_tunnel(offload, BUSY));
        assert_eq!((with.late, without.late), (0, 0), "so many came behind a later one");
        tries.push((with.lost, without.lost));
        if with.lost <= without.lost + NUMBERS * ROUNDS / 50 {
            return;
        }
    }
    panic!("lost with offload and without: {tries:?}");
}
