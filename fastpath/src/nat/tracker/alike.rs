//! The short way for packets of known flows: those that fare as the one before them did.
//!
//! The whole way asks the rules about each packet, and what it finds depends on the packet's tuple,
//! its port and the rules alone, for all but a few packets (fragments, SYN, FIN and RST, ICMP, what
//! came out of a tunnel, senders' unfinished checksums). So a flow that has gone it once is marked
//! with the rules' number, and packets after that one are only found, counted and rewritten.

use super::{Asked, Rules, Tracker, Verdict};
use crate::flow::{Alike, BATCH, Direction, SessionId, Signal, TupleV4};
use crate::nat::rewrite::translate_v4;
use crate::nat::subject::{Part, plain_v4};
use crate::packet::Packet;
use crate::policy::Policy;
use crate::port::PortId;
use margay_tunnels::wire::protocol;
use std::iter::Peekable;
use std::sync::Arc;

/// A packet that may go the short way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Likely {
    /// Its place in the burst.
    pub(super) at: usize,
    tuple: TupleV4,
    signal: Signal,
    hash: u64,
    number: u32,
}

impl Tracker {
    /// Finds the packets of a burst that may go the short way; a bit for each.
    pub(super) fn find_alike(
        &self,
        packets: &[Packet],
        verdicts: &[Verdict],
        likely: &mut Vec<Likely>,
    ) -> u64 {
        likely.clear();
        if self.table.is_empty() {
            return 0;
        }
        for (at, (packet, verdict)) in packets.iter().zip(verdicts).enumerate().take(BATCH) {
            if *verdict == Verdict::Go
                && let Some((tuple, signal)) = plain_v4(packet)
            {
                let hash = self.table.seek_v4(&tuple);
                likely.push(Likely { at, tuple, signal, hash, number: 0 });
            }
        }
        likely.retain_mut(|likely| {
            let number = self.table.approach_v4(likely.hash);
            likely.number = number.unwrap_or_default();
            number.is_some()
        });
        let mut found = 0;
        likely.retain(|Likely { at, tuple, number, .. }| {
            let is = self.table.is_alike(*number, tuple, self.alike(packets[*at].in_port));
            found |= u64::from(is) << at;
            is
        });
        found
    }

    fn alike(&self, in_port: PortId) -> Alike {
        Alike { epoch: self.epoch, in_port }
    }

    /// Lets packets go the short way that come before place `end` of the burst.
    #[inline]
    pub(super) fn pass_before<'a>(
        &mut self,
        end: usize,
        likely: &mut Peekable<impl Iterator<Item = &'a Likely>>,
        (rules, now_ns): (&Rules, u64),
        (packets, verdicts): (&mut [Packet], &mut [Verdict]),
    ) {
        while let Some(likely) = likely.next_if(|likely| likely.at < end) {
            let packet = &mut packets[likely.at];
            verdicts[likely.at] = self.pass_alike(rules, packet, likely, now_ns);
        }
    }

    /// Lets a packet go the short way, if those before it have not changed that.
    #[inline]
    fn pass_alike(
        &mut self,
        rules: &Rules,
        packet: &mut Packet,
        likely: &Likely,
        now_ns: u64,
    ) -> Verdict {
        let bytes = (packet.len() - usize::from(packet.l3)) as u32;
        let alike = self.alike(packet.in_port);
        let seen = (likely.signal, bytes);
        match self.table.pass_alike(likely.number, (&likely.tuple, alike), seen, self.now_s) {
            None => self.go_the_whole_way(rules, packet, likely.at, now_ns),
            Some(leaving) if leaving == likely.tuple => Verdict::Go,
            Some(leaving) => {
                translate_v4(packet, &likely.tuple, &leaving);
                Verdict::Rewritten
            }
        }
    }

    #[cold]
    fn go_the_whole_way(
        &mut self,
        rules: &Rules,
        packet: &mut Packet,
        at: usize,
        now_ns: u64,
    ) -> Verdict {
        match self.prepare(rules, packet, now_ns) {
            Ok(asked) => {
                let found = self.table.find(&asked.tuple);
                self.carry_out(rules, packet, &Asked { at, ..asked }, found, now_ns)
            }
            Err(decided) => decided,
        }
    }

    /// A packet has gone the whole way, and goes on: others like it may take the short one.
    #[inline]
    pub(super) fn note_alike(&mut self, asked: &Asked, (id, direction): (SessionId, Direction)) {
        let is_tcp = asked.tuple.protocol == protocol::TCP;
        let may = asked.part == Part::Whole
            && (is_tcp || asked.tuple.protocol == protocol::UDP)
            && !asked.tunnelled
            && asked.in_port != PortId::NONE
            && !(is_tcp && self.guard.limits_connections())
            && !self.guard.asks_every_packet(asked.in_port);
        if may {
            self.table.set_alike(id, direction, self.alike(asked.in_port));
        }
    }

    /// The policy in force from now on.
    #[inline]
    pub fn follow_policy(&mut self, policy: Option<&Arc<Policy>>) {
        if self.guard.follow(policy) {
            self.begin_epoch();
        }
    }

    /// From now on every flow goes the whole way once more.
    pub(super) fn begin_epoch(&mut self) {
        // 0 marks none. Nobody has 2^32 changes of rules while a flow lives without a packet.
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }

    /// Rules that are others than the last ones.
    #[inline]
    pub(super) fn follow_rules(&mut self, rules: &Rules) {
        if rules.generation != self.generation {
            self.adopt(rules);
            self.begin_epoch();
        }
    }
}
