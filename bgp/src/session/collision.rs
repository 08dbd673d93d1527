//! Which of several connections to one peer stays (RFC 4271 section 6.8, RFC 6286 section 2.3, and
//! RFC 4724 section 4.2).
//!
//! A connection counts only once the peer's OPEN has come over it: one that has not proven itself
//! never ends another one. Established stays, except for a peer with graceful restart that comes
//! back: it would not, did it still have the old connection.

use super::Session;
use super::action::{ConnId, DownReason};
use super::connection::{ConnState, Connection};
use super::timer::SECOND_NS;
use crate::wire::notification::{CEASE, CONNECTION_COLLISION};
use crate::wire::{Notification, Open};

/// A connection that comes this soon after the session came up may have been begun before, and is
/// then not a sign of a restart.
pub const COLLISION_WINDOW_NS: u64 = 10 * SECOND_NS;

/// Most connections from the peer at one time: the one in use, and one that has to prove itself.
pub(super) const MAX_ACCEPTED: usize = 2;

impl Session {
    /// True when `conn`, over which `theirs` has just come, stays. Those that it outlives are
    /// closed.
    pub(super) fn stays(&mut self, conn: ConnId, theirs: &Open, now_ns: u64) -> bool {
        let Some(new) = self.connection(conn) else { return false };
        let (outgoing, begun_ns) = (new.outgoing, new.begun_ns);
        // At most one other has had its OPEN, because the second such always meets the first here.
        let proven = |other: &&Connection| other.id != conn && other.theirs.is_some();
        let Some(other) = self.connections.iter().find(proven) else { return true };
        let old = other.id;
        if other.state == ConnState::Established {
            let is_return = !outgoing
                && other.agreed.restart.is_some_and(|restart| !restart.families.is_empty())
                && begun_ns.saturating_sub(other.established_ns) >= COLLISION_WINDOW_NS;
            if is_return {
                self.end(old, DownReason::Replaced, now_ns);
            }
            return is_return;
        }
        let new_stays = match (outgoing, other.outgoing) {
            (true, false) => self.ours_wins(theirs),
            (false, true) => !self.ours_wins(theirs),
            // Twice from the same side: it has given up the first.
            _ => true,
        };
        if new_stays {
            self.fail(old, Notification::new(CEASE, CONNECTION_COLLISION), now_ns);
        }
        new_stays
    }

    /// True when the connection that we began is the one to keep: the higher identifier's, or
    /// between equal ones the higher AS's (RFC 6286 section 2.3).
    fn ours_wins(&self, theirs: &Open) -> bool {
        let ours = (u32::from(self.config.router_id), self.config.local_asn);
        ours > (u32::from(theirs.router_id), theirs.asn)
    }
}
