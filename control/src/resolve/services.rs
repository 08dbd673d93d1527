//! From Services and EndpointSlices to frontends and endpoints: a pure function.
//!
//! ClusterIPs, external addresses and those of load balancers are frontends. New flows go to ready
//! endpoints; where there is none, to those that still serve while they end. With a Local policy
//! only endpoints on this node count, and clients keep their addresses. NodePorts are left to the
//! kernel: they are ports of the host's own addresses.

use crate::model::Model;
use crate::resource::service::{EndpointSlice, Service as Resource, ServicePort, SliceEndpoint};
use ipnet::IpNet;
use margay_fastpath::nat::Class;
use margay_fastpath::service::{Endpoint, Service, Services};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The slices of each service, by namespace and name.
type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// All services, and the classes of their addresses; `None` when there is none.
pub(crate) fn services(node: &str, model: &Model) -> Option<(Services, Vec<(IpNet, Class)>)> {
    let mut slices: Slices = BTreeMap::new();
    for ((namespace, _), slice) in &model.endpoint_slices {
        slices.entry((namespace, &slice.service)).or_default().push(slice);
    }
    let mut wanted = Vec::new();
    let mut backends = Vec::new();
    for ((namespace, name), service) in model.services.iter().filter(|(_, at)| at.has_addresses) {
        let own = slices.get(&(namespace.as_str(), name.as_str()));
        let own = own.map(Vec::as_slice).unwrap_or_default();
        for port in &service.ports {
            for (addresses, is_local) in scopes(service) {
                for v6 in [false, true] {
                    let at: Vec<Endpoint> = addresses
                        .iter()
                        .filter(|address| address.is_ipv6() == v6)
                        .map(|address| endpoint(*address, port.port, port.protocol))
                        .collect();
                    if at.is_empty() {
                        continue;
                    }
                    let all = endpoints(own, port, v6);
                    backends.extend(all.iter().map(|(endpoint, _)| *endpoint));
                    let local = is_local.then_some(node);
                    let masquerade = !is_local;
                    wanted.push((
                        at,
                        Service::new(usable(&all, local), service.affinity, masquerade),
                    ));
                }
            }
        }
    }
    if wanted.is_empty() {
        return None;
    }
    let host = |at: &Endpoint| IpNet::from(IpAddr::from(at.address));
    let frontends = wanted.iter().flat_map(|(at, _)| at.iter());
    let mut classes: Vec<(IpNet, Class)> =
        frontends.map(|at| (host(at), Class::FRONTEND)).collect();
    classes.extend(backends.iter().map(|at| (host(at), Class::BACKEND)));
    Some((Services::new(wanted, backends), classes))
}

/// Addresses with the policy that counts for them: true for Local.
fn scopes(service: &Resource) -> [(Vec<IpAddr>, bool); 2] {
    let external = service.external_ips.iter().chain(&service.load_balancer_ips).copied();
    [
        (service.cluster_ips.clone(), service.is_internal_local),
        (external.collect(), service.is_local),
    ]
}

fn endpoint(address: IpAddr, port: u16, protocol: u8) -> Endpoint {
    Endpoint { address: address.into(), port, protocol }
}

/// The endpoints of one port of a service.
fn endpoints<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    v6: bool,
) -> Vec<(Endpoint, &'a SliceEndpoint)> {
    let mut all = Vec::new();
    for slice in slices.iter().filter(|slice| slice.is_v6 == v6) {
        let same = |at: &&ServicePort| at.name == port.name && at.protocol == port.protocol;
        let Some(target) = slice.ports.iter().find(same) else { continue };
        for member in &slice.endpoints {
            let of_family = member.addresses.iter().filter(|address| address.is_ipv6() == v6);
            all.extend(of_family.map(|at| (endpoint(*at, target.port, port.protocol), member)));
        }
    }
    all
}

/// Those that new flows may go to.
fn usable(all: &[(Endpoint, &SliceEndpoint)], node: Option<&str>) -> Vec<Endpoint> {
    let here =
        |member: &SliceEndpoint| node.is_none_or(|node| member.node.as_deref() == Some(node));
    let those = |may: fn(&SliceEndpoint) -> bool| -> Vec<Endpoint> {
        let chosen = all.iter().filter(|(_, member)| here(member) && may(member));
        chosen.map(|(endpoint, _)| *endpoint).collect()
    };
    let ready = those(|member| member.ready);
    if ready.is_empty() { those(|member| member.serving && member.terminating) } else { ready }
}

#[cfg(test)]
mod tests;
