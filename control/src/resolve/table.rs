//! Routes by prefix, with longest-prefix match for the recursive ones.

use super::tunnels::{Tunnel, through};
use super::{Hop, Origin, Route, Target};
use crate::kernel::{NextHop, ROUTE_METRIC};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A route together with its ways in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) route: Route,
    /// The same ways by the kernel's devices; empty when the kernel has none.
    pub(super) ways: Vec<NextHop>,
}

impl Entry {
    pub(super) fn new(origin: Origin, target: Target) -> Entry {
        let metric = if origin == Origin::Store { ROUTE_METRIC } else { 0 };
        Entry { route: Route { origin, target, metric }, ways: Vec::new() }
    }

    pub(super) fn with_ways(self, ways: &[NextHop]) -> Entry {
        Entry { ways: ways.to_vec(), ..self }
    }
}

/// Routes by prefix. Of two to one prefix the origin that is larger stays, then the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    entries: BTreeMap<IpNet, Entry>,
    /// Prefix lengths in use, as bits, for IPv4 and IPv6.
    lengths: [[u64; 3]; 2],
    /// What next hops through IPIP need.
    pub(super) overlay: Overlay,
}

/// This node as one end of IPIP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Overlay {
    /// Its address; `None` without IPIP.
    pub(super) own: Option<Ipv4Addr>,
    /// Number of the TAP to the host's stack, in the kernel.
    pub(super) host: Option<u32>,
}

impl Table {
    pub(super) fn insert(&mut self, prefix: IpNet, entry: Entry) {
        let length = usize::from(prefix.prefix_len());
        self.lengths[usize::from(prefix.addr().is_ipv6())][length / 64] |= 1 << (length % 64);
        match self.entries.entry(prefix) {
            std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(entry)),
            std::collections::btree_map::Entry::Occupied(mut place) => {
                if entry.route.origin > place.get().route.origin {
                    place.insert(entry);
                }
            }
        }
    }

    /// Puts a route in whatever was there.
    pub(super) fn force(&mut self, prefix: IpNet, entry: Entry) {
        self.entries.remove(&prefix);
        self.insert(prefix, entry);
    }

    pub(super) fn extend(&mut self, other: Table) {
        other.entries.into_iter().for_each(|(prefix, entry)| self.insert(prefix, entry));
    }

    pub(super) fn routes(&self) -> BTreeMap<IpNet, Route> {
        self.entries.iter().map(|(prefix, entry)| (*prefix, entry.route.clone())).collect()
    }

    /// Distance of a next hop, `None` when nothing leads there: 0 on a link, above 0 behind a
    /// gateway.
    pub(crate) fn distance(&self, address: IpAddr) -> Option<u32> {
        self.next_hop(address)?;
        let route = &self.lookup(address)?.route;
        let is_direct = match &route.target {
            Target::OnLink(_) => true,
            Target::Via(hops) => hops.iter().all(|hop| hop.address == address),
            _ => false,
        };
        Some(if is_direct { 0 } else { route.metric.max(1) })
    }

    /// True when an address is on a link of the node.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        self.lookup(address).is_some_and(|entry| match &entry.route.target {
            Target::OnLink(_) => true,
            // A neighbour.
            Target::Via(hops) => {
                hops.iter().all(|hop| hop.address == address && hop.tunnel.is_none())
            }
            // A link that only the host uses.
            Target::Local => {
                !entry.ways.is_empty() && entry.ways.iter().all(|way| way.gateway.is_none())
            }
            _ => false,
        })
    }

    /// The longest match of an address.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<&Entry> {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter(|length| lengths[usize::from(*length) / 64] >> (length % 64) & 1 == 1)
            .find_map(|length| {
                let prefix = IpNet::new(address, length).ok()?.trunc();
                self.entries.get(&prefix)
            })
    }

    /// As [`Table::next_hop`], but through IPIP to there.
    pub(super) fn next_hop_by_ipip(&self, address: IpAddr) -> Option<(Target, Vec<NextHop>)> {
        let local: IpAddr = self.overlay.own?.into();
        if !address.is_ipv4() || address == local {
            return None;
        }
        let tunnel = Arc::new(Tunnel { local, remote: address, vxlan: None });
        through(&tunnel, self.next_hop(address), self.overlay.host)
    }

    /// Where packets to a next hop go: the link that it is on, or the ways of the route that
    /// leads to it. `None` when nothing leads there.
    pub(crate) fn next_hop(&self, address: IpAddr) -> Option<(Target, Vec<NextHop>)> {
        let entry = self.lookup(address)?;
        let ways = entry.ways.iter().map(|way| NextHop {
            device: way.device,
            gateway: Some(way.gateway.unwrap_or(address)),
            weight: way.weight,
        });
        let ways: Vec<NextHop> = ways.collect();
        match &entry.route.target {
            Target::OnLink(port) => {
                Some((Target::Via(vec![Hop::plain(port.clone(), address)]), ways))
            }
            Target::Via(hops) => Some((Target::Via(hops.clone()), ways)),
            Target::Local if !ways.is_empty() => Some((Target::Local, ways)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_on_links_are_told_from_those_behind_gateways() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let hop = |text: &str| Hop { port: "eth0".into(), address: address(text), tunnel: None };
        let way = |gateway: Option<IpAddr>| [NextHop { device: 3, gateway, weight: 1 }];
        let mut table = Table::default();
        let mut add = |prefix: &str, target: Target, ways: &[NextHop]| {
            let entry = Entry::new(Origin::Kernel, target).with_ways(ways);
            table.insert(prefix.parse().unwrap(), entry);
        };
        let gateway = || Some(address("10.0.0.1"));
        add("10.0.0.0/24", Target::OnLink("eth0".into()), &way(None));
        add("10.0.0.7/32", Target::Via(vec![hop("10.0.0.7")]), &way(None));
        add("10.0.0.9/32", Target::Via(vec![hop("10.0.0.1")]), &way(gateway()));
        add("10.1.0.0/24", Target::Local, &way(None));
        add("10.2.0.0/24", Target::Local, &way(gateway()));
        add("10.0.0.3/32", Target::Local, &[]);
        add("0.0.0.0/0", Target::Via(vec![hop("10.0.0.1")]), &way(gateway()));
        let on_link = |text: &str| table.is_on_link(address(text));
        for near in ["10.0.0.2", "10.0.0.7", "10.1.0.2"] {
            assert!(on_link(near), "{near}");
        }
        for far in ["10.0.0.9", "10.2.0.2", "10.0.0.3", "192.0.2.1", "2001:db8::1"] {
            assert!(!on_link(far), "{far}");
        }
    }
}
