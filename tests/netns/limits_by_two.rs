//! Limits beside two workers: packets at once and connections, to the packet and to the connection,
//! both from a pod and to it. Each worker has a queue of the uplink. One of them has the pod, and
//! gets from the other what is for it; connections are counted by the one that has the flow, so
//! that both must have refused some.
//!
//! Nothing here goes by how fast the machine is: rates are so low that bursts are all that passes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, NetworkSpec};
use margay::lab::process::wait_for;
use serde_json::{Value, json};

use crate::limits::{Rig, connect};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 7200;
const WORKERS: usize = 2;
/// Sockets that send, so many that hashes of their flows give both workers some.
const FLOWS: usize = 32;
const ROUNDS: usize = 10;
/// Packets at once: fewer than an idle pod's device has room for.
const FEW: u64 = 16;
const BURST: usize = 40;
const CONNECTIONS: usize = 20;
const DIALS: usize = 48;
const DIALERS: usize = 8;

/// Packets that workers dropped for this reason.
fn dropped(rig: &mut Rig, reason: &str) -> [u64; WORKERS] {
    let shown = rig.network.nodes[0].daemon().unwrap().show("workers").unwrap();
    std::array::from_fn(|at| shown[at]["drops"][reason].as_u64().unwrap_or(0))
}

fn shown_of(rig: &mut Rig, direction: &str) -> Value {
    rig.network.nodes[0].daemon().unwrap().show("limits").unwrap()[0][direction].clone()
}

/// Packets that workers gave to each other.
fn handed_over(rig: &mut Rig) -> u64 {
    let shown = rig.network.nodes[0].daemon().unwrap().show("workers").unwrap();
    (0..WORKERS).map(|at| shown[at]["handedOver"].as_u64().unwrap()).sum()
}

fn listen(namespace: &Namespace, at: SocketAddr) -> UdpSocket {
    let socket = namespace.enter(|| Ok(UdpSocket::bind(at)?)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

/// Datagrams until none comes any more.
fn drain(socket: &UdpSocket) -> usize {
    let mut bytes = [0; 64];
    std::iter::from_fn(|| socket.recv(&mut bytes).ok()).count()
}

fn packets_at_once(rig: &mut Rig, direction: &str) {
    let outside = rig.network.outside.clone();
    let (from, there, to) = match direction {
        "egress" => (rig.pod.namespace().clone(), outside, SocketAddr::new(rig.outside, PORT)),
        _ => (outside, rig.pod.namespace().clone(), rig.pod_at(PORT)),
    };
    rig.limit(&json!({}), false);
    let receiver = listen(&there, to);
    let dial = || {
        let one = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(to)?;
            Ok(socket)
        };
        (0..FLOWS).map(|_| one()).collect::<anyhow::Result<Vec<_>>>()
    };
    let senders = from.enter(dial).unwrap();
    // Nobody has to ask for a link address then, and each flow has begun.
    wait_for("a packet of each flow to come", PATIENCE, || {
        senders.iter().try_for_each(|socket| socket.send(&[0; 10]).map(drop))?;
        Ok((drain(&receiver) == FLOWS).then_some(()))
    })
    .unwrap();
    rig.limit(
        &json!({ format!("{direction}PacketRate"): 1, format!("{direction}PacketBurst"): BURST }),
        false,
    );
    let before = dropped(rig, "limit-packet-rate");
    receiver.set_nonblocking(true).unwrap();
    let given = handed_over(rig);
    let (begin, mut sent, mut came) = (Instant::now(), 0, 0);
    for socket in (0..ROUNDS).flat_map(|_| &senders) {
        assert_eq!(socket.send(&[0; 10]).unwrap(), 10);
        sent += 1;
        if sent % FEW == 0 {
            wait_for("what was sent to come or be counted", PATIENCE, || {
                came += drain(&receiver);
                let refused = dropped(rig, "limit-packet-rate").iter().sum::<u64>();
                Ok((came as u64 + refused - before.iter().sum::<u64>() == sent).then_some(()))
            })
            .unwrap();
        }
    }
    let may = BURST + begin.elapsed().as_secs() as usize;
    println!("{direction}: of {sent} packets {came}, where {may} may pass");
    assert!((BURST..=may).contains(&came), "{came} of {may}");
    let given = handed_over(rig) - given;
    println!("{direction}: {given} of them went from one worker to the other");
}

/// As many attempts at once, from several threads: those that were answered; all others were reset.
fn dial(from: &Namespace, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let attempts = |count: usize| (0..count).map(|_| connect(from, to)).collect::<Vec<_>>();
    let all: Vec<_> = std::thread::scope(|scope| {
        let dialer = |_| scope.spawn(|| attempts(count / DIALERS));
        let dialers: Vec<_> = (0..DIALERS).map(dialer).collect();
        dialers.into_iter().flat_map(|dialer| dialer.join().unwrap()).collect()
    });
    let refused = all.iter().filter_map(|one| one.as_ref().err());
    refused.for_each(|error| assert_eq!(*error, ErrorKind::ConnectionRefused));
    all.into_iter().filter_map(Result::ok).collect()
}

fn connections(rig: &mut Rig, direction: &str) {
    let outside = rig.network.outside.clone();
    let (from, there, to) = match direction {
        "egress" => (rig.pod.namespace().clone(), outside, SocketAddr::new(rig.outside, PORT)),
        _ => (outside, rig.pod.namespace().clone(), rig.pod_at(PORT)),
    };
    rig.limit(&json!({ format!("{direction}MaxConnections"): CONNECTIONS }), false);
    let listener = there.enter(|| Ok(TcpListener::bind(to)?)).unwrap();
    let before = dropped(rig, "limit-connections");
    let mut open = dial(&from, to, DIALS);
    assert_eq!(open.len(), CONNECTIONS, "{direction}: connections of {DIALS}");
    let accept = |_| listener.accept().map(|(stream, from)| (from, stream)).unwrap();
    let mut answers: BTreeMap<SocketAddr, TcpStream> = (0..CONNECTIONS).map(accept).collect();
    assert_eq!(shown_of(rig, direction)["connections"], CONNECTIONS);
    let after = dropped(rig, "limit-connections");
    let refused: Vec<u64> =
        after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(refused.iter().sum::<u64>(), (DIALS - CONNECTIONS) as u64, "{refused:?}");
    assert!(refused.iter().all(|count| *count > 0), "{refused:?}");
    for stream in open.drain(..CONNECTIONS / 3) {
        answers.remove(&stream.local_addr().unwrap());
    }
    let left = open.len();
    wait_for("places of connections that ended", PATIENCE, || {
        Ok((shown_of(rig, direction)["connections"] == left).then_some(()))
    })
    .unwrap();
    let again = dial(&from, to, DIALS);
    assert_eq!(left + again.len(), CONNECTIONS, "{direction}: connections after some have ended");
}

#[test]
fn two_workers_count_packets_and_connections_as_one() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let workers = WORKERS as u32;
    let spec = NetworkSpec { queues: workers, workers, ..crate::margay(1500) };
    let mut network = Network::without_pods(spec).unwrap();
    network.add_pod(0, "veth-a").unwrap();
    let pod = network.nodes[0].pod("veth-a").unwrap().clone();
    let outside: IpAddr = network.outside_addresses().unwrap()[0];
    let mut rig = Rig { network, pod, outside };
    for direction in ["egress", "ingress"] {
        packets_at_once(&mut rig, direction);
        connections(&mut rig, direction);
    }
}
