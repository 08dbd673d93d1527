//! Graceful restart as a session sees it (RFC 4724, RFC 8538): which routes outlive it, and until
//! when. What happens to the routes, and the waiting for End-of-RIB, is the RIB's.

use super::Session;
use super::action::{Action, ConnId, Down, DownReason, Up};
use super::connection::{ConnState, Connection};
use super::timer::SECOND_NS;
use crate::family::FamilySet;
use crate::wire::Notification;
use crate::wire::notification::{
    ADMINISTRATIVE_SHUTDOWN, CEASE, MAXIMUM_PREFIXES, PEER_DECONFIGURED,
};

/// Routes that are kept for a peer that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) families: FamilySet,
    pub(super) until_ns: u64,
}

/// The families whose routes stay when `connection` ends for `reason`.
fn retained(connection: &Connection, reason: &DownReason) -> FamilySet {
    let Some(restart) = connection.agreed.restart else { return FamilySet::EMPTY };
    let stay = match reason {
        DownReason::Closed | DownReason::Replaced => true,
        // RFC 4724 section 4: not after a NOTIFICATION. RFC 8538 section 4: after all but a Hard
        // Reset, when both sides have said so.
        DownReason::Sent(why) | DownReason::Received(why) => {
            restart.notification && !why.is_hard_reset()
        }
        DownReason::Stopped => false,
    };
    if stay { restart.families } else { FamilySet::EMPTY }
}

/// RFC 8538 section 3: what ends a session for good is sent as a Hard Reset to who would keep the
/// routes otherwise.
pub(super) fn as_sent(connection: &Connection, why: Notification) -> Notification {
    let for_good = why.code == CEASE
        && matches!(why.subcode, MAXIMUM_PREFIXES | ADMINISTRATIVE_SHUTDOWN | PEER_DECONFIGURED);
    let keeps = connection.agreed.restart.is_some_and(|restart| restart.notification);
    if for_good && keeps { why.into_hard_reset() } else { why }
}

impl Session {
    /// The KEEPALIVE that accepts our OPEN has come.
    pub(super) fn establish(&mut self, conn: ConnId, now_ns: u64) {
        let Some(connection) = self.connection_mut(conn) else { return };
        connection.state = ConnState::Established;
        connection.established_ns = now_ns;
        let (agreed, peer) = (connection.agreed, connection.theirs.clone());
        let Some(peer) = peer else { return };
        let stale = self.returned(agreed.restart.map_or(FamilySet::EMPTY, |r| r.forwarding));
        self.push(Action::Up(Box::new(Up { conn, agreed, peer, stale })));
    }

    /// The peer is back, and has kept forwarding in `kept`. RFC 4724 section 4.2: stale routes of
    /// other families MUST go at once.
    fn returned(&mut self, kept: FamilySet) -> FamilySet {
        let Some(stale) = self.stale.take() else { return FamilySet::EMPTY };
        let lost = stale.families.iter().filter(|family| !kept.contains(*family)).collect();
        self.drop_stale(lost);
        stale.families.intersection(kept)
    }

    /// The session that was up is not any more.
    pub(super) fn went_down(&mut self, connection: &Connection, reason: DownReason, now_ns: u64) {
        self.restarted = false;
        let retain = retained(connection, &reason);
        let restart_time_s = connection.agreed.restart.map_or(0, |restart| restart.time_s);
        if !retain.is_empty() {
            let until_ns = now_ns + u64::from(restart_time_s) * SECOND_NS;
            self.stale = Some(Stale { families: retain, until_ns });
        }
        self.push(Action::Down(Down { conn: connection.id, reason, retain, restart_time_s }));
    }

    /// The peer has not come back in the time that it asked for, or is not wanted back.
    pub(super) fn forget_stale(&mut self) {
        if let Some(stale) = self.stale.take() {
            self.drop_stale(stale.families);
        }
    }

    fn drop_stale(&mut self, families: FamilySet) {
        if !families.is_empty() {
            self.push(Action::DropStale(families));
        }
    }
}
