//! The sets of addresses that services stand for in rules, from all their endpoint slices.
//!
//! Readiness makes no difference: a rule is about where a service's endpoints are.

use crate::resource::Key;
use crate::resource::policy::places::service_set;
use crate::resource::service::EndpointSlice;
use ipnet::IpNet;
use margay_acl::model::{AddressSet, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Namespace and name.
type Name = (String, String);

/// Members by service and slice.
#[derive(Debug, Default)]
pub(super) struct Services {
    members: BTreeMap<Name, BTreeMap<String, Members>>,
    service_of: BTreeMap<Name, Name>,
}

#[derive(Debug, Default)]
struct Members {
    nets: Vec<IpNet>,
    ports: Vec<(IpAddr, u8, u16)>,
}

impl Services {
    /// What a slice says, or that it is gone; the sets of the services that it was and is of.
    pub(super) fn put(&mut self, key: &Key, slice: Option<&EndpointSlice>) -> Vec<Update> {
        let own = (key.namespace.clone(), key.name.clone());
        let mut changed = BTreeSet::new();
        if let Some(service) = self.service_of.remove(&own) {
            if let Some(slices) = self.members.get_mut(&service) {
                slices.remove(&own.1);
            }
            changed.insert(service);
        }
        if let Some(slice) = slice.filter(|slice| !slice.service.is_empty()) {
            let service = (key.namespace.clone(), slice.service.clone());
            let slices = self.members.entry(service.clone()).or_default();
            slices.insert(own.1.clone(), members(slice));
            self.service_of.insert(own, service.clone());
            changed.insert(service);
        }
        changed.into_iter().flat_map(|service| self.sets(service)).collect()
    }

    fn sets(&mut self, service: Name) -> [Update; 2] {
        let slices = self.members.get(&service).filter(|slices| !slices.is_empty());
        let all = slices.map(|slices| {
            let nets = slices.values().flat_map(|slice| slice.nets.iter().copied()).collect();
            let ports = slices.values().flat_map(|slice| slice.ports.iter().copied()).collect();
            [AddressSet::Nets(nets), AddressSet::Ports(ports)].map(Arc::new)
        });
        if all.is_none() {
            self.members.remove(&service);
        }
        let (namespace, name) = &service;
        let set = |has_ports: bool| {
            let set = all.as_ref().map(|sets| sets[usize::from(has_ports)].clone());
            Update::AddressSet(service_set(namespace, name, has_ports), set)
        };
        [set(false), set(true)]
    }
}

fn members(slice: &EndpointSlice) -> Members {
    let addresses = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied());
    let addresses: Vec<IpAddr> = addresses.collect();
    let pairs = addresses
        .iter()
        .flat_map(|address| slice.ports.iter().map(|port| (*address, port.protocol, port.port)));
    Members { ports: pairs.collect(), nets: addresses.into_iter().map(IpNet::from).collect() }
}
