//! Packets follow what a real BIRD says: networks that the top of rack announces are reached by
//! TCP, and not any more once it withdraws them, or is found dead by BFD.
//!
//! The networks are on the outside host, and the top of rack's kernel always knows the way there:
//! what changes is what the nodes learn.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::bgp;
use super::bird::Bird;
use super::conversation::Conversation;
use super::network::Network;
use super::process::{pause, wait_for};
use super::report::Report;
use super::tor::{HOST, SESSIONS, Tor};

/// Networks outside that nobody knows at first, and the host in them.
const NETWORKS: [(&str, &str); 2] =
    [("203.0.113.0/24", "203.0.113.10"), ("2001:db8:113::/64", "2001:db8:113::10")];
const PORT: u16 = 4000;
/// Longest time from a withdrawal, or a death, to the last answer.
const GONE: Duration = Duration::from_secs(1);
/// How long a session talks before its way is taken away, and how long it is listened to then.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(2);
/// Fewest answers in the time before.
const ANSWERS: usize = 20;
/// Longest time until something that is announced is in use.
const LIMIT: Duration = Duration::from_secs(15);

fn networks() -> Result<Vec<(IpNet, IpAddr)>> {
    let parsed = NETWORKS.iter().map(|(net, host)| Ok((net.parse()?, host.parse()?)));
    parsed.collect()
}

fn bird(network: &mut Network) -> Result<&mut Bird> {
    network.tor_daemon.as_mut().context("no top of rack")?.bird()
}

/// Prefixes of the networks that the first node's margay forwards to.
fn known(network: &mut Network) -> Result<usize> {
    let routes = network.nodes[0].daemon()?.show("routes")?;
    let is_known = |(prefix, _): &&(&str, &str)| {
        let mut routes = routes.as_array().into_iter().flatten();
        routes.any(|route| route["prefix"] == *prefix && route["target"] == "forward")
    };
    Ok(NETWORKS.iter().filter(is_known).count())
}

fn wait_known(network: &mut Network) -> Result<()> {
    wait_for("the networks in margay's routes", LIMIT, || {
        pause(Duration::from_millis(20))?;
        Ok((known(network)? == NETWORKS.len()).then_some(()))
    })
}

/// One TCP session to each of the networks.
fn talk(network: &Network) -> Result<Vec<Conversation>> {
    let from = network.nodes[0].pod("veth-a")?.namespace();
    let start = |(_, host): (IpNet, IpAddr)| {
        Conversation::start(from, &network.outside, SocketAddr::new(host, PORT))
    };
    networks()?.into_iter().map(start).collect()
}

/// BIRD announces the networks: TCP flows.
pub fn carries(network: &mut Network) -> Result<String> {
    let at_outside: Vec<IpAddr> =
        HOST.iter().map(|host| Ok(host.parse()?)).collect::<Result<_>>()?;
    for ((prefix, host), via) in networks()?.into_iter().zip(at_outside) {
        network.outside.ip(&format!("addr add {host} dev lo"))?;
        network.tor.route(prefix, via)?;
    }
    ensure!(known(network)? == 0, "known before it is announced");
    let begun = Instant::now();
    announce(network)?;
    wait_known(network)?;
    let learnt = begun.elapsed().as_secs_f64();
    let sessions = talk(network)?;
    pause(BEFORE)?;
    let mut counts = Vec::new();
    for session in sessions {
        counts.push(session.finish()?.len());
    }
    ensure!(counts.iter().all(|count| *count >= ANSWERS), "answers: {counts:?}");
    Ok(format!("learnt within {learnt:.2} s, {counts:?} round trips over IPv4 and IPv6"))
}

fn announce(network: &mut Network) -> Result<()> {
    let via: Vec<IpAddr> = HOST.iter().map(|host| Ok(host.parse()?)).collect::<Result<_>>()?;
    let new = networks()?.into_iter().zip(via).map(|((prefix, _), via)| (prefix, via));
    let bird = bird(network)?;
    let routes = bird.routes().iter().copied().chain(new).collect();
    bird.announce(routes)
}

/// TCP ends with what `end` does to BIRD.
fn ends(network: &mut Network, end: impl FnOnce(&mut Bird) -> Result<()>) -> Result<String> {
    let sessions = talk(network)?;
    pause(BEFORE)?;
    end(bird(network)?)?;
    // BIRD has answered that it has a new configuration, or is halted.
    let ended = Instant::now();
    pause(AFTER)?;
    let listened = ended.elapsed().as_secs_f64();
    let (mut last, mut late) = (Duration::ZERO, 0);
    for session in sessions {
        let answers = session.finish()?;
        ensure!(answers.len() >= ANSWERS, "only {} answers before", answers.len());
        let after = answers.iter().map(|at| at.duration_since(ended));
        late += after.clone().filter(|time| *time >= GONE).count();
        last = after.max().unwrap_or(last).max(last);
    }
    let seconds = last.as_secs_f64();
    ensure!(late == 0, "{late} answers too late, the last {seconds:.2} s later of {listened:.2} s");
    Ok(format!("last answer {:.0} ms later", last.as_secs_f64() * 1e3))
}

/// BIRD withdraws the networks: nothing flows.
pub fn withdrawn(network: &mut Network) -> Result<String> {
    let nets = networks()?;
    ends(network, |bird| {
        let mut routes = bird.routes().to_vec();
        routes.retain(|(prefix, _)| !nets.iter().any(|(net, _)| net == prefix));
        bird.announce(routes)
    })
}

/// BIRD is halted, not its kernel: nobody but BFD can tell soon. Afterwards all is as before.
pub fn dead(network: &mut Network, report: &mut Report) -> Result<String> {
    announce(network)?;
    wait_known(network)?;
    wait_for("BFD sessions", LIMIT, || {
        pause(Duration::from_millis(20))?;
        let watched = bird(network)?.watched()?;
        Ok((watched == SESSIONS).then_some(()))
    })?;
    let seen = ends(network, |bird| {
        bird.halt(true);
        Ok(())
    });
    // Whatever was seen, it goes on.
    bird(network)?.halt(false);
    let seen = seen?;
    bgp::established(network, report)?;
    wait_known(network)?;
    Ok(seen)
}

/// Whether a BIRD speaks on the top of rack.
pub fn has_bird(network: &Network) -> bool {
    matches!(network.tor_daemon, Some(Tor::Bird(_)))
}
