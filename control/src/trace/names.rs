//! Who is meant by a name: pods by namespace and name, endpoints by theirs, and addresses.

use super::hosts::{Guards, Way, addresses as addresses_of};
use crate::host_policy::HostEndpoints;
use crate::model::{Model, Name};
use crate::offline::UPLINK;
use crate::resource::workload_endpoint::WorkloadEndpoint;
use ipnet::IpNet;
use margay_acl::model as acl;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// One end of a way.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The address, if one was named.
    pub(super) address: Option<IpAddr>,
    /// The endpoint there.
    pub(super) endpoint: Option<Arc<End>>,
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct End {
    /// How policy calls it.
    pub(super) name: String,
    pub(super) node: String,
    pub(super) interface: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Further sources that it may use.
    pub(super) spoofed: Vec<IpNet>,
    pub(super) is_host: bool,
}

/// All endpoints, by all that they are called.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// `None` for a name that several have.
    by_name: HashMap<String, Option<Arc<End>>>,
    by_address: HashMap<IpAddr, Arc<End>>,
}

impl Names {
    pub(super) fn of(model: &Model) -> Names {
        let mut names = Names::default();
        for ((namespace, name), endpoint) in model.endpoints().iter() {
            let end = Arc::new(End {
                name: format!("{namespace}/{name}"),
                node: endpoint.node.clone(),
                interface: endpoint.interface.clone(),
                addresses: endpoint.addresses.clone(),
                spoofed: endpoint.policed.spoofed_sources.clone(),
                is_host: false,
            });
            for address in &endpoint.addresses {
                names.by_address.entry(*address).or_insert_with(|| end.clone());
            }
            names.call(end.name.clone(), &end);
            names.call(name.clone(), &end);
            if !endpoint.pod.is_empty() && endpoint.pod != *name {
                names.call(format!("{namespace}/{}", endpoint.pod), &end);
            }
        }
        for (name, endpoint) in &model.host_endpoints {
            let end = Arc::new(End {
                name: name.clone(),
                node: endpoint.node.clone(),
                interface: endpoint.interface.clone(),
                addresses: match endpoint.expected_ips[..] {
                    [] => addresses_of(model, &endpoint.node),
                    _ => endpoint.expected_ips.clone(),
                },
                spoofed: Vec::new(),
                is_host: true,
            });
            for address in &endpoint.expected_ips {
                names.by_address.entry(*address).or_insert_with(|| end.clone());
            }
            names.call(name.clone(), &end);
        }
        // A node's address is that of the host endpoint that guards its uplink.
        for node in model.nodes.keys() {
            let guards = Guards::of(model, node);
            let uplink = guards.on(&Way::Device(UPLINK.to_owned()));
            let Some(Some(end)) = uplink.and_then(|name| names.by_name.get(name)).cloned() else {
                continue;
            };
            for address in addresses_of(model, node) {
                names.by_address.entry(address).or_insert_with(|| end.clone());
            }
        }
        names
    }

    /// Those that policy knows on a running node, whose own pods have names too.
    pub(super) fn live(
        model: &acl::Model,
        (local, hosts): (&BTreeMap<Name, Arc<WorkloadEndpoint>>, &HostEndpoints),
        node: &str,
    ) -> Names {
        let mut names = Names::default();
        for (name, endpoint) in &model.endpoints {
            let key = name.split_once('/').map(|(at, name)| (at.to_owned(), name.to_owned()));
            let own = key.as_ref().and_then(|key| local.get(key));
            let is_host = matches!(endpoint.place, acl::Place::Host { .. });
            let is_here = is_host || own.is_some();
            let end = Arc::new(End {
                name: name.clone(),
                node: if is_here { node.to_owned() } else { String::new() },
                interface: own.map_or_else(String::new, |own| own.interface.clone()),
                addresses: match endpoint.addresses[..] {
                    [] if is_host => hosts.addresses_of(name),
                    _ => endpoint.addresses.clone(),
                },
                spoofed: Vec::new(),
                is_host,
            });
            for address in &endpoint.addresses {
                names.by_address.entry(*address).or_insert_with(|| end.clone());
            }
            names.call(name.clone(), &end);
            let Some((namespace, short)) = key else { continue };
            names.call(short, &end);
            if let Some(own) = own.filter(|own| !own.pod.is_empty()) {
                names.call(format!("{namespace}/{}", own.pod), &end);
            }
        }
        names
    }

    /// The first endpoint of a pod is meant by the pod's name; other names must be one's own.
    fn call(&mut self, name: String, end: &Arc<End>) {
        let is_pod = name.contains('/');
        let known = self.by_name.entry(name).or_insert_with(|| Some(end.clone()));
        let other = known.as_ref().is_some_and(|known| !Arc::ptr_eq(known, end));
        if other && !is_pod {
            *known = None;
        }
    }

    /// The endpoint that has an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<Arc<End>> {
        self.by_address.get(&address).cloned()
    }

    /// Who is meant. `what` names the field, for errors.
    pub(super) fn find(&self, what: &str, text: &str) -> Result<Place, String> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Place { address: Some(address), endpoint: self.at(address) });
        }
        let hint = "namespace/pod, an endpoint's name, or an address";
        match self.by_name.get(text) {
            Some(Some(end)) => Ok(Place { address: None, endpoint: Some(end.clone()) }),
            Some(None) => Err(format!("{what}: several endpoints are called '{text}': {hint}")),
            None if text.is_empty() => Err(format!("{what}: it is missing: {hint}")),
            None => Err(format!("{what}: the store has no endpoint '{text}': {hint}")),
        }
    }
}

/// An address of each end, of one family: that of an address that was named, or the first that both
/// have, IPv4 before IPv6.
pub(super) fn addresses(from: &Place, to: &Place) -> Result<(IpAddr, IpAddr), String> {
    let of = |place: &Place, v6: bool| match (place.address, &place.endpoint) {
        (Some(address), _) => Some(address).filter(|address| address.is_ipv6() == v6),
        (None, Some(end)) => end.addresses.iter().find(|own| own.is_ipv6() == v6).copied(),
        (None, None) => None,
    };
    let both = [false, true].into_iter().find_map(|v6| Some((of(from, v6)?, of(to, v6)?)));
    both.ok_or_else(|| "from and to have no addresses of one family".to_owned())
}
