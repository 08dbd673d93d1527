//! One worker's pipeline between packets that are made and a sink that throws them away.

use super::tables;
use super::traffic::{FIRST_PORT, FRAME, Traffic};
use crate::peers::forwarder;
use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use margay_fastpath::counters::{Stage, WorkerCounters};
use margay_fastpath::fib::{Fib, FibWriter};
use margay_fastpath::flow::{Limits, Timeouts};
use margay_fastpath::nat::Rules;
use margay_fastpath::packet::Packet;
use margay_fastpath::pipeline::{Pipeline, View};
use margay_fastpath::policy::Policy;
use margay_fastpath::port::{BURST, PortId};
use margay_fastpath::sys::clock;
use margay_fastpath::sys::memory::{Arena, FramePool, HEADROOM};
use margay_fastpath::tables::{Tables, TargetId};
use margay_tunnels::wire::ethernet::Mac;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

pub(super) const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const NEXT_HOP: Mac = Mac([2, 0, 0, 0, 0, 8]);
const SECOND: u64 = 1_000_000_000;
/// Longer than any timeout.
const IDLE: u64 = 1000 * SECOND;
/// Most flows; the table takes memory as they come.
const FLOWS: usize = 1 << 21;
const FRAMES: usize = 4096;

/// Stages, and cycles a packet.
pub(super) type Stages = Vec<(&'static str, f64)>;

/// Packets, and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    packets: u64,
    cycles: u64,
    /// Of everything, with what was not timed: says how long a cycle is.
    all_ns: u64,
    all_cycles: u64,
}

impl Cost {
    pub(super) fn add(&mut self, other: Cost) {
        self.packets += other.packets;
        self.cycles += other.cycles;
        self.all_ns += other.all_ns;
        self.all_cycles += other.all_cycles;
    }

    pub(super) fn is_none(&self) -> bool {
        self.packets == 0
    }

    /// A packet, in cycles of the time-stamp counter.
    pub(super) fn cycles(&self) -> f64 {
        self.cycles as f64 / self.packets as f64
    }

    /// A packet, in nanoseconds.
    pub(super) fn ns(&self) -> f64 {
        self.cycles() * self.all_ns as f64 / self.all_cycles as f64
    }
}

pub(super) struct Worker {
    pipeline: Pipeline,
    tables: Tables,
    fib: Arc<Fib>,
    _writer: FibWriter,
    ports: u16,
    now_ns: u64,
    burst: Vec<Packet>,
    /// Cycles and packets by stage that are not of the measurement.
    before: Vec<(u64, u64)>,
}

fn tables(ports: u16) -> Tables {
    tables::tables(ports, [ROUTER, NEXT_HOP])
}

impl Worker {
    /// One port each way, so many routes, and nothing tracked.
    pub(super) fn with_routes(count: u32) -> Result<Worker> {
        let routes = (0..count).map(|at| (forwarder::wide_route(at), TargetId(1)));
        Worker::new(tables(1), 1, routes)
    }

    /// Flows are tracked, and judged by policy where there is any.
    pub(super) fn with_policies(policy: Option<Policy>) -> Result<Worker> {
        let limits = Limits { sessions: FLOWS, per_source: 0 };
        let nat = Some(Rules::tracking(limits, Timeouts::default(), 1).into());
        let tables = Tables { nat, policy: policy.map(Arc::new), ..tables(1) };
        Worker::new(tables, 1, [((Ipv4Addr::from(FIRST_PORT), 24), TargetId(1))].into_iter())
    }

    /// So many ports each way, and nothing tracked.
    pub(super) fn with_ports(count: u16) -> Result<Worker> {
        let net = |at: u16| (Ipv4Addr::from(FIRST_PORT + u32::from(at) * 256), 24);
        let routes = (0..count).map(|at| (net(at), TargetId(u32::from(at) + 1)));
        Worker::new(tables(count), count, routes)
    }

    fn new(
        tables: Tables,
        ports: u16,
        routes: impl Iterator<Item = ((Ipv4Addr, u8), TargetId)>,
    ) -> Result<Worker> {
        let (mut writer, fib) = FibWriter::new();
        for ((address, len), target) in routes {
            let net = Ipv4Net::new(address, len)?;
            writer.insert(net.into(), target).with_context(|| format!("route {net}"))?;
        }
        let pool = FramePool::new(Arena::new(FRAMES, 0)?);
        let mut worker = Worker {
            pipeline: Pipeline::new(pool, Arc::<WorkerCounters>::default()),
            tables,
            fib,
            _writer: writer,
            ports,
            now_ns: SECOND,
            burst: Vec::with_capacity(BURST),
            before: Vec::new(),
        };
        worker.forget_stages();
        Ok(worker)
    }

    /// At least so many packets, in whole bursts.
    pub(super) fn turn(&mut self, traffic: &mut Traffic, packets: u32) -> Result<Cost> {
        let (start, all, mut cost) = (Instant::now(), clock::cycles(), Cost::default());
        for at in 0..packets.div_ceil(BURST as u32) {
            let port = PortId((at % u32::from(self.ports)) as u16);
            for _ in 0..BURST {
                let mut frame = self.pipeline.pool.alloc().context("no frame")?;
                traffic.write(frame.bytes_mut(HEADROOM, FRAME));
                self.burst.push(Packet::new(frame, HEADROOM, FRAME, port));
            }
            cost.cycles += self.process(port);
            cost.packets += BURST as u64;
        }
        cost.all_cycles = clock::cycles() - all;
        cost.all_ns = start.elapsed().as_nanos() as u64;
        let lost: u64 = self.pipeline.counters.drops().map(|(_, count)| count).sum();
        ensure!(lost == 0, "{lost} packets are lost");
        Ok(cost)
    }

    /// Cycles of a burst, the sink's part included.
    fn process(&mut self, port: PortId) -> u64 {
        let start = clock::cycles();
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.process(view, port, &mut self.burst);
        while let Some(port) = self.pipeline.egress.next_port() {
            let mut queue = std::mem::take(self.pipeline.egress.queue(port));
            self.pipeline.pool.free_burst(&mut queue);
            *self.pipeline.egress.queue(port) = queue;
        }
        clock::cycles() - start
    }

    /// Lets so much time pass that all flows end.
    pub(super) fn end_all(&mut self, flows: u32) {
        self.now_ns += IDLE;
        // A tick ends a bounded number of them.
        for _ in 0..flows / 1024 + 64 {
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.tick(view);
        }
    }

    fn stage_counts(&self) -> Vec<(u64, u64)> {
        let stages = self.pipeline.counters.stages.iter();
        stages.map(|stage| (stage.cycles.get(), stage.packets.get())).collect()
    }

    /// What stages have cost so far does not count.
    pub(super) fn forget_stages(&mut self) {
        self.before = self.stage_counts();
    }

    /// Cycles a packet of each stage that packets went through; what is left of the whole is
    /// taking them apart, bursts, and the sink.
    pub(super) fn stages(&self, whole: Cost) -> Stages {
        let counts = self.stage_counts();
        let (mut rest, mut stages) = (whole.cycles(), Vec::new());
        for ((now, before), stage) in counts.iter().zip(&self.before).zip(Stage::ALL) {
            // The clock of the first stage has the making of packets in it.
            if now.1 > before.1 && stage != Stage::Parse {
                let cost = (now.0 - before.0) as f64 / (now.1 - before.1) as f64;
                rest -= cost;
                stages.push((stage.name(), cost));
            }
        }
        stages.push(("the rest", rest));
        stages
    }
}
