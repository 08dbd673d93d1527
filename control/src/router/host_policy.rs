//! Host endpoints in the control loop: when the kernel gets other rules, and when it loses them.

use super::Router;
use super::policy::{SharedPolicies, lock};
use crate::config::LogAction;
use crate::host_policy::{Assigned, Device, HostEndpoints, Inputs, Pod, assign, ruleset};
use crate::kernel::nft::{self, NftError, Ruleset, Stamp};
use crate::policy::Policies;
use crate::resource::workload_endpoint::Attachment;
use ipnet::IpNet;
use margay_acl::{Direction, Stage, reference};
use margay_fastpath::policy::{Endpoint, HostGuard, ToHost};
use margay_fastpath::port::PortId;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks at whether the rules are still there: `nft flush ruleset` takes them too.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// Of the time, one part in so many is spent on these rules at most.
const SHARE: u32 = 10;

/// What the kernel was told, and is being told.
#[derive(Debug, Default)]
pub(super) struct HostPolicy {
    /// The rules in force with their table, if the last attempt succeeded.
    applied: Option<Arc<Applied>>,
    /// Why they are not those that should be.
    pub(super) fault: Option<String>,
    /// What they are made of has changed since.
    is_stale: bool,
    /// The attempt that is under way, on a thread of its own: with many policies it takes seconds.
    attempt: Option<JoinHandle<Outcome>>,
    /// No sooner the next one.
    next: Option<Instant>,
    /// When it was last looked whether they are there.
    looked: Option<Instant>,
}

/// Rules with the table that they are in.
#[derive(Debug)]
struct Applied {
    ruleset: Ruleset,
    stamp: Option<Stamp>,
}

/// What came of an attempt.
#[derive(Debug)]
struct Outcome {
    applied: Option<Arc<Applied>>,
    fault: Option<String>,
    took: Duration,
}

impl HostPolicy {
    /// When something is to be done although nothing changes; looks wait for a step.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.next.filter(|_| self.is_stale && self.attempt.is_none())
    }

    /// Whether somebody has taken the rules away, looked at from time to time.
    fn is_lost(&mut self, now: Instant) -> bool {
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return false;
        }
        self.looked = Some(now);
        let Some(applied) = &self.applied else { return false };
        nft::look().is_ok_and(|found| found.is_none() || found != applied.stamp)
    }

    /// Takes up what came of an attempt that has ended. True when there is news.
    fn settle(&mut self) -> bool {
        let Some(attempt) = self.attempt.take_if(|attempt| attempt.is_finished()) else {
            return false;
        };
        let Ok(Outcome { applied, fault, took }) = attempt.join() else {
            self.is_stale = true;
            self.next = Some(Instant::now() + LOOK);
            return false;
        };
        // Nothing else may change for long, and yet the kernel take the rules at another time.
        self.is_stale |= applied.is_none();
        let rest = if applied.is_none() { LOOK } else { took * (SHARE - 1) };
        self.next = Some(Instant::now() + rest);
        let news = self.fault != fault;
        if let Some(fault) = fault.as_ref().filter(|_| news) {
            tracing::warn!("{fault}");
        }
        (self.applied, self.fault) = (applied, fault);
        news
    }
}

/// Makes the rules, and puts them in force unless they are.
fn attempt(facts: &Facts, before: Option<Arc<Applied>>) -> Outcome {
    let begin = Instant::now();
    let wanted = facts.ruleset();
    if let Some(applied) = before.filter(|before| before.ruleset == wanted) {
        return Outcome { applied: Some(applied), fault: None, took: begin.elapsed() };
    }
    let is_needed = wanted.chains.len() > 1;
    let in_force = |ruleset| {
        let stamp = nft::look().ok().flatten();
        Some(Arc::new(Applied { ruleset, stamp }))
    };
    let (applied, fault) = match replace(&wanted) {
        Ok(unlogged) => {
            let fault = unlogged.map(|error| {
                format!("rules with action Log write nothing: {error}; is there nf_log_syslog?")
            });
            (in_force(wanted), fault)
        }
        Err(error) if is_needed => {
            let fault = format!(
                "traffic of the host is not policed: {error}; the kernel needs nf_tables \
                 (CONFIG_NF_TABLES_INET), and the daemon CAP_NET_ADMIN"
            );
            (None, Some(fault))
        }
        Err(error) => {
            tracing::debug!("pods without endpoints are not dropped: {error}");
            (None, None)
        }
    };
    Outcome { applied, fault, took: begin.elapsed() }
}

/// Puts rules in force, without what they log where the kernel has nothing to log with; then it
/// tells why.
fn replace(wanted: &Ruleset) -> Result<Option<NftError>, NftError> {
    match nft::replace(wanted) {
        Err(why @ NftError::Refused { .. }) if wanted.logs() => {
            nft::replace(&wanted.clone().without_log()).map(|()| Some(why))
        }
        outcome => outcome.map(|()| None),
    }
}

/// What rules are made of, for a thread of its own.
struct Facts {
    policies: SharedPolicies,
    endpoints: Vec<Assigned>,
    prefix: String,
    host_device: String,
    /// Which rules they have is asked when the rules are made.
    pods: Vec<Pod>,
    closed_to_pods: bool,
    log: LogAction,
}

impl Facts {
    /// A copy of policy is taken first: it is as it was for some moment, and held for no longer.
    fn ruleset(&self) -> Ruleset {
        let policies = lock(&self.policies);
        let pods = self
            .pods
            .iter()
            .map(|pod| Pod { rules: egress_rules(&policies, &pod.endpoint), ..pod.clone() });
        let (pods, model): (Vec<Pod>, _) = (pods.collect(), policies.model().clone());
        drop(policies);
        ruleset(Inputs {
            model: &model,
            endpoints: &self.endpoints,
            prefix: &self.prefix,
            host_device: &self.host_device,
            pods: &pods,
            closed_to_pods: self.closed_to_pods,
            log: &self.log,
        })
    }
}

impl Router {
    /// Makes the kernel's rules follow policy, which may have changed. True when there is news for
    /// the snapshot.
    pub(super) fn follow_host_policy(&mut self, may_have_changed: bool, now: Instant) -> bool {
        let own = &mut self.host_policy;
        own.is_stale |= may_have_changed;
        let news = own.settle();
        if own.attempt.is_some() || own.next.is_some_and(|next| now < next) {
            return news;
        }
        let is_lost = own.is_lost(now);
        if !std::mem::take(&mut own.is_stale) && !is_lost {
            return news;
        }
        let before = own.applied.clone().filter(|_| !is_lost);
        let facts = self.host_facts();
        let body = move || attempt(&facts, before);
        match std::thread::Builder::new().name("host-policy".to_owned()).spawn(body) {
            Ok(attempt) => self.host_policy.attempt = Some(attempt),
            Err(_) => self.host_policy.is_stale = true,
        }
        news
    }

    /// This node's host endpoints with their devices.
    pub(super) fn host_endpoints(&self) -> HostEndpoints {
        let node = &self.config.node_name;
        let own = self.model.host_endpoints.iter().filter(|(_, one)| one.node == *node);
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            return HostEndpoints::default();
        }
        let mut addresses: Vec<(String, IpAddr)> = Vec::new();
        for (device, net) in self.mirror.addresses() {
            let link = self.mirror.link_by_index(device);
            addresses.extend(link.map(|link| (link.name.clone(), net.addr())));
        }
        HostEndpoints { assigned: assign(own.into_iter(), &addresses), addresses }
    }

    /// Whether pods may send nothing to the host.
    pub(super) fn is_closed_to_pods(&self) -> bool {
        ToHost::from(self.config.policy.default_endpoint_to_host_action) == ToHost::Drop
    }

    /// What host endpoints have to say of forwarded traffic: by their devices, of which `ports` are
    /// those of the packet path, and of tunnels. Each is put behind `endpoints`.
    pub(super) fn host_guards(
        &self,
        policies: &Policies,
        ports: &[(&str, PortId)],
        endpoints: &mut Vec<Endpoint>,
    ) -> HostGuards {
        let mut guards = HostGuards::default();
        let assigned = self.host_endpoints().assigned;
        let is_named = |port: &str| {
            assigned.iter().any(|one| matches!(&one.device, Device::Named(name) if name == port))
        };
        for one in &assigned {
            let endpoint = endpoints.len() as u32;
            let Some(guard) = guard(policies, &one.endpoint, endpoint) else { continue };
            endpoints.push(Endpoint {
                name: one.endpoint.as_str().into(),
                handle: policies.handle(&one.endpoint),
                staged: None,
                connections: [None, None],
                open: false,
            });
            let is_its = |port: &str| match &one.device {
                Device::Named(name) => name == port,
                Device::EveryOther => !is_named(port),
            };
            let own = ports.iter().filter(|(name, _)| is_its(name));
            guards.ports.extend(own.map(|(_, id)| (*id, guard)));
            if one.device == Device::EveryOther {
                guards.tunnels = Some(guard);
            }
        }
        guards
    }

    /// What the rules are made of, now.
    fn host_facts(&self) -> Facts {
        let endpoints = self.host_endpoints().assigned;
        let local = self.model.local_endpoints(&self.config.node_name);
        let pods = local.map(|((namespace, name), pod)| {
            let by_tap = match pod.attachment {
                Attachment::Tap { .. } => pod.addresses.iter().copied().map(IpNet::from).collect(),
                Attachment::Veth | Attachment::Tc => Vec::new(),
            };
            let endpoint = format!("{namespace}/{name}");
            Pod { endpoint, device: pod.interface.clone(), rules: None, by_tap }
        });
        Facts {
            pods: pods.collect(),
            endpoints,
            prefix: self.config.interface_prefix.clone(),
            host_device: self.config.host_device.clone(),
            closed_to_pods: self.is_closed_to_pods(),
            log: self.config.policy.log_action(),
            policies: self.policies.clone(),
        }
    }

    /// Takes the rules out of the kernel, those of a predecessor too, unless they are to stay.
    pub(super) fn remove_host_policy(&mut self) {
        if let Some(attempt) = self.host_policy.attempt.take() {
            // Its rules would come behind the removal.
            let _ = attempt.join();
        }
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

/// Host endpoints as the packet path is told of them.
#[derive(Debug, Default)]
pub(super) struct HostGuards {
    /// Of devices.
    pub(super) ports: Vec<(PortId, HostGuard)>,
    /// Of what is inside of tunnels.
    pub(super) tunnels: Option<HostGuard>,
}

/// What a host endpoint has to say of forwarded traffic; `None` for nothing.
fn guard(policies: &Policies, name: &str, endpoint: u32) -> Option<HostGuard> {
    let model = policies.model();
    let found = model.endpoints.get(name)?;
    let says = |stage, direction| !reference::tiers(model, found, stage, direction).is_empty();
    let guard = HostGuard {
        endpoint,
        untracked: says(Stage::Untracked, Direction::Ingress),
        pre_dnat: says(Stage::PreDnat, Direction::Ingress),
        forward: Direction::ALL.map(|direction| says(Stage::Forward, direction)),
    };
    guard.says_something().then_some(guard)
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
