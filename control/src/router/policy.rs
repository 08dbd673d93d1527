//! Policy in the control loop: what the store says of it, and what the packet path is told.

use super::Router;
use super::limits::Limited;
use crate::model::Model;
use crate::policy::{Policies, is_own_kind};
use crate::resolve::{Route, Target};
use crate::resource::Resource;
use crate::resource::bgp_peer::{BgpPeer, Remote};
use crate::resource::workload_endpoint::WorkloadEndpoint;
use crate::store::Event;
use ipnet::IpNet;
use margay_acl::classifier::{Classifier, Handle};
use margay_acl::{Direction, Stage};
use margay_fastpath::policy::{Endpoint, Layout, Seat, ToHost};
use margay_fastpath::port::PortId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Policy as the control loop keeps it, for whoever explains it.
pub(crate) type SharedPolicies = Arc<Mutex<Policies>>;

pub(crate) fn lock(policies: &SharedPolicies) -> MutexGuard<'_, Policies> {
    policies.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a change of the store has no meaning beyond policy: it is about rules, or about what
/// rules see of an endpoint that nobody else looks at.
pub(super) fn is_only_policy(model: &Model, event: &Event) -> bool {
    let (Event::Put(key, _) | Event::Remove(key)) = event;
    if is_own_kind(&key.kind) {
        return true;
    }
    let Event::Put(key, Resource::WorkloadEndpoint(new)) = event else { return false };
    let old = model.endpoints().get(&(key.namespace.clone(), key.name.clone()));
    let picks_workloads = |peer: &BgpPeer| matches!(peer.remote, Remote::LocalWorkloads(_));
    let labels_count = model.bgp_peers.values().any(picks_workloads);
    old.is_some_and(|old| {
        let same_labels = !labels_count || old.labels == new.labels;
        same_labels
            && old.policed.spoofed_sources == new.policed.spoofed_sources
            && **old
                == WorkloadEndpoint {
                    labels: old.labels.clone(),
                    policed: old.policed.clone(),
                    ..(**new).clone()
                }
    })
}

impl Router {
    /// Compiles what has changed of policy; true when something did.
    pub(super) fn commit_policy(&mut self) -> bool {
        let mut policies = lock(&self.policies);
        let committed = policies.commit();
        let faults = policies.faults();
        drop(policies);
        if faults != self.policy_faults {
            faults.iter().for_each(|fault| tracing::warn!("{fault}"));
            self.policy_faults = faults;
            self.untold = true;
        }
        committed
    }

    /// Publishes policy alone.
    pub(super) fn publish_policy(&mut self) {
        let routes = self.publisher.routes().clone();
        self.resolve_policy(&routes);
        if !self.publisher.publish_policy() {
            self.note(["a worker did not take the new policy in time".to_owned()]);
        }
    }

    /// What the next publication says of policy.
    pub(super) fn resolve_policy(&mut self, routes: &BTreeMap<IpNet, Route>) {
        let to_host = ToHost::from(self.config.policy.default_endpoint_to_host_action);
        let local: Vec<IpAddr> = self.mirror.addresses().map(|(_, net)| net.addr()).collect();
        let policies = lock(&self.policies);
        let mut seats: Vec<(PortId, Seat)> = Vec::new();
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut behind: Vec<(IpNet, u32)> = Vec::new();
        let mut endpoints = Vec::new();
        for ((namespace, key), workload) in self.model.local_endpoints(&self.config.node_name) {
            let number = endpoints.len() as u32;
            let name = format!("{namespace}/{key}");
            let limited = self.limits.endpoints.get(&(namespace.clone(), key.clone()));
            let connections = limited.map(Limited::connection_limits).unwrap_or_default();
            endpoints.push(Endpoint { connections, ..endpoint(&policies, &name, to_host) });
            numbers.insert(&workload.interface, number);
            behind.extend(workload.addresses.iter().map(|own| (IpNet::from(*own), number)));
        }
        for (name, port) in &self.port_entries {
            match numbers.get(&**name) {
                Some(number) => seats.push((port.id, Seat::Endpoint(*number))),
                None if **name == *self.config.host_device => seats.push((port.id, Seat::Host)),
                None => {}
            }
        }
        for (prefix, port) in behind_pods(routes) {
            behind.extend(numbers.get(port).map(|number| (*prefix, *number)));
        }
        // Pods' ports are guarded by what is behind them.
        let others = self.port_entries.iter().filter(|(name, _)| {
            !numbers.contains_key(&***name) && ***name != *self.config.host_device
        });
        let others: Vec<(&str, PortId)> = others.map(|(name, port)| (&**name, port.id)).collect();
        let guards = self.host_guards(&policies, &others, &mut endpoints);
        let is_open =
            endpoints.iter().all(|endpoint| endpoint.open && endpoint.connections == [None, None]);
        let layout = Layout {
            generation: 0,
            classifier: policies.classifier().clone(),
            staged: policies.staged_classifier().cloned(),
            endpoints,
            guards: &guards.ports,
            tunnels: guards.tunnels,
            seats: &seats,
            behind: &behind,
            local: &local,
            to_host,
            rejudges: self.config.policy.reevaluate_flows,
        };
        self.publisher.set_policy((!is_open).then_some(layout));
    }
}

fn endpoint(policies: &Policies, name: &str, to_host: ToHost) -> Endpoint {
    Endpoint {
        name: name.into(),
        handle: policies.handle(name),
        staged: policies.staged_handle(name),
        connections: [None, None],
        open: to_host == ToHost::Accept && is_open(policies, name),
    }
}

/// Whether an endpoint's rules let everything pass, and would with staged policies in force.
pub(crate) fn is_open(policies: &Policies, name: &str) -> bool {
    let is_open = |classifier: &Classifier, handle: Option<Handle>| {
        let open = |direction| {
            handle.is_some_and(|handle| classifier.is_open(handle, Stage::Normal, direction))
        };
        Direction::ALL.into_iter().all(open)
    };
    is_open(policies.classifier(), policies.handle(name))
        && policies
            .staged_classifier()
            .is_none_or(|staged| is_open(staged, policies.staged_handle(name)))
}

/// Prefixes that lead to one port, by way of a next hop there.
pub(super) fn behind_pods(routes: &BTreeMap<IpNet, Route>) -> impl Iterator<Item = (&IpNet, &str)> {
    routes.iter().filter_map(|(prefix, route)| match &route.target {
        Target::Via(hops) => {
            let first = hops.first()?;
            let same = hops.iter().all(|hop| hop.port == first.port);
            (same && prefix.prefix_len() < prefix.max_prefix_len())
                .then_some((prefix, &*first.port))
        }
        _ => None,
    })
}
