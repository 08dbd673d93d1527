//! Where traffic control stands in a packet's way: from an endpoint after parsing, before its flow
//! is looked for; towards an endpoint before its port.
//!
//! A super-packet that may not pass whole is cut, and its parts are asked about. What waits goes on
//! from where it stood when its time has come.

use super::burst::{Burst, Kind};
use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::forward;
use crate::limit::{Cause, Cost, Departure, EndpointLimits, Excess, Queued, Tally, Waiting, dscp};
use crate::packet::Packet;
use crate::port::{BURST, PortId};
use crate::segment::{self, Checksums};
use margay_acl::Direction;

impl Pipeline {
    /// Packets of a burst from a limited endpoint, as they were parsed.
    #[inline(never)]
    pub(super) fn limit_from(
        &mut self,
        view: View<'_>,
        (port, limits): (PortId, &EndpointLimits),
        found: &mut Burst,
        burst: &[Packet],
    ) {
        let way = limits.way(Direction::Egress);
        if !way.is_limited() {
            return;
        }
        let (mut kinds, mut tally) = ([None; BURST], Tally::default());
        for (at, packet) in burst.iter().enumerate().filter(|(at, _)| found.is_routed(*at)) {
            let cost = Cost::of(packet);
            let place = (port, Direction::Egress);
            kinds[at] = match self.limits.admit(place, limits, view.now_ns, cost) {
                Ok(Departure::Now) => {
                    tally.pass(cost);
                    continue;
                }
                Ok(Departure::At(at_ns)) => {
                    tally.delay(cost);
                    self.departures.push_back(at_ns);
                    Some(Kind::Delayed)
                }
                Err(_) if cost.packets > 1 => Some(Kind::Cut),
                Err(excess) => {
                    tally.drop(excess);
                    Some(Kind::Bad(excess.drop_reason()))
                }
            };
        }
        way.account.add(&tally, view.now_ns);
        found.change(&kinds, burst);
    }

    /// A packet from an endpoint that waits for its time.
    #[cold]
    pub(super) fn delay(&mut self, view: View<'_>, packet: Packet) {
        match self.departures.pop_front() {
            Some(at_ns) => self.wait(view, at_ns, Waiting::From(packet)),
            None => self.drop(view, packet, DropReason::LimitQueue),
        }
    }

    fn wait(&mut self, view: View<'_>, at_ns: u64, packet: Waiting) {
        let (port, direction) = packet.place();
        let row = view.tables.limits_of(port).and_then(|limits| limits.way(direction).row());
        let times = (at_ns, view.now_ns);
        let Err(refused) = self.limits.wait(times, packet, row) else { return };
        self.note_released(view, &refused);
        let (Waiting::From(packet) | Waiting::To(_, packet)) = refused;
        self.drop(view, packet, DropReason::LimitQueue);
    }

    /// Of the packets that were released: to be dropped once they have left the worker.
    #[inline]
    pub(crate) fn released(&mut self) -> &mut Vec<Queued> {
        self.limits.released()
    }

    fn note_released(&self, view: View<'_>, packet: &Waiting) {
        let (port, direction) = packet.place();
        if let Some(limits) = view.tables.limits_of(port) {
            limits.way(direction).account.released();
        }
    }

    /// A super-packet from an endpoint that may not pass whole.
    #[cold]
    pub(super) fn cut_and_limit(&mut self, view: View<'_>, packet: Packet) {
        let port = packet.in_port;
        let mut parts = Vec::new();
        self.admit_parts(view, (port, Direction::Egress), packet, &mut parts);
        // The last one is taken first.
        self.made.extend(parts.into_iter().rev());
    }

    /// Cuts a super-packet; `out` gets the parts that may pass now.
    fn admit_parts(
        &mut self,
        view: View<'_>,
        (port, direction): (PortId, Direction),
        packet: Packet,
        out: &mut Vec<Packet>,
    ) {
        let Some(limits) = view.tables.limits_of(port) else { return out.push(packet) };
        let mut parts = Vec::new();
        if let Err(error) = segment::segment(packet, &mut self.pool, &mut parts, Checksums::Leave) {
            return self.counters.count_drop(error.drop_reason());
        }
        self.counters.made.add(parts.len() as u64 - 1);
        let mut tally = Tally::default();
        for part in parts {
            let cost = Cost::of(&part);
            match self.limits.admit((port, direction), limits, view.now_ns, cost) {
                Ok(Departure::Now) => {
                    tally.pass(cost);
                    out.push(part);
                }
                Ok(Departure::At(at_ns)) => {
                    tally.delay(cost);
                    let part = match direction {
                        Direction::Egress => Waiting::From(part),
                        Direction::Ingress => Waiting::To(port, part),
                    };
                    self.wait(view, at_ns, part);
                }
                Err(excess) => {
                    tally.drop(excess);
                    self.drop(view, part, excess.drop_reason());
                }
            }
        }
        limits.way(direction).account.add(&tally, view.now_ns);
    }

    /// Packets that are ready for the port of a limited endpoint; leaves those that may go now.
    #[inline(never)]
    pub fn limit_to(&mut self, view: View<'_>, port: PortId, burst: &mut Vec<Packet>) {
        let Some(limits) = view.tables.limits_of(port) else { return };
        let way = limits.way(Direction::Ingress);
        if !way.is_limited() {
            return;
        }
        let mut queue = std::mem::replace(burst, std::mem::take(&mut self.spare));
        let mut tally = Tally::default();
        for packet in queue.drain(..) {
            let cost = Cost::of(&packet);
            let place = (port, Direction::Ingress);
            match self.limits.admit(place, limits, view.now_ns, cost) {
                Ok(Departure::Now) => {
                    tally.pass(cost);
                    burst.push(packet);
                }
                Ok(Departure::At(at_ns)) => {
                    tally.delay(cost);
                    self.wait(view, at_ns, Waiting::To(port, packet));
                }
                Err(_) if cost.packets > 1 => self.admit_parts(view, place, packet, burst),
                Err(excess) => {
                    tally.drop(excess);
                    self.drop(view, packet, excess.drop_reason());
                }
            }
        }
        way.account.add(&tally, view.now_ns);
        self.spare = queue;
    }

    /// Packets that wait for their time.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.limits.waiting()
    }

    /// The next packet whose time has come.
    pub(crate) fn release(&mut self, view: View<'_>) -> Option<Waiting> {
        let packet = self.limits.release(view.now_ns)?;
        self.note_released(view, &packet);
        Some(packet)
    }

    /// Marks packets from an endpoint to what is outside of the cluster.
    #[cold]
    pub(super) fn mark(&self, view: View<'_>, burst: &mut [Packet]) {
        burst.iter_mut().for_each(|packet| mark(view, packet));
    }

    /// Refuses a connection: its sender gets a reset, as Calico answers.
    #[cold]
    pub(super) fn refuse_connection(&mut self, view: View<'_>, mut packet: Packet) {
        if self.may_answer(view, &packet, Cause::Reset) {
            let _ = segment::finish_checksum(&mut packet);
            if let Some(reset) = crate::reset::answer(&packet, &mut self.pool) {
                self.counters.made.add(1);
                // It belongs to no flow, and is about a packet that was not translated.
                self.route_again(view, reset);
            }
        }
        self.drop(view, packet, Excess::Connections.drop_reason());
    }

    /// Frees what waits, for the end of the worker.
    pub(super) fn clear_limits(&mut self) {
        while let Some(packet) = self.limits.take_any() {
            packet.free(&mut self.pool);
        }
    }
}

/// Marks a packet if its endpoint's are, and it goes where they are.
pub(super) fn mark(view: View<'_>, packet: &mut Packet) {
    let Some(limits) = view.tables.limits.as_deref().filter(|limits| limits.marks()) else {
        return;
    };
    let point = limits.of(packet.in_port).and_then(EndpointLimits::dscp);
    let (Some(point), Some(dst)) = (point, forward::dst(packet)) else { return };
    if limits.is_marked(dst.into()) {
        let at = usize::from(packet.l3);
        if let Some(ip) = packet.head_mut().get_mut(at..) {
            dscp::mark(ip, point);
        }
    }
}

impl Burst {
    /// Notes anew what some packets of the burst are.
    fn change(&mut self, kinds: &[Option<Kind>; BURST], burst: &[Packet]) {
        if kinds.iter().all(Option::is_none) {
            return;
        }
        let before = self.kinds;
        self.clear();
        for (at, packet) in burst.iter().enumerate() {
            match kinds[at] {
                Some(kind) => self.kinds[at] = kind,
                None if matches!(before[at], Kind::V4 | Kind::V6) => {
                    self.note(at, super::track::parsed(packet));
                }
                None => self.kinds[at] = before[at],
            }
        }
    }
}
