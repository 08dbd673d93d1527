//! Graceful restart (RFC 4724) with packets on the way: one side is killed with SIGKILL and started
//! again while a client asks a server a hundred times a second.
//!
//! When the other daemon dies, margay keeps its routes as stale ones and its kernel keeps margay's:
//! nothing may be lost. FRR 8.4 tells End-of-RIB before its own routes, which ends the stale ones
//! for a moment: there only the length of the gap is bounded.
//!
//! When margay dies, its workers and their AF_XDP sockets die with it, and its kernel goes on by
//! the routes that margay wrote, for margay has allowed it to forward: a few packets may be lost at
//! either change, and the longest gap is bounded. Where a rule keeps the kernel from forwarding,
//! nothing passes until margay is back, and what is asserted is how soon after its start that is,
//! with the routes that both sides have kept.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay::lab::process::pause;

use crate::network::Daemon;
use crate::path::{Path, Spec};
use crate::probe::{Answers, Asker, Echo};
use crate::speaker::Options;

/// How long the killed one is away.
const AWAY: Duration = Duration::from_secs(2);
/// How long after the session is back the packets are watched.
const WATCHED: Duration = Duration::from_secs(3);
/// Longest time without an answer where some may be lost, and from margay's start to the first.
const GAP: Duration = Duration::from_secs(1);

/// Longest time until packets flow for the first time.
const ANSWERED: Duration = Duration::from_secs(20);
/// A busy machine can delay any one run: what is promised within [`GAP`] holds in one of so many.
const RUNS: usize = 3;

/// What a run has shown.
struct Seen {
    answers: Answers,
    started: Instant,
}

fn path(daemon: Daemon, kernel_forwards: bool) -> Result<Path> {
    let options = Options { restart_s: Some(30), hold_s: 30, ..Options::default() };
    let mut path = Path::start(daemon, &Spec { options, kernel_forwards })?;
    path.announce()?;
    // The peers' End-of-RIB must have come, or there is nothing to keep.
    pause(Duration::from_secs(1))?;
    Ok(path)
}

/// Asks on and on while one of the two is killed, and started again.
fn ask_through(
    path: &mut Path,
    kill: impl FnOnce(&mut Path) -> Result<()>,
    start: impl FnOnce(&mut Path) -> Result<()>,
) -> Result<Seen> {
    let server = path.server(4001);
    let _echo = Echo::udp(&path.place.namespace, server.ip(), server.port());
    // Until both know each other's MAC address, and the server listens.
    let begun = Instant::now();
    loop {
        let first = Asker::udp(&path.client, server);
        pause(Duration::from_millis(500))?;
        if first.finish().count() > 10 {
            break;
        }
        ensure!(begun.elapsed() < ANSWERED, "no answers before the kill");
    }
    let asker = Asker::udp(&path.client, server);
    pause(Duration::from_millis(500))?;
    kill(path)?;
    pause(AWAY)?;
    let started = Instant::now();
    start(path)?;
    path.wait_session()?;
    pause(WATCHED)?;
    Ok(Seen { answers: asker.finish(), started })
}

fn tell(what: &str, answers: &Answers) {
    println!(
        "interop | {what}: {} of {} lost, longest gap {:?}",
        answers.lost(),
        answers.asked(),
        answers.longest_gap()
    );
}

fn they_die(daemon: Daemon) -> Result<Answers> {
    let mut path = path(daemon, false)?;
    let kill = |path: &mut Path| path.place.kill();
    let seen = ask_through(&mut path, kill, |path| path.peer.start())?;
    tell(&format!("{} is killed", daemon.name()), &seen.answers);
    ensure!(seen.answers.first_after(seen.started + AWAY).is_some(), "no answers in the end");
    Ok(seen.answers)
}

fn check_nothing_lost(daemon: Daemon) {
    if !crate::alone::can_run(daemon) {
        return;
    }
    let _turn = crate::Turn::take();
    let answers = they_die(daemon).unwrap();
    assert_eq!(answers.lost(), 0, "longest gap {:?}", answers.longest_gap());
}

#[test]
fn nothing_is_lost_while_bird2_is_killed_and_comes_back() {
    check_nothing_lost(Daemon::Bird2);
}

#[test]
fn nothing_is_lost_while_bird_is_killed_and_comes_back() {
    check_nothing_lost(Daemon::Bird);
}

#[test]
fn nothing_is_lost_while_gobgpd_is_killed_and_comes_back() {
    check_nothing_lost(Daemon::Gobgpd);
}

#[test]
fn little_is_lost_while_frr_is_killed_and_comes_back() {
    if !crate::alone::can_run(Daemon::Frr) {
        return;
    }
    let _turn = crate::Turn::take();
    promptly(|| Ok(they_die(Daemon::Frr)?.longest_gap()));
}

fn we_die(daemon: Daemon, kernel_forwards: bool) -> Result<Seen> {
    let mut path = path(daemon, kernel_forwards)?;
    let kill = |path: &mut Path| {
        path.margay.kill();
        Ok(())
    };
    let seen = ask_through(&mut path, kill, |path| path.margay.restart())
        .with_context(|| path.margay.log_tail())?;
    let what = if kernel_forwards { ", its kernel forwards" } else { "" };
    tell(&format!("margay with {} is killed{what}", daemon.name()), &seen.answers);
    Ok(seen)
}

/// Fails if what a run measures is never below [`GAP`].
fn promptly(run: impl Fn() -> Result<Duration>) {
    let mut seen = Vec::new();
    while seen.len() < RUNS {
        seen.push(run().unwrap());
        if seen.last().is_some_and(|time| *time < GAP) {
            return;
        }
    }
    panic!("never within {GAP:?}: {seen:?}");
}

/// Neither side sends a route again before packets flow: the session comes later.
fn check_soon_back(daemon: Daemon) {
    if !crate::alone::can_run(daemon) {
        return;
    }
    let _turn = crate::Turn::take();
    promptly(|| {
        let Seen { answers, started } = we_die(daemon, false)?;
        let back = answers.first_after(started).context("never came back")? - started;
        println!("interop | margay with {}: back {back:?} after its start", daemon.name());
        Ok(back.max(answers.since(started + back).longest_gap()))
    });
}

#[test]
fn packets_flow_soon_after_margay_is_back_at_bird2() {
    check_soon_back(Daemon::Bird2);
}

#[test]
fn packets_flow_soon_after_margay_is_back_at_frr() {
    check_soon_back(Daemon::Frr);
}

/// RFC 4724 section 4.1 with the kernel as the forwarding plane that stays.
#[test]
fn the_kernel_carries_on_by_margays_routes() {
    if !crate::alone::can_run(Daemon::Bird2) {
        return;
    }
    let _turn = crate::Turn::take();
    promptly(|| Ok(we_die(Daemon::Bird2, true)?.answers.longest_gap()));
}
