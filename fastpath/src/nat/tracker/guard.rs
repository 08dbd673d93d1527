//! Policy in the tracker: which packets it is about, and what it says of the first one.
//!
//! A flow that is let through carries the number of the snapshot that did; it is asked about again
//! only where the snapshot wants that. Rules that decided are counted, by first packets, under
//! numbers that are good for one snapshot; when the next one comes they are filed by their rule.

use super::{Asked, Tracker, Verdict, Way};
use crate::drop_reason::DropReason;
use crate::flow::{Address, Direction as FlowDirection, Session, SessionId, Tuple};
use crate::flow_log::{FlowLog, Record};
use crate::limit::ConnectionLimit;
use crate::packet::Packet;
use crate::policy::{Decision, Hit, Judgement, Policy, Question, Ruling, Seat, Way as HostWay};
use crate::port::PortId;
use ahash::AHashMap;
use margay_acl::origin::Origin;
use margay_acl::{Direction, Stage};
use std::sync::Arc;

/// Rules of endpoints that are counted; further ones are not.
pub const HITS_MAX: usize = 1 << 16;

/// Endpoint, direction, rule.
type Rule = (Arc<str>, Direction, Origin);

/// The policy in force, and what it did.
#[derive(Debug, Default)]
pub(super) struct Guard {
    policy: Option<Arc<Policy>>,
    log: Arc<FlowLog>,
    /// The clock of the data plane, as of this burst.
    pub(super) now_ns: u64,
    /// The last that was asked and let through, where its way out is to be asked about too.
    passed: Option<Question>,
    /// Rules before DNAT have accepted the packet at hand.
    pub(super) accepted_before: bool,
    hits: AHashMap<Ruling, u64>,
    filed: AHashMap<Rule, u64>,
}

impl Guard {
    /// Another snapshot, or none; true when it is another than before.
    #[inline]
    pub(super) fn follow(&mut self, policy: Option<&Arc<Policy>>) -> bool {
        let same = match (&self.policy, policy) {
            (Some(own), Some(other)) => own.generation() == other.generation(),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.file();
            self.policy = policy.cloned();
        }
        !same
    }

    /// Whether a packet may have to do with an endpoint that is not open. What margay makes itself
    /// has not.
    #[inline]
    pub(super) fn concerns(&self, in_port: PortId, dst: Address) -> bool {
        let policy = self.policy.as_ref().filter(|_| in_port != PortId::NONE);
        policy.is_some_and(|policy| policy.concerns(in_port, dst))
    }

    /// The same of a parsed packet.
    #[inline]
    pub(super) fn concerns_packet(&self, packet: &Packet) -> bool {
        let dst = crate::forward::dst(packet);
        dst.is_some_and(|dst| self.concerns(packet.in_port, dst.into()))
    }

    /// True when policy is another since a flow was let through, and that matters.
    #[inline]
    pub(super) fn is_stale(&self, session: &Session) -> bool {
        let policy = self.policy.as_ref().filter(|policy| policy.rejudges());
        policy.is_some_and(|policy| policy.generation() != session.judged)
    }

    /// Who sends, as far as the port tells.
    pub(super) fn seat(&self, in_port: PortId) -> Seat {
        self.policy.as_ref().map_or(Seat::Network, |policy| policy.seat(in_port))
    }

    /// True when some endpoint's connections are limited.
    #[inline]
    pub(super) fn limits_connections(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.limits_connections())
    }

    /// The limits that a connection counts for.
    pub(super) fn connection_limits(&self, question: &Question) -> [Option<ConnectionLimit>; 2] {
        self.policy.as_ref().map_or([None, None], |policy| policy.connection_limits(question))
    }

    fn judge(&mut self, question: &Question) -> Result<(), DropReason> {
        let Some(policy) = &self.policy else { return Ok(()) };
        let judgement = policy.judge(question);
        let (generation, at_ns) = (policy.generation(), self.now_ns);
        self.log.offer(&judgement, || Record { generation, question: *question, judgement, at_ns });
        self.passed = Some(*question).filter(|_| policy.asks_on_the_way_out());
        let staged = judgement.staged.unwrap_or_default().rulings;
        let rulings = judgement.real.rulings.into_iter().chain(staged).flatten();
        rulings.for_each(|ruling| self.count(ruling));
        judgement.real.dropped.map_or(Ok(()), Err)
    }

    fn count(&mut self, ruling: Ruling) {
        let room = self.hits.len() < HITS_MAX;
        match self.hits.get_mut(&ruling) {
            Some(count) => *count += 1,
            None if room => drop(self.hits.insert(ruling, 1)),
            None => {}
        }
    }

    /// True when there are host endpoints with a word on forwarded traffic.
    #[inline]
    pub(super) fn has_hosts(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.has_guards())
    }

    /// True when packets of known flows that come by a port are asked about too.
    pub(super) fn asks_every_packet(&self, port: PortId) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.asks_every_packet(port))
    }

    pub(super) fn is_local(&self, address: Address) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.is_local(address))
    }

    /// The first packet that was let through last, if its way out is to be asked about.
    #[inline]
    pub(super) fn question_of_way_out(&mut self) -> Option<Question> {
        self.passed.take()
    }

    /// Asks a stage of the host endpoint that guards a way.
    pub(super) fn ask_host(
        &mut self,
        way: HostWay,
        (stage, direction): (Stage, Direction),
        (tuple, icmp_code): (&Tuple, u8),
    ) -> Result<Option<Ruling>, Verdict> {
        let Some(policy) = &self.policy else { return Ok(None) };
        let asked = policy.ask_host(way, (stage, direction), (tuple, icmp_code));
        let Some(ruling) = asked else { return Ok(None) };
        let dropped = ruling.passes_host().err();
        let mut real = Decision { dropped, ..Decision::default() };
        real.rulings[direction as usize] = Some(ruling);
        let (judgement, generation) = (Judgement { real, staged: None }, policy.generation());
        let (question, at_ns) =
            (Question { from: Seat::Network, tuple: *tuple, icmp_code }, self.now_ns);
        self.log.offer(&judgement, || Record { generation, question, judgement, at_ns });
        self.count(ruling);
        dropped.map_or(Ok(Some(ruling)), |reason| Err(Verdict::Drop(reason)))
    }

    /// Files what was counted under the snapshot's numbers, and forgets endpoints that are gone
    /// once there is no more room.
    fn file(&mut self) {
        let Some(policy) = &self.policy else { return };
        for (ruling, count) in self.hits.drain() {
            let Some(endpoint) = policy.endpoint(ruling.endpoint) else { continue };
            let origin = policy.origin(&ruling).clone();
            if ruling.staged && !is_staged(&origin) {
                continue;
            }
            let rule = (endpoint.name.clone(), ruling.direction, origin);
            let room = self.filed.len() < HITS_MAX;
            match self.filed.get_mut(&rule) {
                Some(filed) => *filed += count,
                None if room => drop(self.filed.insert(rule, count)),
                None => {}
            }
        }
        if self.filed.len() >= HITS_MAX {
            self.filed.retain(|(name, ..), _| policy.has(name));
        }
    }

    /// All counts of an endpoint's rules, or of those of all.
    fn report(&mut self, endpoint: Option<&str>) -> Vec<Hit> {
        self.file();
        let wanted = |name: &str| endpoint.is_none_or(|endpoint| endpoint == name);
        let filed = self.filed.iter().filter(|((name, ..), _)| wanted(name));
        let hit = |((endpoint, direction, origin), count): (&Rule, &u64)| Hit {
            endpoint: endpoint.clone(),
            direction: *direction,
            origin: origin.clone(),
            count: *count,
        };
        filed.map(hit).collect()
    }
}

/// Whether a staged policy's rule would decide. The other ones are counted where they do.
fn is_staged(origin: &Origin) -> bool {
    let Origin::Rule { policy, .. } = origin else { return false };
    policy.kind.enforced() != policy.kind
}

impl Tracker {
    /// Tells of first packets there.
    #[must_use]
    pub fn with_flow_log(mut self, log: Arc<FlowLog>) -> Tracker {
        self.guard.log = log;
        self
    }

    /// How often rules have decided about first packets.
    pub fn hits(&mut self, endpoint: Option<&str>) -> Vec<Hit> {
        self.guard.report(endpoint)
    }

    /// What belongs to no flow is nothing that policy can judge: it does not pass there.
    #[cold]
    pub(super) fn without_flow(&self, packet: &Packet) -> Verdict {
        match self.guard.concerns_packet(packet) {
            true => Verdict::Drop(DropReason::FlowInvalid),
            false => Verdict::Go,
        }
    }

    /// Asks policy about the first packet of a flow, whose tuple is as it leaves, but for its
    /// source, which is as it came.
    pub(super) fn admit(&mut self, asked: &Asked, tuple: Tuple) -> Result<(), Verdict> {
        self.ask_way_in(asked, &tuple)?;
        // A mapping's address is nobody's behind the port that its packet came in by.
        let from = match asked.settled() {
            Way::In => Seat::Network,
            _ => self.guard.seat(asked.in_port),
        };
        let question = Question { from, tuple, icmp_code: asked.icmp_code };
        self.guard.judge(&question).map_err(Verdict::Drop)?;
        self.claim(&question, asked.signal)
    }

    /// Notes which snapshot has let a flow through.
    pub(super) fn stamp(&mut self, id: SessionId) {
        if let Some(policy) = &self.guard.policy {
            self.table.set_judged(id, policy.generation());
        }
    }

    /// Asks about a flow again if policy has changed since, and ends it if it is denied now.
    #[inline]
    pub(super) fn keep(
        &mut self,
        (id, direction): (SessionId, FlowDirection),
        asked: &Asked,
    ) -> Result<(), Verdict> {
        if self.table.get(id).is_some_and(|session| self.guard.is_stale(session)) {
            self.ask_again((id, direction), asked)?;
        }
        self.follow_claim((id, direction), asked)
    }

    #[cold]
    fn ask_again(
        &mut self,
        (id, direction): (SessionId, FlowDirection),
        asked: &Asked,
    ) -> Result<(), Verdict> {
        let (Some(session), Some(policy)) = (self.table.get(id), &self.guard.policy) else {
            return Ok(());
        };
        let begun = session.begun_by();
        let (came, left) = (session.arriving(begun), session.leaving(begun));
        let tuple = Tuple { src: came.src, src_port: came.src_port, ..left };
        let from = match direction == begun {
            true => policy.seat(asked.in_port),
            false => policy.seat_of(tuple.src),
        };
        let question = Question { from, tuple, icmp_code: asked.icmp_code };
        let of_hosts = match direction == begun {
            true => self.ask_way_in(asked, &tuple),
            false => Ok(()),
        };
        let judged = of_hosts.and_then(|()| self.guard.judge(&question).map_err(Verdict::Drop));
        if judged.is_err() {
            self.end(id);
            return judged;
        }
        self.stamp(id);
        if direction == begun {
            self.note_begun(asked, id);
        }
        Ok(())
    }
}
