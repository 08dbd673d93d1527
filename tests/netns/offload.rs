//! Flow offload under a real daemon: the same conversation of a pod with a server outside, once
//! carried by the workers alone and once with the XDP program, and the same to be seen afterwards.
//!
//! ```text
//!   pod 10.65... --- edge1 (masquerades) --- outside 172.31.1.254, echoes
//! ```

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use margay::lab::daemon::{Daemon, DaemonSpec, offloads};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect, lets_carry};
use margay::lab::node::{Node, Router};
use margay::lab::pod::PodSpec;
use margay::lab::process::wait_for;
use margay::lab::requirements::Tool;
use margay::lab::scope::Scope;
use margay::lab::store::{Pool, Store};
use serde_json::Value;

use crate::probe::Echo;

const LIMIT: Duration = Duration::from_secs(20);
const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };
pub(crate) const ECHO: &str = "172.31.1.254:9000";
const TALK: &str = "172.31.1.254:9001";
const OTHER_MAC: &str = "02:00:00:00:00:77";
const THIRD_MAC: &str = "02:00:00:00:00:78";
/// Questions of one round.
const ROUND: u64 = 30;
/// Numbers of one turn, and turns.
const NUMBERS: u64 = 20_000;
const NUMBER_ROUNDS: u64 = 8;
const QUESTION: &[u8] = b"are you there";

pub(crate) struct Lab {
    // Before the scope, so that the daemon ends first.
    pub(crate) node: Node,
    pub(crate) outside: Namespace,
    pub(crate) pod: Namespace,
    pub(crate) store: Store,
    pub(crate) scope: Scope,
}

/// Finished checksums, and NAPI for frames that are redirected there.
fn settle(namespace: &Namespace) {
    let args = ["-K", "eth0", "tx", "off", "gro", "on"];
    let output = namespace.run("ethtool", &args, LIMIT).unwrap();
    assert!(output.status.success(), "ethtool: {}", output.stderr);
}

impl Lab {
    pub(crate) fn new(offload: bool) -> Lab {
        let scope = Scope::new().unwrap();
        let [edge, outside] = ["edge1", "outside"].map(|name| scope.namespace(name).unwrap());
        let end = |namespace, device, [v4, v6]: [&str; 2]| LinkEnd {
            namespace,
            device,
            mac: None,
            addresses: vec![v4.parse().unwrap(), v6.parse().unwrap()],
        };
        let near = end(&edge, "uplink0", ["172.31.1.1/24", "fd31:1::1/64"]);
        connect(LINK, &near, &end(&outside, "eth0", ["172.31.1.254/24", "fd31:1::fe/64"])).unwrap();
        edge.ip("route add default via 172.31.1.254\nroute add default via fd31:1::fe").unwrap();
        let store = Store::create(&scope.directory().join("store")).unwrap();
        let cidr = "10.65.0.0/16".parse().unwrap();
        let pool = Pool { block_size: 20, nat_outgoing: true, ..Pool::new(cidr) };
        store.put_pool("pool-v4", pool).unwrap();
        let pool = Pool { block_size: 116, ..Pool::new("fd65::/48".parse().unwrap()) };
        store.put_pool("pool-v6", pool).unwrap();
        let (v4, v6) = ("172.31.1.1/24".parse().unwrap(), "fd31:1::1/64".parse().unwrap());
        store.put_node("edge1", v4, v6).unwrap();
        let binary: PathBuf = crate::binary();
        let router = Router::Margay(binary.clone());
        let mut node = Node::new(1, edge, router, store.clone()).unwrap();
        let spec = DaemonSpec {
            uplinks: vec!["uplink0".to_owned()],
            offload,
            ..DaemonSpec::new(binary, "edge1", &store, &scope)
        };
        node.start_daemon(spec).unwrap();
        let spec = PodSpec::new("a", scope.namespace("pod-a").unwrap(), LINK.mtu);
        let pod = node.add_pod(spec).unwrap().namespace().clone();
        settle(&outside);
        settle(&pod);
        Lab { node, outside, pod, store, scope }
    }

    /// The only flow with a port; `None` when there is none.
    fn flow(&mut self, port: u16) -> Option<Value> {
        let flows = self.node.daemon().unwrap().show(&format!("flows --port {port}")).unwrap();
        let flows = flows.as_array().unwrap();
        assert!(flows.len() <= 1, "{flows:?}");
        flows.first().cloned()
    }

    fn tier(&mut self, port: u16) -> String {
        let flow = self.flow(port).unwrap_or_default();
        flow["tier"].as_str().unwrap_or_default().to_owned()
    }

    /// Packets of all ports that the XDP program brought in and out.
    pub(crate) fn carried(&mut self) -> [u64; 2] {
        carried(self.node.daemon().unwrap())
    }
}

/// See [`Lab::carried`].
fn carried(daemon: &Daemon) -> [u64; 2] {
    let ports = daemon.show("ports").unwrap();
    ["offloadedRxPackets", "offloadedTxPackets"]
        .map(|name| ports.as_array().unwrap().iter().map(|port| port[name].as_u64().unwrap()).sum())
}

/// For the end of a test with a load that can be carried: some of it was if the lab is one for it,
/// and nothing without offload.
pub(crate) fn demand_carrier(daemon: &Daemon) {
    let [carried, _] = carried(daemon);
    match (offloads(), lets_carry()) {
        (true, true) => assert!(carried > 0, "the program carried nothing"),
        (true, false) => {}
        (false, _) => assert_eq!(carried, 0),
    }
}

/// Asks until an answer comes; how often that took.
fn ask(socket: &UdpSocket) -> u64 {
    let start = Instant::now();
    let mut asked = 0;
    let mut bytes = [0; 64];
    while start.elapsed() < LIMIT {
        // Refused is a state in between.
        asked += u64::from(socket.send(QUESTION).is_ok());
        if socket.recv(&mut bytes).is_ok_and(|len| &bytes[..len] == QUESTION) {
            return asked;
        }
    }
    panic!("no answer")
}

fn ask_often(socket: &UdpSocket) -> u64 {
    (0..ROUND).map(|_| ask(socket)).sum()
}

/// Packets out, packets back, bytes.
fn counts(lab: &mut Lab) -> [u64; 3] {
    let flow = lab.flow(9000).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    [number(&flow["packets"][0]), number(&flow["packets"][1]), number(&flow["bytes"])]
}

fn datagrams(lab: &mut Lab, offload: bool) {
    let address: SocketAddr = ECHO.parse().unwrap();
    let _echo = Echo::udp(&lab.outside, address.ip(), address.port());
    let socket = lab.pod.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let wanted = if offload { "xdp" } else { "worker" };
    wait_for("the flow's tier", LIMIT, || {
        ask_often(&socket);
        Ok((lab.tier(9000) == wanted).then_some(()))
    })
    .unwrap();
    // The other direction may need some packets more.
    ask_often(&socket);
    let (before, carried) = (counts(lab), lab.carried());
    let asked = ask_often(&socket);
    let (after, since) = (counts(lab), lab.carried());
    let [out, back, bytes] = [0, 1, 2].map(|at| after[at] - before[at]);
    assert_eq!(out, asked, "each question counts once, whoever carries it");
    assert!((ROUND..=asked).contains(&back), "{back} answers to {asked} questions");
    assert_eq!(bytes, (out + back) * (28 + QUESTION.len()) as u64);
    for (since, before) in since.into_iter().zip(carried) {
        // After a change elsewhere in the tables a packet or two are the worker's again.
        let expected = if offload { ROUND..=out + back } else { 0..=0 };
        assert!(expected.contains(&(since - before)), "{} carried, {expected:?}", since - before);
    }
    if offload {
        timeout_follows(lab, &socket);
        other_neighbor(lab, &socket);
    }
}

/// What is carried keeps a flow alive, whole seconds at a time.
fn timeout_follows(lab: &mut Lab, socket: &UdpSocket) {
    let timeout = |lab: &mut Lab| lab.flow(9000).unwrap()["timeoutSeconds"].as_u64().unwrap();
    ask(socket);
    let fresh = timeout(lab);
    wait_for("the timeout to run", LIMIT, || Ok((timeout(lab) + 1 < fresh).then_some(()))).unwrap();
    ask(socket);
    assert!(timeout(lab) + 1 >= fresh, "{} after a packet, {fresh} before", timeout(lab));
}

/// The server gets another link address: packets go there as soon as the kernel knows it.
fn other_neighbor(lab: &mut Lab, socket: &UdpSocket) {
    lab.outside.ip(&format!("link set eth0 address {OTHER_MAC}")).unwrap();
    let line = format!("neigh replace 172.31.1.254 lladdr {OTHER_MAC} dev uplink0 nud permanent");
    lab.node.namespace().ip(&line).unwrap();
    ask(socket);
    assert!(ask_often(socket) < 2 * ROUND, "answers are missing");
}

fn connection(lab: &mut Lab, offload: bool) {
    let address: SocketAddr = TALK.parse().unwrap();
    let listener = lab.outside.enter(|| Ok(TcpListener::bind(address)?)).unwrap();
    let mut client = lab.pod.enter(|| Ok(TcpStream::connect_timeout(&address, LIMIT)?)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let wanted = if offload { "xdp" } else { "worker" };
    let mut turn = |lab: &mut Lab| {
        for byte in 0..ROUND as u8 {
            let mut got = [0];
            client.write_all(&[byte]).unwrap();
            server.read_exact(&mut got).unwrap();
            server.write_all(&got).unwrap();
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, [byte]);
        }
        Ok((lab.tier(9001) == wanted).then_some(()))
    };
    wait_for("the connection's tier", LIMIT, || turn(lab)).unwrap();
    turn(lab).unwrap();
    assert_eq!(lab.flow(9001).unwrap()["state"], "ESTABLISHED");
    drop((client, server));
    wait_for("the end of the connection", LIMIT, || {
        let flow = lab.flow(9001).unwrap_or_default();
        let ended = flow["state"] == "TIME_WAIT" || flow["state"] == "CLOSE";
        Ok((ended && flow["tier"] == "worker").then_some(()))
    })
    .unwrap();
}

/// Sends numbers, so many in each of several rounds; `sent` is told which one of its round has
/// gone. In the middle of each the next hop gets another link address, which has flows decided
/// anew.
pub(crate) fn send_numbers(
    socket: &UdpSocket,
    (rounds, numbers): (u64, u64),
    sent: impl Fn(u64),
    move_next_hop: impl Fn(&str),
) {
    for round in 0..rounds {
        for number in 0..numbers {
            // What finds no room is lost, which is no fault here.
            let _ = socket.send(&(round * numbers + number).to_be_bytes());
            sent(number);
            if number == numbers / 2 {
                move_next_hop(if round % 2 == 0 { OTHER_MAC } else { THIRD_MAC });
            }
        }
    }
}

impl Lab {
    /// Sends numbers as fast as it can, several times.
    pub(crate) fn send_numbers(&self, from: &Namespace, to: SocketAddr, rounds: (u64, u64)) {
        let socket = from.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
        socket.connect(to).unwrap();
        let sent = |number| {
            if number + 1 == rounds.1 {
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        send_numbers(&socket, rounds, sent, |mac| {
            self.outside.ip(&format!("link set eth0 address {mac}")).unwrap();
            let line = format!("neigh replace 172.31.1.254 lladdr {mac} dev uplink0");
            self.node.namespace().ip(&line).unwrap();
        });
    }
}

/// Receives numbers until `done` and nothing comes any more: how many, and how many came behind a
/// larger one.
pub(crate) fn receive_numbers(socket: &UdpSocket, done: &AtomicBool) -> (u64, u64) {
    let (mut count, mut late, mut largest) = (0, 0, 0);
    let mut bytes = [0; 8];
    loop {
        match socket.recv(&mut bytes) {
            Ok(_) => {
                let number = u64::from_be_bytes(bytes);
                count += 1;
                late += u64::from(number < largest);
                largest = largest.max(number);
            }
            Err(_) if done.load(Ordering::Relaxed) => return (count, late),
            Err(_) => {}
        }
    }
}

/// By workers alone it leaves in long bursts, past the tx ring, and in short ones by that.
#[test]
fn a_flow_keeps_its_order_when_the_program_takes_it_over_and_without_it() {
    const TOOLS: &[Tool] = &[Tool { program: "ethtool", package: "ethtool" }];
    let Some(_turn) = crate::turn(TOOLS) else { return };
    for offload in [true, false] {
        keeps_its_order(offload);
    }
}

fn keeps_its_order(offload: bool) {
    let mut lab = Lab::new(offload);
    let to: SocketAddr = ECHO.parse().unwrap();
    let server = lab.outside.enter(|| Ok(UdpSocket::bind(to)?)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let done = AtomicBool::new(false);
    let (count, late) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_numbers(&server, &done));
        // The worker is to fall behind.
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        lab.send_numbers(&lab.pod, to, (NUMBER_ROUNDS, NUMBERS));
        done.store(true, Ordering::Relaxed);
        receiver.join().unwrap()
    });
    let carried = lab.carried();
    println!("{count} of {} arrived, {carried:?} of them carried", NUMBERS * NUMBER_ROUNDS);
    let expected = if offload { NUMBERS / 10..=u64::MAX } else { 0..=0 };
    assert!(expected.contains(&carried[0]), "{carried:?} were carried");
    assert_eq!(late, 0, "of {count} that arrived so many came behind a later one");
}

#[test]
fn a_pods_flows_are_the_same_with_offload_and_without() {
    const TOOLS: &[Tool] = &[Tool { program: "ethtool", package: "ethtool" }];
    let Some(_turn) = crate::turn(TOOLS) else { return };
    for offload in [true, false] {
        let mut lab = Lab::new(offload);
        datagrams(&mut lab, offload);
        connection(&mut lab, offload);
    }
}
