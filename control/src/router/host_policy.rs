//! Host endpoints in the control loop: when the kernel gets other rules, and when it loses them.

use super::Router;
use super::policy::lock;
use crate::host_policy::{Inputs, Pod, assign, ruleset};
use crate::kernel::nft::{self, Ruleset, Stamp};
use crate::policy::Policies;
use margay_acl::{Direction, Stage};
use margay_fastpath::policy::ToHost;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Time between two looks at whether the rules are still there: `nft flush ruleset` takes them too.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// Of the time, the control loop spends one part in so many on these rules at most.
const SHARE: u32 = 10;

/// What the kernel was told.
#[derive(Debug, Default)]
pub(super) struct HostPolicy {
    /// The rules in force with their table, if the last attempt succeeded.
    applied: Option<(Ruleset, Option<Stamp>)>,
    /// Why they are not those that should be.
    pub(super) fault: Option<String>,
    /// What they are made of has changed since.
    is_stale: bool,
    /// No sooner the next attempt.
    next: Option<Instant>,
    /// When it was last looked whether they are there.
    looked: Option<Instant>,
}

impl HostPolicy {
    /// When something is to be done although nothing changes; looks wait for a step.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.next.filter(|_| self.is_stale)
    }

    /// Whether somebody has taken the rules away, looked at from time to time.
    fn is_lost(&mut self, now: Instant) -> bool {
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return false;
        }
        self.looked = Some(now);
        let Some((_, stamp)) = &self.applied else { return false };
        nft::look().is_ok_and(|found| found.is_none() || found != *stamp)
    }
}

impl Router {
    /// Makes the kernel's rules follow policy, which may have changed. True when there is news for
    /// the snapshot.
    pub(super) fn follow_host_policy(&mut self, may_have_changed: bool, now: Instant) -> bool {
        let own = &mut self.host_policy;
        own.is_stale |= may_have_changed;
        if own.next.is_some_and(|next| now < next) {
            return false;
        }
        let is_lost = own.is_lost(now);
        if !std::mem::take(&mut own.is_stale) && !is_lost {
            return false;
        }
        let begin = Instant::now();
        let (wanted, is_needed) = self.host_rules();
        let is_same = self.host_policy.applied.as_ref().is_some_and(|(old, _)| *old == wanted);
        let news = if is_same && !is_lost { false } else { self.apply(wanted, is_needed) };
        let own = &mut self.host_policy;
        // Nothing else may change for long, and yet the kernel take the rules at another time.
        own.is_stale = own.applied.is_none();
        let rest = if own.is_stale { LOOK } else { begin.elapsed() * (SHARE - 1) };
        own.next = Some(Instant::now() + rest);
        news
    }

    fn apply(&mut self, wanted: Ruleset, is_needed: bool) -> bool {
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
        let news = self.host_policy.fault != fault;
        if let Some(fault) = fault.as_ref().filter(|_| news) {
            tracing::warn!("{fault}");
        }
        let applied = outcome.is_ok().then(|| (wanted, nft::look().ok().flatten()));
        (self.host_policy.applied, self.host_policy.fault) = (applied, fault);
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

    /// Takes the rules out of the kernel, those of a predecessor too, unless they are to stay.
    pub(super) fn remove_host_policy(&mut self) {
        if self.config.policy.keep_host_policy {
            return;
        }
        if let Err(error) = nft::remove() {
            match &self.host_policy.applied {
                Some(_) => tracing::warn!("rules of host endpoints stay: {error}"),
                None => tracing::debug!("no rules of host endpoints to remove: {error}"),
            }
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
