//! From Services and EndpointSlices to frontends and endpoints: a pure function.
//!
//! ClusterIPs, external addresses, those of load balancers and the node's own ones with a NodePort
//! are frontends. New flows go to ready endpoints; where there is none, to those that still serve
//! while they end. With a Local policy only endpoints on this node count, and clients keep their
//! addresses; for pods an external policy is no hindrance (as with kube-proxy). Endpoints that are
//! gone stay known, since their flows may live on.

use crate::model::Model;
use crate::publish::stable_hash;
use crate::resource::service::{EndpointSlice, Service as Resource, ServicePort, SliceEndpoint};
use ipnet::IpNet;
use margay_fastpath::nat::Class;
use margay_fastpath::service::{Affinity, Endpoint, Service, Services};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The slices of each service, by namespace and name.
type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;
/// An endpoint, and what is said of it.
type Member<'a> = (Endpoint, &'a SliceEndpoint);

/// What services follow from, beside the datastore.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceInputs<'a> {
    /// This node's name.
    pub(crate) node: &'a str,
    /// Its addresses that NodePorts are served at.
    pub(crate) node_addresses: &'a [IpAddr],
    /// The services that there were before.
    pub(crate) before: Option<&'a Services>,
}

/// One port of a service, for one family.
struct Port<'a> {
    service: &'a Resource,
    port: &'a ServicePort,
    all: Vec<Member<'a>>,
    affinity: Option<Affinity>,
}

/// All services, and the classes of their addresses; `None` when there is none.
pub(crate) fn services(
    inputs: ServiceInputs,
    model: &Model,
) -> Option<(Services, Vec<(IpNet, Class)>)> {
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
            for v6 in [false, true] {
                let number = stable_hash((namespace, name, &port.name, port.protocol, v6));
                let affinity =
                    service.affinity_s.map(|timeout_s| Affinity { service: number, timeout_s });
                let port = Port { service, port, all: endpoints(own, port, v6), affinity };
                let scopes = port.scopes(inputs, v6);
                if !scopes.is_empty() {
                    backends.extend(port.all.iter().map(|(endpoint, _)| *endpoint));
                    wanted.extend(scopes);
                }
            }
        }
    }
    if wanted.is_empty() && inputs.before.is_none() {
        return None;
    }
    let mut services = Services::new(wanted, backends);
    if let Some(before) = inputs.before {
        services = services.after(before);
    }
    let host = |at: &Endpoint| IpNet::from(IpAddr::from(at.address));
    let mut classes: Vec<(IpNet, Class)> = services
        .frontends()
        .chain(services.gone_frontends())
        .map(|at| (host(at), Class::FRONTEND))
        .collect();
    classes.extend(services.backends().map(|at| (host(at), Class::BACKEND)));
    Some((services, classes))
}

impl Port<'_> {
    /// Frontends of the family with what counts for them: addresses inside, and those outside.
    fn scopes(&self, inputs: ServiceInputs, v6: bool) -> Vec<(Vec<Endpoint>, Service)> {
        let (service, port) = (self.service, self.port);
        let of_family = |addresses: &[IpAddr], number: u16| -> Vec<Endpoint> {
            let own = addresses.iter().filter(|address| address.is_ipv6() == v6);
            own.map(|address| endpoint(*address, number, port.protocol)).collect()
        };
        let inside = of_family(&service.cluster_ips, port.port);
        let mut outside = of_family(&service.external_ips, port.port);
        outside.extend(of_family(&service.load_balancer_ips, port.port));
        if let Some(number) = port.node_port.filter(|_| service.families[usize::from(v6)]) {
            outside.extend(of_family(inputs.node_addresses, number));
        }
        let mut scopes = Vec::new();
        if !inside.is_empty() {
            scopes.push((inside, self.choice(inputs.node, service.is_internal_local)));
        }
        if !outside.is_empty() {
            let mut choice = self.choice(inputs.node, service.is_local);
            if service.is_local {
                choice.for_pods = Some(Box::new(self.choice(inputs.node, false)));
            }
            scopes.push((outside, choice));
        }
        scopes
    }

    fn choice(&self, node: &str, is_local: bool) -> Service {
        let usable = usable(&self.all, is_local.then_some(node));
        let mut service = Service::new(usable, !is_local);
        service.affinity = self.affinity;
        service
    }
}

fn endpoint(address: IpAddr, port: u16, protocol: u8) -> Endpoint {
    Endpoint { address: address.into(), port, protocol }
}

/// The endpoints of one port of a service.
fn endpoints<'a>(slices: &[&'a EndpointSlice], port: &ServicePort, v6: bool) -> Vec<Member<'a>> {
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
fn usable(all: &[Member], node: Option<&str>) -> Vec<Endpoint> {
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
