//! A congested uplink as pods meet it: greedy ones share it, by weight where they have some, and
//! who sends little loses nothing. Floods at the host and at absent neighbors leave forwarding
//! alone.
//!
//! What is measured is printed. A machine that stands still spoils a measurement, so that each has
//! several tries, and what is asserted is less than what is aimed at.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, UPLINK};
use margay::lab::pod::Pod;
use margay::lab::process::wait_for;
use serde_json::{Value, json};

use crate::limits::{Flood, connect};
use crate::speaker::{self, Speaker};

const PATIENCE: Duration = Duration::from_secs(20);
const PODS: usize = 10;
/// What the uplink carries, in bits a second.
const RATE: u64 = 20_000_000;
const WINDOW: Duration = Duration::from_millis(800);
const TRIES: usize = 20;
const PORT: u16 = 7100;
/// Bytes of a frame beside UDP's payload.
const HEADERS: usize = 42;

struct Rig {
    network: Network,
    pods: Vec<Pod>,
    outside: Namespace,
    /// A neighbor in BGP beyond the uplink.
    speaker: Speaker,
}

impl Rig {
    fn new() -> Rig {
        let mut network = Network::without_pods(crate::margay(1500)).unwrap();
        let neighbor = SocketAddr::new([172, 31, 1, 254].into(), 179);
        let speaker = Speaker::start(&network.tor, neighbor);
        let store = network.store().unwrap();
        store.put_peer("edge1", neighbor.ip(), speaker::ASN.into(), false).unwrap();
        let daemon = network.nodes[0].daemon().unwrap();
        let settings = json!({
            "uplinkBandwidth": { UPLINK: RATE }, "bgp": { "enabled": true, "routerId": "hash" },
        });
        daemon.reconfigure(settings).unwrap();
        let names: Vec<String> = (0..PODS).map(|at| format!("veth-{at}")).collect();
        names.iter().for_each(|name| network.add_pod(0, name).unwrap());
        let pods = names.iter().map(|name| network.nodes[0].pod(name).unwrap().clone()).collect();
        let outside = network.outside.clone();
        Rig { network, pods, outside, speaker }
    }

    fn pod(&self, at: usize) -> &Namespace {
        self.pods[at].namespace()
    }

    fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.network.outside_addresses().unwrap()[0], port)
    }

    fn listen(&self, port: u16) -> UdpSocket {
        let socket = self.outside.enter(|| Ok(UdpSocket::bind(("0.0.0.0", port))?)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        socket
    }

    fn show(&mut self, what: &str) -> Value {
        self.network.nodes[0].daemon().unwrap().show(what).unwrap()
    }

    /// Waits until the session is up and all pods reach the outside host.
    fn wait_until_connected(&self) {
        wait_for("a session of BGP", PATIENCE, || {
            let (begun, ended) = self.speaker.sessions();
            Ok((begun > ended).then_some(()))
        })
        .unwrap();
        let listener = self.outside.enter(|| Ok(TcpListener::bind(self.to(PORT))?)).unwrap();
        for pod in &self.pods {
            let reached = || Ok(connect(pod.namespace(), self.to(PORT)).ok());
            wait_for("a pod to reach the outside host", PATIENCE, reached).unwrap();
            listener.accept().unwrap();
        }
    }
}

/// Largest part by which one of these is off what it should have.
fn farthest(measured: &[f64], weights: &[f64]) -> f64 {
    let (sum, all): (f64, f64) = (measured.iter().sum(), weights.iter().sum::<f64>());
    let off = |(one, weight): (&f64, &f64)| (one * all / (sum * weight).max(1.0) - 1.0).abs();
    measured.iter().zip(weights).map(off).fold(0.0, f64::max)
}

/// Measures until a try is as good as is aimed at; all tries, and the best.
fn best_of(aim: f64, mut measure: impl FnMut() -> f64) -> (Vec<f64>, f64) {
    let (mut seen, mut best) = (Vec::new(), f64::MAX);
    while seen.len() < TRIES && best > aim {
        let off = measure();
        best = off.min(best);
        seen.push((off * 1000.0).round() / 1000.0);
    }
    (seen, best)
}

fn greedy_tcp_shares_the_uplink(rig: &Rig) {
    let listener = rig.outside.enter(|| Ok(TcpListener::bind(rig.to(PORT + 1))?)).unwrap();
    let mut streams = Vec::new();
    for at in 0..PODS {
        let dial = || Ok(connect(rig.pod(at), rig.to(PORT + 1)).ok());
        let mut sender = wait_for("a connection", PATIENCE, dial).unwrap();
        let receiver = listener.accept().unwrap().0;
        receiver.set_nonblocking(true).unwrap();
        std::thread::spawn(move || while sender.write_all(&[0; 1 << 14]).is_ok() {});
        streams.push(receiver);
    }
    let mut buffer = vec![0; 1 << 16];
    let mut goodputs = |time: Duration| {
        let (end, mut bytes) = (Instant::now() + time, [0.0; PODS]);
        while Instant::now() < end {
            for (stream, bytes) in streams.iter_mut().zip(&mut bytes) {
                *bytes += stream.read(&mut buffer).unwrap_or(0) as f64;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        bytes
    };
    goodputs(WINDOW);
    let (seen, best) = best_of(0.08, || farthest(&goodputs(2 * WINDOW), &[1.0; PODS]));
    println!("ten greedy TCP pods: farthest from their share {seen:?}");
    assert!(best < 0.4, "{seen:?}");
}

fn weights_hold(rig: &mut Rig) {
    let weights = [1.0, 2.0, 4.0];
    let store = rig.network.store().unwrap();
    let node = rig.network.nodes[0].name().to_owned();
    for (pod, weight) in rig.pods.iter().zip(weights) {
        let annotations = json!({ "margay.io/weight": weight.to_string() });
        store.put_annotated_endpoint(&node, pod, &json!({}), &annotations).unwrap();
    }
    let daemon = rig.network.nodes[0].daemon().unwrap();
    wait_for("the weights to be in force", PATIENCE, || {
        let shown = daemon.show("limits")?;
        let weight = |shown: &Value| shown["weight"].as_f64().unwrap_or(0.0);
        let sum: f64 = shown.as_array().into_iter().flatten().map(weight).sum();
        Ok((sum == weights.iter().sum::<f64>()).then_some(()))
    })
    .unwrap();
    let sockets: Vec<UdpSocket> = (0..3).map(|at| rig.listen(PORT + 10 + at)).collect();
    let start = |at: usize| Flood::start(rig.pod(at), rig.to(PORT + 10 + at as u16), 1200, 2500);
    let floods: Vec<Flood> = (0..3).map(start).collect();
    let count = |time: Duration| {
        let (end, mut counts) = (Instant::now() + time, [0.0; 3]);
        let mut bytes = [0; 2048];
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        while Instant::now() < end {
            for (socket, count) in sockets.iter().zip(&mut counts) {
                while socket.recv(&mut bytes).is_ok() {
                    *count += 1.0;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        counts
    };
    count(WINDOW / 2);
    let (seen, best) = best_of(0.05, || farthest(&count(WINDOW), &weights));
    println!("weights 1:2:4: farthest from their share {seen:?}");
    assert!(best < 0.35, "{seen:?}");
    drop(floods);
}

/// Datagrams that come of those that nine pods send at a hundredth of the uplink each.
fn delivered(rig: &Rig) -> (u64, u64) {
    const PAYLOAD: usize = 208;
    let per_s = RATE / 100 / ((PAYLOAD + HEADERS) * 8) as u64;
    let socket = rig.listen(PORT + 20);
    let senders = (1..PODS).map(|at| {
        let socket = rig.pod(at).enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?)).unwrap();
        socket.connect(rig.to(PORT + 20)).unwrap();
        socket
    });
    let senders: Vec<UdpSocket> = senders.collect();
    let (begin, mut bytes) = (Instant::now(), [0; 2048]);
    let (mut sent, mut received, mut quiet) = (0, 0, 0);
    while quiet < 60 {
        let is_over = begin.elapsed() > WINDOW;
        let due = begin.elapsed().as_millis() as u64 * per_s / 1000 * senders.len() as u64;
        while !is_over && sent < due {
            let sender = &senders[(sent % senders.len() as u64) as usize];
            sender.send(&[0; PAYLOAD]).unwrap();
            sent += 1;
        }
        let got = socket.recv(&mut bytes).is_ok();
        received += u64::from(got);
        quiet = if got || !is_over { 0 } else { quiet + 1 };
    }
    (sent, received)
}

fn nine_pods_beside_a_flood_lose_nothing(rig: &mut Rig) {
    // More than the uplink carries; nobody listens.
    let flood = Flood::start(rig.pod(0), rig.to(PORT + 30), 22, 60_000);
    wait_for("the uplink to be congested", PATIENCE, || {
        let ports = rig.show("ports");
        let of_uplink = |port: &&Value| port["name"] == UPLINK;
        let uplink = ports.as_array().into_iter().flatten().find(of_uplink).cloned();
        Ok(uplink.filter(|port| port["queued"].as_u64() > Some(100)).map(drop))
    })
    .unwrap();
    let mut lost_sessions = u64::MAX;
    let (seen, best) = best_of(0.0, || {
        let (_, before) = rig.speaker.sessions();
        let begin = Instant::now();
        let (sent, received) = delivered(rig);
        while begin.elapsed() < Duration::from_secs(u64::from(speaker::HOLD_S) + 1) {
            std::thread::sleep(Duration::from_millis(20));
        }
        lost_sessions = lost_sessions.min(rig.speaker.sessions().1 - before);
        1.0 - received as f64 / sent as f64
    });
    assert_eq!(lost_sessions, 0, "of BGP, with a hold time of {} s", speaker::HOLD_S);
    println!("nine pods beside a flood: lost {seen:?} of what they sent");
    assert!(best < 0.01, "{seen:?}");
    drop(flood);
    let lost = rig.show("drops")["tx-full"].as_u64();
    assert!(lost > Some(0), "the flood has lost");
    let device = rig.pods[0].host_device().to_owned();
    let ports = rig.show("ports");
    let port = ports.as_array().into_iter().flatten().find(|port| port["name"] == *device).unwrap();
    assert!(port["droppedWaiting"]["tx-full"].as_u64() > Some(0), "by name: {port}");
}

fn floods_at_host_and_absent_neighbors_leave_forwarding_alone(rig: &mut Rig) {
    let host = Flood::start(rig.pod(0), "172.31.1.1:9".parse().unwrap(), 22, 30_000);
    let absent: Vec<Flood> = (100..103)
        .map(|at| {
            let to = SocketAddr::new([172, 30, 0, at].into(), 9);
            Flood::start(rig.pod(1), to, 22, 3_000)
        })
        .collect();
    wait_for("packets for absent neighbors to be dropped", PATIENCE, || {
        Ok((rig.show("drops")["neighbor-queue-full"].as_u64() > Some(100)).then_some(()))
    })
    .unwrap();
    let (seen, best) = best_of(0.02, || {
        let (sent, received) = delivered(rig);
        1.0 - received as f64 / sent as f64
    });
    println!("beside floods at the host and absent neighbors: lost {seen:?} of what was sent");
    assert!(best < 0.1, "{seen:?}");
    drop((host, absent));
}

#[test]
fn a_congested_uplink_is_shared() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut rig = Rig::new();
    rig.wait_until_connected();
    nine_pods_beside_a_flood_lose_nothing(&mut rig);
    floods_at_host_and_absent_neighbors_leave_forwarding_alone(&mut rig);
    greedy_tcp_shares_the_uplink(&rig);
    weights_hold(&mut rig);
    println!("sessions of BGP that came up, and that ended: {:?}", rig.speaker.sessions());
}
