//! Sessions whose packets programs of XDP or tc carry: what was carried is noted later, and it may
//! only be what changes nothing of a session but its counts and its time.

use super::{FlowTable, Removed, Session, SessionId};
use crate::flow::protocol::{self, BY_TC, OFFLOADED, Signal, State};
use crate::flow::session::Direction;
use margay_tunnels::wire::{protocol as number, tcp};

/// Who carries a session's ordinary packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Workers.
    Worker,
    /// The XDP program of the port, at least in one direction.
    Xdp,
    /// That of tc.
    Tc,
}

/// Packets of a session that the table has not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// By direction.
    pub packets: [u64; 2],
    /// Bytes of IP packets, both directions together.
    pub bytes: u64,
    /// When the last one came, in seconds on the table's clock.
    pub last_seen_s: u32,
}

impl Session {
    /// State and bits after a packet.
    #[inline]
    pub(super) fn after(&self, direction: Direction, signal: Signal) -> (State, u8) {
        let kept = self.bits & (protocol::BEGUN_BY_REPLY | OFFLOADED | BY_TC);
        let begun_by_reply = kept & protocol::BEGUN_BY_REPLY != 0;
        let from = if begun_by_reply { direction.other() } else { direction };
        let (state, bits) = protocol::next(self.state, self.bits & !kept, signal, from);
        (state, bits | kept)
    }

    /// True when ordinary packets of this direction (no SYN, FIN or RST) only count: TCP that is
    /// established, UDP whose next packet makes no stream of it.
    pub fn is_steady(&self, direction: Direction) -> bool {
        let signal = match (self.protocol, self.state) {
            (number::TCP, State::TcpEstablished) => Signal::Tcp(tcp::ACK),
            (number::UDP, _) => Signal::Udp,
            _ => return false,
        };
        self.after(direction, signal) == (self.state, self.bits)
    }
}

impl FlowTable {
    /// Ends the sessions whose time has come by `now_s`, looking at no more than `budget` of them;
    /// what is left over is for the next call. True when nothing was.
    pub fn expire(&mut self, now_s: u32, budget: usize, ended: impl FnMut(Removed)) -> bool {
        self.expire_carried((now_s, budget), |_, _| None, ended)
    }

    /// As [`FlowTable::expire`]; `carried` tells what of an offloaded session is not counted yet.
    pub fn expire_carried(
        &mut self,
        (now_s, budget): (u32, usize),
        mut carried: impl FnMut(SessionId, &Session) -> Option<Carried>,
        mut ended: impl FnMut(Removed),
    ) -> bool {
        for _ in 0..budget {
            let Some(id) = self.wheel.due(now_s) else { return true };
            // Its neighbour in the list is looked at next.
            self.prefetch_slot(self.slab.0[id as usize].lists.wheel.next);
            let id = SessionId(id);
            let session = &self.slab.0[id.0 as usize];
            if session.is_offloaded()
                && let Some(more) = carried(id, session)
            {
                self.note_carried(id, more);
            }
            if self.end_of(&self.slab.0[id.0 as usize]) > now_s {
                self.rewind(id);
                continue;
            }
            self.counters.expired += 1;
            if let Some(removed) = self.remove(id) {
                ended(removed);
            }
        }
        self.wheel.due(now_s).is_none()
    }

    /// Says who carries packets of a session: a program, in one more direction, or workers again.
    /// When it ends or changes after the former, [`FlowTable::take_withdrawn`] has it.
    pub fn set_tier(&mut self, id: SessionId, tier: Tier) {
        if let Some(session) = self.slab.0.get_mut(id.0 as usize) {
            match tier {
                Tier::Worker => session.bits &= !(OFFLOADED | BY_TC),
                Tier::Xdp => session.bits |= OFFLOADED,
                Tier::Tc => session.bits |= OFFLOADED | BY_TC,
            }
        }
    }

    /// Sessions that are not to be carried any more since this was asked last.
    #[inline]
    pub fn take_withdrawn(&mut self) -> Option<SessionId> {
        self.withdrawn.pop()
    }

    /// No packet of a session may go by without the table from now on.
    #[inline]
    pub(super) fn withdraw(&mut self, id: SessionId) {
        let session = &mut self.slab.0[id.0 as usize];
        if session.is_offloaded() {
            session.bits &= !(OFFLOADED | BY_TC);
            self.withdrawn.push(id);
        }
    }

    /// Counts packets that the table has not seen.
    pub fn note_carried(&mut self, id: SessionId, carried: Carried) {
        let Some(session) = self.slab.0.get_mut(id.0 as usize) else { return };
        for (count, more) in session.packets.iter_mut().zip(carried.packets) {
            *count = count.wrapping_add(more as u32);
        }
        session.bytes += carried.bytes;
        session.last_seen_s = session.last_seen_s.max(carried.last_seen_s);
    }
}
