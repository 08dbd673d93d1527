//! Who is in which set: the counting behind [`Sets`].
//!
//! A prefix is in an atom as often as members bring it there; it leaves with the last of them.

use super::classes::Atom;
use super::index::Change;
use super::sets::{Service, Sets, Source};
use super::space::{Space, host, prefix};
use crate::model::{AddressSet, NamedPort};
use ipnet::IpNet;
use std::net::IpAddr;

/// A prefix and whether it is IPv6's.
type Place = (bool, (u128, u8));

impl Sets {
    pub(super) fn apply(&mut self, item: u32, change: &Change) {
        change.stopped.iter().for_each(|selector| self.count(*selector, item, false));
        change.started.iter().for_each(|selector| self.count(*selector, item, true));
    }

    /// Puts an item into all sets of a selector, or takes it out.
    pub(super) fn count(&mut self, selector: u32, item: u32, enters: bool) {
        let Some(held) = self.selected.get(&selector) else { return };
        if let Some((atom, _)) = held.atom {
            for net in self.items.get(&item).into_iter().flat_map(|item| &item.nets) {
                change(&mut self.spaces, place(net), atom, enters);
            }
        }
        for services in held.services.iter().copied().collect::<Vec<_>>() {
            self.count_services(services, item, enters);
        }
    }

    pub(super) fn count_services(&mut self, number: u32, item: u32, enters: bool) {
        let (Some(services), Some(members)) = (self.services.get(number), self.items.get(&item))
        else {
            return;
        };
        let Source::Named(_, name, protocol) = &services.source else { return };
        let fits = |port: &&NamedPort| port.name == *name && port.protocol == *protocol;
        let ports = members.ports.iter().filter(fits).map(|port| (port.protocol, port.port));
        let nets: Vec<Place> = members.nets.iter().map(place).collect();
        let changes: Vec<(Service, Place)> =
            ports.flat_map(|port| nets.iter().map(move |net| (Some(port), *net))).collect();
        self.count_all(number, changes, enters);
    }

    pub(super) fn count_told(&mut self, number: u32, enters: bool) {
        let Some(services) = self.services.get(number) else { return };
        let changes: Vec<(Service, Place)> = match services.told.as_deref() {
            None => Vec::new(),
            Some(AddressSet::Nets(nets)) => nets.iter().map(|net| (None, place(net))).collect(),
            Some(AddressSet::Ports(ports)) => {
                let one = |(address, protocol, port): &_| {
                    let address: &IpAddr = address;
                    (Some((*protocol, *port)), (address.is_ipv6(), host(*address)))
                };
                ports.iter().map(one).collect()
            }
        };
        self.count_all(number, changes, enters);
    }

    pub(super) fn count_all(&mut self, number: u32, changes: Vec<(Service, Place)>, enters: bool) {
        let Some(services) = self.services.get_mut(number) else { return };
        for (service, place) in changes {
            let atoms = &mut self.atoms;
            let (atom, members) = services.atoms.entry(service).or_insert_with(|| {
                self.stirred.insert(number);
                (atoms.insert(()), 0)
            });
            match enters {
                true => *members += 1,
                false => *members -= 1,
            }
            if *members == 0 {
                self.stirred.insert(number);
            }
            change(&mut self.spaces, place, *atom, enters);
        }
    }
}

pub(super) fn place(net: &IpNet) -> Place {
    (matches!(net, IpNet::V6(_)), prefix(net))
}

pub(super) fn add(spaces: &mut [Space; 2], place: Place, atom: Atom) {
    spaces[usize::from(place.0)].add(place.1, atom);
}

pub(super) fn remove(spaces: &mut [Space; 2], place: Place, atom: Atom) {
    spaces[usize::from(place.0)].remove(place.1, atom);
}

pub(super) fn change(spaces: &mut [Space; 2], place: Place, atom: Atom, enters: bool) {
    match enters {
        true => add(spaces, place, atom),
        false => remove(spaces, place, atom),
    }
}
