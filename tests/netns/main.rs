//! Real daemons, real veth and TAP devices, real AF_XDP sockets, in namespaces of their own.
//!
//! Each test builds its own network with `margay::lab` and removes it. They take turns, since they
//! measure time and share few cores. A machine that cannot run one gets `SKIPPED: why`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../apiserver/mod.rs"]
mod apiserver;
mod bgp;
mod churn;
mod cleanup;
mod cluster;
mod cni;
mod crash;
mod fair;
mod frames;
mod kernel;
mod limits;
mod limits_by_two;
mod nat;
mod nat_limits;
mod offload;
mod offload_limits;
mod offload_tunnels;
mod peer;
mod pktgen;
mod policy;
mod policy_change;
mod probe;
mod scale;
mod sctp;
mod services;
mod speaker;
mod steps;
mod super_packets;
mod taps;
mod tc;
mod tc_offload;
mod tunnels;
mod wire;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use margay::lab::network::{Encap, Network, NetworkSpec};
use margay::lab::node::Router;
use margay::lab::requirements::{self, Tool};
use margay::lab::tor::Peer;

static TURN: Mutex<()> = Mutex::new(());

/// The turn of a test that needs `tools` beside those of every network; `None`, with the reason
/// printed, when this machine cannot run it.
fn turn(tools: &[Tool]) -> Option<MutexGuard<'static, ()>> {
    let checks = [requirements::check(requirements::NETWORK), requirements::check(tools), af_xdp()];
    for check in checks {
        if let Err(error) = check {
            println!("SKIPPED: {error:#}");
            return None;
        }
    }
    // A test that failed in its turn has cleaned up all the same.
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn af_xdp() -> anyhow::Result<()> {
    let protocols = std::fs::read_to_string("/proc/net/protocols")?;
    let known = protocols.lines().any(|line| line.starts_with("XDP "));
    anyhow::ensure!(known, "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)");
    Ok(())
}

/// The program under test.
fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_margay"))
}

fn margay(mtu: u32) -> NetworkSpec {
    let router = Router::Margay(binary());
    NetworkSpec {
        router,
        mtu,
        queues: 1,
        workers: 1,
        bgp: false,
        peer: Peer::Margay,
        encap: Encap::None,
        detached: false,
    }
}

/// A network with margay on its nodes and the usual pods.
fn network(mtu: u32) -> Network {
    Network::start(margay(mtu)).unwrap()
}
