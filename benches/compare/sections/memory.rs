//! The pipeline without a kernel: the same capture in memory through margay's worker and through
//! DPDK's l3fwd, each on one core, into a port that throws everything away.

use crate::machine::HugePages;
use crate::peers::forwarder::{self, IN, Macs, OUT};
use crate::peers::l3fwd::{L3fwd, Lookup};
use crate::report::{Look, Outcome, Row};
use crate::{Arguments, Measure};
use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use margay::lab::process::pause;
use margay::lab::scope::Scope;
use margay_fastpath::counters::Stage;
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::parse::may_receive_v4;
use margay_fastpath::port::pcap::{Capture, NullPort, ReplayPort, Writer};
use margay_tunnels::wire::ethernet::Mac;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLOWS: u32 = 4096;
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Small frames for the pipeline, and huge pages for l3fwd and for them.
const FRAMES: usize = 4096;
const HUGE_PAGES: usize = 512;
const WARM_UP: Duration = Duration::from_secs(1);

/// Routes, and packets to them.
struct Load {
    routes: Vec<Ipv4Net>,
    frames: Vec<Vec<u8>>,
}

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let notes = [
        "60-byte UDP, one core; packets are copied from a preloaded capture into a frame each, \
         the last freed one first (net_pcap with infinite_rx does the same), and sunk; bursts of \
         64 here, of 32 in l3fwd, which is what its source says",
        "l3fwd: rx offload and RSS flags off and --parse-ptype on, as net_pcap has neither; room \
         for a million routes; built with the package's own flags",
        "million packets a second, as the sink counted",
    ];
    let outcome = |title: &str, about: &str, load: Result<Load>, lookups: &[Lookup]| Outcome {
        title: title.to_owned(),
        unit: "Mpps",
        look: Look::MoreIsBetter,
        notes: [about].iter().chain(&notes).map(|&note| note.to_owned()).collect(),
        rows: load.and_then(|load| rows(&load, lookups, arguments)).unwrap_or_else(|error| {
            let mut row = Row::new("margay");
            row.skipped = Some(format!("{error:#}"));
            vec![row]
        }),
    };
    let both = [Lookup::Lpm, Lookup::Fib];
    vec![
        outcome("In memory", "4096 flows, 256 routes of 24 bits", few(), &both),
        outcome(
            "In memory, with the full table",
            "4096 flows to addresses at random inside of prefixes at random, all IPv4 prefixes of \
             the real table; without l3fwd's LPM, which looks through all routes of a length for \
             each that it adds",
            full(),
            &both[1..],
        ),
    ]
}

fn few() -> Result<Load> {
    Ok(Load { routes: forwarder::routes()?, frames: forwarder::flows(FLOWS, ROUTER) })
}

/// The real table, where `MARGAY_DATA` names its directory.
fn full() -> Result<Load> {
    let directory = std::env::var_os("MARGAY_DATA").context("MARGAY_DATA is not set")?;
    let path = Path::new(&directory).join("prefixes.txt.gz");
    let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    let routes: Vec<Ipv4Net> = text.lines().filter_map(|line| line.parse().ok()).collect();
    anyhow::ensure!(!routes.is_empty(), "{}: no IPv4 prefix", path.display());
    let inside = |at: u32| {
        let net = routes[forwarder::mixed(2 * at) as usize % routes.len()];
        let rest = forwarder::mixed(2 * at + 1).checked_shr(net.prefix_len().into());
        Ipv4Addr::from_bits(net.addr().to_bits() | rest.unwrap_or(0))
    };
    let is_routed = |address: &Ipv4Addr| may_receive_v4(*address);
    let dsts = (0..).map(inside).filter(is_routed).take(FLOWS as usize);
    let frames = forwarder::flows_to(dsts, ROUTER);
    Ok(Load { routes, frames })
}

fn rows(load: &Load, lookups: &[Lookup], arguments: &Arguments) -> Result<Vec<Row>> {
    let scope = Scope::new()?;
    let directory = scope.directory();
    let capture = write_capture(&directory, &load.frames)?;
    // Without huge pages both run on normal ones; the rows then say which.
    let huge = HugePages::reserve(HUGE_PAGES, &directory);
    let huge = huge.map_err(|error| eprintln!("compare: {error:#}")).ok();
    let built = L3fwd::build();
    let peer = |lookup| -> Measure<'_> {
        let (built, huge, capture, directory) = (&built, &huge, &capture, &directory);
        let given = (capture.as_path(), &load.routes[..]);
        Box::new(move |time| match built {
            Ok(l3fwd) => l3fwd.measure(lookup, given, huge.as_ref(), directory, time),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        })
    };
    let mut peers: Vec<(&'static str, Measure<'_>)> =
        vec![("margay pipeline", Box::new(|time| margay(&capture, &load.routes, time)))];
    for lookup in lookups {
        let name = match lookup {
            Lookup::Lpm => "DPDK l3fwd, LPM",
            Lookup::Fib => "DPDK l3fwd, FIB",
        };
        peers.push((name, peer(*lookup)));
    }
    Ok(crate::run_all(&mut peers, arguments))
}

fn write_capture(directory: &Path, frames: &[Vec<u8>]) -> Result<PathBuf> {
    let path = directory.join("flows.pcapng");
    let mut writer = Writer::create(&path)?;
    let interface = writer.interface("in")?;
    for frame in frames {
        writer.bytes(0, interface, frame, None)?;
    }
    writer.flush()?;
    Ok(path)
}

fn margay(capture: &Path, routes: &[Ipv4Net], time: Duration) -> Result<f64> {
    let macs = Macs { ingress: ROUTER, egress: ROUTER, next_hop: Mac([2, 0, 0, 0, 0, 9]) };
    let dataplane = forwarder::start(macs, FRAMES, routes)?;
    let replay = ReplayPort::new(Arc::new(Capture::read(capture)?), IN, true);
    anyhow::ensure!(dataplane.attach(OUT, 0, Box::<NullPort>::default()), "the worker is stuck");
    anyhow::ensure!(dataplane.attach(IN, 0, Box::new(replay)), "the worker is stuck");
    pause(WARM_UP)?;
    let (before, start) = (sunk(&dataplane)?, Instant::now());
    pause(time)?;
    let (after, elapsed) = (sunk(&dataplane)?, start.elapsed());
    eprintln!("  cycles a packet: {}", stages(&dataplane));
    Ok((after - before) as f64 / elapsed.as_secs_f64() / 1e6)
}

/// What each stage of the worker has cost.
fn stages(dataplane: &Dataplane) -> String {
    let report = dataplane.report();
    let counters = report.workers.iter().map(|worker| &worker.counters);
    let costs = counters.flat_map(|counters| {
        Stage::ALL.iter().map(|stage| {
            let cost = &counters.stages[*stage as usize];
            let cycles = cost.cycles.get() as f64 / cost.packets.get().max(1) as f64;
            format!("{} {cycles:.1}", stage.name())
        })
    });
    costs.collect::<Vec<_>>().join(", ")
}

fn sunk(dataplane: &Dataplane) -> Result<u64> {
    let report = dataplane.report();
    let worker = report.workers.first().context("no worker")?;
    let port = worker.ports.iter().find(|(id, ..)| *id == OUT).context("no sink")?;
    Ok(port.1.tx_packets.get())
}
