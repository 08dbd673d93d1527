//! What a group has to say, encoded once for all members that are to hear it.
//!
//! A chunk is what one flush has made. Its parts are read in their order, each only by those whom
//! it is for: peers hear nothing of routes that come from themselves.

use super::adj_out::{AdjOut, Told};
use super::attributes::AttrId;
use super::path::Source;
use super::table::{Core, Node};
use crate::wire::Negotiated;
use crate::wire::nlri::{Nlri, Prefix};
use crate::wire::pack::{encode_update, encode_withdrawal};

/// A part of the log is not much longer, in bytes.
const PART_BYTES: usize = 32 << 10;

/// Who reads a part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Except(Source),
    Only(Source),
}

impl Audience {
    pub(super) fn admits(self, source: Source) -> bool {
        match self {
            Audience::Except(other) => source != other,
            Audience::Only(one) => source == one,
        }
    }
}

/// Messages for one audience.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) audience: Audience,
    pub(super) bytes: Vec<u8>,
}

/// What one flush has made.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) parts: Vec<Part>,
    pub(super) nodes: Vec<u32>,
    pub(super) bytes: usize,
}

/// A change that is to be told.
pub(super) struct Change {
    pub(super) node: u32,
    pub(super) place: usize,
    pub(super) old: Told,
    pub(super) new: Told,
}

/// What encoding needs to know.
pub(super) struct Writer<'a, P> {
    pub(super) core: &'a Core,
    pub(super) nodes: &'a [Node<P>],
    pub(super) adj_out: &'a AdjOut,
    pub(super) agreed: &'a Negotiated,
}

impl<P: Prefix> Writer<'_, P> {
    pub(super) fn nlri(&self, node: u32, place: usize) -> Nlri<P> {
        let path_id = self.adj_out.path_id(place);
        Nlri { path_id, prefix: self.nodes[node as usize].prefix }
    }

    /// Encodes changes, withdrawals first, routes with the same attributes together.
    pub(super) fn chunk(
        &self,
        mut changes: Vec<Change>,
        is_member: impl Fn(Source) -> bool,
    ) -> Chunk {
        changes.sort_unstable_by_key(|change| {
            let (new, old) = (change.new, change.old);
            (new.attributes, new.source, old.source, change.node, change.place)
        });
        let mut chunk = Chunk { parts: Vec::new(), nodes: Vec::new(), bytes: 0 };
        chunk.nodes.extend(changes.iter().map(|change| change.node));
        let nlri = |change: &Change| self.nlri(change.node, change.place);
        let gone = changes.partition_point(|change| change.new == Told::NOTHING);
        let (gone, rest) = changes.split_at(gone);
        for run in gone.chunk_by(|a, b| a.old.source == b.old.source) {
            let out = chunk.part(Audience::Except(run[0].old.source));
            self.withdraw(run.iter().map(nlri), out);
        }
        for run in rest.chunk_by(|a, b| a.new == b.new) {
            let new = run[0].new;
            // It has heard of the route before, and now the route is its own.
            let heard =
                |change: &&Change| change.old != Told::NOTHING && change.old.source != new.source;
            if is_member(new.source) && run.iter().any(|change| heard(&change)) {
                let out = chunk.part(Audience::Only(new.source));
                self.withdraw(run.iter().filter(heard).map(nlri), out);
            }
            let out = chunk.part(Audience::Except(new.source));
            self.announce(new.attributes, run.iter().map(nlri), out);
        }
        chunk.bytes = chunk.parts.iter().map(|part| part.bytes.len()).sum();
        chunk
    }

    pub(super) fn withdraw(&self, routes: impl Iterator<Item = Nlri<P>>, out: &mut Vec<u8>) {
        // Fails only when a message has no room for a single prefix.
        let _ = encode_withdrawal(routes, self.agreed, out);
    }

    /// Announces routes; those whose attributes do not fit into a message are withdrawn instead, so
    /// that the session lives on.
    pub(super) fn announce(
        &self,
        attributes: AttrId,
        routes: impl Iterator<Item = Nlri<P>> + Clone,
        out: &mut Vec<u8>,
    ) {
        let attributes = self.core.sets.attributes(attributes);
        let Some(next_hop) = attributes.next_hop else { return };
        if encode_update(&attributes, next_hop, routes.clone(), self.agreed, out).is_err() {
            self.withdraw(routes, out);
        }
    }
}

impl Chunk {
    /// Where messages for this audience go.
    fn part(&mut self, audience: Audience) -> &mut Vec<u8> {
        let fits = |part: &Part| part.audience == audience && part.bytes.len() < PART_BYTES;
        if !self.parts.last().is_some_and(fits) {
            self.parts.push(Part { audience, bytes: Vec::new() });
        }
        let last = self.parts.len() - 1;
        &mut self.parts[last].bytes
    }
}
