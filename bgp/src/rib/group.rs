//! An update group: peers that are to hear the same.
//!
//! A group decides and encodes once for all its members. What it has told is one number per
//! prefix, not one per peer and prefix. Encoded messages lie in a log that each member reads at
//! its own pace; a member too far behind gets a list of prefixes instead, of which it will hear
//! the newest state. Peers hear nothing of routes that come from themselves: each part of the log
//! says for whom it is.

use super::attributes::AttrId;
use super::export::{From, attributes_for, may_pass};
use super::member::Member;
use super::path::Source;
use super::table::{Core, Marks, Node};
use super::{NextHopMode, OwnRoutes};
use crate::family::Family;
use crate::policy::{Policy, Verdict};
use crate::wire::Negotiated;
use crate::wire::nlri::{Nlri, Prefix};
use crate::wire::pack::{encode_update, encode_withdrawal};
use ahash::AHashMap;
use ipnet::IpNet;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Bytes of the log from which on the slowest must not hold up the others.
pub(super) const LOG_LIMIT: usize = 4 << 20;
/// Verdicts that a group remembers.
const MEMO_LIMIT: usize = 1 << 18;
/// A part of the log is not much longer, in bytes.
const PART_BYTES: usize = 32 << 10;

/// What makes peers hear the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) family: Family,
    pub(super) ibgp: bool,
    pub(super) local_asn: u32,
    /// Members are clients of this cluster.
    pub(super) cluster_id: Option<Ipv4Addr>,
    /// The cluster that is written down when routes of internal peers are passed on to others.
    pub(super) reflector_id: Option<Ipv4Addr>,
    pub(super) next_hop: NextHopMode,
    pub(super) local: IpAddr,
    pub(super) policy: Arc<Policy>,
    /// The session's properties, without what does not change how routes are written.
    pub(super) agreed: Negotiated,
}

/// What the members have been told of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) attributes: AttrId,
    /// The member that has not been told, since the route is its own.
    pub(super) source: Source,
}

impl Told {
    pub(super) const NOTHING: Told = Told { attributes: AttrId::NONE, source: 0 };
}

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
struct Change {
    node: u32,
    old: Told,
    new: Told,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Group<P> {
    pub(super) key: Key,
    pub(super) members: Vec<Member>,
    pub(super) told: Vec<Told>,
    pub(super) log: VecDeque<Chunk>,
    /// Number of the first chunk in the log.
    pub(super) log_start: u64,
    log_bytes: usize,
    marks: Marks,
    /// The next node of the first walk over the table; `None` once it is done.
    pub(super) first_walk: Option<u32>,
    memo: AHashMap<(AttrId, From, u64), AttrId>,
    verdict: Verdict,
    family: std::marker::PhantomData<P>,
}

impl<P: Prefix + Into<IpNet>> Group<P> {
    pub(super) fn new(key: Key) -> Group<P> {
        Group {
            key,
            members: Vec::new(),
            told: Vec::new(),
            log: VecDeque::new(),
            log_start: 0,
            log_bytes: 0,
            marks: Marks::default(),
            first_walk: Some(0),
            memo: AHashMap::new(),
            verdict: Verdict::default(),
            family: std::marker::PhantomData,
        }
    }

    pub(super) fn told(&self, node: u32) -> Told {
        self.told.get(node as usize).copied().unwrap_or(Told::NOTHING)
    }

    /// The number of the chunk that comes next.
    pub(super) fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// True while changes wait that could be told now.
    pub(super) fn has_work(&self) -> bool {
        (!self.marks.is_empty() || self.first_walk.is_some()) && !self.is_held_up()
    }

    /// All members have enough to read for now.
    fn is_held_up(&self) -> bool {
        let end = self.log_end();
        self.log_bytes >= LOG_LIMIT && self.members.iter().all(|member| member.at < end)
    }

    /// Judges up to `budget` prefixes anew and writes down what is to be told. Answers how many.
    pub(super) fn flush(
        &mut self,
        core: &mut Core,
        own: &OwnRoutes,
        nodes: &[Node<P>],
        budget: usize,
    ) -> usize {
        if self.is_held_up() {
            return 0;
        }
        self.drop_oldest();
        let mut changes = Vec::new();
        let mut steps = 0;
        while steps < budget {
            let Some(node) = self.next_node(nodes.len()) else { break };
            steps += 1;
            let old = self.told(node);
            let new = self.judge(core, own, &nodes[node as usize]);
            if old == new {
                core.release(new.attributes);
                continue;
            }
            self.note_told(core, node, new);
            changes.push(Change { node, old, new });
        }
        self.write(core, nodes, changes);
        self.drop_read();
        steps
    }

    fn next_node(&mut self, count: usize) -> Option<u32> {
        if let Some(at) = self.first_walk {
            if (at as usize) < count {
                self.first_walk = Some(at + 1);
                return Some(at);
            }
            self.first_walk = None;
            let end = self.log_end() + 1;
            self.members.iter_mut().for_each(|member| member.first_walk_ended(end));
        }
        self.marks.take()
    }

    /// What is to be told of a prefix now; the answer's attributes have one more user.
    fn judge(&mut self, core: &mut Core, own: &OwnRoutes, node: &Node<P>) -> Told {
        let Some(best) = node.best().copied() else { return Told::NOTHING };
        let Some(from) = From::of(core, &best).filter(|from| may_pass(&self.key, *from)) else {
            return Told::NOTHING;
        };
        let prefix: IpNet = node.prefix.into();
        // Reflected routes differ by who brought them only where that is written down.
        let class = match from {
            From::Internal { .. } if !self.key.ibgp => Some(From::External),
            From::Ours => None,
            from => Some(from),
        };
        let key = class
            .zip(self.key.policy.prefix_class(prefix))
            .map(|(class, prefixes)| (best.taken, class, prefixes));
        let known = key.and_then(|key| self.memo.get(&key).copied());
        let attributes = match known {
            Some(known) => {
                core.sets.retain(known);
                known
            }
            None => {
                let route = (prefix, best.taken, from);
                let made = attributes_for(&self.key, core, own, route, &mut self.verdict);
                let made =
                    made.map_or(AttrId::NONE, |made| core.sets.intern(&made, &mut core.hops));
                if let Some(key) = key {
                    self.remember(core, key, made);
                }
                made
            }
        };
        match attributes {
            AttrId::NONE => Told::NOTHING,
            attributes => Told { attributes, source: best.source },
        }
    }

    fn remember(&mut self, core: &mut Core, key: (AttrId, From, u64), made: AttrId) {
        if self.memo.len() >= MEMO_LIMIT {
            self.forget_verdicts(core);
        }
        core.sets.retain(key.0);
        core.sets.retain(made);
        self.memo.insert(key, made);
    }

    fn forget_verdicts(&mut self, core: &mut Core) {
        for ((taken, ..), made) in self.memo.drain() {
            core.release(taken);
            core.release(made);
        }
    }

    /// Encodes changes, withdrawals first, routes with the same attributes together.
    fn write(&mut self, core: &Core, nodes: &[Node<P>], mut changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        changes.sort_unstable_by_key(|change| {
            (change.new.attributes, change.new.source, change.old.source, change.node)
        });
        let mut chunk = Chunk { parts: Vec::new(), nodes: Vec::new(), bytes: 0 };
        chunk.nodes.extend(changes.iter().map(|change| change.node));
        let prefix = |change: &Change| Nlri::new(nodes[change.node as usize].prefix);
        // No longer to be heard at all, or by the one whose own route it is now.
        let is_member = |source: Source| self.members.iter().any(|member| member.peer == source);
        let agreed = self.key.agreed;
        let gone = changes.partition_point(|change| change.new == Told::NOTHING);
        let (gone, rest) = changes.split_at(gone);
        for run in gone.chunk_by(|a, b| a.old.source == b.old.source) {
            let out = chunk.part(Audience::Except(run[0].old.source));
            let _ = encode_withdrawal(run.iter().map(prefix), &agreed, out);
        }
        for run in rest.chunk_by(|a, b| a.new == b.new) {
            let new = run[0].new;
            let heard =
                |change: &&Change| change.old != Told::NOTHING && change.old.source != new.source;
            if is_member(new.source) && run.iter().any(|change| heard(&change)) {
                let out = chunk.part(Audience::Only(new.source));
                let _ = encode_withdrawal(run.iter().filter(heard).map(prefix), &agreed, out);
            }
            let out = chunk.part(Audience::Except(new.source));
            announce::<P>(core, new.attributes, &agreed, run.iter().map(prefix), out);
        }
        chunk.bytes = chunk.parts.iter().map(|part| part.bytes.len()).sum();
        self.log_bytes += chunk.bytes;
        self.log.push_back(chunk);
    }

    fn note_told(&mut self, core: &mut Core, node: u32, new: Told) {
        let at = node as usize;
        if at >= self.told.len() {
            self.told.resize(at + 1, Told::NOTHING);
        }
        let old = std::mem::replace(&mut self.told[at], new);
        core.release(old.attributes);
    }

    /// Chunks that all have read go; so do the oldest when somebody waits for more than the log
    /// may hold: whoever has not read them gets a list.
    fn drop_oldest(&mut self) {
        let end = self.log_end();
        while self.log_bytes > LOG_LIMIT && self.members.iter().any(|member| member.at == end) {
            let Some(chunk) = self.log.pop_front() else { return };
            let number = self.log_start;
            for member in self.members.iter_mut().filter(|member| member.at <= number) {
                chunk.nodes.iter().for_each(|node| member.owed.mark(*node));
                (member.at, member.part) = (number + 1, 0);
            }
            self.log_start += 1;
            self.log_bytes -= chunk.bytes;
        }
    }

    /// Drops what every member has read.
    pub(super) fn drop_read(&mut self) {
        let end = self.log_end();
        let read = self.members.iter().map(|member| member.at).min().unwrap_or(end);
        while self.log_start < read {
            let Some(chunk) = self.log.pop_front() else { return };
            self.log_start += 1;
            self.log_bytes -= chunk.bytes;
        }
    }

    /// Gives back all that the group refers to.
    pub(super) fn clear(&mut self, core: &mut Core) {
        self.forget_verdicts(core);
        self.told.drain(..).for_each(|told| core.release(told.attributes));
        self.log.clear();
    }

    /// Another policy for all members: everything is judged anew.
    pub(super) fn set_policy(&mut self, core: &mut Core, policy: Arc<Policy>) {
        self.forget_verdicts(core);
        self.key.policy = policy;
        self.first_walk = Some(0);
    }
}

impl<P> Group<P> {
    /// The best path of this prefix is another one.
    #[inline]
    pub(super) fn mark(&mut self, node: u32) {
        // The first walk will come to it.
        if self.first_walk.is_none_or(|at| node < at) {
            self.marks.mark(node);
        }
    }

    /// True while the prefix's place must not be used for another one.
    pub(super) fn remembers(&self, node: u32) -> bool {
        let told = self.told.get(node as usize).is_some_and(|told| *told != Told::NOTHING);
        told || self.marks.contains(node)
            || self.members.iter().any(|member| member.owed.contains(node))
            || !self.log.is_empty()
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

/// Announces prefixes; those whose attributes do not fit into a message are withdrawn instead, so
/// that the session lives on.
pub(super) fn announce<P: Prefix>(
    core: &Core,
    attributes: AttrId,
    agreed: &Negotiated,
    prefixes: impl Iterator<Item = Nlri<P>> + Clone,
    out: &mut Vec<u8>,
) {
    let attributes = core.sets.attributes(attributes);
    let Some(next_hop) = attributes.next_hop else { return };
    if encode_update(&attributes, next_hop, prefixes.clone(), agreed, out).is_err() {
        let _ = encode_withdrawal(prefixes, agreed, out);
    }
}
