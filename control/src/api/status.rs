//! `show status`.

use crate::status::Status;
use crate::store::Report;
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
    /// Packet memory.
    pub frames: Frames,
    /// Steps of the control loop.
    pub steps: u64,
    /// Duration of the last one.
    pub step_microseconds: u64,
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
        errors: snapshot.errors.clone(),
        uptime_seconds: status.uptime().as_secs(),
        store: snapshot.store.clone(),
        ports_open: open,
        ports_waiting: snapshot.ports.len() - open,
        endpoints: snapshot.endpoints.len(),
        routes_v4: v4,
        routes_v6: snapshot.routes.len() - v4,
        kernel_routes: snapshot.kernel_routes,
        frames: Frames {
            total: report.frames,
            free: report.frames_free,
            lost: report.frames_lost,
            huge_pages: report.huge_pages,
        },
        steps: snapshot.steps,
        step_microseconds: snapshot.step_time.as_micros() as u64,
    }
}
