//! What translation gives up, and when: fragments whose first one is lost, floods of them, mappings
//! that nobody needs any more. On real time, with some of it set shorter than it is by default.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::Network;
use margay::lab::process::wait_for;
use margay::lab::requirements::Tool;
use serde_json::{Value, json};

use crate::nat::{PORTS, SERVERS, Server, at, seen, socket, start, wait_for_nat};

const PYTHON: Tool = Tool { program: "python3", package: "python3-minimal" };
const LIMIT: Duration = Duration::from_secs(30);
/// How long a fragment waits for its first one here, in seconds.
const FRAGMENT_TIME_S: u32 = 1;
/// Fragments of a datagram of 60,000 bytes.
const PIECES: u64 = 41;
/// Fragments that may wait at once.
const MAX_WAITING: u64 = 1024;
/// Packets of others that a busy machine may have lost meanwhile.
const OTHERS: u64 = 8;
/// Times that what got lost on a busy machine is sent again.
const TRIES: usize = 5;

fn server() -> SocketAddr {
    at(SERVERS[0], PORTS[0])
}

struct Rig {
    network: Network,
    pod: Namespace,
    pod_address: String,
    script: String,
    _server: Server,
}

impl Rig {
    fn new() -> Rig {
        let mut network = start(1);
        network.put_pools(true).unwrap();
        let timeouts =
            json!({ "ipfrag_time": FRAGMENT_TIME_S, "nf_conntrack_tcp_timeout_time_wait": 1 });
        let daemon = network.nodes[0].daemon().unwrap();
        daemon.reconfigure(json!({ "nat": { "timeouts": timeouts } })).unwrap();
        wait_for_nat(&mut network, true);
        let script = network.scope().directory().join("fragments.py");
        std::fs::write(&script, include_str!("fragments.py")).unwrap();
        let pod = network.nodes[0].pod("veth-a").unwrap();
        Rig {
            pod: pod.namespace().clone(),
            pod_address: pod.v4().to_string(),
            script: script.to_str().unwrap().to_owned(),
            _server: Server::start(&network.outside),
            network,
        }
    }

    /// Sends datagrams of these numbers from `port` in pieces; see `fragments.py` for what can be
    /// done. The number of pieces.
    fn send(&self, port: u16, what: &str, numbers: &[u16]) -> u64 {
        let (port, to) = (port.to_string(), PORTS[0].to_string());
        let mut args = vec![&*self.script, &self.pod_address, &port, SERVERS[0], &to, what];
        let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
        args.extend(numbers.iter().map(String::as_str));
        let sent = self.pod.run("python3", &args, LIMIT).unwrap();
        sent.stdout.trim().parse().unwrap_or_else(|_| panic!("{}", sent.stderr))
    }

    fn show(&mut self, what: &str) -> Value {
        self.network.nodes[0].daemon().unwrap().show(what).unwrap()
    }

    fn waiting(&mut self) -> u64 {
        self.show("nat")["fragmentsWaiting"].as_u64().unwrap()
    }

    /// Waits until no fragment waits, then says what was dropped so far.
    fn settled(&mut self) -> u64 {
        wait_for("no fragment to wait", LIMIT, || Ok((self.waiting() == 0).then_some(()))).unwrap();
        self.dropped()
    }

    /// Packets that were dropped so far, those that the kernel had no room for on their way to
    /// margay included.
    fn dropped(&mut self) -> u64 {
        let drops = self.show("drops");
        let reasons = ["fragment-timeout", "fragment-queue-full", "rx-no-frame-posted"];
        let counts = reasons.map(|reason| drops[reason].as_u64().unwrap_or(0));
        let link = self.pod.run("ip", &["-j", "-s", "link", "show", "eth0"], LIMIT).unwrap();
        let link: Value = serde_json::from_str(&link.stdout).unwrap();
        counts.iter().sum::<u64>() + link[0]["stats64"]["tx"]["dropped"].as_u64().unwrap()
    }

    /// Waits until all fragments of a kind that never leaves are gone, and each is counted.
    fn wait_for_all_counted(&mut self, before: u64, sent: u64) {
        let what = format!("{sent} fragments to be in a counter");
        wait_for(&what, LIMIT, || Ok((self.settled() - before >= sent).then_some(()))).unwrap();
        let counted = self.dropped() - before;
        assert!(counted <= sent + OTHERS, "{counted} of {sent}");
    }

    /// Datagrams in shuffled pieces, sent again when the machine was too busy for them; all must
    /// come back.
    fn exchange(&self, own: &UdpSocket, numbers: &[u16]) {
        let mut missing = numbers.to_vec();
        for _ in 0..TRIES {
            let back = std::thread::scope(|scope| {
                let back = scope.spawn(|| come_back(own, missing.len()));
                self.send(5000, "shuffled", &missing);
                back.join().unwrap()
            });
            missing.retain(|number| !back.contains(number));
            if missing.is_empty() {
                return;
            }
        }
        panic!("{missing:?} did not come back");
    }
}

/// The numbers of the datagrams that come back whole, up to `most`, until none has for a while.
fn come_back(socket: &UdpSocket, most: usize) -> Vec<u16> {
    let mut bytes = vec![0; 65_536];
    let (mut numbers, mut last) = (Vec::new(), Instant::now());
    while numbers.len() < most && last.elapsed() < Duration::from_secs(2) {
        let Ok((len, from)) = socket.recv_from(&mut bytes) else { continue };
        last = Instant::now();
        assert_eq!((len, from), (60_000, server()));
        assert!((2..len).all(|at| usize::from(bytes[at]) == (at - 2) % 251));
        numbers.push(u16::from_be_bytes([bytes[0], bytes[1]]));
    }
    numbers
}

#[test]
fn fragments_and_closed_connections_are_given_up_and_what_is_lost_is_counted() {
    let Some(_turn) = crate::turn(&[PYTHON]) else { return };
    let mut rig = Rig::new();
    let own = socket(&rig.pod, "0.0.0.0:5000");
    let mapped = seen(&own, server());
    shuffled_and_incomplete(&mut rig, &own);
    flood(&mut rig, &own, mapped);
    closed_connection(&mut rig);
    assert_eq!(seen(&own, server()), mapped, "RFC 4787 REQ-5: it lives two minutes at least");
}

fn shuffled_and_incomplete(rig: &mut Rig, own: &UdpSocket) {
    rig.exchange(own, &[1, 2, 3, 4, 5, 6]);
    rig.send(5000, "holey", &[11, 12, 13]);
    assert_eq!(own.recv(&mut [0; 8]).ok(), None, "nothing is made up for what is lost");
    let before = rig.settled();
    let sent = rig.send(5000, "headless", &[14, 15, 16]);
    assert_eq!(sent, 3 * (PIECES - 1));
    rig.wait_for_all_counted(before, sent);
    assert_eq!(own.recv(&mut [0; 8]).ok(), None);
}

fn flood(rig: &mut Rig, own: &UdpSocket, mapped: SocketAddr) {
    let before = rig.settled();
    let numbers: Vec<u16> = (1000..3000).collect();
    let sent = rig.send(5001, "flood", &numbers);
    assert!(rig.waiting() <= MAX_WAITING, "{} fragments wait", rig.waiting());
    assert_eq!(seen(own, server()), mapped, "whole packets do not suffer");
    rig.wait_for_all_counted(before, sent);
    let full = rig.show("drops")["fragment-queue-full"].as_u64();
    assert!(full >= Some(1), "{full:?}");
    rig.exchange(own, &[20, 21, 22]);
}

/// Both ends have closed it, so its port outside is free a little later.
fn closed_connection(rig: &mut Rig) {
    let pod = rig.pod.clone();
    let connect = || Ok(TcpStream::connect_timeout(&server(), LIMIT)?);
    let stream = pod.enter(connect).unwrap();
    let used = |rig: &mut Rig| rig.show("nat")["outside"][0]["used"]["tcp"].as_u64();
    assert_eq!(used(rig), Some(1));
    drop(stream);
    wait_for("the connection's port to be free", LIMIT, || {
        Ok((used(rig).unwrap_or(0) == 0).then_some(()))
    })
    .unwrap();
}
