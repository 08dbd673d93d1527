//! What is asked of margay only: many connections at once, and attributes that nobody knows.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay::lab::process::{pause, wait_for};
use margay::lab::requirements;
use serde_json::Value;

use crate::network::{Daemon, Network};
use crate::speaker::{Neighbor, Options, Speaker};

/// Sessions that both sides open at the same time.
const SESSIONS: u8 = 200;
const LIMIT: Duration = Duration::from_secs(30);

/// False, with the reason printed, when this machine cannot run tests with `daemon`.
pub(crate) fn can_run(daemon: Daemon) -> bool {
    let checks = [requirements::check(requirements::NETWORK), daemon.check()];
    let missing = checks.into_iter().find_map(Result::err);
    if let Some(error) = &missing {
        println!("SKIPPED: {error:#}");
    }
    missing.is_none()
}

/// RFC 4271 section 6.8, 200 times: of two connections one stays, and it stays up.
#[test]
fn two_hundred_sessions_open_from_both_sides_at_once() {
    if !can_run(Daemon::Bird2) {
        return;
    }
    let _turn = crate::Turn::take();
    collide().unwrap();
}

fn collide() -> Result<()> {
    let (mut us, mut them) = (Speaker::new(1, 65001), Speaker::new(2, 65002));
    let options = Options { hold_s: 30, ..Options::default() };
    let end = |net: u8, number: u8| IpAddr::from(Ipv4Addr::new(10, 9, net, number));
    // Each session has addresses of its own, by which both sides know it.
    for number in 1..=SESSIONS {
        let session = |address, local, asn| {
            let options = options.clone();
            Neighbor { address, local: Some(local), asn, options }
        };
        us.neighbors.push(session(end(2, number), end(1, number), them.asn));
        them.neighbors.push(session(end(1, number), end(2, number), us.asn));
    }
    let mut network = Network::start(vec![(Daemon::Margay, us), (Daemon::Bird2, them)])?;
    for (member, [own, other]) in [(0, [1, 2]), (1, [2, 1])] {
        let addresses = (1..=SESSIONS).map(|number| end(own, number));
        let mut lines: String =
            addresses.map(|address| format!("addr add {address}/32 dev eth0\n")).collect();
        lines += &format!("route add 10.9.{other}.0/24 dev eth0");
        network.members[member].place.namespace.ip(&lines)?;
    }
    // While a side is halted, the other opens connections to its kernel. When margay goes on, it
    // finds BIRD's beside its own.
    network.members[1].halt(true)?;
    pause(Duration::from_millis(2500))?;
    network.members[0].halt(true)?;
    network.members[1].halt(false)?;
    pause(Duration::from_millis(2500))?;
    network.members[0].halt(false)?;
    let count = |network: &mut Network| -> Result<usize> {
        let peer = &mut network.members[0].peer;
        let states = (1..=SESSIONS).map(|number| peer.established(end(2, number)));
        let states = states.collect::<Result<Vec<bool>>>()?;
        Ok(states.into_iter().filter(|up| *up).count())
    };
    let all = usize::from(SESSIONS);
    let result = wait_for("200 sessions", LIMIT, || {
        pause(Duration::from_millis(100))?;
        Ok((count(&mut network)? == all).then_some(()))
    });
    result.with_context(|| {
        let [us, them] = [0, 1].map(|member| network.members[member].peer.log_tail());
        format!("{us}\n--\n{them}")
    })?;
    pause(Duration::from_secs(5))?;
    ensure!(count(&mut network)? == all, "not all are up any more");
    let log = fs::read_to_string(network.members[1].place.file("bird.log"))?;
    let met = (1..=SESSIONS).filter(|number| {
        let name = format!(" p10_9_1_{number}_from");
        let mut lines = log.lines().filter(|line| line.contains(&name));
        let all: Vec<&str> =
            lines.by_ref().take_while(|line| !line.contains("session established")).collect();
        let has = |text: &str| all.iter().any(|line| line.contains(text));
        has("Connecting to") && has("Incoming connection")
    });
    let met = met.count();
    println!("interop | {met} of {all} sessions had two connections at once");
    // Established here while BIRD still is in OpenConfirm: BIRD may close it for the other one.
    let log = network.members[0].peer.log_tail();
    let often = |line: &&str| !line.contains("ups 1,") && !line.contains("ups 2,");
    let flapped: Vec<&str> =
        log.lines().filter(|line| line.starts_with('p')).filter(often).collect();
    ensure!(flapped.is_empty(), "came up again and again: {flapped:#?}");
    ensure!(met > all / 2, "too few connections met: {met}");
    Ok(())
}

/// RFC 4271 section 5: an unknown transitive attribute passes with its Partial bit set, an unknown
/// one that is not transitive does not pass.
#[test]
fn unknown_attributes_pass_if_they_are_transitive() {
    if !can_run(Daemon::Exabgp) {
        return;
    }
    let _turn = crate::Turn::take();
    pass_attributes().unwrap();
}

fn pass_attributes() -> Result<()> {
    let mut us = Speaker::new(1, 65001);
    let mut ends = [Speaker::new(2, 65002), Speaker::new(3, 65003)];
    for end in &mut ends {
        us.add_neighbor(end, &Options::default());
        end.add_neighbor(&us, &Options::default());
    }
    let [from, to] = ends;
    let speakers = vec![(Daemon::Margay, us), (Daemon::Exabgp, from), (Daemon::Exabgp, to)];
    let mut network = Network::start(speakers)?;
    network.wait_established()?;
    let mut commands =
        fs::File::options().append(true).open(network.members[1].place.file("commands"))?;
    for line in [
        "neighbor 10.9.0.1 announce route 10.80.1.0/24 next-hop 10.9.0.2 \
         attribute [ 0xfe 0xc0 0x01020304 ]",
        "neighbor 10.9.0.1 announce route 10.80.2.0/24 next-hop 10.9.0.2 \
         attribute [ 0xfd 0x80 0x01020304 ]",
        "neighbor fd09::1 announce route fd80:1::/64 next-hop fd09::2 \
         attribute [ 0xfe 0xc0 0x01020304 ]",
    ] {
        writeln!(commands, "{line}")?;
    }
    let mut seen = Vec::new();
    let result = wait_for("three routes behind margay", Duration::from_secs(15), || {
        pause(Duration::from_millis(50))?;
        let text = fs::read_to_string(network.members[2].place.file("reports"))?;
        seen = text.lines().filter_map(announcement).collect();
        Ok((seen.len() == 3).then_some(()))
    });
    result.map_err(|error| {
        error.context(format!("{seen:?}: {}", network.members[0].peer.log_tail()))
    })?;
    for (prefix, unknown) in seen {
        let wanted = match prefix.as_str() {
            "10.80.2.0/24" => BTreeSet::new(),
            _ => BTreeSet::from(["attribute-0xFE-0xE0=0x01020304".to_owned()]),
        };
        ensure!(unknown == wanted, "{prefix}: {unknown:?}, not {wanted:?}");
    }
    Ok(())
}

/// The prefix of a report about an announced route, and its attributes that ExaBGP does not know.
fn announcement(line: &str) -> Option<(String, BTreeSet<String>)> {
    let report: Value = serde_json::from_str(line).ok()?;
    let update = &report["neighbor"]["message"]["update"];
    let (_, next_hops) = update["announce"].as_object()?.iter().next()?;
    let (_, entries) = next_hops.as_object()?.iter().next()?;
    let prefix = entries[0]["nlri"].as_str()?.to_owned();
    let attributes = update["attribute"].as_object()?.iter();
    let unknown = attributes.filter(|(name, _)| name.starts_with("attribute-"));
    let unknown =
        unknown.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    Some((prefix, unknown.collect()))
}
