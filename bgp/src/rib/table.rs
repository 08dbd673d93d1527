//! The prefixes of one family with their paths, and who is still to hear of changes.
//!
//! A prefix has a node with a number that stays while it has paths or somebody has been told of
//! it; what is known per prefix elsewhere (sent routes, marks) is an array by that number.

use super::attributes::{AttrId, AttributeSets};
use super::decide::Context;
use super::group::Group;
use super::next_hop::NextHops;
use super::path::{OURS, Path, Paths, Source};
use super::peer::Peer;
use crate::family::Family;
use crate::wire::nlri::Prefix;
use ahash::RandomState;
use hashbrown::HashTable;

/// What the tables of both families share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) sets: AttributeSets,
    pub(super) hops: NextHops,
    pub(super) peers: Vec<Option<Peer>>,
}

impl Core {
    pub(super) fn context(&self) -> Context<'_> {
        Context { sets: &self.sets, hops: &self.hops, peers: &self.peers }
    }

    pub(super) fn peer(&self, source: Source) -> Option<&Peer> {
        self.peers.get(usize::from(source))?.as_ref()
    }

    pub(super) fn peer_mut(&mut self, source: Source) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(source))?.as_mut()
    }

    /// True for a path that is there: our own, or of a peer that has not gone since.
    #[inline]
    pub(super) fn counts(&self, family: Family, path: &Path) -> bool {
        path.source == OURS || self.peer(path.source).is_some_and(|peer| peer.has(family, path))
    }

    pub(super) fn release(&mut self, id: AttrId) {
        self.sets.release(id, &mut self.hops);
    }

    /// A path that is gone: its sets and its peer's numbers.
    pub(super) fn forget(&mut self, path: &Path) {
        self.release(path.received);
        self.release(path.taken);
        if let Some(peer) = self.peer_mut(path.source) {
            peer.counts.received -= 1;
            peer.counts.accepted -= u64::from(path.taken != AttrId::NONE);
        }
    }
}

/// Nodes that somebody is to look at, each once.
#[derive(Debug, Default)]
pub(super) struct Marks {
    bits: Vec<u64>,
    queue: std::collections::VecDeque<u32>,
}

impl Marks {
    #[inline]
    pub(super) fn mark(&mut self, node: u32) {
        let (word, bit) = (node as usize / 64, 1u64 << (node % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.queue.push_back(node);
        }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        let node = self.queue.pop_front()?;
        self.bits[node as usize / 64] &= !(1u64 << (node % 64));
        if self.queue.is_empty() && self.queue.capacity() > 1 << 16 {
            self.queue = std::collections::VecDeque::new();
        }
        Some(node)
    }

    pub(super) fn contains(&self, node: u32) -> bool {
        let word = self.bits.get(node as usize / 64).copied().unwrap_or(0);
        word & (1 << (node % 64)) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.queue.iter().copied()
    }
}

/// A prefix.
#[derive(Debug)]
pub(super) struct Node<P> {
    pub(super) prefix: P,
    /// So many of the paths, from the first, are used.
    pub(super) used: u8,
    pub(super) paths: Paths,
}

impl<P> Node<P> {
    /// The best path.
    #[inline]
    pub(super) fn best(&self) -> Option<&Path> {
        if self.used == 0 { None } else { self.paths.as_slice().first() }
    }
}

impl<P: Prefix> Node<P> {
    /// All paths that could be used, the best first.
    pub(super) fn eligible(&self, core: &Core) -> Vec<Path> {
        let paths = self.paths.as_slice();
        let counts = |path: &Path| path.taken != AttrId::NONE && core.counts(P::FAMILY, path);
        let ranked = core.context().ranked((paths, usize::from(self.used)), counts);
        ranked.into_iter().map(|at| paths[at]).collect()
    }
}

/// All prefixes of one family.
#[derive(Debug)]
pub(super) struct Table<P> {
    pub(super) nodes: Vec<Node<P>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// Those that the FIB is to hear of.
    pub(super) for_fib: Marks,
    pub(super) groups: Vec<Option<Group<P>>>,
    /// Some group is or was told of all paths, so that more changes matter than those of the best.
    pub(super) all_paths: bool,
    /// Group and place in it of each peer.
    pub(super) places: Vec<Option<(usize, usize)>>,
    /// Nodes that have lost their last path.
    vacant: Marks,
    sweep_at: usize,
    /// Nodes that the sweep has not seen since it was last asked for.
    pub(super) sweep_left: usize,
    /// Those of them whose next hops may have come or gone.
    sweep_hops: usize,
    /// How often the sweep has come by the end.
    pub(super) rounds: u64,
}

impl<P: Prefix> Table<P> {
    pub(super) fn new() -> Table<P> {
        Table {
            nodes: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            for_fib: Marks::default(),
            groups: Vec::new(),
            all_paths: false,
            places: Vec::new(),
            vacant: Marks::default(),
            sweep_at: 0,
            sweep_left: 0,
            sweep_hops: 0,
            rounds: 0,
        }
    }

    #[inline]
    pub(super) fn find(&self, prefix: P) -> Option<u32> {
        let hash = self.hasher.hash_one(prefix);
        self.index.find(hash, |at| self.nodes[*at as usize].prefix == prefix).copied()
    }

    /// Prefixes with paths.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn find_or_add(&mut self, prefix: P) -> u32 {
        let Table { nodes, free, index, hasher, sweep_left, sweep_hops, .. } = self;
        let hash = hasher.hash_one(prefix);
        if let Some(known) = index.find(hash, |at| nodes[*at as usize].prefix == prefix) {
            return *known;
        }
        let node = Node { prefix, used: 0, paths: Paths::None };
        let at = match free.pop() {
            Some(at) => {
                nodes[at as usize] = node;
                at
            }
            None => {
                nodes.push(node);
                // The sweep will come by here, and must not end one short of where it began.
                *sweep_left += usize::from(*sweep_left > 0);
                *sweep_hops += usize::from(*sweep_hops > 0);
                (nodes.len() - 1) as u32
            }
        };
        index.insert_unique(hash, at, |at| hasher.hash_one(nodes[*at as usize].prefix));
        at
    }

    /// Adds a path or changes it; the path owns its references to its sets.
    pub(super) fn put(&mut self, core: &mut Core, prefix: P, path: Path) {
        let at = self.find_or_add(prefix);
        let node = &mut self.nodes[at as usize];
        let before = node.best().copied();
        if let Some(peer) = core.peer_mut(path.source) {
            peer.counts.received += 1;
            peer.counts.accepted += u64::from(path.taken != AttrId::NONE);
        }
        let old = node.paths.put(path);
        let is_same = |old: &Path| old.taken == path.taken && core.counts(P::FAMILY, old);
        if !old.as_ref().is_some_and(is_same) {
            self.paths_change(at);
        }
        if let Some(old) = old {
            core.forget(&old);
        }
        self.decide(core, at, before);
    }

    /// Takes a path out.
    pub(super) fn withdraw(&mut self, core: &mut Core, prefix: P, source: Source, path_id: u32) {
        let Some(at) = self.find(prefix) else { return };
        let node = &mut self.nodes[at as usize];
        let before = node.best().copied();
        let is_it = |path: &Path| (path.source, path.path_id) == (source, path_id);
        let mut any = false;
        node.paths.remove(is_it, |path| {
            core.forget(&path);
            any = true;
        });
        if any {
            self.paths_change(at);
        }
        self.decide(core, at, before);
    }

    /// A path has come or gone or is another one; [`Table::decide`] is to be called too.
    fn paths_change(&mut self, at: u32) {
        if self.all_paths {
            let groups = self.groups.iter_mut().flatten();
            let hear = groups.filter(|group| group.key.sends_all_paths());
            hear.for_each(|group| group.mark(at));
        }
    }

    /// Chooses anew. `before` is what was best; it tells whether anybody must hear of it.
    fn decide(&mut self, core: &mut Core, at: u32, before: Option<Path>) {
        let node = &mut self.nodes[at as usize];
        let had = node.used;
        for path in node.paths.as_slice() {
            let hop = core.sets.summary(path.taken).next_hop;
            core.hops.wait(hop, P::FAMILY, at);
        }
        let core = &*core;
        let counts = |path: &Path| path.taken != AttrId::NONE && core.counts(P::FAMILY, path);
        node.used = match node.paths.as_mut_slice() {
            [] => {
                self.vacant.mark(at);
                0
            }
            [one] => {
                let hop = core.sets.summary(one.taken).next_hop;
                u8::from(counts(one) && core.hops.metric(hop).is_some())
            }
            many => {
                let best = core.context().best(many, counts);
                let chosen: Vec<Path> = best.iter().map(|at| many[*at]).collect();
                let others = (0..many.len()).filter(|at| !best.contains(at));
                let others: Vec<Path> = others.map(|at| many[at]).collect();
                many.iter_mut()
                    .zip(chosen.iter().chain(&others))
                    .for_each(|(at, path)| *at = *path);
                u8::try_from(chosen.len()).unwrap_or(u8::MAX)
            }
        };
        let same = |a: &Path, b: &Path| {
            (a.taken, a.source, a.path_id, a.elevated) == (b.taken, b.source, b.path_id, b.elevated)
        };
        let unchanged = match (&before, node.best()) {
            (None, None) => true,
            (Some(before), Some(after)) => same(before, after),
            _ => false,
        };
        if !unchanged || had > 1 || node.used > 1 {
            self.for_fib.mark(at);
        }
        if !unchanged {
            self.groups.iter_mut().flatten().for_each(|group| group.mark(at));
        }
    }

    /// Decides a node anew, after something that paths refer to has changed.
    pub(super) fn decide_again(&mut self, core: &mut Core, at: u32) {
        if let Some(node) = self.nodes.get(at as usize) {
            let before = node.best().copied();
            self.paths_change(at);
            self.decide(core, at, before);
        }
    }

    /// Has every node looked at again in the background.
    pub(super) fn ask_for_sweep(&mut self) {
        self.sweep_left = self.nodes.len();
    }

    /// The same, after next hops have come or gone.
    pub(super) fn ask_for_hop_sweep(&mut self) {
        self.ask_for_sweep();
        self.sweep_hops = self.nodes.len();
    }

    /// Looks at up to `budget` nodes: paths that no longer count go, what peers with a new import
    /// policy have sent is judged again by `judge`, and all is decided anew. Answers how many
    /// nodes it has seen.
    pub(super) fn sweep(
        &mut self,
        core: &mut Core,
        budget: usize,
        mut judge: impl FnMut(&mut Core, P, &mut Path),
    ) -> usize {
        let steps = budget.min(self.sweep_left).min(self.nodes.len());
        for _ in 0..steps {
            if self.sweep_at >= self.nodes.len() {
                self.sweep_at = 0;
                self.rounds += 1;
            }
            let at = self.sweep_at;
            let node = &mut self.nodes[at];
            let before = node.best().copied();
            let dead = |path: &Path| !core.counts(P::FAMILY, path);
            let mut gone = Vec::new();
            if node.paths.as_slice().iter().any(dead) {
                node.paths.remove(dead, |path| gone.push(path));
            }
            gone.iter().for_each(|path| core.forget(path));
            let mut other = !gone.is_empty() || self.sweep_hops > 0;
            for path in node.paths.as_mut_slice() {
                let taken = path.taken;
                judge(core, node.prefix, path);
                other |= path.taken != taken;
            }
            if other {
                self.paths_change(at as u32);
            }
            let node = &self.nodes[at];
            if !node.paths.as_slice().is_empty() || !gone.is_empty() {
                self.decide(core, at as u32, before);
            }
            self.sweep_at += 1;
            self.sweep_hops = self.sweep_hops.saturating_sub(1);
        }
        self.sweep_left = if self.nodes.is_empty() { 0 } else { self.sweep_left - steps };
        steps
    }

    /// Gives places of nodes free that have no path and of which nobody remembers anything.
    pub(super) fn free_vacant(&mut self, budget: usize) {
        let mut again = Vec::new();
        for _ in 0..budget {
            let Some(at) = self.vacant.take() else { break };
            let node = &self.nodes[at as usize];
            if !node.paths.as_slice().is_empty() {
                continue;
            }
            let remembered = |group: &Group<P>| group.remembers(at);
            if self.for_fib.contains(at) || self.groups.iter().flatten().any(remembered) {
                again.push(at);
                continue;
            }
            let hash = self.hasher.hash_one(node.prefix);
            if let Ok(place) = self.index.find_entry(hash, |known| *known == at) {
                place.remove();
                self.free.push(at);
                self.groups.iter_mut().flatten().for_each(|group| group.adj_out.forget(at));
            }
        }
        again.into_iter().for_each(|at| self.vacant.mark(at));
    }
}
