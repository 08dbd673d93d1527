//! An update group: peers that are to hear the same.
//!
//! A group decides and encodes once for all its members. What it has told is one number per
//! prefix (with ADD-PATH: per path), not one per peer and prefix. Encoded messages lie in a log
//! that each member reads at its own pace; a member too far behind gets a list of prefixes
//! instead, of which it will hear the newest state.

use super::adj_out::{AdjOut, MAX_PATHS, Told, ToldPath};
use super::log::{Change, Chunk, Writer};
use super::member::Member;
use super::table::{Core, Marks, Node};
use super::verdicts::Verdicts;
use super::{NextHopMode, OwnRoutes};
use crate::family::Family;
use crate::policy::Policy;
use crate::wire::Negotiated;
use crate::wire::nlri::Prefix;
use ipnet::IpNet;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Bytes of the log from which on the slowest must not hold up the others.
pub(super) const LOG_LIMIT: usize = 4 << 20;

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

impl Key {
    /// The members are told of all paths (RFC 7911), not of the best one alone.
    pub(super) fn sends_all_paths(&self) -> bool {
        self.agreed.add_path_tx.contains(self.family)
    }
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Group<P> {
    pub(super) key: Key,
    pub(super) members: Vec<Member>,
    pub(super) adj_out: AdjOut,
    pub(super) log: VecDeque<Chunk>,
    /// Number of the first chunk in the log.
    pub(super) log_start: u64,
    log_bytes: usize,
    marks: Marks,
    /// The next node of the first walk over the table; `None` once it is done.
    pub(super) first_walk: Option<u32>,
    verdicts: Verdicts,
    /// Paths of the prefix that is looked at.
    paths: Vec<ToldPath>,
    family: std::marker::PhantomData<P>,
}

impl<P: Prefix + Into<IpNet>> Group<P> {
    pub(super) fn new(key: Key) -> Group<P> {
        Group {
            adj_out: AdjOut::new(key.sends_all_paths()),
            key,
            members: Vec::new(),
            log: VecDeque::new(),
            log_start: 0,
            log_bytes: 0,
            marks: Marks::default(),
            first_walk: Some(0),
            verdicts: Verdicts::default(),
            paths: Vec::new(),
            family: std::marker::PhantomData,
        }
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

    /// Judges up to `budget` paths anew and writes down what is to be told. Answers how many.
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
            let at = &nodes[node as usize];
            steps += match self.key.sends_all_paths() {
                false => self.judge_best(core, own, (node, at), &mut changes),
                true => self.judge_all(core, own, (node, at), &mut changes),
            };
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

    /// Answers how many paths it has looked at.
    fn judge_best(
        &mut self,
        core: &mut Core,
        own: &OwnRoutes,
        (node, at): (u32, &Node<P>),
        changes: &mut Vec<Change>,
    ) -> usize {
        let judge = |best| self.verdicts.judge(&self.key, core, own, (at.prefix.into(), best));
        let told = at.best().map_or(Told::NOTHING, judge);
        self.note(core, (node, 0), ToldPath { told, received_id: 0 }, changes);
        1
    }

    /// The same for members that hear of all paths.
    fn judge_all(
        &mut self,
        core: &mut Core,
        own: &OwnRoutes,
        (node, at): (u32, &Node<P>),
        changes: &mut Vec<Change>,
    ) -> usize {
        let eligible = at.eligible(core);
        let mut paths = std::mem::take(&mut self.paths);
        paths.clear();
        for path in &eligible {
            let route = (at.prefix.into(), path);
            let told = self.verdicts.judge(&self.key, core, own, route);
            if told != Told::NOTHING {
                paths.push(ToldPath { told, received_id: path.path_id });
            }
            if paths.len() == MAX_PATHS {
                break;
            }
        }
        self.adj_out.arrange(node, &mut paths);
        for place in 0..paths.len().max(self.adj_out.places(node)) {
            let new = paths.get(place).copied().unwrap_or(ToldPath::NOTHING);
            self.note(core, (node, place), new, changes);
        }
        self.paths = paths;
        eligible.len().max(1)
    }

    /// Notes what a place is told of from now on.
    fn note(
        &mut self,
        core: &mut Core,
        (node, place): (u32, usize),
        new: ToldPath,
        changes: &mut Vec<Change>,
    ) {
        let old = self.adj_out.get(node, place);
        if old == new.told {
            // The same words may be about another path of the same peer.
            if new.told != Told::NOTHING {
                self.adj_out.set(node, place, new);
            }
            return core.release(new.told.attributes);
        }
        self.adj_out.set(node, place, new);
        core.release(old.attributes);
        changes.push(Change { node, place, old, new: new.told });
    }

    fn write(&mut self, core: &Core, nodes: &[Node<P>], changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let is_member = |source| self.members.iter().any(|member| member.peer == source);
        let chunk = self.writer(core, nodes).chunk(changes, is_member);
        self.log_bytes += chunk.bytes;
        self.log.push_back(chunk);
    }

    pub(super) fn writer<'a>(&'a self, core: &'a Core, nodes: &'a [Node<P>]) -> Writer<'a, P> {
        Writer { core, nodes, adj_out: &self.adj_out, agreed: &self.key.agreed }
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
        self.verdicts.clear(core);
        self.adj_out.clear(|told| core.release(told.attributes));
        self.log.clear();
    }

    /// Another policy for all members: everything is judged anew.
    pub(super) fn set_policy(&mut self, core: &mut Core, policy: Arc<Policy>) {
        self.verdicts.clear(core);
        self.key.policy = policy;
        self.first_walk = Some(0);
    }
}

impl<P> Group<P> {
    /// What the members hear of this prefix may be something else now.
    #[inline]
    pub(super) fn mark(&mut self, node: u32) {
        // The first walk will come to it.
        if self.first_walk.is_none_or(|at| node < at) {
            self.marks.mark(node);
        }
    }

    /// True while the number of the node must not be used for another prefix.
    pub(super) fn remembers(&self, node: u32) -> bool {
        self.adj_out.is_told(node)
            || self.marks.contains(node)
            || self.members.iter().any(|member| member.owed.contains(node))
            || !self.log.is_empty()
    }
}
