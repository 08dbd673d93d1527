//! The slots of sessions, taken and given back, and how many each source has.

use super::{FlowTable, Refused};
use crate::flow::address::Address;
use crate::flow::session::{Place, Session, SessionId};
use crate::flow::wheel::{Links, NONE};

impl FlowTable {
    /// Notes which snapshot of policy let a session through.
    pub fn set_judged(&mut self, id: SessionId, generation: u32) {
        if let Some(session) = self.slab.0.get_mut(id.0 as usize) {
            session.judged = generation;
        }
    }

    /// Seconds that a session lives on without a packet, at `now_s`.
    pub fn lives_on_s(&self, session: &Session, now_s: u32) -> u32 {
        self.end_of(session).saturating_sub(now_s)
    }

    pub(super) fn admit(&self, source: Address) -> Result<(), Refused> {
        let limit = self.limits.per_source;
        let has = || self.sources.get(&source).copied().unwrap_or(0);
        if limit > 0 && has() >= limit { Err(Refused::SourceLimit) } else { Ok(()) }
    }

    pub(super) fn count_source(&mut self, source: Address) {
        if self.limits.per_source > 0 {
            *self.sources.entry(source).or_default() += 1;
        }
    }

    pub(super) fn forget_source(&mut self, source: Address) {
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    pub(super) fn take_slot(&mut self, session: Session) -> SessionId {
        self.live += 1;
        self.changes += 1;
        if self.free == NONE {
            self.slab.0.push(session);
            return SessionId(self.slab.0.len() as u32 - 1);
        }
        let id = self.free;
        self.free = std::mem::replace(&mut self.slab.0[id as usize], session).lists.ring.next;
        self.prefetch_slot(self.free);
        SessionId(id)
    }

    pub(super) fn release_slot(&mut self, id: SessionId) -> Session {
        self.live -= 1;
        self.changes += 1;
        let slot = &mut self.slab.0[id.0 as usize];
        let session = slot.clone();
        slot.place = Place::Free;
        slot.lists.ring = Links { next: self.free, previous: NONE };
        self.free = id.0;
        session
    }
}
