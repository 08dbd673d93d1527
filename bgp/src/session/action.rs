//! What a session asks of its owner, and what it tells.

use std::fmt;

use crate::family::FamilySet;
use crate::wire::notification::{
    ADMINISTRATIVE_SHUTDOWN, CEASE, OTHER_CONFIGURATION_CHANGE, PEER_DECONFIGURED,
};
use crate::wire::{Negotiated, Notification, Open, RouteRefresh};

/// A connection of one session. Numbers are not used twice within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// One thing to do, or to know, in the order of [`super::Session::poll_action`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to the peer, and answer with `connected` or `connect_failed`.
    Connect(ConnId),
    /// Close it once all that was sent has been written; give no more events of it.
    Close(ConnId),
    /// Write these bytes at the next border between messages.
    Send(ConnId, Vec<u8>),
    /// Write [`crate::wire::frame::KEEPALIVE`] at the next border between messages, before all
    /// UPDATEs that wait. One that still waits is enough.
    Keepalive(ConnId),
    /// The session is up.
    Up(Box<Up>),
    /// The session is down.
    Down(Down),
    /// The peer asks for our routes again, or marks where its own begin and end.
    Refresh(RouteRefresh),
    /// Stale routes of these families must go: their time is over, or the peer has not kept them.
    DropStale(FamilySet),
}

/// A session that has come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// The connection that carries it.
    pub conn: ConnId,
    /// What messages look like.
    pub agreed: Negotiated,
    /// Who is there.
    pub peer: Open,
    /// Families whose stale routes stay until the peer's End-of-RIB.
    pub stale: FamilySet,
}

/// A session that has gone down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// The connection that carried it.
    pub conn: ConnId,
    /// Why.
    pub reason: DownReason,
    /// Families whose routes stay as stale ones; those of all others go at once.
    pub retain: FamilySet,
    /// How long they stay unless the session comes up again, in seconds.
    pub restart_time_s: u16,
}

/// Why a connection or a session has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// It broke, or the peer closed it, without a word.
    Closed,
    /// The peer has come back with a new connection (RFC 4724 section 4.2).
    Replaced,
    /// We have told the peer why.
    Sent(Notification),
    /// The peer has told us why.
    Received(Notification),
    /// We have closed it without a word.
    Stopped,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::Closed => f.write_str("connection lost"),
            DownReason::Replaced => f.write_str("peer reconnected"),
            DownReason::Sent(why) => write!(f, "sent {why}"),
            DownReason::Received(why) => write!(f, "received {why}"),
            DownReason::Stopped => f.write_str("stopped"),
        }
    }
}

/// Why a session is stopped, and stays so until it is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A person wants it, and may say why (RFC 9003).
    Shutdown(String),
    /// The peer is no longer configured.
    Deconfigured,
    /// Its configuration is about to be another.
    ConfigChange,
    /// We are about to restart, and peers shall keep our routes: the connection just closes
    /// (RFC 4724 section 4.1).
    Restart,
}

impl StopReason {
    /// What the peer is told.
    pub(super) fn notification(&self) -> Option<Notification> {
        match self {
            StopReason::Shutdown(text) => {
                Some(Notification::with_communication(ADMINISTRATIVE_SHUTDOWN, text))
            }
            StopReason::Deconfigured => Some(Notification::new(CEASE, PEER_DECONFIGURED)),
            StopReason::ConfigChange => Some(Notification::new(CEASE, OTHER_CONFIGURATION_CHANGE)),
            StopReason::Restart => None,
        }
    }
}
