//! The pipeline without a kernel: the same capture in memory through margay's worker and through
//! DPDK's l3fwd, each on one core, into a port that throws everything away.

use crate::machine::HugePages;
use crate::peers::forwarder::{self, IN, Macs, OUT};
use crate::peers::l3fwd::{L3fwd, Lookup};
use crate::report::{Look, Outcome, Row};
use crate::{Arguments, Measure};
use anyhow::{Context, Result};
use margay::lab::process::pause;
use margay::lab::scope::Scope;
use margay_fastpath::counters::Stage;
use margay_fastpath::dataplane::Dataplane;
use margay_fastpath::port::pcap::{Capture, NullPort, ReplayPort, Writer};
use margay_tunnels::wire::ethernet::Mac;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FLOWS: u32 = 4096;
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Small frames for the pipeline, and huge pages for l3fwd and for them.
const FRAMES: usize = 4096;
const HUGE_PAGES: usize = 320;
const WARM_UP: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let notes = vec![
        "60-byte UDP, 4096 flows, 256 routes of 24 bits, one core; packets are copied from a \
         preloaded capture into a frame each (net_pcap with infinite_rx does the same), and sunk"
            .to_owned(),
        "l3fwd: rx offload and RSS flags off and --parse-ptype on, as net_pcap has neither; \
         built with the package's own flags"
            .to_owned(),
        "million packets a second, as the sink counted".to_owned(),
    ];
    let rows = rows(arguments).unwrap_or_else(|error| {
        let mut row = Row::new("margay");
        row.skipped = Some(format!("{error:#}"));
        vec![row]
    });
    vec![Outcome {
        title: "In memory".to_owned(),
        unit: "Mpps",
        look: Look::MoreIsBetter,
        notes,
        rows,
    }]
}

fn rows(arguments: &Arguments) -> Result<Vec<Row>> {
    let scope = Scope::new()?;
    let directory = scope.directory();
    let capture = write_capture(&directory)?;
    // Without huge pages both run on normal ones; the rows then say which.
    let huge = HugePages::reserve(HUGE_PAGES, &directory);
    let huge = huge.map_err(|error| eprintln!("compare: {error:#}")).ok();
    let built = L3fwd::build();
    let peer = |lookup| -> Measure<'_> {
        let (built, huge, capture, directory) = (&built, &huge, &capture, &directory);
        Box::new(move |time| match built {
            Ok(l3fwd) => l3fwd.measure(lookup, capture, huge.as_ref(), directory, time),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        })
    };
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay pipeline", Box::new(|time| margay(&capture, time))),
        ("DPDK l3fwd, LPM", peer(Lookup::Lpm)),
        ("DPDK l3fwd, FIB", peer(Lookup::Fib)),
    ];
    Ok(crate::run_all(&mut peers, arguments))
}

fn write_capture(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("flows.pcapng");
    let mut writer = Writer::create(&path)?;
    let interface = writer.interface("in")?;
    for frame in forwarder::flows(FLOWS, ROUTER) {
        writer.bytes(0, interface, &frame, None)?;
    }
    writer.flush()?;
    Ok(path)
}

fn margay(capture: &Path, time: Duration) -> Result<f64> {
    let macs = Macs { ingress: ROUTER, egress: ROUTER, next_hop: Mac([2, 0, 0, 0, 0, 9]) };
    let dataplane = forwarder::start(macs, FRAMES)?;
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
