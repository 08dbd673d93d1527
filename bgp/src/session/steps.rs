//! The steps that the states are made of.

use super::action::{Action, ConnId, DownReason};
use super::connection::{ConnState, Connection};
use super::restart::as_sent;
use super::states::{ConnEvent, Event};
use super::timer::SECOND_NS;
use super::{Phase, Session, State};
use crate::wire::Notification;
use crate::wire::notification::{CEASE, CONNECTION_COLLISION};

impl From<ConnState> for State {
    fn from(state: ConnState) -> State {
        match state {
            ConnState::OpenSent => State::OpenSent,
            ConnState::OpenConfirm => State::OpenConfirm,
            ConnState::Established => State::Established,
        }
    }
}

/// True for what says nothing about the peer, only about a second connection.
fn is_collision(reason: &DownReason) -> bool {
    matches!(reason, DownReason::Sent(why) | DownReason::Received(why)
        if (why.code, why.subcode) == (CEASE, CONNECTION_COLLISION))
}

impl Session {
    pub(super) fn event(&mut self, event: Event, now_ns: u64) {
        match self.phase {
            Phase::Stopped | Phase::Holding { .. } => self.idle(event, now_ns),
            Phase::Connect { attempt, .. } => self.connecting(attempt, event, now_ns),
            Phase::Active { .. } => self.active(event, now_ns),
        }
        self.settle(now_ns);
    }

    pub(super) fn conn_event(&mut self, conn: ConnId, event: ConnEvent, now_ns: u64) {
        match self.connection(conn).map(|connection| connection.state) {
            Some(ConnState::OpenSent) => self.open_sent(conn, event, now_ns),
            Some(ConnState::OpenConfirm) => self.open_confirm(conn, event, now_ns),
            Some(ConnState::Established) => self.established(conn, event, now_ns),
            // Closed by us a moment ago.
            None => (),
        }
        self.settle(now_ns);
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn send(&mut self, conn: ConnId, bytes: Vec<u8>, now_ns: u64) {
        let least_s = self.config.send_hold_time_s;
        if let Some(connection) = self.connection_mut(conn)
            && connection.send_hold_at.is_none()
        {
            connection.demand_progress(least_s, now_ns);
        }
        self.push(Action::Send(conn, bytes));
    }

    pub(super) fn connection(&self, conn: ConnId) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.id == conn)
    }

    pub(super) fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == conn)
    }

    pub(super) fn new_id(&mut self) -> ConnId {
        self.next_conn = self.next_conn.wrapping_add(1);
        ConnId(self.next_conn)
    }

    /// Active, with an attempt of our own after about `time_s`.
    pub(super) fn wait(&mut self, time_s: u16, now_ns: u64) {
        let passive = self.config.passive;
        let wait_ns = self.jitter.shorten(u64::from(time_s));
        self.phase = Phase::Active { retry_at: (!passive).then_some(now_ns + wait_ns) };
    }

    /// Connect, or Active for one who only listens.
    pub(super) fn connect_or_listen(&mut self, now_ns: u64) {
        let is_enough = |one: &Connection| one.outgoing || one.is_proven();
        if self.config.passive || self.connections.iter().any(is_enough) {
            self.phase = Phase::Active { retry_at: None };
            return;
        }
        let attempt = self.new_id();
        let time_ns = self.jitter.shorten(u64::from(self.config.connect_retry_s.max(1)));
        self.phase = Phase::Connect { attempt, until_ns: now_ns + time_ns };
        self.push(Action::Connect(attempt));
    }

    /// Gives up an attempt that is under way, and begins none.
    pub(super) fn stop_connecting(&mut self) {
        if let Phase::Connect { attempt, .. } = self.phase {
            self.push(Action::Close(attempt));
        }
        if self.phase != Phase::Stopped {
            self.phase = Phase::Active { retry_at: None };
        }
    }

    /// Tells the peer why, and ends the connection.
    pub(super) fn fail(&mut self, conn: ConnId, why: Notification, now_ns: u64) {
        let Some(connection) = self.connection(conn) else { return };
        let why = as_sent(connection, why);
        self.push(Action::Send(conn, why.encode()));
        self.end(conn, DownReason::Sent(why), now_ns);
    }

    /// Ends a connection, and the session if it carried it.
    pub(super) fn end(&mut self, conn: ConnId, reason: DownReason, now_ns: u64) {
        let Some(at) = self.connections.iter().position(|one| one.id == conn) else { return };
        let connection = self.connections.remove(at);
        self.push(Action::Close(conn));
        self.last_error = Some(reason.clone());
        let is_error = matches!(reason, DownReason::Sent(_) | DownReason::Received(_));
        let is_error = is_error && !is_collision(&reason);
        if connection.state == ConnState::Established {
            self.went_down(&connection, reason, now_ns);
        }
        if self.phase == Phase::Stopped || self.connections.iter().any(Connection::is_proven) {
            return;
        }
        if is_error {
            self.hold_idle(now_ns);
        } else if self.phase == (Phase::Active { retry_at: None })
            && !self.connections.iter().any(|other| other.outgoing)
        {
            self.wait(self.config.connect_retry_s, now_ns);
        }
    }

    /// Idle for a time that doubles from error to error.
    fn hold_idle(&mut self, now_ns: u64) {
        if matches!(self.phase, Phase::Holding { .. }) {
            return;
        }
        self.stop_connecting();
        let wait_s = self.backoff.error(now_ns);
        let wait_ns = self.jitter.percent_of(wait_s.max(1) * SECOND_NS, 100, 125);
        self.phase = Phase::Holding { until_ns: now_ns + wait_ns };
    }
}
