//! What a run of the lab found, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// One thing that the lab did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// Whether it went as it should.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

/// Echo requests of all steps that expect replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Requests without a reply.
    pub lost: u32,
}

/// The whole run. Its JSON is a contract: names are never changed.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// True when every step is.
    pub ok: bool,
    /// The steps in their order.
    pub steps: Vec<Step>,
    /// BGP sessions of all routers, as `margay show bgp peers` tells of them.
    pub bgp: Vec<Value>,
    /// Sums over the ping steps.
    pub pings: Pings,
    /// One TCP stream from pod to pod across both routers at MTU 1500, in Gbit/s of payload.
    pub tcp_gbps: f64,
    /// Small datagrams from pod to pod across both routers that arrived, in millions a second.
    pub udp_mpps: f64,
    /// Packets that the routers dropped, by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
    /// Wall time of all steps, clean-up included, in seconds.
    pub seconds_total: f64,
}

impl Report {
    /// The figures under the list of steps, for people.
    pub fn summary(&self) -> String {
        let Report { pings, tcp_gbps, udp_mpps, .. } = self;
        let failed = self.steps.iter().filter(|step| !step.ok).count();
        let verdict = match failed {
            0 => format!("all {} steps ok", self.steps.len()),
            _ => format!("{failed} of {} steps FAILED", self.steps.len()),
        };
        let drops: Vec<String> =
            self.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let drops = if drops.is_empty() { "none".to_owned() } else { drops.join(", ") };
        format!(
            "{verdict} in {:.1} s\n\
             pings {} sent, {} lost; TCP {tcp_gbps:.2} Gbit/s; UDP {udp_mpps:.3} Mpps\n\
             drops: {drops}",
            self.seconds_total, pings.sent, pings.lost
        )
    }
}
