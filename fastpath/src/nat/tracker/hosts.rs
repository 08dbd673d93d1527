//! Host endpoints in the tracker: what their rules say of packets on the way in, and which new
//! flows are still to be asked about on their way out.

use super::{Asked, Tracker, Verdict};
use crate::flow::{SessionId, Tuple};
use crate::nat::subject::Part;
use crate::packet::Packet;
use crate::policy::{Question, Ruling, Seat, Way};
use margay_acl::{Direction, Stage, Verdict as Said};

/// A flow that has begun in this burst, and whose way out is not known yet.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Its packet's place in the burst.
    pub at: usize,
    id: SessionId,
    /// The packet behind DNAT, and before SNAT.
    question: Question,
}

impl Tracker {
    /// Asks the untracked rules of the device that a packet came by; true when they accept it. What
    /// an ICMP error says is about another packet: it goes the way of that one's flow.
    #[inline]
    pub(super) fn ask_untracked(
        &mut self,
        packet: &Packet,
        (tuple, code): (&Tuple, u8),
        part: Part,
    ) -> Result<bool, Verdict> {
        let way = Way { port: packet.in_port, tunnelled: packet.is_from_tunnel() };
        if !self.guard.has_hosts() || matches!(part, Part::Error { .. }) {
            return Ok(false);
        }
        let stage = (Stage::Untracked, Direction::Ingress);
        let ruling = self.guard.ask_host(way, stage, (tuple, code))?;
        Ok(ruling.is_some_and(|ruling| ruling.outcome.verdict == Said::Allow))
    }

    /// Asks what is asked about the first packet of a flow on its way in, `tuple` as it goes on.
    pub(super) fn ask_way_in(&mut self, asked: &Asked, tuple: &Tuple) -> Result<(), Verdict> {
        if !self.guard.has_hosts() || asked.accepted {
            return Ok(());
        }
        let way = Way { port: asked.in_port, tunnelled: asked.tunnelled };
        let before = (Stage::PreDnat, Direction::Ingress);
        let ruling = self.guard.ask_host(way, before, (&asked.tuple, asked.icmp_code))?;
        if ruling.is_some_and(|ruling| ruling.outcome.verdict == Said::Allow) {
            self.guard.accepted_before = true;
            return Ok(());
        }
        if !self.guard.is_local(tuple.dst) {
            let forward = (Stage::Forward, Direction::Ingress);
            self.guard.ask_host(way, forward, (tuple, asked.icmp_code))?;
        }
        Ok(())
    }

    /// Notes that a flow has begun, for [`Tracker::ask_way_out`].
    #[inline]
    pub(super) fn note_begun(&mut self, asked: &Asked, id: SessionId) {
        let Some(question) = self.guard.question_of_way_out() else { return };
        self.begun.push(Begun { at: asked.at, id, question });
    }

    /// Asks about a flow that has begun, once it is known where it leaves; ends it if it may not.
    #[cold]
    pub fn ask_way_out(&mut self, begun: &Begun, way: Way) -> Result<(), Verdict> {
        let Question { from, tuple, icmp_code } = &begun.question;
        // What the host itself sends its kernel has judged.
        if *from == Seat::Host && self.guard.is_local(tuple.src) {
            return Ok(());
        }
        let stage = (Stage::Forward, Direction::Egress);
        let asked = self.guard.ask_host(way, stage, (tuple, *icmp_code));
        asked.map(|_: Option<Ruling>| ()).inspect_err(|_| {
            self.end(begun.id);
        })
    }
}
