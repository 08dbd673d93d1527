//! Limits on connections: which flows count for which endpoint, until they end.
//!
//! TCP connections are counted, as Calico refuses them by reset: from the first packet until the
//! flow is closed on both sides, reset, or gone. One that is seen for the first time in its middle
//! is counted, and never refused.

use super::begin::Begun;
use super::{Asked, Rules, Tracker, Verdict};
use crate::drop_reason::DropReason;
use crate::flow::{Direction, SessionId, Signal, State, Tuple};
use crate::limit::ConnectionLimit;
use crate::policy::{Question, Seat};
use ahash::AHashMap;
use margay_tunnels::wire::{protocol, tcp};

/// The limits that one flow counts for: of the endpoint that it comes from, and of the other one.
#[derive(Debug, Default)]
struct Claim([Option<ConnectionLimit>; 2]);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.iter().flatten().for_each(ConnectionLimit::close);
    }
}

/// Flows that are counted.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Of the flow that is being begun.
    pending: Option<Claim>,
    of: AHashMap<SessionId, Claim>,
}

impl Claims {
    /// A flow has ended.
    #[inline]
    pub(super) fn release(&mut self, id: SessionId) {
        if !self.of.is_empty() {
            self.of.remove(&id);
        }
    }
}

impl Tracker {
    /// Counts a connection where it is limited; `question` is about its first packet.
    #[inline]
    pub(super) fn claim(&mut self, question: &Question, signal: Signal) -> Result<(), Verdict> {
        self.claims.pending = None;
        match self.guard.limits_connections() && question.tuple.protocol == protocol::TCP {
            true => self.claim_both(question, is_syn(signal)),
            false => Ok(()),
        }
    }

    #[cold]
    fn claim_both(&mut self, question: &Question, is_new: bool) -> Result<(), Verdict> {
        let mut claim = Claim::default();
        let limits = self.guard.connection_limits(question);
        for (claimed, limit) in claim.0.iter_mut().zip(limits) {
            let Some(limit) = limit else { continue };
            if !is_new {
                limit.connections.adopt();
            } else if !limit.open() {
                return Err(Verdict::Drop(DropReason::LimitConnections));
            }
            *claimed = Some(limit);
        }
        self.claims.pending = Some(claim).filter(|claim| claim.0.iter().any(Option::is_some));
        Ok(())
    }

    /// A new flow, which counts from now on.
    #[cold]
    pub(super) fn begin_counted(&mut self, rules: &Rules, asked: &Asked) -> Begun {
        let begun = self.begin(rules, asked).inspect(|(id, _)| self.stamp(*id));
        self.settle_claim(begun.as_ref().ok().map(|(id, _)| *id));
        if let Ok((id, _)) = begun {
            self.note_begun(asked, id);
        }
        begun
    }

    /// The flow that was to be begun is there, or not.
    #[inline]
    fn settle_claim(&mut self, made: Option<SessionId>) {
        let Some(claim) = self.claims.pending.take() else { return };
        if let Some(id) = made {
            self.claims.of.insert(id, claim);
        }
    }

    /// A packet of a known flow: one that has ended counts no more, and one that begins anew counts
    /// again.
    #[inline]
    pub(super) fn follow_claim(
        &mut self,
        flow: (SessionId, Direction),
        asked: &Asked,
    ) -> Result<(), Verdict> {
        match self.guard.limits_connections() && asked.tuple.protocol == protocol::TCP {
            true => self.claim_again(flow, asked),
            false => Ok(()),
        }
    }

    #[cold]
    fn claim_again(
        &mut self,
        (id, direction): (SessionId, Direction),
        asked: &Asked,
    ) -> Result<(), Verdict> {
        let Some(session) = self.table.get(id) else { return Ok(()) };
        let is_over = matches!(session.state(), State::TcpTimeWait | State::TcpClose);
        if !is_over {
            return Ok(());
        }
        self.claims.release(id);
        let begun = session.begun_by();
        if !is_syn(asked.signal) || direction != begun {
            return Ok(());
        }
        let (came, left) = (session.arriving(begun), session.leaving(begun));
        let tuple = Tuple { src: came.src, src_port: came.src_port, ..left };
        let from = match asked.settled() {
            super::Way::In => Seat::Network,
            _ => self.guard.seat(asked.in_port),
        };
        self.claim(&Question { from, tuple, icmp_code: 0 }, asked.signal)?;
        self.settle_claim(Some(id));
        Ok(())
    }

    /// After a packet was noted: a flow that it has ended counts no more.
    #[inline]
    pub(super) fn release_if_over(&mut self, id: SessionId) {
        if !self.claims.of.is_empty()
            && let Some(session) = self.table.get(id)
            && matches!(session.state(), State::TcpTimeWait | State::TcpClose)
        {
            self.claims.release(id);
        }
    }
}

/// The first segment of a connection.
fn is_syn(signal: Signal) -> bool {
    matches!(signal, Signal::Tcp(flags) if flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN)
}
