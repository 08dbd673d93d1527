//! What the daemon says of itself: one snapshot, replaced after each step of the control loop.
//!
//! Readers (API, metrics, health) take the snapshot and ask the packet path for its counters; they
//! never wait for the control loop.

use crate::bgp::Handle;
use crate::config::Config;
use crate::host_policy::HostEndpoints;
use crate::kernel::{Neighbor, export};
use crate::model::Name;
use crate::policy::Policies;
use crate::resolve::Route;
use crate::resolve::bgp::BgpPlan;
use crate::resolve::ports::PortKind;
use crate::resolve::tunnels::TunnelPlan;
use crate::resource::workload_endpoint::WorkloadEndpoint;
use crate::router::bgp::SharedRoutes;
use crate::router::limits::Limited;
use crate::router::policy::SharedPolicies;
use crate::store;
use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::port::PortId;
use margay_fastpath::tables::PortEntry;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A worker whose loop has not turned for so long is stuck.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(5);
/// A control loop that has not turned for so long is stuck. It turns once a second at least.
pub(crate) const CONTROL_STUCK_AFTER: Duration = Duration::from_secs(90);

/// State as of the last step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// This node's name.
    pub(crate) node: String,
    /// Why the node is not ready; empty when it is.
    pub(crate) not_ready: Vec<String>,
    /// The store.
    pub(crate) store: store::Report,
    /// Ports by name.
    pub(crate) ports: BTreeMap<Arc<str>, PortState>,
    /// This node's endpoints by namespace and name.
    pub(crate) endpoints: BTreeMap<Name, Arc<WorkloadEndpoint>>,
    /// Its host endpoints with their devices.
    pub(crate) host_endpoints: HostEndpoints,
    /// Pods may send nothing to the host.
    pub(crate) closed_to_pods: bool,
    /// Those of its endpoints that are limited.
    pub(crate) limits: BTreeMap<(String, String), Limited>,
    /// Tunnels to other nodes.
    pub(crate) tunnels: TunnelPlan,
    /// Routes of the packet path.
    pub(crate) routes: Arc<BTreeMap<IpNet, Route>>,
    /// Neighbours of the kernel on margay's ports, with the port's name.
    pub(crate) neighbors: Vec<(Arc<str>, IpAddr, Neighbor)>,
    /// Routes of margay in the kernel.
    pub(crate) kernel_routes: usize,
    /// BGP as the datastore wants it.
    pub(crate) bgp_plan: Arc<BgpPlan>,
    /// Why BGP does not run although it should.
    pub(crate) bgp_fault: Option<String>,
    /// Routes of BGP peers.
    pub(crate) learned: SharedRoutes,
    /// Those of them in the kernel; `None` while BGP does not run.
    pub(crate) kernel_learned: Option<export::Counter>,
    /// What the kernel or the packet path refused at the last step.
    pub(crate) errors: Vec<String>,
    /// Steps taken.
    pub(crate) steps: u64,
    /// Duration of the last step.
    pub(crate) step_time: Duration,
    /// From the last change of the store to the moment when all workers had it.
    pub(crate) store_latency: Duration,
}

/// A port in the snapshot.
#[derive(Debug, Clone)]
pub(crate) struct PortState {
    /// What it is for.
    pub(crate) kind: PortKind,
    /// Its number and entry while it is open.
    pub(crate) open: Option<(PortId, PortEntry)>,
    /// Why it is not open.
    pub(crate) why: String,
}

/// The snapshot and the packet path, for all who want to know.
#[derive(Debug)]
pub(crate) struct Status {
    snapshot: ArcSwap<Snapshot>,
    dataplane: Arc<Dataplane>,
    bgp: ArcSwapOption<Handle>,
    ipam_fault: ArcSwapOption<String>,
    startup_fault: ArcSwapOption<String>,
    policies: SharedPolicies,
    start: Instant,
    turned_ms: AtomicU64,
}

impl Status {
    /// Before the first step.
    pub(crate) fn new(config: &Config, dataplane: Arc<Dataplane>) -> Status {
        let policies = Policies::new(Some(&config.node_name), config.policy.settings());
        let snapshot = Snapshot {
            node: config.node_name.clone(),
            not_ready: vec!["nothing has been read yet".to_owned()],
            ..Snapshot::default()
        };
        Status {
            snapshot: ArcSwap::from_pointee(snapshot),
            dataplane,
            bgp: ArcSwapOption::empty(),
            ipam_fault: ArcSwapOption::empty(),
            startup_fault: ArcSwapOption::empty(),
            policies: Arc::new(Mutex::new(policies)),
            start: Instant::now(),
            turned_ms: AtomicU64::new(0),
        }
    }

    /// State as of the last step.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Replaces the snapshot.
    pub(crate) fn set(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// The thread of BGP, while it runs.
    pub(crate) fn bgp(&self) -> Option<Arc<Handle>> {
        self.bgp.load_full()
    }

    /// BGP's thread runs from now on, or no longer.
    pub(crate) fn set_bgp(&self, handle: Option<Arc<Handle>>) {
        self.bgp.store(handle);
    }

    /// Why this node has no addresses for its tunnels, if so.
    pub(crate) fn ipam_fault(&self) -> Option<Arc<String>> {
        self.ipam_fault.load_full()
    }

    /// Allocation has failed, or works again.
    pub(crate) fn set_ipam_fault(&self, fault: Option<String>) {
        self.ipam_fault.store(fault.map(Arc::new));
    }

    /// Why this node could not write to the datastore what it has to, if so.
    pub(crate) fn startup_fault(&self) -> Option<Arc<String>> {
        self.startup_fault.load_full()
    }

    /// What a node writes at its start has failed, or is written.
    pub(crate) fn set_startup_fault(&self, fault: Option<String>) {
        self.startup_fault.store(fault.map(Arc::new));
    }

    /// Policy, as far as the control loop has it.
    pub(crate) fn policies(&self) -> &SharedPolicies {
        &self.policies
    }

    /// The packet path.
    pub(crate) fn dataplane(&self) -> &Arc<Dataplane> {
        &self.dataplane
    }

    /// Time since the daemon started.
    pub(crate) fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// The control loop has turned.
    pub(crate) fn turned(&self) {
        self.turned_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// What is broken for good; empty when the daemon lives.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let turned = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        if self.start.elapsed().saturating_sub(turned) > CONTROL_STUCK_AFTER {
            faults.push("control loop: stuck".to_owned());
        }
        for worker in self.dataplane.report().workers {
            if worker.panicked {
                faults.push(format!("worker {}: panicked", worker.index));
            } else if worker.stuck_for > STUCK_AFTER {
                let stuck = worker.stuck_for.as_secs();
                faults.push(format!("worker {}: stuck for {stuck} s", worker.index));
            }
        }
        faults
    }
}
