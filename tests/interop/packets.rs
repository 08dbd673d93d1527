//! Real packets through a real daemon: a route that BIRD announces carries TCP, and carries nothing
//! soon after it is withdrawn, or after BFD has found BIRD dead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay::lab::process::{pause, wait_for};
use serde_json::json;

use crate::network::Daemon;
use crate::path::{PREFIX, Path, Spec, net};
use crate::probe::{Asker, Echo};
use crate::speaker::{Hops, Options};

/// Longest time from a withdrawal, or a death, to the last answer.
const GONE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(20);

fn path(hops: Hops) -> Path {
    let options = Options { bfd: Some(hops), ..Options::default() };
    let mut path = Path::start(Daemon::Bird2, &Spec { options, ..Spec::default() }).unwrap();
    path.announce().unwrap();
    path
}

/// Runs `end` while the client asks the server, whose answers must end with the route.
fn check_end(path: &mut Path, end: impl FnOnce(&mut Path) -> Result<()>) -> Result<()> {
    let server = path.server(4001);
    let _echo = Echo::udp(&path.place.namespace, server.ip(), server.port());
    let asker = Asker::udp(&path.client, server);
    pause(Duration::from_secs(1))?;
    let ended = Instant::now();
    end(path)?;
    pause(Duration::from_secs(3))?;
    let answers = asker.finish();
    ensure!(answers.count() > 20, "only {} answers", answers.count());
    let late = answers.first_after(ended + GONE);
    ensure!(late.is_none(), "an answer {:?} after the route's end", late.map(|at| at - ended));
    Ok(())
}

#[test]
fn a_learnt_route_carries_tcp_and_ends_with_its_withdrawal() {
    if !crate::alone::can_run(Daemon::Bird2) {
        return;
    }
    let _turn = crate::Turn::take();
    let mut path = path(Hops::One);
    let server = path.server(4000);
    {
        let _echo = Echo::tcp(&path.place.namespace, server.ip(), server.port());
        let asker = Asker::tcp(&path.client, server);
        pause(Duration::from_secs(1)).unwrap();
        assert!(asker.finish().count() > 20);
    }
    check_end(&mut path, |path| path.peer.withdraw(net(PREFIX))).unwrap();
}

/// The daemon is halted, not its kernel: nothing but BFD can tell soon that its routes are old.
/// Nobody has said how far the other one is.
fn die_watched(hops: Hops) {
    if !crate::alone::can_run(Daemon::Bird2) {
        return;
    }
    let _turn = crate::Turn::take();
    let mut path = path(hops);
    let mut shown = serde_json::Value::Null;
    let bfd = wait_for("BFD", LIMIT, || {
        pause(Duration::from_millis(50))?;
        shown = path.margay.show("bgp peers")?[0]["bfd"].clone();
        let is_up = (&shown["state"], &shown["remoteState"]) == (&json!("Up"), &json!("Up"));
        Ok((is_up && path.peer.has_bfd_up("10.9.0.1".parse()?)?).then_some(()))
    });
    bfd.with_context(|| format!("{shown}: {}", path.margay.log_tail())).unwrap();
    assert_eq!(shown["multihop"], json!(hops == Hops::Several), "{shown}");
    let halt = |path: &mut Path| path.place.signal(nix::sys::signal::Signal::SIGSTOP);
    check_end(&mut path, halt).unwrap();
    let shown = path.margay.show("bgp peers").unwrap();
    assert_eq!(shown[0]["bfd"]["diagnostic"], json!("detection time expired"), "{shown}");
}

#[test]
fn a_route_of_a_peer_that_bfd_finds_dead_carries_nothing() {
    die_watched(Hops::One);
}

#[test]
fn a_route_of_a_distant_peer_that_bfd_finds_dead_carries_nothing() {
    die_watched(Hops::Several);
}
