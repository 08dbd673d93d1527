//! Packets of 64 bytes from veth to veth.

use crate::peers::Router;
use crate::report::{Look, Outcome};
use crate::rig::{FLOWS, Rig};
use crate::{Arguments, GENERATOR_CORE, Measure, ROUTER_CORE};
use anyhow::Result;
use std::time::Duration;

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let mut peers: Vec<(&'static str, Measure<'_>)> = Vec::new();
    for router in Router::ALL {
        peers.push((router.name(), Box::new(move |time| measure(router, time))));
    }
    let notes = vec![
        format!(
            "{FLOWS} UDP flows, 256 routes; generator on CPU {GENERATOR_CORE} (BPF_PROG_TEST_RUN, \
             live frames), router on CPU {ROUTER_CORE}; an XDP program at the far end counts, \
             checks TTL and header checksum, and drops: it runs in the router's softirq and costs \
             the router's core alike for all"
        ),
        "testpmd mac rewrites link addresses only: no route, no TTL, no checksum".to_owned(),
        "margay: the daemon with one worker, 256 static routes, the next hop from the kernel's \
         neighbours; what a worker sends in bursts of 32 and more leaves as redirected frames, for \
         the far end takes them"
            .to_owned(),
        "margay, offload: threaded NAPI of the ingress veth on the router's core, beside the \
         worker; ratios are to this row"
            .to_owned(),
        "Linux: threaded NAPI of the ingress veth on the router's core, permanent neighbour"
            .to_owned(),
        "XDP: a program of few instructions in the same thread, without any check but for IPv4 and \
         TTL; what redirection inside of the kernel comes to here"
            .to_owned(),
        "million packets a second, as the sink counted; more are sent than any peer takes"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    vec![Outcome {
        title: "veth to veth, 64 bytes".to_owned(),
        unit: "Mpps",
        look: Look::MoreIsBetter,
        notes,
        rows,
    }]
}

fn measure(router: Router, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let _running = router.start(&rig)?;
    rig.measure(router.ttl(), time)
}
