//! Which of several connections to one peer stays (RFC 4271 section 6.8, RFC 6286 section 2.3, and
//! RFC 4724 section 4.2).
//!
//! A connection counts only once the peer's OPEN has come over it: one that has not proven itself
//! never ends another one. Established stays, except for a peer with graceful restart that comes
//! back: it would not, did it still have the old connection.
//!
//! A KEEPALIVE answers the peer's OPEN, and may make the peer's side Established at once. Who then
//! closes that connection by the identifiers, while the peer closes the other one because of this
//! one's state, has none left. So a connection waits for a short time without an answer while there
//! is another that it would lose to, or that has its answer already.

use super::Session;
use super::action::{ConnId, DownReason};
use super::connection::{ConnState, Connection};
use super::timer::SECOND_NS;
use crate::wire::notification::{CEASE, CONNECTION_COLLISION};
use crate::wire::{Notification, Open};

/// A connection that comes this soon after the session came up may have been begun before, and is
/// then not a sign of a restart.
pub const COLLISION_WINDOW_NS: u64 = 10 * SECOND_NS;

/// Longest time that an OPEN waits for what becomes of another connection.
pub(super) const DECISION_TIME_NS: u64 = SECOND_NS;

/// Most connections from the peer at one time: the one in use, and one that has to prove itself.
pub(super) const MAX_ACCEPTED: usize = 2;

/// What becomes of a connection over which an OPEN has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It stays, and all others that have had their OPEN go.
    Stays,
    /// It stays, and this one goes, which was the peer's session before its restart.
    Replaces(ConnId),
    Goes,
    Waits,
}

impl Session {
    /// Decides on the connections whose OPEN waits for an answer, as far as that can be done now.
    pub(super) fn settle(&mut self, now_ns: u64) {
        while let Some((conn, verdict)) = self.decided(now_ns) {
            if verdict == Verdict::Goes {
                self.collide(conn, now_ns);
                continue;
            }
            if let Verdict::Replaces(old) = verdict {
                self.end(old, DownReason::Replaced, now_ns);
            }
            let losers: Vec<ConnId> = self.proven_beside(conn).map(|other| other.id).collect();
            losers.into_iter().for_each(|other| self.collide(other, now_ns));
            self.stop_connecting();
            self.confirm(conn, now_ns);
        }
    }

    fn proven_beside(&self, conn: ConnId) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |other| other.id != conn && other.is_proven())
    }

    fn collide(&mut self, conn: ConnId, now_ns: u64) {
        self.fail(conn, Notification::new(CEASE, CONNECTION_COLLISION), now_ns);
    }

    /// The first connection that need not wait.
    fn decided(&self, now_ns: u64) -> Option<(ConnId, Verdict)> {
        let mut verdicts = self.connections.iter().filter_map(|connection| {
            let undecided = connection.undecided.as_ref()?;
            let may_wait = now_ns < undecided.until_ns;
            Some((connection.id, self.verdict(connection, &undecided.theirs, may_wait)))
        });
        verdicts.find(|(_, verdict)| *verdict != Verdict::Waits)
    }

    fn verdict(&self, new: &Connection, theirs: &Open, may_wait: bool) -> Verdict {
        let others = || self.connections.iter().filter(|other| other.id != new.id);
        let ours_wins = self.ours_wins(theirs);
        let wins_over = |other: &Connection| match (new.outgoing, other.outgoing) {
            (true, false) => ours_wins,
            (false, true) => !ours_wins,
            // Twice from the same side: it has given up the first.
            _ => new.id > other.id,
        };
        if let Some(old) = others().find(|other| other.state == ConnState::Established) {
            let is_return = !new.outgoing
                && old.agreed.restart.is_some_and(|restart| !restart.families.is_empty())
                && new.begun_ns.saturating_sub(old.established_ns) >= COLLISION_WINDOW_NS;
            return if is_return { Verdict::Replaces(old.id) } else { Verdict::Goes };
        }
        if self.proven_beside(new.id).any(|other| !wins_over(other)) {
            return Verdict::Goes;
        }
        // Answered already, or likely to be the better one once its OPEN is there.
        let is_open = |other: &Connection| {
            let is_answered = other.state == ConnState::OpenConfirm;
            other.outgoing != new.outgoing && (is_answered || !wins_over(other))
        };
        if may_wait && others().any(is_open) { Verdict::Waits } else { Verdict::Stays }
    }

    /// True when the connection that we began is the one to keep: the higher identifier's, or
    /// between equal ones the higher AS's (RFC 6286 section 2.3).
    fn ours_wins(&self, theirs: &Open) -> bool {
        let ours = (u32::from(self.config.router_id), self.config.local_asn);
        ours > (u32::from(theirs.router_id), theirs.asn)
    }
}
