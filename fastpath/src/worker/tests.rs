//! A worker between simulated links, on a virtual clock: who gets its time, and who the line.

use super::*;
use crate::dataplane::{DataplaneConfig, Shared};
use crate::drop_reason::DropReason;
use crate::fib::FibWriter;
use crate::port::sim::{self, Clock, Line, Link, LinkConfig, SimPort};
use crate::sys::memory::{FramePool, HEADROOM};
use crate::tables::{Adjacency, AdjacencyId, PortEntry, Target, TargetId};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};

mod egress;
mod settle;
mod whole;

const FRAMES: usize = 1 << 15;
/// What a worker takes for a packet that it moves, in nanoseconds: as by AF_XDP's copy mode.
const PACKET_NS: u64 = 1_000;
/// What a turn takes without packets.
const TURN_NS: u64 = 500;
/// The receive ring of a pod.
const RING: usize = 512;
const SHORTEST: usize = 60;
const FULL: usize = 1514;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// What is at the far end of a link.
struct Far {
    port: SimPort,
    link: Link,
}

/// One worker, whose port `n` leads to 10.0.n.0/24.
struct Rig {
    worker: Worker,
    /// When its turn is over.
    due_ns: u64,
    second: Option<Second>,
    fib: Arc<Fib>,
    waits: Vec<WaitSet>,
    shared: Arc<Shared>,
    clock: Clock,
    far: Vec<Far>,
    pool: FramePool,
    _events: Receiver<Event>,
    _commands: Sender<Command>,
    _writer: FibWriter,
}

/// A second worker, with a queue of its own at the uplink.
struct Second {
    worker: Worker,
    due_ns: u64,
    uplink: Far,
}

/// A packet that has arrived.
struct Arrived {
    from: u8,
    flow: u8,
    len: usize,
    sent_ns: u64,
}

impl Rig {
    fn new(links: &[LinkConfig]) -> Rig {
        Rig::with_workers(links, 1)
    }

    /// The first of so many workers; the others do not run yet.
    fn with_workers(links: &[LinkConfig], workers: usize) -> Rig {
        let (mut writer, fib) = FibWriter::new();
        for n in 0..links.len() {
            let net = format!("10.0.{n}.0/24").parse().unwrap();
            writer.insert(net, TargetId(n as u32 + 1)).unwrap();
        }
        let config =
            DataplaneConfig { worker_cores: vec![None; workers], frames: FRAMES, large_frames: 0 };
        let (shared, mut waits, events) = Shared::new(&config).unwrap();
        shared.published.publish(tables(links.len() as u8));
        let (commands, receiver) = crossbeam::channel::unbounded();
        let mut worker = Worker::new(0, shared.clone(), fib.clone(), receiver, waits.remove(0));
        let clock = Clock::default();
        clock.advance(1_000_000);
        let far = links.iter().enumerate().map(|(n, config)| {
            let id = PortId(n as u16);
            let (near, port, link) = sim::link(*config, &clock, (id, PortId(100)));
            worker.attach(id, Box::new(near), Arc::default());
            Far { port, link }
        });
        let far = far.collect();
        worker.shared.published.catch_up(0, &mut worker.tables);
        let pool = shared.pool();
        let (_events, _commands, _writer) = (events, commands, writer);
        let (due_ns, second) = (0, None);
        Rig {
            worker,
            due_ns,
            second,
            fib,
            waits,
            shared,
            clock,
            far,
            pool,
            _events,
            _commands,
            _writer,
        }
    }

    /// Lets a second worker run, which has these pods, and a queue at the uplink as the first has.
    fn start_second(&mut self, pods: std::ops::Range<u8>, uplink: u8) {
        let (_, receiver) = crossbeam::channel::unbounded();
        let wait = self.waits.remove(0);
        let mut worker = Worker::new(1, self.shared.clone(), self.fib.clone(), receiver, wait);
        let mut attach = |at: u8, config| {
            let id = PortId(at.into());
            let (near, port, link) = sim::link(config, &self.clock, (id, PortId(100)));
            worker.attach(id, Box::new(near), Arc::default());
            Far { port, link }
        };
        for at in pods.clone() {
            self.worker.detach(PortId(at.into()));
            let far = std::mem::replace(&mut self.far[usize::from(at)], attach(at, pod()));
            Box::new(far.port).close(&mut self.pool);
        }
        let uplink = attach(uplink, LinkConfig::default());
        worker.shared.published.catch_up(1, &mut worker.tables);
        self.second = Some(Second { worker, due_ns: 0, uplink });
        self.publish(|tables| {
            for at in pods {
                tables.ports[usize::from(at)].as_mut().unwrap().worker = 1;
            }
        });
    }

    /// Another snapshot.
    fn publish(&mut self, change: impl FnOnce(&mut Tables)) {
        let mut tables = Tables::clone(&self.worker.tables);
        change(&mut tables);
        (0..self.shared.workers.len()).for_each(|at| self.shared.published.go_offline(at));
        self.shared.published.publish(tables);
        self.worker.shared.published.catch_up(0, &mut self.worker.tables);
        if let Some(Second { worker, .. }) = &mut self.second {
            worker.shared.published.catch_up(1, &mut worker.tables);
        }
    }

    /// Sends a packet from the far end of a port.
    fn send(&mut self, from: u8, to: u8, (flow, len): (u8, usize)) {
        let bytes = frame((from, to), flow, (len, self.clock.now_ns()));
        self.send_bytes(from, &bytes);
    }

    fn send_bytes(&mut self, from: u8, bytes: &[u8]) {
        let len = bytes.len();
        let Some(mut frame) = self.pool.alloc() else { return };
        frame.bytes_mut(HEADROOM, len).copy_from_slice(bytes);
        let mut burst = vec![Packet::new(frame, HEADROOM, len, PortId::NONE)];
        self.far[usize::from(from)].port.tx(&mut self.pool, &mut burst);
        self.pool.free_burst(&mut burst);
    }

    /// Fills the ring that a port receives from.
    fn flood(&mut self, from: u8, to: u8, len: usize) {
        while self.far[usize::from(from)].link.under_way() < RING {
            self.send(from, to, (0, len));
        }
    }

    /// The next turn of the worker that is due first, and the time until one is due again. Cold
    /// ports are seen when a worker looks.
    fn turn(&mut self) {
        let (worker, due_ns) = match &mut self.second {
            Some(second) if second.due_ns < self.due_ns => (&mut second.worker, &mut second.due_ns),
            _ => (&mut self.worker, &mut self.due_ns),
        };
        let now_ns = self.clock.now_ns();
        let moved = worker.turn(now_ns);
        if moved == 0 || worker.look_is_due() {
            let ids = 0..worker.slots.len() as u16;
            worker.ready.extend(ids);
            worker.after_wait(false);
        }
        *due_ns = now_ns + TURN_NS + PACKET_NS * moved as u64;
        let of_second = self.second.as_ref().map_or(u64::MAX, |second| second.due_ns);
        self.clock.advance(self.due_ns.min(of_second).saturating_sub(now_ns));
    }

    /// Takes what has come to the far end of a port.
    fn arrived(&mut self, at: u8) -> Vec<Arrived> {
        let (mut out, mut arrived) = (Vec::new(), Vec::new());
        loop {
            self.far[usize::from(at)].port.rx(&mut self.pool, &mut out, BURST);
            if let Some(Second { uplink, .. }) = &mut self.second {
                uplink.port.rx(&mut self.pool, &mut out, BURST);
            }
            if out.is_empty() {
                return arrived;
            }
            for packet in out.drain(..) {
                let bytes = packet.head();
                let sent_ns = u64::from_be_bytes(bytes[42..50].try_into().unwrap());
                let (from, flow, len) = (bytes[28], bytes[29], bytes.len());
                arrived.push(Arrived { from, flow, len, sent_ns });
                packet.free(&mut self.pool);
            }
        }
    }

    /// Ends the workers; every frame must be back.
    fn end(mut self) {
        self.worker.close();
        if let Some(Second { mut worker, uplink, .. }) = self.second {
            worker.close();
            Box::new(uplink.port).close(&mut self.pool);
        }
        for far in self.far {
            Box::new(far.port).close(&mut self.pool);
        }
        let arena = self.pool.arena().clone();
        let cached = self.pool.cached() + self.worker.pipeline.pool.cached();
        assert_eq!(arena.free_small() + cached, FRAMES);
    }
}

/// UDP from 10.0.FROM.FLOW to 10.0.TO.2, with the time.
fn frame((from, to): (u8, u8), flow: u8, (len, now_ns): (usize, u64)) -> Vec<u8> {
    let mut bytes = ethernet::header(mac(from), mac(200), ethernet::IPV4).to_vec();
    let (src, dst) = ([10, 0, from, flow].into(), [10, 0, to, 2].into());
    bytes.extend(ipv4::header(src, dst, protocol::UDP, 64, len as u16 - 34));
    bytes.extend([0, 9, 0, 9, 0, 0, 0, 0]);
    bytes[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
    bytes.extend(now_ns.to_be_bytes());
    bytes.resize(len, 0);
    bytes
}

fn tables(ports: u8) -> Tables {
    let entry = |n: u8| PortEntry::network(&format!("sim{n}"), mac(n), 1500);
    let adjacency = |n: u8| Adjacency {
        port: PortId(n.into()),
        neighbor: [10, 0, n, 2].into(),
        mac: Some(mac(100 + n)),
        tunnel: None,
    };
    let forward = |n: u8| Target::Forward(AdjacencyId(n.into()));
    Tables {
        ports: (0..ports).map(|n| Some(entry(n))).collect(),
        targets: std::iter::once(Target::NoRoute).chain((0..ports).map(forward)).collect(),
        adjacencies: (0..ports).map(adjacency).collect(),
        ..Tables::default()
    }
}

fn pod() -> LinkConfig {
    LinkConfig { queue_limit: RING, ..LinkConfig::default() }
}

/// The latency that all but one in a hundred have, in nanoseconds.
fn p99(mut latencies: Vec<u64>) -> u64 {
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

/// One endpoint sends more than the worker can take, and nine send at a hundredth of that each.
#[test]
fn a_flooding_port_takes_nothing_from_the_others() {
    const UPLINK: u8 = 10;
    let mut links = vec![pod(); 11];
    links[usize::from(UPLINK)] = LinkConfig::default();
    let run = |is_flooded: bool| {
        let mut rig = Rig::new(&links);
        let end_ns = rig.clock.now_ns() + 200_000_000;
        let (mut sent, mut next_ns) = ([0u64; 10], [0u64; 10]);
        let (mut arrived, mut latencies) = ([0u64; 10], Vec::new());
        while rig.clock.now_ns() < end_ns {
            if is_flooded {
                rig.flood(0, UPLINK, SHORTEST);
            }
            for pod in 1..10u8 {
                let at = usize::from(pod);
                // The worker moves a million packets a second.
                while next_ns[at] <= rig.clock.now_ns() {
                    next_ns[at] = next_ns[at].max(rig.clock.now_ns() - 100_000) + 100_000;
                    rig.send(pod, UPLINK, (1, SHORTEST));
                    sent[at] += 1;
                }
            }
            rig.turn();
            let now_ns = rig.clock.now_ns();
            for packet in rig.arrived(UPLINK) {
                arrived[usize::from(packet.from)] += 1;
                if packet.from > 0 {
                    latencies.push(now_ns - packet.sent_ns);
                }
            }
        }
        for at in 1..10 {
            assert_eq!(rig.far[at].link.counters(0).overflowed, 0, "endpoint {at}");
            let waiting = rig.far[at].link.under_way() as u64;
            assert_eq!(sent[at], arrived[at] + waiting, "endpoint {at}");
            assert!(arrived[at] > 1_900, "endpoint {at}: {arrived:?}");
        }
        if is_flooded {
            assert!(arrived[0] > 150_000, "the flood has what is left: {arrived:?}");
        }
        rig.end();
        p99(latencies)
    };
    let (quiet_ns, flooded_ns) = (run(false), run(true));
    println!("p99 latency: {quiet_ns} ns, and {flooded_ns} ns beside a flood");
    assert!(flooded_ns <= quiet_ns + 1_000_000, "{flooded_ns} ns, quiet {quiet_ns} ns");
}

/// With ten busy ports a turn takes long, and cold ports are looked at each time.
#[test]
fn a_cold_port_waits_for_one_turn_of_many_busy_ports() {
    const QUIET: u8 = 10;
    const UPLINK: u8 = 11;
    let mut links = vec![pod(); 12];
    links[usize::from(UPLINK)] = LinkConfig::default();
    let mut rig = Rig::new(&links);
    let mut longest_ns = 0;
    for _ in 0..50 {
        rig.send(QUIET, UPLINK, (1, SHORTEST));
        let mut seen = false;
        while !seen {
            (0..10).for_each(|pod| rig.flood(pod, UPLINK, SHORTEST));
            rig.turn();
            let now_ns = rig.clock.now_ns();
            for packet in rig.arrived(UPLINK).iter().filter(|packet| packet.from == QUIET) {
                longest_ns = longest_ns.max(now_ns - packet.sent_ns);
                seen = true;
            }
        }
        // Long enough to be cold again.
        for _ in 0..20 {
            (0..10).for_each(|pod| rig.flood(pod, UPLINK, SHORTEST));
            rig.turn();
            rig.arrived(UPLINK);
        }
    }
    // A turn of ten full bursts takes 640 microseconds.
    assert!(longest_ns <= 2 * 650_000, "{longest_ns} ns");
    rig.end();
}

/// The uplink is another worker's, which takes fewer packets than a flooding endpoint has for it.
#[test]
fn a_flood_for_another_workers_port_leaves_room_for_others() {
    const UPLINK: u8 = 3;
    let mut rig = Rig::with_workers(&[pod(); 4], 2);
    rig.worker.detach(PortId(UPLINK.into()));
    rig.publish(|tables| tables.ports[usize::from(UPLINK)].as_mut().unwrap().worker = 1);
    let (mut sent, mut given) = ([0u64; 3], [0u64; 3]);
    for turn in 0..2_000 {
        rig.flood(0, UPLINK, SHORTEST);
        for pod in 1..3 {
            if turn < 1_900 {
                rig.send(pod, UPLINK, (1, SHORTEST));
                sent[usize::from(pod)] += 1;
            }
        }
        rig.turn();
        for _ in 0..20 {
            let Some(handed) = rig.shared.workers[1].inbox.pop() else { break };
            let packet = handed.packet();
            given[usize::from(packet.in_port.0)] += 1;
            packet.free(&mut rig.pool);
        }
    }
    while let Some(handed) = rig.shared.workers[1].inbox.pop() {
        let packet = handed.packet();
        given[usize::from(packet.in_port.0)] += 1;
        packet.free(&mut rig.pool);
    }
    assert_eq!(sent[1..], given[1..]);
    let lost = rig.worker.pipeline.counters.drops[DropReason::HandOverFull as usize].get();
    assert!(lost > 50_000 && given[0] > 30_000, "{lost} lost, {given:?}");
    rig.end();
}
