//! The session with one peer (RFC 4271 section 8) without sockets and without a clock: events and
//! times in, [`Action`]s out.
//!
//! The owner of the sockets calls an input, then takes actions by [`Session::poll_action`] until
//! there are none, and calls [`Session::timer`] at the time of [`Session::poll_timeout`]. It reads
//! what waits in its sockets, and says so by [`Session::heard`], before it lets a timer run out:
//! the hold time is about the peer, not about how busy we are. Times are nanoseconds of any
//! monotonic clock.

mod action;
mod collision;
mod config;
mod connection;
mod observe;
mod restart;
mod states;
mod steps;
mod timer;

use std::collections::VecDeque;

pub use action::{Action, ConnId, Down, DownReason, StopReason, Up};
pub use collision::COLLISION_WINDOW_NS;
pub use config::{Config, Restart, Socket};
pub(crate) use timer::Jitter;
pub use timer::{ERROR_AMNESIA_NS, SECOND_NS};

use crate::wire::frame::{self, Kind, Raw};
use crate::wire::{Notification, Open, RouteRefresh};
use collision::MAX_ACCEPTED;
use connection::{ConnState, Connection};
use restart::Stale;
use states::{ConnEvent, Event};
use timer::Backoff;

/// With so many actions waiting, [`Session::receive`] takes no further message.
pub const MAX_ACTIONS: usize = 64;

/// The states of RFC 4271 section 8.2.2; of several connections the most advanced counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Stopped, or waiting after an error.
    Idle,
    /// Connecting.
    Connect,
    /// Waiting for the peer to connect, or for the next attempt.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// Both OPENs are there.
    OpenConfirm,
    /// The session is up.
    Established,
}

/// The part of the state that needs no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Idle until it is started.
    Stopped,
    /// Idle after an error.
    Holding { until_ns: u64 },
    /// Not connecting: until a time, or until all connections are gone.
    Active { retry_at: Option<u64> },
    /// Connecting.
    Connect { attempt: ConnId, until_ns: u64 },
}

/// What [`Session::receive`] has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// So many bytes are done with.
    pub consumed: usize,
    /// The body of an UPDATE on the established session. It comes after all actions that wait.
    pub update: Option<&'a [u8]>,
}

/// The session with one peer.
#[derive(Debug)]
pub struct Session {
    config: Config,
    /// The R bit of our next OPEN.
    restarted: bool,
    /// The last attempt or connection was not in vain.
    reachable: bool,
    phase: Phase,
    connections: Vec<Connection>,
    stale: Option<Stale>,
    last_error: Option<DownReason>,
    jitter: Jitter,
    backoff: Backoff,
    actions: VecDeque<Action>,
    next_conn: u32,
}

/// Inputs.
impl Session {
    /// One that is stopped.
    pub fn new(config: Config) -> Session {
        Session {
            restarted: config.restarted,
            reachable: true,
            phase: Phase::Stopped,
            connections: Vec::new(),
            stale: None,
            last_error: None,
            jitter: Jitter::new(config.seed),
            backoff: Backoff::new(config.error_wait_s),
            actions: VecDeque::new(),
            next_conn: 0,
            config,
        }
    }

    /// Looks for the peer from now on.
    pub fn start(&mut self, now_ns: u64) {
        if self.phase == Phase::Stopped {
            self.event(Event::Start, now_ns);
        }
    }

    /// Ends everything, tells the peer why, and stays down.
    pub fn stop(&mut self, reason: &StopReason, now_ns: u64) {
        self.stop_connecting();
        self.phase = Phase::Stopped;
        let why = reason.notification();
        while let Some(connection) = self.connections.last() {
            let conn = connection.id;
            match &why {
                Some(why) => self.fail(conn, why.clone(), now_ns),
                None => self.end(conn, DownReason::Stopped, now_ns),
            }
        }
        self.forget_stale();
    }

    /// Ends the session for `why` and begins anew after the idle time: an UPDATE that is wrong, a
    /// limit that is passed, BFD that sees no path, a person who wants it.
    pub fn reset(&mut self, why: &Notification, now_ns: u64) {
        let ids: Vec<ConnId> = self.connections.iter().map(|connection| connection.id).collect();
        for conn in ids {
            self.fail(conn, why.clone(), now_ns);
        }
    }

    /// What the peer was to be told of our restart has been told: OPENs come without the R bit.
    pub fn restart_done(&mut self) {
        self.restarted = false;
    }

    /// The answer to [`Action::Connect`]: the connection is there.
    pub fn connected(&mut self, conn: ConnId, now_ns: u64) {
        if self.connection(conn).is_none() {
            self.event(Event::Connected(conn), now_ns);
        }
    }

    /// The other answer.
    pub fn connect_failed(&mut self, conn: ConnId, now_ns: u64) {
        self.event(Event::ConnectFailed(conn), now_ns);
    }

    /// The peer has connected. `None` when it is not wanted now: close it.
    pub fn accepted(&mut self, now_ns: u64) -> Option<ConnId> {
        if matches!(self.phase, Phase::Stopped | Phase::Holding { .. }) {
            return None;
        }
        let accepted = self.connections.iter().filter(|connection| !connection.outgoing);
        if accepted.clone().count() >= MAX_ACCEPTED {
            // The newer one counts: the peer will have given up the other.
            let silent = accepted.clone().find(|one| one.state == ConnState::OpenSent)?.id;
            self.end(silent, DownReason::Closed, now_ns);
        }
        let conn = self.new_id();
        self.event(Event::Accepted(conn), now_ns);
        Some(conn)
    }

    /// The connection is gone, by the peer or by the network.
    pub fn closed(&mut self, conn: ConnId, now_ns: u64) {
        match self.phase {
            Phase::Connect { attempt, .. } if attempt == conn => self.connect_failed(conn, now_ns),
            _ => self.conn_event(conn, ConnEvent::Closed, now_ns),
        }
    }

    /// Bytes of the peer have come, though they may not have been looked at.
    pub fn heard(&mut self, conn: ConnId, now_ns: u64) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.heard(now_ns);
        }
    }

    /// `written` bytes have gone into the socket and `pending` still wait (RFC 9687).
    pub fn wrote(&mut self, conn: ConnId, written: usize, pending: usize, now_ns: u64) {
        let least_s = self.config.send_hold_time_s;
        let Some(connection) = self.connection_mut(conn) else { return };
        if pending == 0 {
            connection.send_hold_at = None;
        } else if written > 0 || connection.send_hold_at.is_none() {
            connection.demand_progress(least_s, now_ns);
        }
    }

    /// Takes messages from `buffer` up to the next UPDATE. Call it again, with the bytes that are
    /// left and after the actions, until it consumes nothing.
    pub fn receive<'a>(&mut self, conn: ConnId, buffer: &'a [u8], now_ns: u64) -> Received<'a> {
        let mut consumed = 0;
        while self.actions.len() < MAX_ACTIONS {
            let all = Received { consumed: buffer.len(), update: None };
            let Some(connection) = self.connection(conn) else { return all };
            match frame::first(&buffer[consumed..], connection.max_rx()) {
                Ok(None) => break,
                Ok(Some(raw)) => {
                    consumed += raw.wire_len();
                    if self.message(conn, &raw, now_ns) {
                        return Received { consumed, update: Some(raw.body) };
                    }
                }
                Err(why) => self.conn_event(conn, ConnEvent::Invalid(why), now_ns),
            }
        }
        Received { consumed, update: None }
    }

    /// True when the message is for the RIB.
    fn message(&mut self, conn: ConnId, raw: &Raw<'_>, now_ns: u64) -> bool {
        self.heard(conn, now_ns);
        let event = match raw.kind {
            Kind::Open => Open::decode(raw.body).map_or_else(ConnEvent::Invalid, ConnEvent::Open),
            Kind::Update => ConnEvent::Update,
            Kind::Notification => match Notification::decode(raw.body) {
                Some(why) => ConnEvent::Notified(why),
                None => return false,
            },
            Kind::Keepalive => ConnEvent::Keepalive,
            Kind::RouteRefresh => {
                RouteRefresh::decode(raw.body).map_or_else(ConnEvent::Invalid, ConnEvent::Refresh)
            }
        };
        let is_up = |connection: &Connection| connection.state == ConnState::Established;
        let for_rib = raw.kind == Kind::Update && self.connection(conn).is_some_and(is_up);
        self.conn_event(conn, event, now_ns);
        for_rib
    }

    /// Runs the timers that are due.
    pub fn timer(&mut self, now_ns: u64) {
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now_ns);
        let ids: Vec<ConnId> = self.connections.iter().map(|connection| connection.id).collect();
        for conn in ids {
            let due = self.connection(conn).map_or(Vec::new(), |connection| {
                let timers = [
                    (connection.hold_at, ConnEvent::HoldExpires),
                    (connection.send_hold_at, ConnEvent::SendHoldExpires),
                    (connection.keepalive_at, ConnEvent::KeepaliveExpires),
                ];
                timers.into_iter().filter(|(at, _)| is_due(*at)).map(|(_, event)| event).collect()
            });
            for event in due {
                self.conn_event(conn, event, now_ns);
            }
        }
        match self.phase {
            Phase::Holding { until_ns } if until_ns <= now_ns => {
                self.event(Event::IdleHoldExpires, now_ns);
            }
            Phase::Active { retry_at: Some(at) } | Phase::Connect { until_ns: at, .. }
                if at <= now_ns =>
            {
                self.event(Event::ConnectRetryExpires, now_ns);
            }
            _ => (),
        }
        if is_due(self.stale.map(|stale| stale.until_ns)) {
            self.forget_stale();
        }
        self.settle(now_ns);
    }
}

#[cfg(test)]
mod tests;
