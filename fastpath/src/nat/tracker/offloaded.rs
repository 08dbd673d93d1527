//! Which flows may be carried without the tracker, and what it is told of them afterwards.

use super::{EXPIRE_BUDGET, Tracker, is_for_nat, seconds, services, way_of};
use crate::flow::{Carried, Direction, Session, SessionId, Signal, Tier, Tuple};
use crate::nat::rules::{Class, Rules};
use crate::port::PortId;

/// What flows are carried as: how their packets leave, and the session that they count for.
type Offload = (Tuple, Option<(SessionId, Direction)>);

impl Tracker {
    /// What happens to ordinary packets of TCP or UDP that arrive as `tuple`, if it is always the
    /// same: they pass untracked, or a session is theirs that they do not change. The same
    /// questions as for a packet, in the same order.
    pub(crate) fn offload_of(&self, rules: &Rules, port: PortId, tuple: &Tuple) -> Option<Offload> {
        if self.guard.asks_every_packet(port) {
            return None;
        }
        let policed = self.guard.concerns(port, tuple.dst);
        if rules.only_tracks() && !policed {
            return Some((*tuple, None));
        }
        let (src, dst) = (rules.ranges.class(tuple.src), rules.ranges.class(tuple.dst));
        let way = way_of(rules, src, dst);
        if way.is_none() && !services::may_be(src, dst) && !policed {
            return Some((*tuple, None));
        }
        let is_hosts = dst.has(Class::OUTSIDE) && !is_for_nat(rules, dst, tuple, Signal::Tcp(0));
        let is_tracked = way.is_some_and(|_| !is_hosts) || policed;
        if !is_tracked && services::way_of(rules, tuple).is_none() {
            return Some((*tuple, None));
        }
        let (id, direction) = self.table.find(tuple)?;
        let session = self.table.get(id)?;
        let leaving = session.leaving(direction);
        // Another session comes after this one then.
        let is_hairpin = rules.ranges.class(leaving.dst).has(Class::OUTSIDE);
        let stays = !self.guard.is_stale(session) && session.is_steady(direction) && !is_hairpin;
        stays.then_some((leaving, Some((id, direction))))
    }

    /// Says who carries packets of a session.
    pub(crate) fn set_tier(&mut self, id: SessionId, tier: Tier) {
        self.table.set_tier(id, tier);
    }

    /// The tuple that a session began with.
    pub(crate) fn original(&self, id: SessionId) -> Option<Tuple> {
        self.table.get(id).map(|session| session.original())
    }

    /// A session, if its number is still this one's.
    pub(crate) fn session(&self, id: SessionId, original: &Tuple) -> Option<&Session> {
        self.table.get(id).filter(|session| session.original() == *original)
    }

    /// A session whose packets must not be carried any more.
    #[inline]
    pub(crate) fn take_withdrawn(&mut self) -> Option<SessionId> {
        self.table.take_withdrawn()
    }

    /// Packets of a session that went by without the tracker.
    pub(crate) fn note_carried(&mut self, id: SessionId, original: &Tuple, carried: Carried) {
        if self.session(id, original).is_some() {
            self.table.note_carried(id, carried);
        }
    }

    /// As [`Tracker::tick`]; `carried` tells what of a session is not counted yet.
    pub(crate) fn tick_carried(
        &mut self,
        now_ns: u64,
        carried: impl FnMut(SessionId, &Session) -> Option<Carried>,
    ) -> bool {
        self.now_s = seconds(now_ns);
        let mut ended = Vec::new();
        let due = (self.now_s, EXPIRE_BUDGET);
        let claims = &mut self.claims;
        let done = self.table.expire_carried(due, carried, |removed| {
            claims.release(removed.id);
            if removed.ends_mapping {
                ended.push(removed);
            }
        });
        ended.iter().for_each(|removed| self.forget(removed));
        self.fragments.expire(now_ns, &mut self.expired);
        done
    }
}
