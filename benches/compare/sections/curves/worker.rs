//! One worker's pipeline between packets that are made and a sink that throws them away.

use super::policy::policy;
use super::router::{Router, translation};
use super::tables;
use super::traffic::{FIRST_PORT, FRAME, Traffic};
use crate::peers::forwarder;
use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use margay_fastpath::counters::Stage;
use margay_fastpath::flow::{Limits, Timeouts};
use margay_fastpath::limit::{self, EndpointLimits, Rate, Rates, Wanted, WayLimits};
use margay_fastpath::nat::{Ranges, Rules};
use margay_fastpath::packet::Packet;
use margay_fastpath::policy::Policy;
use margay_fastpath::port::{BURST, PortId};
use margay_fastpath::sys::clock;
use margay_fastpath::tables::{Adjacency, AdjacencyId, Tables, Target, TargetId};
use margay_tunnels::wire::ethernet::Mac;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

pub(super) const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const NEXT_HOP: Mac = Mac([2, 0, 0, 0, 0, 8]);
/// Most flows; the table takes memory as they come.
const FLOWS: usize = 1 << 21;
/// Policies of the endpoint that has everything.
const POLICIES: u32 = 100;
/// A limit of 100 Gbit/s, which is not reached.
const RATE: Rate = Rate { per_second: 100_000_000_000, burst: 4_000_000_000 };
/// Between two bursts: 13 million packets a second.
const BURST_NS: u64 = 5_000;

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
    router: Router,
    /// Ports that packets come in by.
    ports: u16,
    /// Packets that come in together.
    burst: usize,
    /// Cycles and packets by stage that are not of the measurement.
    before: Vec<(u64, u64)>,
}

fn tables(ports: u16) -> Tables {
    tables::tables(ports, [ROUTER, NEXT_HOP])
}

fn route((address, len): (Ipv4Addr, u8), to: u32) -> Result<(Ipv4Net, TargetId)> {
    Ok((Ipv4Net::new(address, len).context("a prefix")?, TargetId(to)))
}

impl Worker {
    /// One port each way, so many routes, and nothing tracked.
    pub(super) fn with_routes(count: u32) -> Result<Worker> {
        Worker::new(tables(1), 1, (0..count).map(|at| route(forwarder::wide_route(at), 1)))
    }

    /// Flows are tracked, and judged by policy where there is any.
    pub(super) fn with_policies(policy: Option<Policy>) -> Result<Worker> {
        let limits = Limits { sessions: FLOWS, per_source: 0 };
        let nat = Some(Rules::tracking(limits, Timeouts::default(), 1).into());
        let tables = Tables { nat, policy: policy.map(Arc::new), ..tables(1) };
        Worker::new(tables, 1, [route((FIRST_PORT.into(), 24), 1)].into_iter())
    }

    /// Flows of an endpoint with policies and a limit each way are tracked and translated. It is
    /// behind the first port; answers come in by the second one.
    pub(super) fn with_everything() -> Result<Worker> {
        let way =
            WayLimits { rates: Rates { bits: Some(RATE), ..Rates::default() }, shaped: false };
        let limits = EndpointLimits::new(Wanted { ways: [way; 2], dscp: None }, 1, 1);
        let limits = limit::Limits::new(&[(PortId(0), limits.into())], Ranges::default());
        let mut tables = Tables {
            nat: Some(translation(FLOWS).into()),
            policy: Some(policy(POLICIES, 1).into()),
            limits: Some(limits.into()),
            ..tables(1)
        };
        tables.targets.push(Target::Forward(AdjacencyId(1)));
        let back = Adjacency { port: PortId(0), ..tables.adjacencies[0].clone() };
        tables.adjacencies.push(back);
        let routes = [((FIRST_PORT.into(), 24), 1), ((Ipv4Addr::new(10, 0, 0, 0), 8), 2)];
        Worker::new(tables, 2, routes.into_iter().map(|(net, to)| route(net, to)))
    }

    /// So many ports each way, and nothing tracked.
    pub(super) fn with_ports(count: u16) -> Result<Worker> {
        let net = |at: u16| (Ipv4Addr::from(FIRST_PORT + u32::from(at) * 256), 24);
        let routes = (0..count).map(|at| route(net(at), u32::from(at) + 1));
        Worker::new(tables(count), count, routes)
    }

    fn new(
        tables: Tables,
        ports: u16,
        routes: impl Iterator<Item = Result<(Ipv4Net, TargetId)>>,
    ) -> Result<Worker> {
        let routes: Vec<_> = routes.collect::<Result<_>>()?;
        let router = Router::new(tables, routes);
        let mut worker = Worker { router, ports, burst: BURST, before: Vec::new() };
        worker.forget_stages();
        Ok(worker)
    }

    /// Packets come in so many together, [`BURST`] at most.
    pub(super) fn in_bursts(&mut self, packets: usize) {
        self.burst = packets;
    }

    /// At least so many packets, in whole bursts by all ports in turn.
    pub(super) fn turn(&mut self, traffic: &mut Traffic, packets: u32) -> Result<Cost> {
        let (start, all, mut cost) = (Instant::now(), clock::cycles(), Cost::default());
        for at in 0..packets.div_ceil(self.burst as u32) {
            let port = (at % u32::from(self.ports)) as u16;
            cost.cycles += self.burst(port, |_, frame| traffic.write(port, frame), |_, _| ());
            cost.packets += self.burst as u64;
        }
        cost.all_cycles = clock::cycles() - all;
        cost.all_ns = start.elapsed().as_nanos() as u64;
        ensure!(self.router.lost() == 0, "{} packets are lost", self.router.lost());
        Ok(cost)
    }

    /// The first packet of each flow, by the first port.
    pub(super) fn begin_all(&mut self, traffic: &mut Traffic) -> Result<Cost> {
        let ports = std::mem::replace(&mut self.ports, 1);
        let cost = self.turn(traffic, traffic.flows());
        self.ports = ports;
        cost
    }

    /// One more of each, to see what it looks like outside.
    pub(super) fn learn(&mut self, traffic: &mut Traffic) {
        for first in (0..traffic.flows()).step_by(BURST) {
            let mut seen = Vec::new();
            let write = |at: usize, frame: &mut [u8]| traffic.forth(first + at as u32, frame);
            self.burst(0, write, |at, packet| {
                seen.push((first + at as u32, packet.head().to_vec()));
            });
            seen.iter().for_each(|(flow, frame)| traffic.learn(*flow, frame));
        }
    }

    /// Cycles of a burst, the sink's part included.
    fn burst(
        &mut self,
        port: u16,
        write: impl FnMut(usize, &mut [u8]),
        see: impl FnMut(usize, &Packet),
    ) -> u64 {
        self.router.now_ns += BURST_NS;
        self.router.make(PortId(port), (self.burst, FRAME), write);
        let start = clock::cycles();
        self.router.carry(PortId(port), see);
        clock::cycles() - start
    }

    /// Lets so much time pass that all flows end.
    pub(super) fn end_all(&mut self, flows: u32) {
        self.router.end_all(flows);
    }

    fn stage_counts(&self) -> Vec<(u64, u64)> {
        let stages = self.router.pipeline.counters.stages.iter();
        stages.map(|stage| (stage.cycles.get(), stage.packets.get())).collect()
    }

    /// What stages have cost so far does not count.
    pub(super) fn forget_stages(&mut self) {
        self.before = self.stage_counts();
    }

    /// Cycles a packet of each stage that packets went through; what is left of the whole is
    /// bursts, and the sink.
    pub(super) fn stages(&self, whole: Cost) -> Stages {
        let counts = self.stage_counts();
        let (mut rest, mut stages) = (whole.cycles(), Vec::new());
        for ((now, before), stage) in counts.iter().zip(&self.before).zip(Stage::ALL) {
            if now.1 > before.1 {
                let cost = (now.0 - before.0) as f64 / (now.1 - before.1) as f64;
                rest -= cost;
                stages.push((stage.name(), cost));
            }
        }
        stages.push(("the rest", rest));
        stages
    }
}
