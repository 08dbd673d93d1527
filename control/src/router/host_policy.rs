//! Host endpoints in the control loop: when the kernel gets other rules, and when it loses them.

use super::Router;
use super::policy::lock;
use crate::host_policy::{Inputs, Pod, assign, ruleset};
use crate::kernel::nft::{self, Ruleset};
use crate::policy::Policies;
use margay_acl::{Direction, Stage};
use margay_fastpath::policy::ToHost;
use std::net::IpAddr;

/// What the kernel was told.
#[derive(Debug, Default)]
pub(super) struct HostPolicy {
    /// The rules in force, if the last attempt succeeded.
    applied: Option<Ruleset>,
    /// Why they are not those that should be.
    pub(super) fault: Option<String>,
}

impl Router {
    /// Makes the kernel's rules follow policy. True when there is news for the snapshot.
    pub(super) fn follow_host_policy(&mut self) -> bool {
        let (wanted, is_needed) = self.host_rules();
        if self.host_policy.applied.as_ref() == Some(&wanted) {
            return false;
        }
        let outcome = nft::replace(&wanted);
        let fault = match &outcome {
            Ok(()) => None,
            Err(error) if is_needed => Some(format!(
                "traffic of the host is not policed: {error}; the kernel needs nf_tables \
                 (CONFIG_NF_TABLES_INET), and the daemon CAP_NET_ADMIN"
            )),
            Err(error) => {
                tracing::debug!("pods without endpoints are not dropped: {error}");
                None
            }
        };
        if let Some(fault) =
            fault.as_ref().filter(|fault| self.host_policy.fault.as_ref() != Some(fault))
        {
            tracing::warn!("{fault}");
        }
        let news = self.host_policy.fault != fault;
        self.host_policy = HostPolicy { applied: outcome.is_ok().then_some(wanted), fault };
        news
    }

    /// The rules, and whether there are others than that about devices that no endpoint names.
    fn host_rules(&self) -> (Ruleset, bool) {
        let node = &self.config.node_name;
        let own = self.model.host_endpoints.iter().filter(|(_, one)| one.node == *node);
        let mut addresses: Vec<(String, IpAddr)> = Vec::new();
        for (device, net) in self.mirror.addresses() {
            let link = self.mirror.link_by_index(device);
            addresses.extend(link.map(|link| (link.name.clone(), net.addr())));
        }
        let endpoints = assign(own, &addresses);
        let policies = lock(&self.policies);
        let local = self.model.local_endpoints(node);
        let pods: Vec<Pod> = local
            .map(|((namespace, name), pod)| {
                let endpoint = format!("{namespace}/{name}");
                let rules = egress_rules(&policies, &endpoint);
                Pod { endpoint, device: pod.interface.clone(), rules }
            })
            .collect();
        let to_host = ToHost::from(self.config.policy.default_endpoint_to_host_action);
        let inputs = Inputs {
            model: policies.model(),
            endpoints: &endpoints,
            prefix: &self.config.interface_prefix,
            host_device: &self.config.host_device,
            pods: &pods,
            closed_to_pods: to_host == ToHost::Drop,
        };
        let rules = ruleset(inputs);
        let is_needed = rules.chains.len() > 1;
        (rules, is_needed)
    }

    /// Takes the rules out of the kernel, unless they are to stay.
    pub(super) fn remove_host_policy(&mut self) {
        if self.config.policy.keep_host_policy || self.host_policy.applied.is_none() {
            return;
        }
        if let Err(error) = nft::remove() {
            tracing::warn!("rules of host endpoints stay: {error}");
        }
    }
}

/// The number of a pod's egress rules; `None` when they let everything pass, or policy does not
/// know it.
fn egress_rules(policies: &Policies, endpoint: &str) -> Option<u32> {
    let classifier = policies.classifier();
    let handle = policies.handle(endpoint)?;
    let place = (Stage::Normal, Direction::Egress);
    if classifier.is_open(handle, place.0, place.1) {
        return None;
    }
    classifier.same_rules(handle, place.0, place.1)
}
