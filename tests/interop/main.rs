//! Real BGP daemons of Debian, each met by the others and by margay, in namespaces of their own.
//!
//! `./run-tests` downloads the packages and unpacks them under `target/peers`: none is installed,
//! no service started. A daemon that is not there gets `SKIPPED: why`. Every test prints a table of
//! what ran.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;
mod bfd;
mod bird;
mod cases;
mod exabgp;
mod frr;
mod gobgp;
mod network;
mod openbgpd;
mod packets;
mod path;
mod place;
#[allow(dead_code, reason = "the tests of netns use all of it")]
#[path = "../netns/probe.rs"]
mod probe;
mod restart;
mod speaker;
mod speaker_process;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use margay::lab::requirements;

use cases::{CASES, Case};
use network::Daemon;
use speaker::Feature;

/// Networks at a time, over all tests: they mostly wait for timers.
const AT_A_TIME: usize = 8;

/// Runs every case that the daemon is able to, and prints what came out.
fn matrix(us: Daemon, them: Daemon) {
    for check in [requirements::check(requirements::NETWORK), us.check(), them.check()] {
        if let Err(error) = check {
            println!("SKIPPED: {error:#}");
            return;
        }
    }
    let filter = std::env::var("MARGAY_CASE").unwrap_or_default();
    let cases: Vec<&Case> = CASES.iter().filter(|case| case.name.contains(&filter)).collect();
    let rows = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _turn = Turn::take();
                    let start = Instant::now();
                    let result = run(case, us, them);
                    rows.lock().unwrap().push((case.name, start.elapsed(), result));
                }
            });
        }
    });
    report(us, them, rows.into_inner().unwrap());
}

/// `None` when one of them cannot do what the case needs.
fn run(case: &Case, us: Daemon, them: Daemon) -> Option<Result<()>> {
    let able = case.needs.iter().all(|feature| match feature {
        // BIRD 2.0 and FRR 8.4 stay down with each other; margay comes up with both.
        Feature::DistantBfd if (us, them) == (Daemon::Bird2, Daemon::Frr) => false,
        _ => them.can(*feature),
    });
    able.then(|| (case.run)(us, them))
}

fn report(us: Daemon, them: Daemon, mut rows: Vec<(&str, Duration, Option<Result<()>>)>) {
    rows.sort_by_key(|(name, _, _)| CASES.iter().position(|case| case.name == *name));
    let mut failures = Vec::new();
    for (name, time, result) in rows {
        let outcome = match &result {
            None => "not offered",
            Some(Ok(())) => "ok",
            Some(Err(_)) => "FAILED",
        };
        println!(
            "interop | {:<6} | {:<8} | {name:<38} | {outcome:<11} | {:>5.1} s",
            us.name(),
            them.name(),
            time.as_secs_f64()
        );
        if let Some(Err(error)) = result {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    assert!(failures.is_empty(), "{} and {}: {}", us.name(), them.name(), failures.join("\n\n"));
}

/// One of the places of [`AT_A_TIME`].
struct Turn;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Turn {
        let mut taken = TAKEN.lock().unwrap();
        while *taken >= AT_A_TIME {
            taken = FREED.wait(taken).unwrap();
        }
        *taken += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap() -= 1;
        FREED.notify_one();
    }
}

#[test]
fn margay_meets_bird() {
    matrix(Daemon::Margay, Daemon::Bird);
}

#[test]
fn margay_meets_bird2() {
    matrix(Daemon::Margay, Daemon::Bird2);
}

#[test]
fn margay_meets_frr() {
    matrix(Daemon::Margay, Daemon::Frr);
}

#[test]
fn margay_meets_gobgpd() {
    matrix(Daemon::Margay, Daemon::Gobgpd);
}

#[test]
fn margay_meets_openbgpd() {
    matrix(Daemon::Margay, Daemon::Openbgpd);
}

#[test]
fn margay_meets_exabgp() {
    matrix(Daemon::Margay, Daemon::Exabgp);
}

/// The cases themselves are right when two daemons that are not ours pass them.
#[test]
fn bird2_meets_frr() {
    matrix(Daemon::Bird2, Daemon::Frr);
}
