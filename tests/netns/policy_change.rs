//! Policy that changes under traffic: each packet's fate is the old policy's or the new one's.
//!
//! Two versions of several policies take turns in the store, while datagrams flow that are first
//! packets all, each from a port of its own. Parts of both versions together would let pass what
//! neither does, and drop what both let pass. A datagram that both let pass ends each round, and
//! the next one waits for it, so that nothing is lost for want of room.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use margay::lab::network::{Network, NetworkSpec};
use margay::lab::process;

use crate::policy::{PATIENCE, Place, place, places, put};

const OLD: &str = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: first, namespace: lab}, \
    spec: {order: 1, selector: \"pod == 'veth-a'\", types: [Ingress], ingress: [\
    {action: Deny, protocol: UDP, destination: {ports: [81]}}, \
    {action: Allow, protocol: UDP, destination: {ports: [80]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: second, namespace: lab}, \
    spec: {order: 2, selector: \"pod == 'veth-a'\", types: [Ingress], ingress: [\
    {action: Allow, protocol: UDP, destination: {ports: [81, 83, 5432]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: third, namespace: lab}, \
    spec: {order: 3, selector: \"pod == 'tap-a'\", types: [Egress], egress: [\
    {action: Deny, protocol: UDP, destination: {ports: [83]}}, {action: Allow}]}}";
const NEW: &str = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: first, namespace: lab}, \
    spec: {order: 1, selector: \"pod == 'veth-a'\", types: [Ingress]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: second, namespace: lab}, \
    spec: {order: 2, selector: \"pod == 'veth-a'\", types: [Ingress], ingress: [\
    {action: Allow, protocol: UDP, destination: {ports: [80, 82]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: third, namespace: lab}, \
    spec: {order: 3, selector: \"pod == 'tap-a'\", types: [Egress], egress: [{action: Allow}]}}";

/// A port: whether the old policy lets a datagram there pass, and the new one.
type Port = (u16, bool, bool);

/// Ports by who sends there.
const WAYS: [(&str, [Port; 5]); 2] = [
    (
        "outside",
        [
            (81, false, false),
            (82, false, true),
            (83, true, false),
            (5432, true, false),
            (80, true, true),
        ],
    ),
    // The old policy holds 83 at the sender, the new one at the receiver.
    (
        "tap-a",
        [
            (81, false, false),
            (82, false, true),
            (83, false, false),
            (5432, true, false),
            (80, true, true),
        ],
    ),
];
/// Both versions allow it; the last of each round.
const ALWAYS: u16 = 80;
/// How long policy changes, and how often at least.
const TIME: Duration = Duration::from_secs(3);
const CHANGES: usize = 6;
/// Source ports of rounds.
const FIRST_PORT: u16 = 1024;
const ROUNDS: u16 = 30_000;

/// A datagram: its way, its round, and the port that it is for.
type Datagram = (u8, u16, u16);

/// What has come, and whether more is to come.
#[derive(Default)]
struct Arrivals {
    seen: Mutex<BTreeSet<Datagram>>,
    news: Condvar,
    /// Nobody begins another round.
    is_over: AtomicBool,
    /// Nobody listens any more.
    is_deaf: AtomicBool,
}

impl Arrivals {
    /// Takes what comes until told to stop. One thread for all ports: if it has to wait for a
    /// processor the next round waits too, and no socket overflows.
    fn listen(&self, sockets: &[UdpSocket]) {
        let mut bytes = [0; 16];
        while !self.is_deaf.load(Ordering::Relaxed) {
            let mut came = 0;
            for (socket, (port, ..)) in sockets.iter().zip(WAYS[0].1) {
                while let Ok(3) = socket.recv(&mut bytes) {
                    let round = u16::from_be_bytes([bytes[1], bytes[2]]);
                    self.seen.lock().unwrap().insert((bytes[0], round, port));
                    came += 1;
                }
            }
            match came {
                0 => std::thread::sleep(Duration::from_micros(50)),
                _ => self.news.notify_all(),
            }
        }
    }

    /// Waits for a datagram.
    fn wait_for(&self, datagram: Datagram) {
        let seen = self.seen.lock().unwrap();
        let is_missing = |seen: &mut BTreeSet<Datagram>| !seen.contains(&datagram);
        let (seen, outcome) = self.news.wait_timeout_while(seen, PATIENCE, is_missing).unwrap();
        drop(seen);
        assert!(!outcome.timed_out(), "both versions let {datagram:?} pass");
    }

    fn has(&self, datagram: Datagram) -> bool {
        self.seen.lock().unwrap().contains(&datagram)
    }

    fn count(&self) -> u64 {
        self.seen.lock().unwrap().len() as u64
    }

    /// Rounds by one way until told to stop; `done` counts those that are over.
    fn send(&self, way: usize, from: &Place, to: IpAddr, done: &AtomicU64) {
        let rounds = || {
            for round in 0..ROUNDS {
                if self.is_over.load(Ordering::Relaxed) {
                    break;
                }
                let socket = UdpSocket::bind(("0.0.0.0", FIRST_PORT + round))?;
                let payload = [&[way as u8][..], &round.to_be_bytes()].concat();
                for (port, ..) in WAYS[way].1 {
                    socket.send_to(&payload, SocketAddr::new(to, port))?;
                }
                self.wait_for((way as u8, round, ALWAYS));
                done.store(u64::from(round) + 1, Ordering::Release);
            }
            Ok(())
        };
        from.namespace.enter(rounds).unwrap();
    }
}

/// Ends all threads, also when the test fails.
struct Ends<'a>(&'a Arrivals);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
        self.0.is_deaf.store(true, Ordering::Relaxed);
    }
}

#[test]
fn under_traffic_each_packet_has_the_old_verdict_or_the_new_one() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let spec = NetworkSpec { workers: 2, ..crate::margay(1500) };
    let mut network = Network::start(spec).unwrap();
    let places = places(&network);
    let server = place(&places, "veth-a");
    let senders = WAYS.map(|(name, _)| place(&places, name));
    put(&network, OLD);
    senders.iter().for_each(|sender| refused(&mut network, sender, server.addresses[0]));
    let sockets = server.namespace.enter(|| Ok(WAYS[0].1.map(|(port, ..)| bind(port)))).unwrap();
    let before = dropped(&mut network);
    let (arrivals, done) = (Arrivals::default(), WAYS.map(|_| AtomicU64::new(0)));
    let changes = std::thread::scope(|scope| {
        let ends = Ends(&arrivals);
        scope.spawn(|| arrivals.listen(&sockets));
        let (arrivals, done) = (&arrivals, &done);
        let rounds = senders.iter().enumerate().map(|(way, sender)| {
            scope.spawn(move || arrivals.send(way, sender, server.addresses[0], &done[way]))
        });
        let rounds: Vec<_> = rounds.collect();
        let changes = change_often(&network, arrivals, &done[0]);
        arrivals.is_over.store(true, Ordering::Relaxed);
        rounds.into_iter().for_each(|way| way.join().unwrap());
        let sent: u64 = done.iter().map(|done| done.load(Ordering::Acquire) * 5).sum();
        let mut ended = 0;
        process::wait_for("every datagram to arrive or to be dropped", PATIENCE, || {
            ended = arrivals.count() + dropped(&mut network) - before;
            Ok((ended >= sent).then_some(()))
        })
        .unwrap_or_else(|error| {
            let drops = network.nodes[0].daemon().unwrap().drops();
            panic!("{error}: {ended} of {sent}; {drops:?}")
        });
        drop(ends);
        changes
    });
    judge(&arrivals, &done.map(AtomicU64::into_inner), changes);
}

fn bind(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Has the versions take turns in the store; how often they did.
fn change_often(network: &Network, arrivals: &Arrivals, done: &AtomicU64) -> usize {
    let (begin, mut changes) = (Instant::now(), 0);
    while changes < CHANGES || begin.elapsed() < TIME {
        let is_new = changes % 2 == 0;
        put(network, if is_new { NEW } else { OLD });
        // It is in force: the last round has seen it.
        let told = if is_new { 82 } else { 5432 };
        let has_told = || {
            let last = done.load(Ordering::Acquire).checked_sub(1)?;
            arrivals.has((0, last as u16, told)).then_some(())
        };
        process::wait_for("the other version to be in force", PATIENCE, || Ok(has_told())).unwrap();
        changes += 1;
    }
    changes
}

/// Holds each datagram's fate against both versions.
fn judge(arrivals: &Arrivals, rounds: &[u64; 2], changes: usize) {
    let mut wrong = Vec::new();
    for (way, (name, ports)) in WAYS.iter().enumerate() {
        for (port, old, new) in ports {
            let fates = (0..rounds[way] as u16).map(|round| {
                let passed = arrivals.has((way as u8, round, *port));
                if passed != *old && passed != *new {
                    wrong.push(format!("{name}, round {round}, port {port}: passed {passed}"));
                }
                passed
            });
            let passed = fates.filter(|passed| *passed).count() as u64;
            let is_mixed = passed > 0 && passed < rounds[way];
            assert_eq!(is_mixed, old != new, "{name}, port {port}: {passed} of {}", rounds[way]);
        }
    }
    println!("{rounds:?} rounds, {changes} changes, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {rounds:?} rounds: {wrong:#?}", wrong.len());
}

/// Waits until a datagram that the old policy does not let pass is dropped.
fn refused(network: &mut Network, sender: &Place, to: IpAddr) {
    let before = dropped(network);
    process::wait_for("the first version to be in force", PATIENCE, || {
        let socket = sender.namespace.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.send_to(b"probe", SocketAddr::new(to, 81))?;
        Ok((dropped(network) > before).then_some(()))
    })
    .unwrap();
}

/// Packets that policy has dropped on the first node.
fn dropped(network: &mut Network) -> u64 {
    let drops = network.nodes[0].daemon().unwrap().drops().unwrap();
    ["policy-ingress", "policy-egress"].iter().filter_map(|reason| drops.get(*reason)).sum()
}
