//! What can be seen of a session from outside.

use super::connection::Connection;
use super::{Action, Config, DownReason, Phase, Session, State};
use crate::wire::{Negotiated, Open};

impl Session {
    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Session::timer`] is to be called next; it may lie in the past.
    pub fn poll_timeout(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Stopped => None,
            Phase::Holding { until_ns } | Phase::Connect { until_ns, .. } => Some(until_ns),
            Phase::Active { retry_at } => retry_at,
        };
        let connections = self.connections.iter().filter_map(Connection::next_timer);
        let stale = self.stale.map(|stale| stale.until_ns);
        connections.chain(phase).chain(stale).min()
    }

    /// The state of the most advanced connection, or of the search for one.
    pub fn state(&self) -> State {
        let phase = match self.phase {
            Phase::Stopped | Phase::Holding { .. } => State::Idle,
            Phase::Active { .. } => State::Active,
            Phase::Connect { .. } => State::Connect,
        };
        self.best().map_or(phase, |connection| connection.state.into())
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was agreed on, and with whom; `None` before the peer's OPEN.
    pub fn peer(&self) -> Option<(&Negotiated, &Open)> {
        let connection = self.best()?;
        Some((&connection.agreed, connection.theirs.as_ref()?))
    }

    /// The hold time in force and the time between KEEPALIVEs, in seconds.
    pub fn times_s(&self) -> Option<(u64, u64)> {
        self.best().map(Connection::times_s)
    }

    /// Why the last connection ended.
    pub fn last_error(&self) -> Option<&DownReason> {
        self.last_error.as_ref()
    }

    /// False for a peer that it makes no sense to wait for: stopped, or not reached by the last
    /// attempt.
    pub fn is_expected(&self) -> bool {
        self.phase != Phase::Stopped && (self.reachable || self.best().is_some())
    }

    fn best(&self) -> Option<&Connection> {
        self.connections.iter().max_by_key(|connection| connection.state)
    }
}
