//! The finite state machine of RFC 4271 section 8.2.2: one function a state, one arm an event, in
//! its order. Event numbers are those of section 8.1.
//!
//! Idle, Connect and Active are states of the session; OpenSent, OpenConfirm and Established are
//! states of one connection. [`super::collision`] sees to it that one connection stays.

use super::action::{Action, ConnId, DownReason};
use super::collision::DECISION_TIME_NS;
use super::connection::{ConnState, Connection, Undecided};
use super::{Phase, Session};
use crate::wire::frame::Kind;
use crate::wire::notification::{FSM_ERROR, HOLD_TIMER_EXPIRED, SEND_HOLD_TIMER_EXPIRED};
use crate::wire::{Notification, Open, RouteRefresh};

/// What happens to a session that has, or looks for, a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Events 1, 3 to 7: start, by a person or by the machine.
    Start,
    /// Event 9: ConnectRetryTimer_Expires; also the end of the delay before the first attempt.
    ConnectRetryExpires,
    /// Event 13: IdleHoldTimer_Expires.
    IdleHoldExpires,
    /// Event 16: the connection that we began is there.
    Connected(ConnId),
    /// Event 17: the peer has connected to us.
    Accepted(ConnId),
    /// Event 18: TcpConnectionFails, before it was there.
    ConnectFailed(ConnId),
}

/// What happens to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnEvent {
    /// Event 10.
    HoldExpires,
    /// Event 11.
    KeepaliveExpires,
    /// Event 29 (RFC 9687).
    SendHoldExpires,
    /// Event 18: TcpConnectionFails.
    Closed,
    /// Event 19: a valid OPEN.
    Open(Open),
    /// Events 21, 22 and 28: what came is wrong, and this is what to say.
    Invalid(Notification),
    /// Events 24 and 25.
    Notified(Notification),
    /// Event 26.
    Keepalive,
    /// Event 27: the message itself is for the RIB.
    Update,
    /// RFC 2918; `None` for one to ignore.
    Refresh(Option<RouteRefresh>),
}

impl ConnEvent {
    /// The type of the message that it stands for.
    fn kind(&self) -> Kind {
        match self {
            ConnEvent::Open(_) => Kind::Open,
            ConnEvent::Update => Kind::Update,
            ConnEvent::Refresh(_) => Kind::RouteRefresh,
            _ => Kind::Keepalive,
        }
    }
}

/// Messages out of place (RFC 6608 section 3): the data field is their type.
fn unexpected(event: &ConnEvent, state: ConnState) -> Notification {
    Notification::with_data(FSM_ERROR, state as u8 + 1, &[event.kind() as u8])
}

impl Session {
    /// Section 8.2.2, Idle: no connection is begun, and none is accepted.
    pub(super) fn idle(&mut self, event: Event, now_ns: u64) {
        match event {
            Event::Start => self.wait(self.config.connect_delay_s, now_ns),
            Event::IdleHoldExpires => self.connect_or_listen(now_ns),
            Event::Connected(conn) | Event::Accepted(conn) => self.push(Action::Close(conn)),
            Event::ConnectRetryExpires | Event::ConnectFailed(_) => (),
        }
    }

    /// Section 8.2.2, Connect: an attempt of ours is under way.
    pub(super) fn connecting(&mut self, attempt: ConnId, event: Event, now_ns: u64) {
        match event {
            Event::Start | Event::IdleHoldExpires => (),
            Event::ConnectRetryExpires => {
                self.push(Action::Close(attempt));
                self.reachable = false;
                self.connect_or_listen(now_ns);
            }
            Event::Connected(conn) if conn == attempt => {
                self.phase = Phase::Active { retry_at: None };
                self.begin(conn, true, now_ns);
            }
            Event::Connected(conn) => self.push(Action::Close(conn)),
            Event::Accepted(conn) => self.begin(conn, false, now_ns),
            Event::ConnectFailed(conn) if conn == attempt => {
                self.reachable = false;
                self.wait(self.config.connect_retry_s, now_ns);
            }
            Event::ConnectFailed(_) => (),
        }
    }

    /// Section 8.2.2, Active: waiting for the peer, or for the time to try ourselves.
    pub(super) fn active(&mut self, event: Event, now_ns: u64) {
        match event {
            Event::Start | Event::IdleHoldExpires => (),
            Event::ConnectRetryExpires => self.connect_or_listen(now_ns),
            Event::Connected(conn) => self.push(Action::Close(conn)),
            Event::Accepted(conn) => self.begin(conn, false, now_ns),
            Event::ConnectFailed(_) => (),
        }
    }

    /// Section 8.2.2, OpenSent: our OPEN is out, the peer's has not come.
    pub(super) fn open_sent(&mut self, conn: ConnId, event: ConnEvent, now_ns: u64) {
        match event {
            ConnEvent::HoldExpires => {
                self.fail(conn, Notification::new(HOLD_TIMER_EXPIRED, 0), now_ns);
            }
            ConnEvent::KeepaliveExpires => (),
            ConnEvent::SendHoldExpires => self.send_hold_expired(conn, now_ns),
            ConnEvent::Closed => self.end(conn, DownReason::Closed, now_ns),
            ConnEvent::Open(_) | ConnEvent::Update | ConnEvent::Refresh(_)
                if self.undecided_mut(conn).is_some() =>
            {
                self.fail(conn, unexpected(&event, ConnState::OpenConfirm), now_ns);
            }
            ConnEvent::Open(open) => self.opened(conn, open, now_ns),
            ConnEvent::Invalid(why) => self.fail(conn, why, now_ns),
            ConnEvent::Notified(why) => self.end(conn, DownReason::Received(why), now_ns),
            ConnEvent::Keepalive if let Some(undecided) = self.undecided_mut(conn) => {
                undecided.accepted = true;
            }
            ConnEvent::Keepalive | ConnEvent::Update | ConnEvent::Refresh(_) => {
                self.fail(conn, unexpected(&event, ConnState::OpenSent), now_ns);
            }
        }
    }

    /// Section 8.2.2, OpenConfirm: both OPENs are there, the KEEPALIVE that accepts ours is not.
    pub(super) fn open_confirm(&mut self, conn: ConnId, event: ConnEvent, now_ns: u64) {
        match event {
            ConnEvent::HoldExpires => {
                self.fail(conn, Notification::new(HOLD_TIMER_EXPIRED, 0), now_ns);
            }
            ConnEvent::KeepaliveExpires => self.send_keepalive(conn, now_ns),
            ConnEvent::SendHoldExpires => self.send_hold_expired(conn, now_ns),
            ConnEvent::Closed => self.end(conn, DownReason::Closed, now_ns),
            ConnEvent::Invalid(why) => self.fail(conn, why, now_ns),
            ConnEvent::Notified(why) => self.end(conn, DownReason::Received(why), now_ns),
            ConnEvent::Keepalive => self.establish(conn, now_ns),
            ConnEvent::Open(_) | ConnEvent::Update | ConnEvent::Refresh(_) => {
                self.fail(conn, unexpected(&event, ConnState::OpenConfirm), now_ns);
            }
        }
    }

    /// Section 8.2.2, Established.
    pub(super) fn established(&mut self, conn: ConnId, event: ConnEvent, now_ns: u64) {
        match event {
            ConnEvent::HoldExpires => {
                self.fail(conn, Notification::new(HOLD_TIMER_EXPIRED, 0), now_ns);
            }
            ConnEvent::KeepaliveExpires => self.send_keepalive(conn, now_ns),
            ConnEvent::SendHoldExpires => self.send_hold_expired(conn, now_ns),
            ConnEvent::Closed => self.end(conn, DownReason::Closed, now_ns),
            ConnEvent::Invalid(why) => self.fail(conn, why, now_ns),
            ConnEvent::Notified(why) => self.end(conn, DownReason::Received(why), now_ns),
            ConnEvent::Keepalive | ConnEvent::Update | ConnEvent::Refresh(None) => (),
            ConnEvent::Refresh(Some(refresh)) => self.refresh(conn, refresh),
            ConnEvent::Open(_) => {
                self.fail(conn, unexpected(&event, ConnState::Established), now_ns);
            }
        }
    }

    /// A connection is there: OPEN goes out, and its state is OpenSent.
    fn begin(&mut self, conn: ConnId, outgoing: bool, now_ns: u64) {
        self.reachable = true;
        let open = self.config.open(self.restarted);
        let bytes = open.encode();
        self.connections.push(Connection::new(conn, outgoing, open, now_ns));
        self.send(conn, bytes, now_ns);
    }

    /// Event 19 in OpenSent: judge the OPEN, then the other connections, and answer it.
    fn opened(&mut self, conn: ConnId, theirs: Open, now_ns: u64) {
        let Some(connection) = self.connection(conn) else { return };
        let judged =
            crate::wire::negotiated::negotiate(&connection.ours, &theirs, self.config.remote_asn);
        let agreed = match judged {
            Ok(agreed) => agreed,
            Err(why) => return self.fail(conn, why, now_ns),
        };
        let until_ns = now_ns + DECISION_TIME_NS;
        if let Some(connection) = self.connection_mut(conn) {
            connection.undecided = Some(Undecided { theirs, agreed, until_ns, accepted: false });
        }
        self.stop_connecting();
    }

    /// The connection is the one to keep: its OPEN is answered.
    pub(super) fn confirm(&mut self, conn: ConnId, now_ns: u64) {
        let keepalive_time_s = self.config.keepalive_time_s;
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(undecided) = connection.undecided.take() else { return };
        connection.confirm(undecided.theirs, undecided.agreed, keepalive_time_s);
        connection.heard(now_ns);
        self.send_keepalive(conn, now_ns);
        if undecided.accepted {
            self.establish(conn, now_ns);
        }
    }

    fn undecided_mut(&mut self, conn: ConnId) -> Option<&mut Undecided> {
        self.connection_mut(conn)?.undecided.as_mut()
    }

    /// RFC 9687 section 3.2: the NOTIFICATION may be sent; it will hardly arrive.
    fn send_hold_expired(&mut self, conn: ConnId, now_ns: u64) {
        self.fail(conn, Notification::new(SEND_HOLD_TIMER_EXPIRED, 0), now_ns);
    }

    fn send_keepalive(&mut self, conn: ConnId, now_ns: u64) {
        self.push(Action::Keepalive(conn));
        let least_s = self.config.send_hold_time_s;
        let at = self.connections.iter().position(|connection| connection.id == conn);
        if let Some(at) = at {
            let connection = &mut self.connections[at];
            connection.schedule_keepalive(&mut self.jitter, now_ns);
            if connection.send_hold_at.is_none() {
                connection.demand_progress(least_s, now_ns);
            }
        }
    }

    /// RFC 2918 section 4 and RFC 7313 section 4: only what was agreed on counts.
    fn refresh(&mut self, conn: ConnId, refresh: RouteRefresh) {
        use crate::wire::route_refresh::Subtype;
        let Some(connection) = self.connection(conn) else { return };
        let agreed = match refresh.subtype {
            Subtype::Request => connection.agreed.route_refresh,
            Subtype::Begin | Subtype::End => connection.agreed.enhanced_refresh,
        };
        if agreed && connection.agreed.families.contains(refresh.family) {
            self.push(Action::Refresh(refresh));
        }
    }
}
