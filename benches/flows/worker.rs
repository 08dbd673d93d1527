//! One worker's router under these flows, and what it costs.

use crate::router::{Router, translation};
use crate::tables;
use crate::traffic::{FRAME, NEIGHBOR, ROUTER, Traffic};
use margay_fastpath::counters::Stage;
use margay_fastpath::flow::{Limits, Timeouts};
use margay_fastpath::nat::Rules;
use margay_fastpath::packet::Packet;
use margay_fastpath::policy::Policy;
use margay_fastpath::port::{BURST, PortId};
use margay_fastpath::tables::{Tables, TargetId};
use std::sync::Arc;
use std::time::Instant;

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

pub(crate) struct Worker(Router);

/// One port each way, with translation for so many flows, or without any.
fn tables(flows: Option<usize>) -> Tables {
    let nat = flows.map(|flows| translation(flows).into());
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
        Worker(Router::new(tables, [(ipnet::Ipv4Net::default(), TargetId(1))]))
    }

    fn take(&mut self, write: impl Fn(usize, &mut [u8]), see: impl FnMut(usize, &Packet)) {
        self.0.make(PortId(0), (BURST, FRAME), write);
        self.0.carry(PortId(0), see);
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
                |at, packet| seen.push((first + at as u32, packet.head().to_vec())),
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
        self.0.end_all(flows);
    }

    pub(crate) fn assert_no_loss(&self) {
        assert_eq!(self.0.lost(), 0, "packets are lost");
        let flow = &self.0.pipeline.counters.stages[Stage::Flow as usize];
        eprintln!(
            "  translation alone: {:.0} cycles a packet",
            flow.cycles.get() as f64 / flow.packets.get().max(1) as f64
        );
    }
}
