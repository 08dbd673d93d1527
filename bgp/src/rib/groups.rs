//! The groups of one table: which one a peer belongs to, and how it comes to another one.

use super::OwnRoutes;
use super::group::{Group, Key};
use super::member::Member;
use super::path::Source;
use super::table::{Core, Marks, Table};
use crate::family::FamilySet;
use crate::wire::nlri::Prefix;
use ipnet::IpNet;
use std::net::Ipv4Addr;
use std::sync::Arc;

impl<P: Prefix + Into<IpNet>> Table<P> {
    fn key(core: &Core, source: Source, reflector_id: Option<Ipv4Addr>) -> Option<Key> {
        let peer = core.peer(source)?;
        let live = peer.live?;
        if !live.agreed.families.contains(P::FAMILY) {
            return None;
        }
        let options = &peer.options;
        let families = FamilySet::EMPTY.with(P::FAMILY);
        let agreed = crate::wire::Negotiated {
            families,
            add_path_rx: FamilySet::EMPTY,
            add_path_tx: live.agreed.add_path_tx.intersection(families),
            max_rx: 0,
            route_refresh: false,
            enhanced_refresh: false,
            restart: None,
            ..live.agreed
        };
        Some(Key {
            family: P::FAMILY,
            ibgp: peer.is_ibgp(),
            local_asn: options.local_asn,
            cluster_id: options.client_of.filter(|_| peer.is_ibgp()),
            reflector_id: options.client_of.or(reflector_id),
            next_hop: options.next_hop,
            local: live.local,
            policy: Arc::clone(&options.export),
            agreed,
        })
    }

    fn group_for(&mut self, key: Key) -> usize {
        let same = |group: &Option<Group<P>>| group.as_ref().is_some_and(|one| one.key == key);
        let at = match self.groups.iter().position(same) {
            Some(at) => at,
            None => {
                let vacant = self.groups.iter().position(Option::is_none);
                let at = vacant.unwrap_or(self.groups.len());
                if at == self.groups.len() {
                    self.groups.push(None);
                }
                at
            }
        };
        self.all_paths |= key.sends_all_paths();
        self.groups[at].get_or_insert_with(|| Group::new(key));
        at
    }

    pub(super) fn join(&mut self, core: &Core, source: Source, reflector: Option<Ipv4Addr>) {
        let Some(key) = Self::key(core, source, reflector) else { return };
        let at = self.group_for(key);
        self.enter(at, source, |group| Member::new(source, group));
    }

    fn enter(&mut self, at: usize, source: Source, make: impl FnOnce(&Group<P>) -> Member) {
        let Some(group) = &mut self.groups[at] else { return };
        let member = make(group);
        group.members.push(member);
        let place = (at, group.members.len() - 1);
        if usize::from(source) >= self.places.len() {
            self.places.resize(usize::from(source) + 1, None);
        }
        self.places[usize::from(source)] = Some(place);
    }

    /// Its group, and its place among the members.
    fn place(&self, source: Source) -> Option<(usize, usize)> {
        self.places.get(usize::from(source)).copied().flatten()
    }

    pub(super) fn leave(&mut self, core: &mut Core, source: Source) {
        let Some((at, member)) = self.place(source) else { return };
        self.places[usize::from(source)] = None;
        if let Some(group) = &mut self.groups[at] {
            group.members.swap_remove(member);
            if let Some(moved) = group.members.get(member) {
                self.places[usize::from(moved.peer)] = Some((at, member));
            }
            if group.members.is_empty() {
                group.clear(core);
                self.groups[at] = None;
            } else {
                group.drop_read();
            }
        }
    }

    /// Moves a peer to the group that it belongs to now.
    pub(super) fn regroup(&mut self, core: &mut Core, source: Source, reflector: Option<Ipv4Addr>) {
        let Some((at, member)) = self.place(source) else { return };
        let Some(key) = Self::key(core, source, reflector) else { return };
        let Some(group) = &mut self.groups[at] else { return };
        if group.key == key {
            return;
        }
        let only_policy = Key { policy: Arc::clone(&key.policy), ..group.key.clone() } == key;
        if group.members.len() == 1 && only_policy {
            return group.set_policy(core, key.policy);
        }
        // Everything that it may have heard is owed to it anew.
        let mut owed = Marks::default();
        let told = (0..group.adj_out.nodes() as u32).filter(|node| group.adj_out.is_told(*node));
        told.for_each(|node| owed.mark(node));
        let unread = group.log.iter().flat_map(|chunk| &chunk.nodes);
        unread.for_each(|node| owed.mark(*node));
        let before = group.members[member].before();
        let unheard = group.members[member].owed.iter();
        unheard.for_each(|node| owed.mark(node));
        let places: Vec<(u32, usize)> = match key.sends_all_paths() {
            true => owed.iter().map(|node| (node, group.adj_out.places(node))).collect(),
            false => Vec::new(),
        };
        self.leave(core, source);
        let at = self.group_for(key);
        self.enter(at, source, |group| Member::moved(&before, group, owed));
        if let Some(group) = &mut self.groups[at] {
            places.into_iter().for_each(|(node, count)| group.adj_out.reserve(node, count));
        }
    }

    /// Another cluster is written down when routes are reflected to peers that are no clients.
    pub(super) fn change_reflector(&mut self, core: &mut Core, [old, new]: [Ipv4Addr; 2]) {
        let groups = self.groups.iter_mut().flatten();
        for group in groups.filter(|group| group.key.cluster_id.is_none()) {
            if group.key.reflector_id == Some(old) {
                group.key.reflector_id = Some(new);
                let policy = Arc::clone(&group.key.policy);
                group.set_policy(core, policy);
            }
        }
    }

    /// Every route is judged anew for every group.
    pub(super) fn judge_all(&mut self) {
        self.groups.iter_mut().flatten().for_each(|group| group.first_walk = Some(0));
    }

    pub(super) fn resend(&mut self, source: Source, enhanced: bool) {
        if let Some((at, member)) = self.place(source)
            && let Some(group) = &mut self.groups[at]
        {
            group.members[member].refresh(enhanced);
        }
    }

    pub(super) fn has_output(&self, source: Source) -> bool {
        self.place(source).is_some_and(|(at, member)| {
            self.groups[at].as_ref().is_some_and(|group| group.has_output(member))
        })
    }

    pub(super) fn fill(&mut self, core: &Core, source: Source, room: usize, out: &mut Vec<u8>) {
        let Some((at, member)) = self.place(source) else { return };
        if let Some(group) = &mut self.groups[at] {
            group.fill(core, &self.nodes, member, room, out);
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.groups.iter().flatten().any(|group| group.has_work())
    }

    pub(super) fn flush(&mut self, core: &mut Core, own: &OwnRoutes, budget: usize) -> usize {
        let Table { groups, nodes, .. } = self;
        let mut steps = 0;
        for group in groups.iter_mut().flatten() {
            steps += group.flush(core, own, nodes, budget.saturating_sub(steps));
        }
        steps
    }

    /// Has all hear of a prefix, though its path may look the same.
    pub(super) fn mark(&mut self, prefix: P) {
        let Some(at) = self.find(prefix) else { return };
        self.for_fib.mark(at);
        self.groups.iter_mut().flatten().for_each(|group| group.mark(at));
    }
}
