//! One peer as a member of a group: how far it has read, and what it is still owed.

use super::adj_out::Told;
use super::group::Group;
use super::path::Source;
use super::table::{Core, Marks, Node};
use crate::wire::nlri::Prefix;
use crate::wire::pack::encode_end_of_rib;
use crate::wire::route_refresh::{RouteRefresh, Subtype};
use ipnet::IpNet;

/// Prefixes, or paths where all of them are told, that are looked at in one step of a walk.
const STEP: usize = 1024;

/// When the End-of-RIB goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndOfRib {
    Sent,
    /// After the group's first walk over the table.
    AfterFirstWalk,
    /// When the log has been read up to here.
    At(u64),
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) peer: Source,
    /// The chunk and part of the log to be read next.
    pub(super) at: u64,
    pub(super) part: usize,
    /// The next node of a walk over what the group has told so far.
    walk: Option<u32>,
    /// The walk answers a request (RFC 7313).
    marked: bool,
    /// Prefixes whose newest state it must hear.
    pub(super) owed: Marks,
    end: EndOfRib,
}

/// What stays of a member that goes to another group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    peer: Source,
    has_ended: bool,
    /// A marked answer was under way: it begins anew.
    marked: bool,
}

impl Member {
    /// One that has been told nothing yet.
    pub(super) fn new<P: Prefix + Into<IpNet>>(peer: Source, group: &Group<P>) -> Member {
        let (log_end, walked) = (group.log_end(), group.first_walk.is_none());
        Member {
            peer,
            at: log_end,
            part: 0,
            walk: (group.adj_out.nodes() > 0).then_some(0),
            marked: false,
            owed: Marks::default(),
            end: if walked { EndOfRib::At(log_end) } else { EndOfRib::AfterFirstWalk },
        }
    }

    /// One that comes from another group: `owed` is all that it may have been told there.
    pub(super) fn moved<P: Prefix + Into<IpNet>>(
        before: &Before,
        group: &Group<P>,
        owed: Marks,
    ) -> Member {
        let new = Member::new(before.peer, group);
        let end = if before.has_ended { EndOfRib::Sent } else { new.end };
        let walk = if before.marked { Some(0) } else { new.walk };
        Member { owed, end, walk, marked: before.marked, ..new }
    }

    pub(super) fn before(&self) -> Before {
        let has_ended = self.end == EndOfRib::Sent;
        Before { peer: self.peer, has_ended, marked: self.marked }
    }

    pub(super) fn first_walk_ended(&mut self, log_end: u64) {
        if self.end == EndOfRib::AfterFirstWalk {
            self.end = EndOfRib::At(log_end);
        }
    }

    /// The peer wants to hear everything again.
    pub(super) fn refresh(&mut self, enhanced: bool) {
        self.walk = Some(0);
        self.marked = enhanced;
    }
}

impl<P: Prefix + Into<IpNet>> Group<P> {
    pub(super) fn has_output(&self, at: usize) -> bool {
        let member = &self.members[at];
        let owed = !member.owed.is_empty() && self.first_walk.is_none();
        member.at < self.log_end()
            || self.may_walk(member).is_some()
            || owed
            || self.may_end(member)
    }

    /// From where a walk goes on. The end of a marked one makes the peer drop what it was not told
    /// again, so all must have been judged before.
    fn may_walk(&self, member: &Member) -> Option<u32> {
        member.walk.filter(|_| !member.marked || self.first_walk.is_none())
    }

    /// True when all that the End-of-RIB stands for has been told.
    fn may_end(&self, member: &Member) -> bool {
        let EndOfRib::At(end) = member.end else { return false };
        let told = member.walk.is_none() && member.owed.is_empty();
        told && (member.at >= end || self.first_walk.is_none() && member.at >= self.log_end())
    }

    /// Appends messages for a member until there are `room` bytes of them or nothing is left.
    pub(super) fn fill(
        &mut self,
        core: &Core,
        nodes: &[Node<P>],
        at: usize,
        room: usize,
        out: &mut Vec<u8>,
    ) {
        let limit = out.len() + room;
        let mut member = self.members.swap_remove(at);
        while out.len() < limit && self.fill_once(core, nodes, &mut member, out) {}
        self.members.push(member);
        let last = self.members.len() - 1;
        self.members.swap(at, last);
        self.drop_read();
    }

    /// One step; false when there was nothing to do.
    fn fill_once(
        &self,
        core: &Core,
        nodes: &[Node<P>],
        member: &mut Member,
        out: &mut Vec<u8>,
    ) -> bool {
        if let Some(from) = self.may_walk(member) {
            return self.walk(core, nodes, (member, from), out);
        }
        // What it is owed of another group's routes cannot be told before all are judged.
        if !member.owed.is_empty() && self.first_walk.is_none() {
            let owed = self.batch(std::iter::from_fn(|| member.owed.take()));
            self.tell(core, nodes, (member.peer, &owed, true), out);
            return true;
        }
        if self.may_end(member) {
            member.end = EndOfRib::Sent;
            encode_end_of_rib(P::FAMILY, out);
            return true;
        }
        member.at < self.log_end() && self.read_part(member, out)
    }

    fn read_part(&self, member: &mut Member, out: &mut Vec<u8>) -> bool {
        let at = member.at.saturating_sub(self.log_start) as usize;
        let Some(chunk) = self.log.get(at) else { return false };
        match chunk.parts.get(member.part) {
            Some(part) => {
                if part.audience.admits(member.peer) {
                    out.extend_from_slice(&part.bytes);
                }
                member.part += 1;
            }
            None => (member.at, member.part) = (member.at + 1, 0),
        }
        true
    }

    fn walk(
        &self,
        core: &Core,
        nodes: &[Node<P>],
        (member, from): (&mut Member, u32),
        out: &mut Vec<u8>,
    ) -> bool {
        let mark = |subtype| RouteRefresh { family: P::FAMILY, subtype }.encode();
        if from == 0 && member.marked {
            out.extend_from_slice(&mark(Subtype::Begin));
        }
        let end = self.adj_out.nodes() as u32;
        let batch = self.batch(from..end);
        self.tell(core, nodes, (member.peer, &batch, false), out);
        let to = from + batch.len() as u32;
        member.walk = (to < end).then_some(to);
        if member.walk.is_none() && std::mem::take(&mut member.marked) {
            out.extend_from_slice(&mark(Subtype::End));
        }
        true
    }

    /// So many prefixes from the front as one step is for, and at least one.
    fn batch(&self, nodes: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut paths = 0;
        let mut batch = Vec::new();
        for node in nodes {
            batch.push(node);
            paths += self.adj_out.places(node);
            if paths >= STEP || batch.len() >= STEP {
                break;
            }
        }
        batch
    }

    /// Tells a member the state of some prefixes; with `gone` also of those that are not there.
    fn tell(
        &self,
        core: &Core,
        nodes: &[Node<P>],
        (peer, batch, gone): (Source, &[u32], bool),
        out: &mut Vec<u8>,
    ) {
        let told = |node: u32, place: usize| match self.adj_out.get(node, place) {
            told if told.source == peer => Told::NOTHING,
            told => told,
        };
        let places = batch.iter().flat_map(|node| {
            (0..self.adj_out.places(*node)).map(|place| (told(*node, place), *node, place))
        });
        let mut known: Vec<(Told, u32, usize)> = places.collect();
        known.sort_unstable_by_key(|(told, node, place)| (told.attributes, *node, *place));
        let writer = self.writer(core, nodes);
        let nlri = |(_, node, place): &(Told, u32, usize)| writer.nlri(*node, *place);
        for run in known.chunk_by(|a, b| a.0.attributes == b.0.attributes) {
            let attributes = run[0].0.attributes;
            if run[0].0 != Told::NOTHING {
                writer.announce(attributes, run.iter().map(nlri), out);
            } else if gone {
                writer.withdraw(run.iter().map(nlri), out);
            }
        }
    }
}
