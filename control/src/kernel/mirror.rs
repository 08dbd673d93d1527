//! What the kernel knows, kept up to date by its events.
//!
//! IPv6 tells of multipath routes one way at a time, and no family tells of routes that go with an
//! address or a link. Where an event leaves doubt, [`Change::resync`] asks for a dump.

use super::message::{Replaces, Update};
use super::{Link, Neighbor, ROUTE_PROTOCOL, Route, RouteKind, Table};
use ahash::AHashMap;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most neighbours that are kept; the kernel's own limit (gc_thresh3) is lower by default.
pub const NEIGHBORS_MAX: usize = 1 << 20;

/// The kernel's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    links: BTreeMap<u32, Link>,
    /// Numbers of the links by their names: thousands of pods are looked up so.
    names: AHashMap<String, u32>,
    addresses: BTreeSet<(u32, IpNet)>,
    routes: BTreeMap<RouteKey, Route>,
    neighbors: AHashMap<(u32, IpAddr), Neighbor>,
}

/// What makes a route one. IPv6 has the same prefix and metric on many devices (`fe80::/64`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RouteKey {
    prefix: IpNet,
    table: Table,
    metric: u32,
    device: u32,
}

/// What an update, or several, changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Links, addresses or routes.
    pub topology: bool,
    /// Neighbours that became known, other, unknown, or failed.
    pub neighbors: Vec<(u32, IpAddr)>,
    /// The mirror may be wrong until it is dumped anew.
    pub resync: bool,
}

impl Change {
    /// True when nothing changed.
    pub fn is_empty(&self) -> bool {
        !self.topology && self.neighbors.is_empty() && !self.resync
    }

    /// Both changes.
    pub fn merge(&mut self, other: Change) {
        self.topology |= other.topology;
        self.resync |= other.resync;
        self.neighbors.extend(other.neighbors);
    }
}

fn key(route: &Route) -> RouteKey {
    let device = match (route.prefix, route.next_hops.as_slice()) {
        (IpNet::V6(_), [only]) => only.device,
        _ => 0,
    };
    RouteKey { prefix: route.prefix, table: route.table, metric: route.metric, device }
}

impl Mirror {
    /// Takes one update in.
    pub fn apply(&mut self, update: Update) -> Change {
        let mut change = Change::default();
        match update {
            Update::Link(link) => self.link(link, &mut change),
            Update::LinkGone(index) => {
                let gone = self.links.remove(&index);
                change.topology = gone.is_some();
                self.forget_name(gone.as_ref());
                self.addresses.retain(|(device, _)| *device != index);
                self.neighbors.retain(|(device, _), _| *device != index);
                change.resync = change.topology;
            }
            Update::Address(device, net) => change.topology = self.addresses.insert((device, net)),
            Update::AddressGone(device, net) => {
                change.topology = self.addresses.remove(&(device, net));
                change.resync = change.topology;
            }
            Update::Route(route, replaces) => self.route(route, replaces, &mut change),
            Update::RouteGone(route) => self.route_gone(&route, &mut change),
            Update::Neighbor(device, ip, state) => {
                let room = self.neighbors.len() < NEIGHBORS_MAX;
                let before = match room || self.neighbors.contains_key(&(device, ip)) {
                    true => self.neighbors.insert((device, ip), state),
                    false => None,
                };
                // A repeated failure is the answer to a repeated question.
                if before != Some(state) || state == Neighbor::Failed {
                    change.neighbors.push((device, ip));
                }
            }
            Update::NeighborGone(device, ip) => {
                if self.neighbors.remove(&(device, ip)).is_some() {
                    change.neighbors.push((device, ip));
                }
            }
        }
        change
    }

    fn link(&mut self, link: Link, change: &mut Change) {
        let before = self.links.insert(link.index, link.clone());
        self.forget_name(before.as_ref());
        self.names.insert(link.name.clone(), link.index);
        change.topology = before.as_ref() != Some(&link);
        // Routes of a link that goes down leave without an event.
        let was_up = before.is_some_and(|before| before.up);
        change.resync = was_up && !link.up;
    }

    /// Forgets the name of a link that is gone or renamed, unless another has taken it since.
    fn forget_name(&mut self, link: Option<&Link>) {
        if let Some(link) = link
            && self.names.get(&link.name) == Some(&link.index)
        {
            self.names.remove(&link.name);
        }
    }

    fn route(&mut self, route: Route, replaces: Replaces, change: &mut Change) {
        let key = key(&route);
        let same_rank = |other: &RouteKey| {
            (other.prefix, other.table, other.metric) == (key.prefix, key.table, key.metric)
        };
        let first = RouteKey { device: 0, ..key.clone() };
        let others = self.routes.range(first..).take_while(|(other, _)| same_rank(other));
        let others: Vec<RouteKey> = others.map(|(other, _)| other.clone()).collect();
        if !others.is_empty() && self.routes.get(&key) != Some(&route) {
            let by_hand = route.protocol != 2;
            let doubt = key.prefix.addr().is_ipv6() && by_hand;
            change.resync = doubt || replaces == Replaces::Beside;
        }
        if replaces == Replaces::Same && route.protocol == ROUTE_PROTOCOL {
            others.iter().for_each(|other| drop(self.routes.remove(other)));
            change.topology = true;
        }
        if replaces == Replaces::Beside && key.device == 0 && !others.is_empty() {
            return;
        }
        change.topology |= self.routes.get(&key) != Some(&route);
        self.routes.insert(key, route);
    }

    fn route_gone(&mut self, route: &Route, change: &mut Change) {
        let key = key(route);
        match self.routes.get(&key) {
            Some(known) if known.next_hops == route.next_hops && known.kind == route.kind => {
                self.routes.remove(&key);
                change.topology = true;
                // Another with the same prefix and metric may have stood behind it.
                change.resync = route.table == Table::Main && route.protocol != ROUTE_PROTOCOL;
            }
            Some(_) => change.resync = true,
            None => change.resync = key.prefix.addr().is_ipv6() && route.table == Table::Main,
        }
    }

    /// Puts a new dump in place of this state; the change between the two.
    pub fn replace(&mut self, new: Mirror) -> Change {
        let topology =
            self.links != new.links || self.addresses != new.addresses || self.routes != new.routes;
        let old = std::mem::replace(self, new);
        let mut neighbors: Vec<(u32, IpAddr)> = Vec::new();
        for (key, state) in &self.neighbors {
            if old.neighbors.get(key) != Some(state) {
                neighbors.push(*key);
            }
        }
        let gone = old.neighbors.keys().filter(|key| !self.neighbors.contains_key(key));
        neighbors.extend(gone);
        Change { topology, neighbors, resync: false }
    }

    /// All devices, by number.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// A device by its number.
    pub fn link_by_index(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// A device by its name.
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.get(self.names.get(name)?)
    }

    /// All addresses, with the number of their device and the prefix length of their link.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpNet)> {
        self.addresses.iter().copied()
    }

    /// The addresses of a device, with the prefix length of its link.
    pub fn addresses_of(&self, device: u32) -> impl Iterator<Item = IpNet> {
        let first = (device, IpNet::V4(Ipv4Net::default()));
        let own = self.addresses.range(first..).take_while(move |(other, _)| *other == device);
        own.map(|(_, net)| *net)
    }

    /// All routes.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// The routes that margay wrote.
    pub fn own_routes(&self) -> impl Iterator<Item = &Route> {
        self.routes().filter(|route| {
            route.protocol == ROUTE_PROTOCOL
                && route.table == Table::Main
                && route.kind != RouteKind::Local
        })
    }

    /// State of a neighbour.
    pub fn neighbor(&self, device: u32, ip: IpAddr) -> Option<Neighbor> {
        self.neighbors.get(&(device, ip)).copied()
    }

    /// All neighbours.
    pub fn neighbors(&self) -> impl Iterator<Item = (u32, IpAddr, Neighbor)> {
        self.neighbors.iter().map(|((device, ip), state)| (*device, *ip, *state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Update {
        Update::Link(Link {
            index,
            name: name.to_owned(),
            kind: String::new(),
            mac: None,
            mtu: 1500,
            up: true,
            running: true,
        })
    }

    #[test]
    fn addresses_are_found_by_device() {
        let mut mirror = Mirror::default();
        let nets = ["0.0.0.0/0", "10.0.0.1/8", "fe80::1/64"].map(|net| net.parse().unwrap());
        for (device, net) in [(1, nets[1]), (2, nets[0]), (2, nets[1]), (2, nets[2]), (3, nets[2])]
        {
            mirror.apply(Update::Address(device, net));
        }
        assert_eq!(mirror.addresses_of(2).collect::<Vec<_>>(), nets);
        assert_eq!(mirror.addresses_of(9).count(), 0);
    }

    #[test]
    fn names_follow_renaming_and_recreation() {
        let mut mirror = Mirror::default();
        let find = |mirror: &Mirror, name: &str| mirror.link_by_name(name).map(|link| link.index);
        mirror.apply(link(1, "a"));
        mirror.apply(link(1, "b"));
        assert_eq!((find(&mirror, "a"), find(&mirror, "b")), (None, Some(1)));
        mirror.apply(link(2, "b"));
        mirror.apply(Update::LinkGone(1));
        assert_eq!(find(&mirror, "b"), Some(2), "made anew before the end of the old was told");
        mirror.apply(Update::LinkGone(2));
        assert_eq!(mirror, Mirror::default());
    }
}
