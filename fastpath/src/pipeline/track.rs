//! Where translation stands in a packet's way: after parsing, before the route.
//!
//! Only bursts with a packet that may be translated come here. Packets that margay makes itself
//! pass here too: an ICMP error about a translated packet is for the one who sent the original.

use super::burst::{Burst, Kind};
use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::flow::SessionId;
use crate::forward;
use crate::nat::{Rules, Tracker, Verdict};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::policy::{Hit, Way};
use crate::port::{BURST, PortId};
use crate::tables::Target;
use std::net::IpAddr;

impl Pipeline {
    /// The pipeline of another worker than the first.
    #[must_use]
    pub fn of_worker(self, worker: u16) -> Pipeline {
        Pipeline { worker, ..self }
    }

    /// Translates what is to be, and notes what the packets are now.
    #[inline(never)]
    pub(super) fn track(
        &mut self,
        view: View<'_>,
        rules: &Rules,
        found: &mut Burst,
        burst: &mut [Packet],
    ) {
        let mut verdicts = [Verdict::Go; BURST];
        let Some(tracker) = self.tracker_for(rules, view) else {
            return self.go_untracked(view, found, burst);
        };
        for (at, verdict) in verdicts.iter_mut().enumerate().take(burst.len()) {
            if !found.is_routed(at) {
                *verdict = Verdict::Wait;
            }
        }
        tracker.track(rules, burst, &mut verdicts[..burst.len()], view.now_ns);
        if !tracker.begun.is_empty() {
            self.ask_ways_out(view, burst, &mut verdicts);
        }
        let Some(tracker) = &self.tracker else { return };
        found.note_verdicts(&verdicts[..burst.len()], burst);
        if !tracker.expired.is_empty() {
            self.drop_expired(view);
        }
    }

    /// Asks the host endpoints of the devices that new flows leave by. Where a packet goes is
    /// looked up once more then: the first ones of flows are few.
    #[cold]
    fn ask_ways_out(&mut self, view: View<'_>, burst: &[Packet], verdicts: &mut [Verdict]) {
        let Some(tracker) = &mut self.tracker else { return };
        let mut begun = std::mem::take(&mut tracker.begun);
        for one in begun.drain(..) {
            let Some(packet) = burst.get(one.at) else { continue };
            let Some(way) = way_out(view, packet) else { continue };
            if let Err(verdict) = tracker.ask_way_out(&one, way) {
                verdicts[one.at] = verdict;
            }
        }
        tracker.begun = begun;
    }

    /// Without a table for flows nothing passes that policy would have to be asked about.
    #[cold]
    fn go_untracked(&mut self, view: View<'_>, found: &mut Burst, burst: &[Packet]) {
        let Some(policy) = &view.tables.policy else { return };
        let mut verdicts = [Verdict::Go; BURST];
        for (verdict, packet) in verdicts.iter_mut().zip(burst) {
            let dst = forward::dst(packet);
            if dst.is_some_and(|dst| policy.concerns(packet.in_port, dst.into())) {
                *verdict = Verdict::Drop(DropReason::FlowTableFull);
            }
        }
        found.note_verdicts(&verdicts[..burst.len()], burst);
    }

    /// How often rules of policy have decided here.
    pub(crate) fn hits(&mut self, endpoint: Option<&str>) -> Vec<Hit> {
        self.tracker.as_mut().map(|tracker| tracker.hits(endpoint)).unwrap_or_default()
    }

    /// One packet that was not part of a burst; `None` when its way ends or goes on elsewhere.
    #[cold]
    pub(super) fn track_one(&mut self, view: View<'_>, mut packet: Packet) -> Option<Packet> {
        let Some(rules) = &view.tables.nat else { return Some(packet) };
        let Some(tracker) = self.tracker_for(rules, view) else { return Some(packet) };
        let mut verdicts = [Verdict::Go];
        tracker.track(rules, std::slice::from_mut(&mut packet), &mut verdicts, view.now_ns);
        self.ask_ways_out(view, std::slice::from_ref(&packet), &mut verdicts);
        self.follow_sessions();
        match verdicts[0] {
            Verdict::Go | Verdict::Rewritten => return Some(packet),
            Verdict::Drop(DropReason::LimitConnections) => self.refuse_connection(view, packet),
            Verdict::Drop(reason) => self.drop(view, packet, reason),
            Verdict::HandOver(worker) => self.handed.push((worker, packet)),
            Verdict::Wait => self.wait_for_first(view, packet),
        }
        None
    }

    /// Packets that another worker has handed over, because their flows are this one's.
    pub(crate) fn process_handed(&mut self, view: View<'_>, burst: &mut Vec<Packet>) {
        let mut found = self.found.take().unwrap_or_default();
        found.clear();
        // What margay has made keeps its TTL, and so goes by itself.
        for at in (0..burst.len()).rev() {
            if burst[at].in_port == PortId::NONE {
                self.made.push(burst.swap_remove(at));
            }
        }
        for (at, packet) in burst.iter().enumerate() {
            found.note(at, parsed(packet));
        }
        if let Some(rules) = &view.tables.nat {
            self.track(view, rules, &mut found, burst);
        }
        self.follow_sessions();
        if view.tables.limits.as_ref().is_some_and(|limits| limits.marks()) {
            self.mark(view, burst);
        }
        self.finish(view, None, &mut found, burst);
        self.found = Some(found);
        self.route_made(view);
    }

    /// A fragment whose first one has not come yet.
    #[cold]
    pub(super) fn wait_for_first(&mut self, view: View<'_>, packet: Packet) {
        let waits = match &mut self.tracker {
            Some(tracker) => tracker.wait(packet, view.now_ns),
            None => Err(packet),
        };
        if let Err(packet) = waits {
            self.drop(view, packet, DropReason::FragmentQueueFull);
        }
        self.drop_expired(view);
    }

    pub(super) fn fragments_waiting(&self) -> usize {
        self.tracker.as_ref().map_or(0, Tracker::fragments_waiting)
    }

    fn drop_expired(&mut self, view: View<'_>) {
        let Some(tracker) = &mut self.tracker else { return };
        let mut expired = std::mem::take(&mut tracker.expired);
        for packet in expired.drain(..) {
            self.drop(view, packet, DropReason::FragmentTimeout);
        }
    }

    /// Fragments whose first one has come join the packets to be routed.
    #[inline]
    pub(super) fn take_released(&mut self) {
        if let Some(tracker) = &mut self.tracker {
            self.made.append(&mut tracker.released);
        }
    }

    /// Ends flows and fragments whose time is over.
    pub(super) fn tick_flows(&mut self, view: View<'_>) {
        if let Some(tier) = &mut self.offload {
            tier.tick(&mut self.tracker, &self.counters, view.now_ns);
        }
        if view.tables.nat.is_none() {
            return self.end_tracking(view);
        }
        let Some(tracker) = &mut self.tracker else { return };
        let (offload, counters) = (&mut self.offload, &self.counters);
        self.flows_are_due = !tracker.tick_carried(view.now_ns, |id, session| {
            offload.as_mut()?.carried((id, session), counters)
        });
        self.follow_sessions();
        self.drop_expired(view);
    }

    /// True when more flows have expired than one tick ends.
    pub(crate) fn flows_are_due(&self) -> bool {
        self.flows_are_due
    }

    /// Nothing is translated any more.
    fn end_tracking(&mut self, view: View<'_>) {
        let Some(mut tracker) = self.tracker.take() else { return };
        tracker.clear();
        for packet in std::mem::take(&mut tracker.expired) {
            self.drop(view, packet, DropReason::FragmentTimeout);
        }
    }

    /// This worker's flows, if it has any.
    pub(crate) fn tracker(&self) -> Option<&Tracker> {
        self.tracker.as_ref()
    }

    /// The tracker, made when it is first needed. `None` without address space for it: packets pass
    /// untranslated then, as they would without rules.
    #[inline]
    fn tracker_for(&mut self, rules: &Rules, view: View<'_>) -> Option<&mut Tracker> {
        if self.tracker.is_none() {
            let seed = ahash::RandomState::new().hash_one(self.worker);
            let made = Tracker::new(rules, self.worker, seed, view.now_ns).ok();
            let (clients, log) = (self.clients.clone(), self.flow_log.clone());
            self.tracker = made.map(|made| made.with_clients(clients).with_flow_log(log));
        }
        let tracker = self.tracker.as_mut()?;
        tracker.follow_policy(view.tables.policy.as_ref());
        Some(tracker)
    }

    /// Ends a flow, if it is still the one that is meant.
    pub(crate) fn end_flow(&mut self, id: SessionId, original: &crate::flow::Tuple) -> bool {
        let ended = self.tracker.as_mut().is_some_and(|tracker| tracker.end_if(id, original));
        self.follow_sessions();
        ended
    }

    /// Frees what translation holds, for the end of the worker.
    pub(super) fn clear_tracking(&mut self) {
        if let Some(mut tier) = self.offload.take() {
            tier.clear();
        }
        self.handed.drain(..).for_each(|(_, packet)| packet.free(&mut self.pool));
        if let Some(mut tracker) = self.tracker.take() {
            tracker.clear();
            tracker.expired.drain(..).for_each(|packet| packet.free(&mut self.pool));
        }
    }
}

/// Where a packet leaves; `None` when it does not.
fn way_out(view: View<'_>, packet: &Packet) -> Option<Way> {
    let adjacency = match view.tables.target(super::look_up_one(view.fib, packet)) {
        Target::Forward(adjacency) => adjacency,
        Target::Ecmp(group) => {
            let group = view.tables.ecmp_groups.get(group as usize)?;
            group.select(crate::flow_hash::flow_hash(packet))
        }
        _ => return None,
    };
    let adjacency = view.tables.adjacency(adjacency)?;
    Some(Way { port: adjacency.port, tunnelled: adjacency.tunnel.is_some() })
}

/// What a packet that was parsed before is.
pub(super) fn parsed(packet: &Packet) -> Result<Parsed, DropReason> {
    match forward::dst(packet) {
        Some(IpAddr::V4(dst)) => Ok(Parsed::V4(dst)),
        Some(IpAddr::V6(dst)) => Ok(Parsed::V6(dst)),
        None => Err(DropReason::BadHeader),
    }
}

impl Burst {
    /// Notes anew what the packets of the burst are, after translation.
    fn note_verdicts(&mut self, verdicts: &[Verdict], burst: &[Packet]) {
        if verdicts.iter().all(|verdict| matches!(verdict, Verdict::Go)) {
            return;
        }
        let before = self.kinds;
        self.clear();
        for (at, (verdict, packet)) in verdicts.iter().zip(burst).enumerate() {
            if !matches!(before[at], Kind::V4 | Kind::V6) {
                self.kinds[at] = before[at];
                continue;
            }
            match *verdict {
                Verdict::Go | Verdict::Rewritten => self.note(at, parsed(packet)),
                Verdict::Drop(reason) => self.kinds[at] = Kind::Bad(reason),
                Verdict::HandOver(worker) => self.kinds[at] = Kind::HandOver(worker),
                Verdict::Wait => self.kinds[at] = Kind::Waits,
            }
        }
    }
}
