//! `show status`.

use crate::clock;
use crate::kernel::export;
use crate::status::{Snapshot, Status};
use crate::store::Report;
use margay_bgp::session::State;
use serde::{Deserialize, Serialize};

/// State of the whole node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    /// This node's name.
    pub node: String,
    /// The daemon's version.
    pub version: String,
    /// It forwards.
    pub ready: bool,
    /// It needs no restart.
    pub live: bool,
    /// What keeps it from being ready or live.
    pub faults: Vec<String>,
    /// Errors of the last step.
    pub errors: Vec<String>,
    /// Time since the start.
    pub uptime_seconds: u64,
    /// The store.
    pub store: Report,
    /// How old what is known of the store is, while the store does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_stale_seconds: Option<u64>,
    /// Open ports.
    pub ports_open: usize,
    /// Ports that wait for their device.
    pub ports_waiting: usize,
    /// This node's endpoints.
    pub endpoints: usize,
    /// IPv4 routes of the packet path.
    pub routes_v4: usize,
    /// IPv6 routes of the packet path.
    pub routes_v6: usize,
    /// Routes of margay in the kernel.
    pub kernel_routes: usize,
    /// BGP; none where it does not run.
    pub bgp: Option<BgpAnswer>,
    /// Packet memory.
    pub frames: Frames,
    /// Steps of the control loop.
    pub steps: u64,
    /// Duration of the last one.
    pub step_microseconds: u64,
    /// From the last change of the store to the moment when all workers had it.
    #[serde(default)]
    pub store_latency_microseconds: u64,
}

/// BGP in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpAnswer {
    /// Sessions that are up.
    pub peers_up: usize,
    /// Sessions that are wanted.
    pub peers: usize,
    /// Prefixes that peers have told, IPv4.
    pub routes_v4: usize,
    /// IPv6.
    pub routes_v6: usize,
    /// Those in the kernel.
    pub kernel_routes: usize,
    /// Those that wait to be written there.
    pub kernel_waiting: usize,
    /// Those left out for the limit on the kernel's.
    pub kernel_left_out: u64,
    /// After a restart: the selection waits for the peers.
    pub holding: bool,
}

/// BGP in short; `None` where it does not run.
pub(crate) fn bgp(status: &Status) -> Option<BgpAnswer> {
    let (snapshot, bgp) = (status.snapshot(), status.bgp()?.status());
    let [routes_v4, routes_v6] = crate::router::bgp::read(&snapshot.learned).len();
    let kernel = snapshot.kernel_learned.as_ref().map(export::Counter::counts).unwrap_or_default();
    let up = bgp.peers.values().filter(|peer| peer.state == State::Established).count();
    Some(BgpAnswer {
        peers_up: up,
        peers: snapshot.bgp_plan.sessions.len(),
        routes_v4,
        routes_v6,
        kernel_routes: kernel.installed,
        kernel_waiting: kernel.waiting,
        kernel_left_out: kernel.left_out,
        holding: bgp.holding,
    })
}

/// Packet memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frames {
    /// Frames in all.
    pub total: usize,
    /// Frames that nobody holds.
    pub free: usize,
    /// Frames lost to a defect.
    pub lost: u64,
    /// The memory is in huge pages.
    pub huge_pages: bool,
}

pub(crate) fn answer(status: &Status) -> StatusAnswer {
    let snapshot = status.snapshot();
    let report = status.dataplane().report();
    let not_live = status.faults();
    let (live, ready) = (not_live.is_empty(), snapshot.not_ready.is_empty());
    let open = snapshot.ports.values().filter(|port| port.open.is_some()).count();
    let v4 = snapshot.routes.keys().filter(|prefix| prefix.addr().is_ipv4()).count();
    StatusAnswer {
        node: snapshot.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: ready && live,
        live,
        faults: not_live.into_iter().chain(snapshot.not_ready.iter().cloned()).collect(),
        errors: errors_of(status, &snapshot),
        uptime_seconds: status.uptime().as_secs(),
        store: snapshot.store.clone(),
        store_stale_seconds: snapshot
            .store
            .lost
            .as_ref()
            .map(|lost| clock::now().saturating_sub(lost.since)),
        ports_open: open,
        ports_waiting: snapshot.ports.len() - open,
        endpoints: snapshot.endpoints.len(),
        routes_v4: v4,
        routes_v6: snapshot.routes.len() - v4,
        kernel_routes: snapshot.kernel_routes,
        bgp: bgp(status),
        frames: Frames {
            total: report.frames,
            free: report.frames_free,
            lost: report.frames_lost,
            huge_pages: report.huge_pages,
        },
        steps: snapshot.steps,
        step_microseconds: snapshot.step_time.as_micros() as u64,
        store_latency_microseconds: snapshot.store_latency.as_micros() as u64,
    }
}

/// Errors of the last step, and what BGP cannot have.
fn errors_of(status: &Status, snapshot: &Snapshot) -> Vec<String> {
    let bgp = status.bgp().map(|bgp| bgp.status()).unwrap_or_default();
    let listen = bgp.listen_errors.iter().map(|(at, why)| format!("BGP listener at {at}: {why}"));
    let own = snapshot.bgp_fault.iter().map(|fault| format!("BGP: {fault}"));
    let plan = snapshot.bgp_plan.faults.iter().map(|fault| format!("BGP: {fault}"));
    let kernel = snapshot.kernel_learned.as_ref().and_then(|kernel| kernel.counts().last_error);
    let kernel = kernel.map(|error| format!("BGP in the kernel: {error}"));
    let ipam = status.ipam_fault().map(|fault| format!("IPAM: {fault}"));
    let startup = status.startup_fault().map(|fault| format!("start-up: {fault}"));
    let bgp = own.chain(plan).chain(listen).chain(kernel).chain(ipam);
    snapshot.errors.iter().cloned().chain(bgp).chain(startup).collect()
}
