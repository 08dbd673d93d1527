//! How long packets take from veth to veth: each router at half of what it carries itself, and all
//! at a rate that every one of them carries.

use crate::peers::Router;
use crate::report::{Look, Outcome, Row};
use crate::rig::{FLOWS, IN_MAC, Rig, pin};
use crate::{Arguments, GENERATOR_CORE, Measures, ROUTER_CORE};
use anyhow::{Context, Result, ensure};
use margay::lab::process::pause;
use margay_fastpath::pktgen::{Frames, Pace, Protocol, Receiver, Sender, Source, Template};
use margay_fastpath::sys::bpf::AttachMode;
use margay_tunnels::wire::ethernet::Mac;
use nix::net::if_::if_nametoindex;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Before a measurement; flows are offloaded meanwhile, and threads awake.
const WARM_UP: Duration = Duration::from_secs(1);
/// Until the last packet has come.
const DRAIN: Duration = Duration::from_millis(200);
/// How far the generator may lag behind its rate: longer stops are not made good by a burst.
const CATCH_UP: Duration = Duration::from_micros(50);
/// Part of the rate that must have been sent.
const KEPT: f64 = 0.9;
/// 64 bytes with the check sequence: headers and stamp fill it.
const LENGTH: usize = 64;

const NAMES: [&str; 4] = ["median", "99th percentile", "99.9th percentile", "lost"];

/// Throughput in Mpps; then at half of it, and at the common rate: three latencies in us, and what
/// was lost of a million.
type Figures = [f64; 9];

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    // What fails here will say so again, as a row.
    let found = Router::ALL.map(|router| throughput(router).ok());
    let slowest = found.into_iter().flatten().fold(f64::INFINITY, f64::min);
    let common = (slowest / 2.0 / 10_000.0).floor() * 10_000.0;
    let mut peers: Vec<(&'static str, Measures<'_, 9>)> = Vec::new();
    for router in Router::ALL {
        peers.push((router.name(), Box::new(move |time| measure(router, common, time))));
    }
    outcomes(crate::run_figures(&mut peers, arguments), common)
}

fn outcomes(rows: [Vec<Row>; 9], common: f64) -> Vec<Outcome> {
    let setting = format!(
        "stamped frames of 64 bytes, {FLOWS} flows, from the generator's program on CPU \
         {GENERATOR_CORE} to the program at the far end on CPU {ROUTER_CORE}; the generator hands \
         over as many as 64 frames at once, which is in the times of all; percentiles up to an \
         eighth too long"
    );
    let [throughput, rest @ ..] = rows;
    let outcome = |title: String, (unit, look), rows| Outcome {
        title,
        unit,
        look,
        notes: vec![setting.clone()],
        rows,
    };
    let title = "latency: throughput, of which half is sent".to_owned();
    let mut found = vec![outcome(title, ("Mpps", Look::MoreIsBetter), throughput)];
    let half = "half of its own throughput".to_owned();
    let loads = [half, format!("{:.2} Mpps", common / 1e6)];
    let titles = loads.iter().flat_map(|load| NAMES.map(|name| (name, load)));
    for ((name, load), rows) in titles.zip(rest) {
        let kind = match name {
            "lost" => ("of a million", Look::TableOnly),
            _ => ("us", Look::LessIsBetter),
        };
        found.push(outcome(format!("latency at {load}: {name}"), kind, rows));
    }
    found
}

/// Packets a second, at more than the router carries.
fn throughput(router: Router) -> Result<f64> {
    let rig = Rig::new()?;
    let _running = router.start(&rig)?;
    on_generator(&rig, |sender, receiver| most(sender, receiver, WARM_UP))
}

fn measure(router: Router, common: f64, time: Duration) -> Result<Figures> {
    let rig = Rig::new()?;
    let _running = router.start(&rig)?;
    on_generator(&rig, |sender, receiver| {
        let most = most(sender, receiver, time)?;
        let mut figures = [most / 1e6; 9];
        for (at, rate) in [most / 2.0, common].into_iter().enumerate() {
            let found = at_rate(sender, receiver, (rate, time))?;
            figures[1 + 4 * at..][..4].copy_from_slice(&found);
        }
        Ok(figures)
    })
}

/// Runs `work` on the generator's core and in its namespace.
fn on_generator<T: Send>(
    rig: &Rig,
    work: impl FnOnce(&mut Sender, &Receiver) -> Result<T> + Send,
) -> Result<T> {
    let attach = || Ok(Receiver::attach(if_nametoindex("s0")?, FLOWS, AttachMode::Native)?);
    let receiver = rig.sink.enter(attach)?;
    rig.generator.enter(|| {
        pin(GENERATOR_CORE);
        let mut sender = Sender::new(&frames()?, rig.egress()?)?;
        send(&mut sender, None, WARM_UP)?;
        work(&mut sender, &receiver)
    })
}

fn frames() -> Result<Frames> {
    Ok(Frames::stamped(&Template {
        macs: [IN_MAC, Mac([2, 0, 0, 0, 0, 2])],
        src: Ipv4Addr::new(10, 10, 0, 2).into(),
        dst: Ipv4Addr::from(crate::peers::forwarder::FIRST + 1).into(),
        destinations: FLOWS,
        protocol: Protocol::Udp,
        ports: [1024, 9],
        flows: FLOWS as usize,
        lengths: vec![LENGTH],
    })?)
}

/// Packets that were sent, and seconds.
fn send(sender: &mut Sender, rate: Option<f64>, time: Duration) -> Result<(u64, f64)> {
    let per_second = rate.map(|rate| rate as u64);
    let pace = Pace { per_second, catch_up: CATCH_UP, ..Pace::default() };
    let sent = sender.send(pace, time, &|| margay::lab::process::check_interrupt().is_err())?;
    Ok((sent.packets, sent.time.as_secs_f64()))
}

fn most(sender: &mut Sender, receiver: &Receiver, time: Duration) -> Result<f64> {
    let before = receiver.counts()?.stamped;
    let (_, seconds) = send(sender, None, time)?;
    pause(DRAIN)?;
    let arrived = receiver.counts()?.stamped - before;
    ensure!(arrived > 0, "nothing arrived");
    Ok(arrived as f64 / seconds)
}

/// Three latencies in us, and what was lost of a million.
fn at_rate(
    sender: &mut Sender,
    receiver: &Receiver,
    (rate, time): (f64, Duration),
) -> Result<[f64; 4]> {
    send(sender, Some(rate), WARM_UP)?;
    pause(DRAIN)?;
    let (before, times) = (receiver.counts()?, receiver.latency()?);
    let (sent, seconds) = send(sender, Some(rate), time)?;
    pause(DRAIN)?;
    let (after, latency) = (receiver.counts()?, receiver.latency()?.since(&times));
    let rate_kept = sent as f64 / seconds;
    ensure!(rate_kept >= rate * KEPT, "only {rate_kept:.0} of {rate:.0} packets a second sent");
    let lost = sent.saturating_sub(after.stamped - before.stamped);
    let within = |share| latency.within(share).map(|ns| ns as f64 / 1e3).context("no times");
    let lost = lost as f64 * 1e6 / sent.max(1) as f64;
    Ok([within(500_000)?, within(990_000)?, within(999_000)?, lost])
}
