//! What is kept ready is what a look at all resources finds, whatever way they came.

use super::*;
use crate::resource::block::{BlockAffinity, IpamBlock};
use crate::store::Event;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One change of one of few resources, so that they often meet.
#[derive(Debug, Clone)]
enum Change {
    Endpoint { name: u8, endpoint: Option<(u8, u8, Vec<u8>)> },
    Affinity { name: u8, claim: Option<(u8, u8, bool)> },
    Block { name: u8, block: Option<(u8, Option<u8>)> },
}

/// Blocks of two sizes, one inside of another.
fn block(number: u8) -> IpNet {
    match number {
        0..4 => format!("10.0.0.{}/30", number * 4),
        4 => "10.0.0.0/29".to_owned(),
        _ => "2001:db8::/126".to_owned(),
    }
    .parse()
    .unwrap()
}

fn address(number: u8) -> IpAddr {
    match number {
        0..20 => format!("10.0.0.{number}"),
        _ => format!("2001:db8::{}", number - 20),
    }
    .parse()
    .unwrap()
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let addresses = proptest::collection::vec(0..24u8, 0..3);
    let endpoint = proptest::option::weighted(0.8, (0..3u8, 0..3u8, addresses));
    let claim = proptest::option::weighted(0.7, (0..6u8, 0..3u8, any::<bool>()));
    let owned = proptest::option::weighted(0.7, (0..6u8, proptest::option::of(0..3u8)));
    let change = prop_oneof![
        (0..6u8, endpoint).prop_map(|(name, endpoint)| Change::Endpoint { name, endpoint }),
        (0..5u8, claim).prop_map(|(name, claim)| Change::Affinity { name, claim }),
        (0..4u8, owned).prop_map(|(name, block)| Change::Block { name, block }),
    ];
    proptest::collection::vec(change, 0..40)
}

fn key(kind: &str, name: u8) -> Key {
    let namespace = if kind == "WorkloadEndpoint" { "ns" } else { "" };
    Key { kind: kind.to_owned(), namespace: namespace.to_owned(), name: format!("r{name}") }
}

fn put(key: Key, resource: Option<Resource>) -> Event {
    match resource {
        Some(resource) => Event::Put(key, resource),
        None => Event::Remove(key),
    }
}

impl Change {
    fn event(&self) -> Event {
        match self.clone() {
            Change::Endpoint { name, endpoint } => {
                let resource = endpoint.map(|(node, interface, addresses)| {
                    let addresses = addresses.into_iter().map(address).collect();
                    let (node, interface) = (format!("n{node}"), format!("cali{interface}"));
                    let endpoint =
                        WorkloadEndpoint { node, interface, addresses, ..Default::default() };
                    Resource::WorkloadEndpoint(Box::new(endpoint))
                });
                put(key("WorkloadEndpoint", name), resource)
            }
            Change::Affinity { name, claim } => {
                let resource = claim.map(|(number, node, confirmed)| {
                    let (cidr, node) = (block(number), format!("n{node}"));
                    Resource::BlockAffinity(BlockAffinity { cidr, node, confirmed })
                });
                put(key("BlockAffinity", name), resource)
            }
            Change::Block { name, block: owned } => {
                let resource = owned.map(|(number, node)| {
                    let node = node.map(|node| format!("n{node}"));
                    Resource::IpamBlock(IpamBlock { cidr: block(number), node })
                });
                put(key("IPAMBlock", name), resource)
            }
        }
    }
}

/// All resources as they are after the last change, by kind and name.
#[derive(Default)]
struct Reference {
    now: BTreeMap<(String, String), Resource>,
}

impl Reference {
    fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::Put(key, resource) => drop(self.now.insert((key.kind, key.name), resource)),
            Event::Remove(key) => drop(self.now.remove(&(key.kind, key.name))),
        }
    }

    fn endpoints(&self) -> Vec<(&str, &WorkloadEndpoint)> {
        let all = self.now.iter().filter_map(|((_, name), resource)| match resource {
            Resource::WorkloadEndpoint(endpoint) => Some((name.as_str(), &**endpoint)),
            _ => None,
        });
        all.collect()
    }

    fn local(&self, node: &str) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let all = self.endpoints().into_iter();
        let own = all.filter(|(_, one)| one.node == node && seen.insert(one.interface.clone()));
        own.map(|(name, _)| name).collect()
    }

    fn owners(&self) -> BTreeMap<IpNet, String> {
        let mut owners: BTreeMap<IpNet, String> = BTreeMap::new();
        for resource in self.now.values() {
            let Resource::BlockAffinity(claim) = resource else { continue };
            if claim.confirmed {
                let owner = owners.entry(claim.cidr).or_insert_with(|| claim.node.clone());
                *owner = owner.clone().min(claim.node.clone());
            }
        }
        for resource in self.now.values() {
            let Resource::IpamBlock(block) = resource else { continue };
            match &block.node {
                Some(node) => drop(owners.insert(block.cidr, node.clone())),
                None => drop(owners.remove(&block.cidr)),
            }
        }
        owners
    }

    fn strays(&self) -> Vec<&WorkloadEndpoint> {
        let owners = self.owners();
        let owner = |address: &IpAddr| {
            let around = owners.iter().filter(|(block, _)| block.contains(address));
            around.max_by_key(|(block, _)| block.prefix_len()).map(|(_, owner)| owner)
        };
        let all = self.endpoints().into_iter().map(|(_, endpoint)| endpoint);
        all.filter(|one| one.addresses.iter().any(|at| owner(at) != Some(&one.node))).collect()
    }
}

proptest! {
    #[test]
    fn what_is_kept_ready_is_what_a_look_at_everything_finds(changes in changes()) {
        let (mut model, mut reference) = (Model::default(), Reference::default());
        for change in &changes {
            reference.apply(&change.event());
            model.apply(change.event());
            prop_assert_eq!(model.blocks().owners(), &reference.owners());
            for node in ["n0", "n1", "n2"] {
                let local: Vec<&str> =
                    model.local_endpoints(node).map(|((_, name), _)| name.as_str()).collect();
                prop_assert_eq!(local, reference.local(node));
                let all = reference.endpoints().into_iter().filter(|(_, one)| one.node == node);
                prop_assert_eq!(model.endpoints().of_node(node).count(), all.count());
            }
            let strays: Vec<&WorkloadEndpoint> = model.strays().map(|one| &**one).collect();
            prop_assert_eq!(strays, reference.strays());
        }
        // Nothing stays behind.
        let everything: Vec<Event> = changes.iter().map(Change::event).collect();
        for event in everything {
            let (Event::Put(key, _) | Event::Remove(key)) = event;
            model.apply(Event::Remove(key));
        }
        prop_assert_eq!(model, Model::default());
    }
}
