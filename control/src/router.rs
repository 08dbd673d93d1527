//! The control loop's state, and the step that makes the world follow it.
//!
//! Inputs (store, kernel, packet path) only change the state; a step then derives everything from
//! it: which ports, which routes, what the kernel should have. So a step that fails halfway is made
//! good by the next, and the order of inputs makes no difference.

pub(crate) mod bgp;
mod host_policy;
mod inputs;
pub(crate) mod limits;
mod nat;
mod neighbors;
pub(crate) mod policy;
mod port_entries;
mod report;
mod tunnels;

use crate::config::Config;
use crate::devices::{Devices, OpenError, Request};
use crate::kernel::mirror::Mirror;
use crate::kernel::own_ports::OwnPorts;
use crate::kernel::{routes, sysctl};
use crate::model::Model;
use crate::ports::{Open, Ports};
use crate::publish::{Attach, Done, Publication, PublishedPort, Publisher};
use crate::resolve::ports::PortKind;
use crate::resolve::tunnels::TunnelPlan;
use crate::resolve::{self, Inputs, Wanted};
use crate::service_health::ServiceHealth;
use crate::status::Status;
use crate::store;
use bgp::Bgp;
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::fib::FibWriter;
use margay_tunnels::wire::ethernet::Mac;
use neighbors::Questions;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Errors kept for `show status`.
const ERRORS_MAX: usize = 32;

/// Everything that the control loop owns.
#[derive(Debug)]
pub(crate) struct Router {
    config: Config,
    dataplane: Arc<Dataplane>,
    devices: Devices,
    publisher: Publisher,
    ports: Ports,
    port_entries: BTreeMap<Arc<str>, PublishedPort>,
    bgp: Bgp,
    tunnels: TunnelPlan,
    /// What is wrong with them.
    tunnel_faults: Vec<String>,
    policies: policy::SharedPolicies,
    policy_faults: Vec<String>,
    limits: limits::Kept,
    service_health: ServiceHealth,
    own_ports: OwnPorts,
    host_policy: host_policy::HostPolicy,
    handle: rtnetlink::Handle,
    model: Model,
    mirror: Mirror,
    store: store::Report,
    store_known: bool,
    kernel_seen: bool,
    dirty: bool,
    questions: Questions,
    status: Arc<Status>,
    errors: Vec<String>,
    steps: u64,
    step_time: Duration,
    /// When the oldest word of the store came that the workers do not have yet.
    arrived: Option<Instant>,
    /// How long the last one took to them.
    store_latency: Duration,
    /// Something changed that only the snapshot tells.
    untold: bool,
}

impl Router {
    /// With nothing known and nothing published.
    pub(crate) fn new(
        config: Config,
        (dataplane, mut fib): (Arc<Dataplane>, FibWriter),
        handle: rtnetlink::Handle,
        status: Arc<Status>,
    ) -> Result<Router, OpenError> {
        let devices = Devices::new(&config, dataplane.arena())?;
        if let Some(map) = devices.offload() {
            fib.raise_on_change(map.generation());
            dataplane.offload(map);
        }
        Ok(Router {
            publisher: Publisher::new(dataplane.clone(), fib, &config.node_name),
            ports: Ports::new(dataplane.worker_count()),
            port_entries: BTreeMap::new(),
            bgp: Bgp::new(),
            tunnels: TunnelPlan::default(),
            tunnel_faults: Vec::new(),
            policies: status.policies().clone(),
            policy_faults: Vec::new(),
            limits: limits::Kept::default(),
            service_health: ServiceHealth::start(),
            own_ports: OwnPorts::default(),
            host_policy: host_policy::HostPolicy::default(),
            config,
            dataplane,
            devices,
            handle,
            model: Model::default(),
            mirror: Mirror::default(),
            store: store::Report::default(),
            store_known: false,
            kernel_seen: false,
            dirty: true,
            questions: Questions::default(),
            status,
            errors: Vec::new(),
            steps: 0,
            step_time: Duration::ZERO,
            arrived: None,
            store_latency: Duration::ZERO,
            untold: true,
        })
    }

    /// Duration of the last step that changed something: inputs may well wait as long for the next.
    pub(crate) fn step_time(&self) -> Duration {
        self.step_time
    }

    /// When the next step is due although nothing changed.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let work = self.bgp.has_work().then(Instant::now);
        let tries = [self.bgp.retry(), self.ports.next_try(), self.host_policy.retry()];
        tries.into_iter().chain([work]).flatten().min()
    }

    /// Makes ports, packet path and kernel follow the state. Blocks while workers take it up.
    pub(crate) async fn step(&mut self, now: Instant) {
        if !self.store_known || !self.kernel_seen {
            // Routes of a predecessor stay until it is known which of them are wrong.
            if std::mem::take(&mut self.untold) {
                self.report();
            }
            return;
        }
        let begin = Instant::now();
        self.dirty |= self.bgp.retry().is_some_and(|retry| retry <= now);
        self.dirty |= self.own_ports.follow(self.config.nat.port_range.0, now);
        let policy_changed = self.commit_policy();
        let wanted_ports = resolve::ports::wanted(&self.config, &self.model);
        let mut plan = self.ports.plan(&wanted_ports, &self.mirror, now);
        if !plan.close.is_empty() {
            self.close(&plan.close, "it is no longer wanted, or has changed");
            plan = self.ports.plan(&wanted_ports, &self.mirror, now);
        }
        let attach = self.open(&plan.open, now);
        let mut changed = std::mem::take(&mut self.untold) || self.dirty || !plan.open.is_empty();
        if self.dirty || !attach.is_empty() {
            self.dirty = false;
            self.errors.clear();
            self.follow_plan().await;
            let wanted = self.publish(attach);
            self.told();
            let refused =
                routes::reconcile(&self.handle, &wanted.kernel_routes, &mut self.mirror).await;
            self.note(refused.iter().map(ToString::to_string));
            self.follow_tunnels().await;
        } else if policy_changed {
            self.publish_policy();
        }
        self.told();
        changed |= self.follow_host_policy(changed || policy_changed, now);
        self.work_bgp(now);
        self.answer(now);
        if changed {
            self.steps += 1;
            self.step_time = begin.elapsed();
            self.report();
        }
    }

    /// Closes ports: first nothing leads to them, then their workers let go, then the device.
    fn close(&mut self, names: &[Arc<str>], why: &str) {
        let wanted = resolve::ports::wanted(&self.config, &self.model);
        let now = Instant::now();
        let kinds: Vec<Option<PortKind>> =
            names.iter().map(|name| self.ports.kind_of(name).cloned()).collect();
        let closing: Vec<_> =
            names.iter().filter_map(|name| self.ports.closed(name, why, now)).collect();
        if closing.is_empty() {
            return;
        }
        self.dirty = true;
        self.publish(Vec::new());
        for open in closing {
            if !self.dataplane.detach(open.id) {
                self.note([format!("port {}: a worker did not let go", open.id)]);
            }
        }
        for (name, kind) in names.iter().zip(kinds) {
            let Some(PortKind::Tap { netns, device }) = kind else { continue };
            if wanted.get(name)
                != Some(&PortKind::Tap { netns: netns.clone(), device: device.clone() })
                && let Err(error) = self.devices.remove_tap(&netns, &device)
            {
                tracing::debug!(port = %name, "its device is not removed: {error}");
            }
        }
    }

    fn open(&mut self, names: &[(Arc<str>, PortKind)], now: Instant) -> Vec<Attach> {
        let mut attach = Vec::new();
        for (name, kind) in names {
            let link = self.mirror.link_by_name(name).filter(|_| kind.is_device());
            let device = link.map(|link| (link.index, link.mtu));
            let mac = match kind {
                PortKind::Tap { .. } => self.endpoint_mac(name),
                _ => link.and_then(|link| link.mac),
            };
            let mtu = self.tap_mtu(kind);
            let index = device.map(|(index, _)| index);
            let Some((id, worker)) = self.ports.reserve() else {
                let error = OpenError("all port numbers are taken".to_owned());
                self.ports.failed(name, None, index, &error, now);
                continue;
            };
            if matches!(kind, PortKind::Veth | PortKind::Tc) {
                self.warn_of(name, sysctl::prepare_pod_device(name));
            }
            let workers = self.dataplane.worker_count();
            match self.devices.open(Request { id, name, kind, mac, mtu, workers }) {
                Ok(mut opened) => {
                    let parts = std::mem::take(&mut opened.parts).into_iter().enumerate();
                    attach.extend(parts.map(|(part, port)| Attach {
                        id,
                        worker: (worker + part) % workers,
                        port,
                    }));
                    self.ports.opened(name, Open::new(id, worker, device, opened));
                    if *kind == PortKind::Host {
                        self.warn_of(name, sysctl::prepare_host_device(name));
                    }
                    tracing::info!(port = %name, %id, worker, "open");
                }
                Err(error) => {
                    if self.ports.failed(name, Some(id), index, &error, now) {
                        tracing::warn!(port = %name, "not opened: {error}");
                    }
                }
            }
        }
        attach
    }

    /// Link address that the resource of a pod gives its device.
    fn endpoint_mac(&self, interface: &str) -> Option<Mac> {
        let mut endpoints = self.model.local_endpoints(&self.config.node_name);
        endpoints.find(|(_, endpoint)| endpoint.interface == interface)?.1.mac
    }

    fn warn_of(&mut self, name: &Arc<str>, faults: Vec<String>) {
        faults.iter().for_each(|fault| tracing::debug!(port = %name, "setting: {fault}"));
    }

    /// Resolves and publishes the state as it is.
    fn publish(&mut self, attach: Vec<Attach>) -> Wanted {
        self.plan_tunnels();
        self.resolve_nat();
        let attached: BTreeSet<Arc<str>> =
            self.ports.open().map(|(name, ..)| name.clone()).collect();
        let policies = self.bgp.policies();
        let mut wanted = resolve::resolve(Inputs {
            node: &self.config.node_name,
            model: &self.model,
            mirror: &self.mirror,
            static_routes: &self.bgp.static_routes(&self.config),
            host_device: &self.config.host_device,
            attached: &attached,
            bgp: policies.as_ref(),
            tunnels: &self.tunnels,
        });
        self.port_entries = port_entries::build(
            &self.config,
            &self.model,
            &self.mirror,
            &self.ports,
            &wanted.routes,
        );
        self.resolve_limits();
        self.resolve_policy(&wanted.routes);
        let known = self.unresolved();
        let before = self.publisher.routes().clone();
        self.bgp.resolved(std::mem::take(&mut wanted.table));
        self.follow_links();
        let done = self.publisher.publish(Publication {
            ports: &self.port_entries,
            host: &self.config.host_device,
            routes: Arc::new(std::mem::take(&mut wanted.routes)),
            learned: &mut bgp::write(self.bgp.routes()),
            tunnels: &self.tunnels,
            mirror: &self.mirror,
            attach,
        });
        self.note_publication(&done);
        self.follow_found();
        self.follow_others(&before);
        let unresolved = self.unresolved();
        let new = unresolved.difference(&known).copied();
        neighbors::request_all(&self.handle, self.with_devices(new));
        wanted
    }

    fn note_publication(&mut self, done: &Done) {
        if done.stuck {
            self.note(["a worker did not take the new tables in time".to_owned()]);
        }
        self.note(done.refused.iter().map(|(prefix, why)| format!("route {prefix}: {why}")));
        tracing::debug!(written = done.written, removed = done.removed, "published");
    }

    fn note(&mut self, errors: impl IntoIterator<Item = String>) {
        for error in errors {
            tracing::warn!("{error}");
            if self.errors.len() < ERRORS_MAX {
                self.errors.push(error);
            }
        }
    }

    /// Gives all devices back, and takes margay's routes out of the kernel unless they are to stay.
    pub(crate) async fn stop(mut self) {
        let names: Vec<Arc<str>> = self.ports.open().map(|(name, ..)| name.clone()).collect();
        let now = Instant::now();
        let open: Vec<_> =
            names.iter().filter_map(|name| self.ports.closed(name, "", now)).collect();
        self.stop_bgp().await;
        self.remove_host_policy();
        if !self.config.keep_routes {
            for error in routes::remove_all(&self.handle).await {
                tracing::warn!("{error}");
            }
        }
        for port in open {
            self.dataplane.detach(port.id);
        }
    }
}
