//! Packets of 64 bytes from veth to veth.

use crate::machine::HugePages;
use crate::peers::daemon::route_by_margay;
use crate::peers::linux::route_by_kernel;
use crate::peers::testpmd::Testpmd;
use crate::report::Outcome;
use crate::rig::{FLOWS, Rig, SINK_MAC};
use crate::{Arguments, GENERATOR_CORE, Measure, ROUTER_CORE};
use anyhow::Result;
use serde_json::Value;
use std::time::Duration;

const HUGE_PAGES: usize = 400;

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay, offload", Box::new(|time| margay(true, time))),
        ("margay, AF_XDP alone", Box::new(|time| margay(false, time))),
        ("DPDK testpmd mac, net_af_xdp", Box::new(testpmd)),
        ("Linux ip_forward", Box::new(linux)),
    ];
    let notes = vec![
        format!(
            "{FLOWS} UDP flows, 256 routes; generator on CPU {GENERATOR_CORE} (BPF_PROG_TEST_RUN, \
             live frames), router on CPU {ROUTER_CORE}; an XDP program at the far end counts, \
             checks TTL and header checksum, and drops: it runs in the router's softirq and costs \
             the router's core alike for all"
        ),
        "testpmd mac rewrites link addresses only: no route, no TTL, no checksum".to_owned(),
        "margay: the daemon with one worker, 256 static routes, the next hop from the kernel's \
         neighbours"
            .to_owned(),
        "margay, offload: threaded NAPI of the ingress veth on the router's core, beside the \
         worker; ratios are to this row"
            .to_owned(),
        "Linux: threaded NAPI of the ingress veth on the router's core, permanent neighbour"
            .to_owned(),
        "million packets a second, as the sink counted; more are sent than any peer takes"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    vec![Outcome { title: "veth to veth, 64 bytes".to_owned(), unit: "Mpps", notes, rows }]
}

fn linux(time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    route_by_kernel(&rig)?;
    rig.measure(63, time)
}

fn testpmd(time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let huge = HugePages::reserve(HUGE_PAGES, &rig.scope.directory())?;
    let _testpmd = Testpmd::start(&rig, &huge, SINK_MAC)?;
    rig.measure(64, time)
}

fn margay(offload: bool, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let _daemon = route_by_margay(&rig, &rig.store()?, offload, Value::Null)?;
    rig.measure(63, time)
}
