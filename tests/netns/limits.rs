//! Traffic control as a pod meets it: floods beyond its limits, connections beyond their number,
//! and limits that change while it sends. Rates are taken where packets arrive.
//!
//! A machine that stands still for a while gives its pods less than their limit; so "no less" has
//! several tries and some leeway in the end, and "no more" has neither.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::Network;
use margay::lab::process::wait_for;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a frame beside UDP's payload, and beside TCP's with timestamps.
const UDP_HEADERS: usize = 42;
const TCP_HEADERS: usize = 66;
const MSS: usize = 1448;
/// How long a rate is measured.
const WINDOW: Duration = Duration::from_millis(800);
const TRIES: usize = 8;
/// What a pod has of its limit at least, on a machine that is too busy for all of it.
const LEEWAY: f64 = 0.9;
const PORT: u16 = 7000;

/// Sends datagrams at a rate until dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(
        from: &Namespace,
        to: SocketAddr,
        payload: usize,
        packets_per_s: u64,
    ) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, flag) = (from.clone(), stop.clone());
        let send = move || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.connect(to).unwrap();
            let (begin, bytes) = (Instant::now(), vec![0; payload]);
            let mut sent = 0;
            while !flag.load(Ordering::Relaxed) {
                let due = begin.elapsed().as_millis() as u64 * packets_per_s / 1000;
                // After a standstill only what belongs to the last moments is sent.
                sent = sent.max(due.saturating_sub(packets_per_s / 20));
                while sent < due {
                    socket.send(&bytes).ok();
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        let thread = std::thread::spawn(move || namespace.enter(send).unwrap());
        Flood { stop, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A network, a pod there, and an address of the host outside.
pub(crate) struct Rig {
    pub(crate) network: Network,
    pub(crate) pod: margay::lab::pod::Pod,
    pub(crate) outside: IpAddr,
}

impl Rig {
    /// Limits of the pod from now on; returns when they are in force.
    pub(crate) fn limit(&mut self, controls: &Value, shaped: bool) {
        let store = self.network.store().unwrap();
        let node = self.network.nodes[0].name().to_owned();
        store.put_limited_endpoint(&node, &self.pod, controls, shaped).unwrap();
        let daemon = self.network.nodes[0].daemon().unwrap();
        let wanted = |field: &str| controls.get(field).cloned().unwrap_or(Value::Null);
        wait_for("the limits to be in force", PATIENCE, || {
            let shown = daemon.show("limits")?;
            let same = ["egress", "ingress"].iter().all(|direction| {
                ["bandwidth", "packetRate", "maxConnections"].iter().all(|field| {
                    let (first, rest) = field.split_at(1);
                    let name = format!("{direction}{}{rest}", first.to_uppercase());
                    shown[0][direction][field] == wanted(&name)
                })
            });
            Ok(same.then_some(()))
        })
        .unwrap();
    }

    pub(crate) fn pod_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod.v4(), port)
    }
}

/// Datagrams that come to a socket in a window: all of them, and bits a second between the first
/// and the last.
fn received(socket: &UdpSocket, time: Duration, frame_bits: u64) -> (u64, f64) {
    let (mut bytes, mut count) = ([0; 2048], 0);
    let (mut first, mut last) = (None, Instant::now());
    let end = last + time;
    while Instant::now() < end {
        if socket.recv(&mut bytes).is_ok() {
            last = Instant::now();
            first.get_or_insert(last);
            count += 1;
        }
    }
    let time = last - first.unwrap_or(last);
    (count, count.saturating_sub(1) as f64 * frame_bits as f64 / time.as_secs_f64().max(1e-3))
}

fn udp_is_held_to_its_rate(rig: &mut Rig) {
    let outside = rig.network.outside.clone();
    let listen = |namespace: &Namespace| {
        let socket = namespace.enter(|| Ok(UdpSocket::bind(("0.0.0.0", PORT))?)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket
    };
    let there = listen(&outside);
    let here = listen(rig.pod.namespace());
    for (rate, payload, egress) in
        [(1_000_000_u64, 208, true), (10_000_000, 1208, false), (100_000_000, 1408, true)]
    {
        let direction = if egress { "egress" } else { "ingress" };
        // What a tenth of a second brings: for as long the machine may stand still.
        let controls = json!({
            format!("{direction}Bandwidth"): rate, format!("{direction}Burst"): rate / 10,
        });
        rig.limit(&controls, false);
        let frame_bits = ((payload + UDP_HEADERS) * 8) as u64;
        let (from, socket, to) = match egress {
            true => (rig.pod.namespace(), &there, SocketAddr::new(rig.outside, PORT)),
            false => (&outside, &here, rig.pod_at(PORT)),
        };
        received(socket, Duration::from_millis(50), frame_bits);
        let begin = Instant::now();
        let _flood = Flood::start(from, to, payload, rate / frame_bits * 3 / 2);
        // The burst is for the beginning.
        let mut all = received(socket, Duration::from_millis(250), frame_bits).0;
        let (mut seen, mut best) = (Vec::new(), 0.0);
        while seen.len() < TRIES && best < 0.99 {
            let (count, measured) = received(socket, WINDOW, frame_bits);
            all += count;
            let may = rate as f64 * (begin.elapsed().as_secs_f64() + 0.1);
            assert!((all * frame_bits) as f64 <= may, "{all} packets, {may:.0} bits may pass");
            let share = measured / rate as f64;
            // More than the limit is what a standstill has saved up.
            best = if share <= 1.01 { share.max(best) } else { best };
            seen.push(format!("{share:.3}"));
        }
        assert!(best >= LEEWAY, "{direction}: {seen:?} of {rate} bit/s");
        println!("{direction}, UDP at {rate} bit/s: {seen:?} of it");
    }
}

fn packets_are_counted_exactly(rig: &mut Rig) {
    rig.limit(&json!({ "egressPacketRate": 100, "egressPacketBurst": 5 }), false);
    let socket = rig.network.outside.enter(|| Ok(UdpSocket::bind(("0.0.0.0", PORT + 1))?)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let to = SocketAddr::new(rig.outside, PORT + 1);
    let mut bytes = [0; 64];
    let mut arrivals = Vec::new();
    let begin = Instant::now();
    let flood = Flood::start(rig.pod.namespace(), to, 10, 3000);
    while begin.elapsed() < WINDOW {
        if socket.recv(&mut bytes).is_ok() {
            arrivals.push(Instant::now());
        }
    }
    drop(flood);
    let time = *arrivals.last().expect("packets") - begin;
    let may = 5.0 + time.as_secs_f64() * 100.0;
    assert!(arrivals.len() as f64 <= may + 1.0, "{} of {may}", arrivals.len());
    assert!(arrivals.len() > 20, "{} packets in {time:?}", arrivals.len());
    println!("packet rate: {} packets where {may:.1} may pass", arrivals.len());
}

pub(crate) fn connect(from: &Namespace, to: SocketAddr) -> Result<TcpStream, ErrorKind> {
    let dial = || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(3)));
    from.enter(dial).unwrap().map_err(|error| error.kind())
}

fn connections_are_counted_exactly(rig: &mut Rig) {
    let to = rig.pod_at(PORT + 2);
    rig.limit(&json!({ "ingressMaxConnections": 3 }), false);
    let listener = rig.pod.namespace().enter(|| Ok(TcpListener::bind(to)?)).unwrap();
    let outside = rig.network.outside.clone();
    let mut open: Vec<(TcpStream, TcpStream)> = Vec::new();
    for _ in 0..3 {
        let client = connect(&outside, to).expect("a connection within the limit");
        open.push((client, listener.accept().unwrap().0));
    }
    let refused = connect(&outside, to).map(drop);
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "the fourth is reset");
    let shown = rig.network.nodes[0].daemon().unwrap().show("limits").unwrap();
    let ingress = &shown[0]["ingress"];
    assert_eq!(ingress["connections"], 3, "{shown}");
    assert!(ingress["dropped"]["limit-connections"].as_u64() > Some(0), "{shown}");
    drop(open.pop());
    let again = wait_for("a place for another one", PATIENCE, || Ok(connect(&outside, to).ok()));
    open.push((again.unwrap(), listener.accept().unwrap().0));
    assert_eq!(connect(&outside, to).map(drop), Err(ErrorKind::ConnectionRefused));
}

/// Bytes that a stream brings in a window, by the time that they took.
fn goodput(stream: &mut TcpStream, time: Duration) -> f64 {
    let mut bytes = vec![0; 1 << 16];
    let (begin, mut sum) = (Instant::now(), 0);
    while begin.elapsed() < time {
        sum += stream.read(&mut bytes).expect("the stream lives on");
    }
    (sum * 8) as f64 / begin.elapsed().as_secs_f64()
}

/// One stream all along, whose limit changes.
fn shaped_tcp_has_its_rate(rig: &mut Rig) {
    let to = SocketAddr::new(rig.outside, PORT + 3);
    let controls = |rate: u64| json!({ "egressBandwidth": rate, "egressBurst": rate / 50 });
    rig.limit(&controls(20_000_000), true);
    let listener = rig.network.outside.enter(|| Ok(TcpListener::bind(to)?)).unwrap();
    let mut sender = connect(rig.pod.namespace(), to).unwrap();
    let mut receiver = listener.accept().unwrap().0;
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sending = std::thread::spawn(move || while sender.write_all(&[0; 1 << 16]).is_ok() {});
    for rate in [20_000_000, 8_000_000] {
        rig.limit(&controls(rate), true);
        let may = rate as f64 * MSS as f64 / (MSS + TCP_HEADERS) as f64;
        let (mut seen, mut best) = (Vec::new(), 0.0_f64);
        while seen.len() < TRIES && best < 0.95 {
            goodput(&mut receiver, Duration::from_millis(400));
            let share = goodput(&mut receiver, WINDOW) / may;
            best = if share <= 1.05 { share.max(best) } else { best };
            seen.push(format!("{share:.3}"));
        }
        assert!(best >= LEEWAY, "{seen:?} of {may:.0} bit/s");
        println!("shaped TCP at {rate} bit/s: {seen:?} of it");
    }
    drop(receiver);
    sending.join().unwrap();
}

#[test]
fn a_pod_is_held_to_its_limits() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let network = crate::network(1500);
    let pod = network.nodes[0].pod("veth-a").unwrap().clone();
    let outside = network.outside_addresses().unwrap()[0];
    let mut rig = Rig { network, pod, outside };
    udp_is_held_to_its_rate(&mut rig);
    packets_are_counted_exactly(&mut rig);
    connections_are_counted_exactly(&mut rig);
    shaped_tcp_has_its_rate(&mut rig);
    crate::offload::demand_carrier(rig.network.nodes[0].daemon().unwrap());
}
