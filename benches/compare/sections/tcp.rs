//! One TCP stream between two pods of one node, both ends and the router on the same cores: the
//! kernel forwarding between veths, margay between TAPs and between veths.

use crate::pods::Pods;
use crate::report::{Look, Outcome};
use crate::{Arguments, Measure};
use anyhow::Result;
use margay::lab::measure::Load;
use margay::lab::node::Router;
use margay::lab::pod::Attachment;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let margay = || Router::Margay(PathBuf::from(env!("CARGO_BIN_EXE_margay")));
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay, pods on TAPs", Box::new(move |time| stream(margay(), Attachment::Tap, time))),
        ("margay, pods on veths", Box::new(move |time| stream(margay(), Attachment::Veth, time))),
        (
            "Linux ip_forward, veths",
            Box::new(|time| stream(Router::Kernel, Attachment::Veth, time)),
        ),
    ];
    let notes = vec![
        "iperf3, one stream, MTU 1500, default offloads of the pods' devices".to_owned(),
        "Gbit/s of payload, as the receiver counted; ratios are of pods on TAPs".to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    vec![Outcome {
        title: "TCP, pod to pod".to_owned(),
        unit: "Gbit/s",
        look: Look::MoreIsBetter,
        notes,
        rows,
    }]
}

fn stream(router: Router, attachment: Attachment, time: Duration) -> Result<f64> {
    Ok(Pods::new(router, attachment)?.measure(Load::Tcp, time)? / 1e9)
}
