//! Sets of addresses and ports that rules of the kernel name: each content once.

use crate::kernel::nft::{Members, Set};
use ahash::AHashMap;
use ipnet::IpNet;
use margay_acl::model::{Family, Labels, Model, NamedPort};
use margay_acl::selector::Selector;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An endpoint or network set, with all its labels.
struct Member {
    labels: Labels,
    nets: Vec<IpNet>,
    ports: Vec<NamedPort>,
}

/// The sets so far.
pub(super) struct Sets<'a> {
    model: &'a Model,
    members: Option<Vec<Member>>,
    picked: AHashMap<(Selector, Family), Option<String>>,
    names: AHashMap<Members, String>,
    pub(super) all: Vec<Set>,
}

impl<'a> Sets<'a> {
    pub(super) fn new(model: &'a Model) -> Sets<'a> {
        Sets {
            model,
            members: None,
            picked: AHashMap::new(),
            names: AHashMap::new(),
            all: Vec::new(),
        }
    }

    pub(super) fn model(&self) -> &'a Model {
        self.model
    }

    /// The name of a set; `None` for an empty one, which nothing is in.
    pub(super) fn named(&mut self, members: Members) -> Option<String> {
        let is_empty = match &members {
            Members::V4(ranges) => ranges.is_empty(),
            Members::V6(ranges) => ranges.is_empty(),
            Members::Sockets4(sockets) => sockets.is_empty(),
            Members::Sockets6(sockets) => sockets.is_empty(),
            Members::Devices(names) => names.is_empty(),
        };
        if is_empty {
            return None;
        }
        if let Some(name) = self.names.get(&members) {
            return Some(name.clone());
        }
        let name = format!("set{}", self.all.len());
        self.names.insert(members.clone(), name.clone());
        self.all.push(Set { name: name.clone(), members });
        Some(name)
    }

    /// The addresses of one family in some ranges.
    pub(super) fn ranges<'n>(
        &mut self,
        nets: impl IntoIterator<Item = &'n IpNet>,
        family: Family,
    ) -> Option<String> {
        let nets = nets.into_iter().filter(|net| Family::of(net) == family);
        let members = match family {
            Family::V4 => Members::V4(merge(nets, Ipv4Addr::from_bits)),
            Family::V6 => Members::V6(merge(nets, Ipv6Addr::from_bits)),
        };
        self.named(members)
    }

    /// The addresses that a selector picks.
    pub(super) fn picked(&mut self, selector: &Selector, family: Family) -> Option<String> {
        let key = (selector.clone(), family);
        if let Some(known) = self.picked.get(&key) {
            return known.clone();
        }
        let picked = self.members().iter().filter(|member| member.is_picked(selector));
        let nets: Vec<IpNet> = picked.flat_map(|member| member.nets.iter().copied()).collect();
        let name = self.ranges(&nets, family);
        self.picked.insert(key, name.clone());
        name
    }

    /// Addresses with the port of this name, of those endpoints that a selector picks.
    pub(super) fn named_port(
        &mut self,
        (name, protocol): (&str, Option<u8>),
        selector: Option<&Selector>,
        family: Family,
    ) -> Option<String> {
        let mut sockets = Vec::new();
        for member in self.members() {
            let is_it = |port: &&NamedPort| port.name == name && Some(port.protocol) == protocol;
            let ports: Vec<&NamedPort> = member.ports.iter().filter(is_it).collect();
            if ports.is_empty() || selector.is_some_and(|selector| !member.is_picked(selector)) {
                continue;
            }
            for net in &member.nets {
                sockets.extend(ports.iter().map(|port| (net.addr(), port.protocol, port.port)));
            }
        }
        self.sockets(&sockets, family)
    }

    /// Addresses with protocol and port.
    pub(super) fn sockets(
        &mut self,
        sockets: &[(IpAddr, u8, u16)],
        family: Family,
    ) -> Option<String> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, protocol, port) in sockets {
            match address {
                IpAddr::V4(address) => v4.push((*address, *protocol, *port)),
                IpAddr::V6(address) => v6.push((*address, *protocol, *port)),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        self.named(match family {
            Family::V4 => Members::Sockets4(v4),
            Family::V6 => Members::Sockets6(v6),
        })
    }

    fn members(&mut self) -> &[Member] {
        let model = self.model;
        self.members.get_or_insert_with(|| {
            let endpoints = model.endpoints.values().map(|endpoint| Member {
                labels: model.labels(&endpoint.labels, &endpoint.profiles),
                nets: endpoint.addresses.iter().map(|address| IpNet::from(*address)).collect(),
                ports: endpoint.ports.clone(),
            });
            let sets = model.network_sets.values().map(|set| Member {
                labels: model.labels(&set.labels, &set.profiles),
                nets: set.nets.clone(),
                ports: Vec::new(),
            });
            endpoints.chain(sets).collect()
        })
    }
}

impl Member {
    fn is_picked(&self, selector: &Selector) -> bool {
        selector.matches(|name| self.labels.get(name).map(String::as_str))
    }
}

/// Ranges in order, those that overlap or touch as one.
fn merge<'n, B, A>(nets: impl Iterator<Item = &'n IpNet>, address: impl Fn(B) -> A) -> Vec<(A, A)>
where
    B: TryFrom<u128> + Default,
{
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let mut ranges: Vec<(u128, u128)> =
        nets.map(|net| (bits(net.network()), bits(net.broadcast()))).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let address = |bits: u128| address(B::try_from(bits).unwrap_or_default());
    merged.into_iter().map(|(first, last)| (address(first), address(last))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        let nets =
            ["10.0.0.128/25", "10.0.0.0/25", "10.0.0.7/32", "10.1.0.0/16", "255.255.255.255/32"];
        let nets = nets.map(|net| net.parse::<IpNet>().unwrap());
        let model = Model::default();
        let mut sets = Sets::new(&model);
        let name = sets.ranges(&nets, Family::V4).unwrap();
        let range = |first: &str, last: &str| (first.parse().unwrap(), last.parse().unwrap());
        let expected = vec![
            range("10.0.0.0", "10.0.0.255"),
            range("10.1.0.0", "10.1.255.255"),
            range("255.255.255.255", "255.255.255.255"),
        ];
        assert_eq!(sets.all, [Set { name: name.clone(), members: Members::V4(expected) }]);
        assert_eq!(sets.ranges(&nets, Family::V4), Some(name), "the same content is one set");
        assert_eq!(sets.ranges(&nets, Family::V6), None);
        let all = ["::/0".parse::<IpNet>().unwrap()];
        sets.ranges(&all, Family::V6).unwrap();
        let Members::V6(whole) = &sets.all[1].members else { panic!("{:?}", sets.all) };
        assert_eq!(whole[0], (Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX)));
    }
}
