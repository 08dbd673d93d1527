//! One connection of a session, with all that belongs to it alone: what its OPENs agreed on, and
//! its timers. A session may have several for a while (RFC 4271 section 6.8).

use super::action::ConnId;
use super::timer::{Jitter, SECOND_NS};
use crate::wire::capability::Capability;
use crate::wire::{MAX_EXTENDED_LEN, MAX_LEN, Negotiated, Open};

/// The states of RFC 4271 section 8.2.2 that have a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConnState {
    OpenSent,
    OpenConfirm,
    Established,
}

/// The hold time before both sides' are known, in seconds: "a large value", section 8.2.2.
const LARGE_HOLD_TIME_S: u64 = 240;

/// An OPEN that is not answered yet, because another connection may turn out to be the one to keep.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) theirs: Open,
    pub(super) agreed: Negotiated,
    pub(super) until_ns: u64,
    /// The KEEPALIVE that accepts our OPEN is there too.
    pub(super) accepted: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) outgoing: bool,
    pub(super) state: ConnState,
    pub(super) ours: Open,
    pub(super) theirs: Option<Open>,
    pub(super) agreed: Negotiated,
    pub(super) undecided: Option<Undecided>,
    pub(super) begun_ns: u64,
    pub(super) established_ns: u64,
    hold_time_s: u64,
    keepalive_time_s: u64,
    pub(super) hold_at: Option<u64>,
    pub(super) keepalive_at: Option<u64>,
    pub(super) send_hold_at: Option<u64>,
}

impl Connection {
    /// One over which our OPEN is being sent.
    pub(super) fn new(id: ConnId, outgoing: bool, ours: Open, now_ns: u64) -> Connection {
        Connection {
            id,
            outgoing,
            state: ConnState::OpenSent,
            ours,
            theirs: None,
            agreed: Negotiated::default(),
            undecided: None,
            begun_ns: now_ns,
            established_ns: 0,
            hold_time_s: LARGE_HOLD_TIME_S,
            keepalive_time_s: 0,
            hold_at: Some(now_ns + LARGE_HOLD_TIME_S * SECOND_NS),
            keepalive_at: None,
            send_hold_at: None,
        }
    }

    /// The peer's OPEN has been accepted: OpenConfirm. `keepalive_time_s` is the configured one.
    pub(super) fn confirm(&mut self, theirs: Open, agreed: Negotiated, keepalive_time_s: u16) {
        self.state = ConnState::OpenConfirm;
        self.hold_time_s = u64::from(theirs.hold_time_s.min(self.ours.hold_time_s));
        self.keepalive_time_s = match (u64::from(keepalive_time_s), self.hold_time_s / 3) {
            (0, third) => third,
            (configured, third) => configured.min(third),
        };
        self.theirs = Some(theirs);
        self.agreed = agreed;
    }

    /// The peer's OPEN has come over it.
    pub(super) fn is_proven(&self) -> bool {
        self.theirs.is_some() || self.undecided.is_some()
    }

    /// Puts off the end of the hold time. Only a peer whose OPEN has come is granted more.
    pub(super) fn heard(&mut self, now_ns: u64) {
        if self.state != ConnState::OpenSent {
            let is_used = self.hold_time_s > 0;
            self.hold_at = is_used.then_some(now_ns + self.hold_time_s * SECOND_NS);
        }
    }

    /// When the next KEEPALIVE is due.
    pub(super) fn schedule_keepalive(&mut self, jitter: &mut Jitter, now_ns: u64) {
        let is_used = self.keepalive_time_s > 0;
        self.keepalive_at = is_used.then(|| now_ns + jitter.shorten(self.keepalive_time_s));
    }

    /// RFC 9687 section 3: at least twice the hold time.
    pub(super) fn demand_progress(&mut self, least_s: u16, now_ns: u64) {
        let time_s = u64::from(least_s).max(2 * self.hold_time_s);
        self.send_hold_at = Some(now_ns + time_s * SECOND_NS);
    }

    /// The longest message that we have said we can take.
    pub(super) fn max_rx(&self) -> usize {
        let extended = self.ours.has(&Capability::ExtendedMessage);
        if extended { MAX_EXTENDED_LEN } else { MAX_LEN }
    }

    /// The hold time in force and the time between KEEPALIVEs, in seconds.
    pub(super) fn times_s(&self) -> (u64, u64) {
        (self.hold_time_s, self.keepalive_time_s)
    }

    pub(super) fn next_timer(&self) -> Option<u64> {
        let decide_at = self.undecided.as_ref().map(|undecided| undecided.until_ns);
        let timers = [self.hold_at, self.keepalive_at, self.send_hold_at, decide_at];
        timers.into_iter().flatten().min()
    }
}
