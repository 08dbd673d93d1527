//! What is measured beside each other, and how it is set up.

pub(crate) mod daemon;
pub(crate) mod feed;
pub(crate) mod felix;
pub(crate) mod forwarder;
pub(crate) mod l3fwd;
pub(crate) mod linux;
pub(crate) mod testpmd;
pub(crate) mod xdp;

use crate::machine::HugePages;
use crate::rig::{Rig, SINK_MAC};
use anyhow::Result;
use serde_json::Value;
use std::any::Any;

const HUGE_PAGES: usize = 400;

/// What carries packets over the rig, with the 256 routes of [`forwarder::routes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Router {
    /// The daemon; established flows are carried by its XDP program.
    MargayOffload,
    /// The daemon; its worker carries everything.
    Margay,
    /// DPDK's testpmd, which rewrites link addresses only.
    Testpmd,
    /// The kernel.
    Linux,
    /// An XDP program of few instructions.
    Xdp,
}

/// Keeps a router running; it ends when this is dropped.
pub(crate) type Running = Box<dyn Any>;

impl Router {
    pub(crate) const ALL: [Router; 5] =
        [Router::MargayOffload, Router::Margay, Router::Testpmd, Router::Linux, Router::Xdp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Router::MargayOffload => "margay, offload",
            Router::Margay => "margay, AF_XDP alone",
            Router::Testpmd => "DPDK testpmd mac, net_af_xdp",
            Router::Linux => "Linux ip_forward",
            Router::Xdp => "XDP: hash, rewrite, redirect",
        }
    }

    /// The TTL of packets that it has forwarded; they came with 64.
    pub(crate) fn ttl(self) -> u8 {
        if self == Router::Testpmd { 64 } else { 63 }
    }

    /// Starts it on the router's core. It must be dropped before the rig.
    pub(crate) fn start(self, rig: &Rig) -> Result<Running> {
        Ok(match self {
            Router::MargayOffload | Router::Margay => {
                let offload = self == Router::MargayOffload;
                Box::new(daemon::route_by_margay(rig, &rig.store()?, offload, Value::Null)?)
            }
            Router::Testpmd => {
                let huge = HugePages::reserve(HUGE_PAGES, &rig.scope.directory())?;
                Box::new((testpmd::Testpmd::start(rig, &huge, SINK_MAC)?, huge))
            }
            Router::Linux => Box::new(linux::route_by_kernel(rig)?),
            Router::Xdp => Box::new(xdp::Forwarder::attach(rig)?),
        })
    }
}
