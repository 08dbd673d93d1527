//! Sessions and routes of a network whose routers speak BGP: a mesh between the nodes, and the top
//! of rack, which is of another AS.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::daemon::Daemon;
use super::network::{Encap, Network};
use super::process::{self, wait_for};
use super::report::Report;
use super::tor::{OUTSIDE, Tor};

/// Longest time until all sessions are up.
const SESSIONS_LIMIT: Duration = Duration::from_secs(30);
/// Longest time from there until all routes are in use.
const ROUTES_LIMIT: Duration = Duration::from_secs(15);
/// Longest time that listing routes may take.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// Sessions of each router: with two others, over IPv4 and IPv6.
const SESSIONS: usize = 4;

/// Every session is up on both sides; they go into the report as margay sees them.
pub fn established(network: &mut Network, report: &mut Report) -> Result<String> {
    let begun = Instant::now();
    let mut seen = Vec::new();
    let outcome = wait_for("all BGP sessions", SESSIONS_LIMIT, || {
        seen.clear();
        let daemons = daemons(network)?;
        let wanted = daemons.len() * SESSIONS;
        for daemon in daemons {
            let shown = daemon.show("bgp peers")?;
            seen.extend(shown.as_array().context("show bgp peers: no list")?.iter().cloned());
        }
        let up = seen.iter().filter(|peer| peer["session"] == "Established").count();
        let bird_up = match &network.tor_daemon {
            Some(Tor::Bird(bird)) => bird.established()? == SESSIONS,
            _ => true,
        };
        Ok((up == wanted && up == seen.len() && bird_up).then_some(()))
    });
    let states: Vec<String> =
        seen.iter().map(|peer| format!("{} {}", peer["name"], peer["info"])).collect();
    report.bgp = seen;
    outcome.with_context(|| states.join(", "))?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(format!("{} in {seconds:.1} s: mesh and top of rack, IPv4 and IPv6", report.bgp.len()))
}

/// Each node has the other's blocks and the outside's networks, the top of rack has the blocks.
pub fn learnt(network: &mut Network) -> Result<String> {
    let blocks = [network.nodes[0].blocks()?, network.nodes[1].blocks()?];
    let (outside, encap) = (OUTSIDE.map(str::to_owned), network.spec().encap);
    let mut missing = Vec::new();
    let outcome = wait_for("routes by BGP", ROUTES_LIMIT, || {
        missing.clear();
        for (at, node) in network.nodes.iter_mut().enumerate() {
            let routes = node.daemon()?.show("routes")?;
            let wanted = blocks[1 - at].iter().map(ToString::to_string).chain(outside.clone());
            let tunneled = |prefix: &String| {
                let carries = encap.carries_v6() || !prefix.contains(':');
                encap != Encap::None && carries && !outside.contains(prefix)
            };
            let gone = wanted.filter(|prefix| !has(&routes, prefix, tunneled(prefix)));
            missing.extend(gone.map(|prefix| format!("{prefix} on {}", node.name())));
        }
        let listed = kernel_routes(network)?;
        let all = blocks.iter().flatten().map(ToString::to_string);
        let gone = all.filter(|prefix| !listed.contains(prefix));
        missing.extend(gone.map(|prefix| format!("{prefix} on the top of rack")));
        Ok(missing.is_empty().then_some(()))
    });
    outcome.with_context(|| format!("missing: {}", missing.join(", ")))?;
    Ok("blocks of the other node and networks outside on nodes, blocks in the top of rack's kernel"
        .to_owned())
}

fn daemons(network: &mut Network) -> Result<Vec<&Daemon>> {
    let Network { nodes, tor_daemon, .. } = network;
    let mut daemons: Vec<&Daemon> = Vec::new();
    for node in nodes {
        daemons.push(node.daemon()?);
    }
    if let Some(Tor::Margay(daemon)) = tor_daemon {
        daemons.push(daemon);
    }
    Ok(daemons)
}

/// Whether `show routes` has this prefix with a next hop: learnt, or of the datastore and through
/// a tunnel.
fn has(routes: &Value, prefix: &str, tunneled: bool) -> bool {
    let origin = if tunneled { "store" } else { "bgp" };
    let mut routes = routes.as_array().into_iter().flatten();
    routes.any(|route| {
        let by_tunnel = route["nextHops"][0]["tunnel"].is_string();
        route["prefix"] == prefix
            && route["origin"] == origin
            && route["target"] == "forward"
            && by_tunnel == tunneled
    })
}

/// Destinations of learnt routes in the top of rack's kernel.
fn kernel_routes(network: &Network) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let protocol = network.tor_daemon.as_ref().context("no top of rack")?.protocol();
    for family in ["-4", "-6"] {
        let args = ["-n", network.tor.name(), family, "-j", "route", "show", "proto", protocol];
        let text = process::run_ok(process::command("ip", &args), "", LIST_LIMIT)?;
        let list: Value = serde_json::from_str(&text).context("ip route")?;
        let routes = list.as_array().into_iter().flatten();
        found.extend(routes.filter_map(|route| Some(route["dst"].as_str()?.to_owned())));
    }
    Ok(found)
}
