//! What the control loop tells of itself.

use super::{ERRORS_MAX, Router};
use crate::ports::Phase;
use crate::status::{PortState, Snapshot};

impl Router {
    pub(super) fn report(&self) {
        let tables = self.publisher.tables();
        let ports = self.ports.iter().map(|(name, state)| {
            let (open, why) = match &state.phase {
                Phase::Open(open) => {
                    (tables.port(open.id).map(|entry| (open.id, entry.clone())), String::new())
                }
                Phase::Waiting { why, .. } => (None, why.clone()),
            };
            (name.clone(), PortState { kind: state.kind.clone(), open, why })
        });
        let endpoints = self.model.local_endpoints(&self.config.node_name);
        self.status.set(Snapshot {
            node: self.config.node_name.clone(),
            not_ready: self.not_ready(),
            store: self.store.clone(),
            ports: ports.collect(),
            endpoints: endpoints.map(|(key, endpoint)| (key.clone(), endpoint.clone())).collect(),
            host_endpoints: self.host_endpoints(),
            closed_to_pods: self.is_closed_to_pods(),
            limits: self.limits.endpoints.clone(),
            tunnels: self.tunnels.clone(),
            routes: self.publisher.routes().clone(),
            neighbors: self.neighbors(),
            kernel_routes: self.mirror.own_routes().count(),
            bgp_plan: self.bgp.plan().clone(),
            bgp_fault: self.bgp.fault().cloned(),
            learned: self.bgp.routes().clone(),
            kernel_learned: self.bgp.kernel_counts(),
            errors: self.faults(),
            steps: self.steps,
            step_time: self.step_time,
            store_latency: self.store_latency,
        });
    }

    fn faults(&self) -> Vec<String> {
        let lasting = self.tunnel_faults.iter().chain(&self.policy_faults);
        let lasting = lasting.chain(&self.limits.faults).chain(&self.host_policy.fault);
        let lasting = lasting.take(ERRORS_MAX);
        lasting.chain(&self.errors).cloned().collect()
    }

    /// Uplinks and the way to the host must work; a pod's device may come later.
    fn not_ready(&self) -> Vec<String> {
        let missing = self.ports.iter().filter_map(|(name, state)| match &state.phase {
            Phase::Waiting { why, .. } if !state.kind.is_workload() => {
                Some(format!("port {name}: {why}"))
            }
            _ => None,
        });
        let unread =
            (!self.store_known).then(|| match (&self.store.lost, self.store.faults.first()) {
                (Some(lost), _) => format!("store: {}", lost.why),
                (None, Some(fault)) => format!("store: {fault}"),
                (None, None) => "the store has not been read yet".to_owned(),
            });
        let unseen = (!self.kernel_seen).then(|| "the kernel has not answered yet".to_owned());
        unread.into_iter().chain(unseen).chain(missing).collect()
    }
}
