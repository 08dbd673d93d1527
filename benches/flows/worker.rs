//! One worker's pipeline between packets that are made and a sink that throws them away.

use crate::tables;
use crate::traffic::{FRAME, NEIGHBOR, ROUTER, Traffic};
use margay_fastpath::counters::{Stage, WorkerCounters};
use margay_fastpath::fib::{Fib, FibWriter};
use margay_fastpath::flow::{Limits, Timeouts};
use margay_fastpath::nat::{Class, Filtering, OWN_RANGE, Ranges, Rules};
use margay_fastpath::packet::Packet;
use margay_fastpath::pipeline::{Pipeline, View};
use margay_fastpath::policy::Policy;
use margay_fastpath::port::{BURST, PortId};
use margay_fastpath::sys::memory::{Arena, FramePool, HEADROOM};
use margay_fastpath::tables::{Tables, TargetId};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

const SECOND: u64 = 1_000_000_000;
/// Outside addresses: 203.0.113.0/24 is not enough for 4M mappings with room to spare.
const OUTSIDE: std::ops::Range<u32> = 0xc633_6400..0xc633_6500;
/// Packets between two looks at the clock.
const PIECE: u32 = 1 << 16;

/// Packets, and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    packets: u64,
    ns: u64,
}

impl Cost {
    pub(crate) fn mega(&self) -> f64 {
        self.packets as f64 / self.ns as f64 * 1e3
    }

    pub(crate) fn ns(&self) -> f64 {
        self.ns as f64 / self.packets as f64
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost { packets: self.packets + other.packets, ns: self.ns + other.ns }
    }
}

/// Anonymous memory of the process, in bytes.
pub(crate) fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024.0
}

pub(crate) struct Worker {
    pipeline: Pipeline,
    tables: Tables,
    fib: Arc<Fib>,
    _writer: FibWriter,
    now_ns: u64,
    burst: Vec<Packet>,
}

fn rules(flows: usize) -> Rules {
    let class = |text: &str, class: Class| (text.parse().expect("a prefix"), class);
    Rules {
        generation: 1,
        ranges: Ranges::new(&[
            class("10.0.0.0/8", Class(Class::POOL.0 | Class::INSIDE.0)),
            class("198.51.100.0/24", Class::OUTSIDE),
        ]),
        outside_v4: OUTSIDE.map(Ipv4Addr::from).collect(),
        outside_v6: Vec::new(),
        ports: OWN_RANGE,
        taken: Vec::new(),
        exclude_nodes: false,
        filtering: Filtering::default(),
        limits: Limits { sessions: flows, per_source: 0 },
        timeouts: Timeouts::default(),
        workers: 1,
        services: None,
    }
}

/// One port each way, with translation for so many flows, or without any.
fn tables(flows: Option<usize>) -> Tables {
    let nat = flows.map(|flows| rules(flows).into());
    Tables { nat, ..tables::tables(1, [ROUTER, NEIGHBOR]) }
}

impl Worker {
    /// With translation for so many flows, or without any.
    pub(crate) fn new(flows: Option<usize>) -> Worker {
        Worker::with_tables(tables(flows))
    }

    /// With policy and without translation, for so many flows.
    pub(crate) fn with_policy(flows: usize, policy: Policy) -> Worker {
        let limits = Limits { sessions: flows, per_source: 0 };
        let rules = Rules::tracking(limits, Timeouts::default(), 1);
        let (nat, policy) = (Some(rules.into()), Some(Arc::new(policy)));
        Worker::with_tables(Tables { nat, policy, ..tables(None) })
    }

    fn with_tables(tables: Tables) -> Worker {
        let (mut writer, fib) = FibWriter::new();
        let default = "0.0.0.0/0".parse().expect("a prefix");
        writer.insert(default, TargetId(1)).expect("room for a route");
        let arena = Arena::new(4096, 0).expect("16 MiB of memory");
        Worker {
            pipeline: Pipeline::new(FramePool::new(arena), Arc::<WorkerCounters>::default()),
            tables,
            fib,
            _writer: writer,
            now_ns: SECOND,
            burst: Vec::with_capacity(BURST),
        }
    }

    fn take(&mut self, write: impl Fn(usize, &mut [u8]), mut see: impl FnMut(usize, &[u8])) {
        for at in 0..BURST {
            let mut frame = self.pipeline.pool.alloc().expect("a frame");
            write(at, frame.bytes_mut(HEADROOM, FRAME));
            self.burst.push(Packet::new(frame, HEADROOM, FRAME, PortId(0)));
        }
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.process(view, PortId(0), &mut self.burst);
        while let Some(port) = self.pipeline.egress.next_port() {
            let mut queue = std::mem::take(self.pipeline.egress.queue(port));
            queue.iter().enumerate().for_each(|(at, packet)| see(at, packet.head()));
            self.pipeline.pool.free_burst(&mut queue);
            *self.pipeline.egress.queue(port) = queue;
        }
    }

    /// The first packet of every flow.
    pub(crate) fn open_all(&mut self, traffic: &mut Traffic) -> Cost {
        let start = Instant::now();
        for first in (0..traffic.flows).step_by(BURST) {
            let number = |at: usize| traffic.shuffled(first + at as u32);
            self.take(|at, frame| traffic.forth(number(at), frame), |_, _| ());
        }
        Cost { packets: traffic.flows.into(), ns: start.elapsed().as_nanos() as u64 }
    }

    /// One more packet of every flow, to see what each looks like.
    pub(crate) fn learn(&mut self, traffic: &mut Traffic) {
        for first in (0..traffic.flows).step_by(BURST) {
            let mut seen = Vec::new();
            self.take(
                |at, frame| traffic.forth(first + at as u32, frame),
                |at, frame| seen.push((first + at as u32, frame.to_vec())),
            );
            seen.iter().for_each(|(number, frame)| traffic.learn(*number, frame));
        }
    }

    /// Packets of flows in turn; with `both`, every second one is an answer.
    pub(crate) fn send_some(&mut self, traffic: &mut Traffic, both: bool) -> Cost {
        let start = Instant::now();
        for _ in (0..PIECE).step_by(BURST) {
            let first = traffic.turn(BURST as u32);
            let write = |at: usize, frame: &mut [u8]| match both && at % 2 == 1 {
                true => traffic.back(first + at as u32, frame),
                false => traffic.forth(first + at as u32, frame),
            };
            self.take(write, |_, _| ());
        }
        Cost { packets: PIECE.into(), ns: start.elapsed().as_nanos() as u64 }
    }

    /// Lets so much time pass that all flows end.
    pub(crate) fn end_all(&mut self, flows: u32) {
        self.now_ns += 1000 * SECOND;
        // A tick ends a bounded number of them.
        for _ in 0..flows / 1024 + 64 {
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.tick(view);
        }
    }

    pub(crate) fn assert_no_loss(&self) {
        let counters = &self.pipeline.counters;
        let lost: Vec<_> = counters.drops().filter(|(_, count)| *count > 0).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let flow = &counters.stages[Stage::Flow as usize];
        eprintln!(
            "  translation alone: {:.0} cycles a packet",
            flow.cycles.get() as f64 / flow.packets.get().max(1) as f64
        );
    }
}
