//! A packet's way, stage by stage, for a burst from one port.
//!
//! parse -> longest prefix match -> target (next hop, host, or a refusal) -> TTL -> MTU -> rewrite
//! -> egress queue. Everything that is not the common case leaves by a cold call: an ICMP error,
//! a wait for a link address, fragmentation. The pipeline owns no port: whoever runs it takes the
//! egress queues and sends them.

use crate::capture::{Point, Tap};
use crate::counters::{Stage, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::egress::Egress;
use crate::fib::Fib;
use crate::flow_log::FlowLog;
use crate::forward::{self, Step};
use crate::icmp::IcmpError;
use crate::limit::{OwnLimits, Punts};
use crate::nat::Tracker;
use crate::neighbor::{HoldQueue, Neighbor};
use crate::offload::tier::Tier;
use crate::packet::Packet;
use crate::parse::{Parsed, parse_any, plain_v4};
use crate::port::{BURST, PortId};
use crate::segment;
use crate::service::Clients;
use crate::sys::clock::cycles;
use crate::sys::memory::FramePool;
use crate::tables::{AdjacencyId, PortEntry, Tables, Target, TargetId};
use crate::tunnel::PathMtus;
use crate::tunnel::reassembly::Reassembly;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

mod burst;
mod decap;
mod encap;
mod in_place;
mod limits;
mod neighbors;
mod offload;
mod outer_fragment;
mod punt;
mod refusal;
mod track;
mod tunnel_error;

use burst::{Burst, Kind};
use decap::Arrival;
use in_place::Way;

/// Most packets that margay makes itself while it works on one burst.
const MAX_MADE: usize = 4 * BURST;

/// What the stages read: the same for a whole burst.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The snapshot.
    pub tables: &'a Tables,
    /// The routes.
    pub fib: &'a Fib,
    /// Nanoseconds on a clock that never goes back.
    pub now_ns: u64,
}

/// One worker's state between bursts.
#[derive(Debug)]
pub struct Pipeline {
    /// Free frames.
    pub pool: FramePool,
    /// What happened.
    pub counters: Arc<WorkerCounters>,
    /// Packets that are ready to be sent.
    pub egress: Egress,
    /// Neighbours that somebody should resolve; the caller takes them.
    pub requests: Vec<Neighbor>,
    /// Copies for whoever captures.
    pub tap: Option<Tap>,
    /// What the underlay told about tunnels; the same for all workers.
    pub path_mtus: Arc<PathMtus>,
    /// Which endpoints clients of services have had; the same for all workers.
    pub clients: Arc<Clients>,
    /// Where first packets are told of; the same for all workers.
    pub flow_log: Arc<FlowLog>,
    /// Packets for other workers, which have their flows; the caller takes them.
    pub handed: Vec<(u16, Packet)>,
    worker: u16,
    tracker: Option<Tracker>,
    flows_are_due: bool,
    offload: Option<Box<Tier>>,
    reassembly: Reassembly,
    hold: HoldQueue,
    punts: Punts,
    made: Vec<Packet>,
    parts: Vec<Packet>,
    limits: OwnLimits,
    /// Times of the burst's packets that wait for theirs, in order.
    departures: VecDeque<u64>,
    spare: Vec<Packet>,
    found: Option<Box<Burst>>,
    /// When the stage before ended, in cycles: reading the clock costs as much as looking up ten
    /// routes.
    lap_start: u64,
}

impl Pipeline {
    /// The pipeline of the first or only worker, with empty queues.
    pub fn new(pool: FramePool, counters: Arc<WorkerCounters>) -> Pipeline {
        Pipeline {
            pool,
            counters,
            egress: Egress::default(),
            requests: Vec::new(),
            tap: None,
            path_mtus: Arc::default(),
            clients: Arc::default(),
            flow_log: Arc::default(),
            handed: Vec::new(),
            worker: 0,
            tracker: None,
            flows_are_due: false,
            offload: None,
            reassembly: Reassembly::default(),
            hold: HoldQueue::default(),
            punts: Punts::default(),
            made: Vec::new(),
            parts: Vec::new(),
            limits: OwnLimits::default(),
            departures: VecDeque::new(),
            spare: Vec::new(),
            found: None,
            lap_start: cycles(),
        }
    }

    /// The first stage begins now.
    #[inline]
    pub fn start_lap(&mut self) {
        self.lap_start = cycles();
    }

    /// `stage` is done for `count` packets, and the next one begins.
    #[inline]
    pub(crate) fn end_lap(&mut self, stage: Stage, count: usize) {
        let now = cycles();
        self.counters.stage(stage, now.wrapping_sub(self.lap_start), count);
        self.lap_start = now;
    }

    /// Takes a burst of at most [`BURST`] packets that came in by `ingress` through all stages.
    /// Their cycles are counted from the end of the stage before.
    /// Leaves `burst` empty; what goes on is in [`Pipeline::egress`].
    pub fn process(&mut self, view: View<'_>, ingress: PortId, burst: &mut Vec<Packet>) {
        debug_assert!(burst.len() <= BURST);
        let Some(port) = view.tables.port(ingress) else {
            burst.drain(..).for_each(|packet| self.drop(view, packet, DropReason::PortDown));
            return;
        };
        self.capture_all(view, burst);
        self.pick(ingress, burst);
        let count = burst.len();
        let mut found = self.found.take().unwrap_or_default();
        found.clear();
        let end = &view.tables.tunnel_end;
        if port.workload {
            let watch = end.guard();
            self.parse(view, port, (burst, &mut found), |packet, _| {
                watch.concerns(packet.head()) || !port.lets_plain_v4(packet.head())
            });
        } else {
            let end = end.v4;
            self.parse(view, port, (burst, &mut found), |_, dst| dst == end);
        }
        self.end_lap(Stage::Parse, count);
        let limits = view.tables.limits_of(ingress);
        if let Some(limits) = limits {
            self.limit_from(view, (ingress, limits), &mut found, burst);
        }
        if let Some(rules) = &view.tables.nat
            && (view.tables.policy.is_some() || found.may_concern(&rules.ranges, burst))
        {
            self.track(view, rules, &mut found, burst);
            self.end_lap(Stage::Flow, count);
        }
        self.consider(view, &found, burst);
        if limits.is_some_and(|limits| limits.dscp().is_some()) {
            self.mark(view, burst);
        }
        self.finish(view, Some(port), &mut found, burst);
        self.found = Some(found);
        self.route_made(view);
        self.end_lap(Stage::Forward, count);
    }

    /// Looks at each packet of a burst. `concerns` tells of plain IPv4 and its destination whether
    /// a tunnel's headers may be in it.
    #[inline(always)]
    fn parse(
        &mut self,
        view: View<'_>,
        port: &PortEntry,
        (burst, found): (&mut [Packet], &mut Burst),
        concerns: impl Fn(&Packet, Ipv4Addr) -> bool,
    ) {
        let mac = port.mac.word();
        for (at, packet) in burst.iter_mut().enumerate() {
            match plain_v4(packet, mac, &mut self.pool) {
                Some(dst) if !concerns(packet, dst) => {
                    view.fib.prefetch_v4(dst);
                    found.note_v4(at, dst);
                }
                plain => self.parse_rest(view, port, (packet, plain), (found, at)),
            }
            if port.implicit_partial_csum && found.is_routed(at) {
                segment::detect_partial(packet);
            }
        }
    }

    /// Packets that are not plain IPv4, and those that may be of a tunnel.
    #[inline(never)]
    fn parse_rest(
        &mut self,
        view: View<'_>,
        port: &PortEntry,
        (packet, plain): (&mut Packet, Option<Ipv4Addr>),
        (found, at): (&mut Burst, usize),
    ) {
        let end = &view.tables.tunnel_end;
        let parsed = match plain {
            Some(dst) => Ok(Parsed::V4(dst)),
            None => parse_any(packet, port.mac, &mut self.pool),
        };
        let is_routed = matches!(parsed, Ok(Parsed::V4(_) | Parsed::V6(_)));
        if is_routed && port.is_spoofed(packet) {
            return found.note(at, Err(DropReason::Spoofed));
        }
        let arrival = match parsed {
            Ok(Parsed::V6(dst)) if !port.workload && dst != end.v6 => Arrival::Packet(parsed),
            Ok(parsed) => self.inspect(view, port, packet, parsed),
            Err(reason) => Arrival::Packet(Err(reason)),
        };
        match arrival {
            Arrival::Packet(outcome) => found.note(at, outcome),
            Arrival::TunnelError => found.kinds[at] = Kind::TunnelError,
            Arrival::OuterFragment => found.kinds[at] = Kind::OuterFragment,
        }
    }

    fn finish(
        &mut self,
        view: View<'_>,
        port: Option<&PortEntry>,
        found: &mut Burst,
        burst: &mut Vec<Packet>,
    ) {
        let way = self.forward_in_place(view, found, burst);
        if !matches!(way, Way::Some) {
            self.counters.forwarded.add(burst.len() as u64);
        }
        match way {
            Way::One(egress) => return self.egress.append(egress, burst),
            Way::All => return self.egress.append_all(&found.egress, burst),
            Way::Some => {}
        }
        let rest = found.kinds.iter().zip(&found.egress).zip(found.targets());
        for (packet, ((kind, egress), target)) in burst.drain(..).zip(rest) {
            match *kind {
                _ if *egress != PortId::NONE => {
                    self.counters.forwarded.add(1);
                    self.egress.push(*egress, packet);
                }
                Kind::V4 | Kind::V6 => self.route(view, packet, *target, Step::Forward),
                Kind::TunnelError => self.tunnel_error(view, packet),
                Kind::Bad(DropReason::LimitConnections) => self.refuse_connection(view, packet),
                Kind::Bad(reason) => self.drop(view, packet, reason),
                Kind::Delayed => self.delay(view, packet),
                Kind::Cut => self.cut_and_limit(view, packet),
                Kind::HandOver(worker) => self.handed.push((worker, packet)),
                Kind::Waits => self.wait_for_first(view, packet),
                Kind::Neighbor => match port {
                    Some(port) => self.neighbor_message(view, port, packet),
                    None => self.drop(view, packet, DropReason::NeighborMessage),
                },
                Kind::OuterFragment => match port {
                    Some(port) => self.outer_fragment(view, port, packet),
                    None => self.drop(view, packet, DropReason::TunnelFragment),
                },
            }
        }
    }

    /// Sends a packet where its route says. `step` tells whether it passes through, or was made
    /// here.
    fn route(&mut self, view: View<'_>, packet: Packet, target: TargetId, step: Step) {
        match view.tables.target(target) {
            Target::Forward(adjacency) => self.forward(view, packet, adjacency, step),
            Target::Ecmp(group) => {
                let hash = crate::flow_hash::flow_hash(&packet);
                match view.tables.ecmp_groups.get(group as usize) {
                    Some(group) => self.forward(view, packet, group.select(hash), step),
                    None => self.drop(view, packet, DropReason::NoRoute),
                }
            }
            Target::Local => self.deliver(view, packet),
            other => self.refuse(view, packet, other),
        }
    }

    fn forward(&mut self, view: View<'_>, mut packet: Packet, to: AdjacencyId, step: Step) {
        let Some(adjacency) = view.tables.adjacency(to) else {
            return self.drop(view, packet, DropReason::PortDown);
        };
        let Some(egress) = view.tables.port(adjacency.port).filter(|port| port.up) else {
            return self.drop(view, packet, DropReason::PortDown);
        };
        let Some(mac) = adjacency.mac else { return self.wait_for(view, packet, to, step) };
        if adjacency.tunnel.is_some() {
            return self.encapsulate(view, packet, to, step);
        }
        if segment::largest_ip_len(&packet) > usize::from(egress.mtu) {
            return self.too_big(view, packet, to, step);
        }
        let addresses = forward::link_addresses(mac, egress.mac);
        if !forward::rewrite(&mut packet, &addresses, step) {
            return self.error(view, packet, DropReason::TtlExceeded, IcmpError::TtlExceeded);
        }
        self.counters.forwarded.add(1);
        self.egress.push(adjacency.port, packet);
    }

    /// Frees everything that is held or queued, for the end of the worker.
    pub fn clear(&mut self) {
        for packet in self.hold.take_all() {
            packet.free(&mut self.pool);
        }
        self.made.drain(..).for_each(|packet| packet.free(&mut self.pool));
        self.clear_tracking();
        self.clear_fragments();
        self.clear_limits();
        self.egress.clear(&mut self.pool);
    }

    #[cold]
    fn route_again(&mut self, view: View<'_>, mut packet: Packet) {
        limits::mark(view, &mut packet);
        let target = look_up_one(view.fib, &packet);
        let own = packet.in_port == PortId::NONE;
        self.route(view, packet, target, if own { Step::Originate } else { Step::Forward });
    }

    /// Routes the packets that margay has made itself, and fragments whose first one has come. They
    /// cause no errors of their own, and none waits again, so the loop ends.
    fn route_made(&mut self, view: View<'_>) {
        self.take_released();
        while let Some(packet) = self.made.pop() {
            if let Some(packet) = self.track_one(view, packet) {
                self.route_again(view, packet);
            }
            self.take_released();
        }
    }

    /// Ends a packet's way and counts why.
    #[cold]
    pub fn drop(&mut self, view: View<'_>, packet: Packet, reason: DropReason) {
        if let Some(tap) = &self.tap {
            tap.copy(&packet, packet.in_port, Point::Drop(reason), view.now_ns);
        }
        self.counters.count_drop(reason);
        packet.free(&mut self.pool);
    }

    fn capture_all(&self, view: View<'_>, burst: &[Packet]) {
        let Some(tap) = &self.tap else { return };
        for packet in burst {
            tap.copy(packet, packet.in_port, Point::Rx, view.now_ns);
        }
    }
}

fn look_up_one(fib: &Fib, packet: &Packet) -> TargetId {
    match forward::dst(packet) {
        Some(IpAddr::V4(dst)) => fib.lookup_v4(dst),
        Some(IpAddr::V6(dst)) => fib.lookup_v6(dst),
        None => TargetId(0),
    }
}

#[cfg(test)]
mod tests;
