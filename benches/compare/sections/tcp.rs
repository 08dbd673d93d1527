//! TCP between two pods of one node, and between a pod and a host beyond an uplink of 1500 bytes,
//! either way: one stream and eight, both ends and the router on the same cores.
//!
//! Pods have policy, source NAT and limits that are never reached, or none of it; the kernel has
//! nftables rules that do the same.

use crate::pods::{FAR_END, Pods, UPLINK};
use crate::report::{Look, Outcome};
use crate::{Arguments, Measure};
use anyhow::{Context, Result, ensure};
use margay::lab::measure::Load;
use margay::lab::node::Router;
use margay::lab::pod::Attachment;
use margay::lab::process;
use margay::lab::store::{Pool, write_yaml};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

const POLICIES: u16 = 100;
/// The port that iperf3's servers listen on, and the first of those that nobody uses.
const PORT: u16 = 5201;
const OTHER_PORTS: u16 = 20_000;
/// More than two cores here carry, in bits a second.
const LIMIT: u64 = 80_000_000_000;
const WAIT: Duration = Duration::from_secs(20);

/// Who routes, and what is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Margay(Attachment, Features),
    /// By two workers, each with a queue of the uplink.
    TwoWorkers(Features),
    /// Super-packets are cut before they go over the wire, as before a device that cannot.
    MargayCut(Features),
    Linux(Features),
    LinuxCut(Features),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Features {
    All,
    None,
}

const KINDS: [(&str, Kind); 12] = [
    ("margay, pods on TAPs, all on", Kind::Margay(Attachment::Tap, Features::All)),
    ("margay, pods on TAPs", Kind::Margay(Attachment::Tap, Features::None)),
    ("margay, two workers, TAPs, all on", Kind::TwoWorkers(Features::All)),
    ("margay, TAPs, wire without TSO, all on", Kind::MargayCut(Features::All)),
    ("margay, pods on veths, all on", Kind::Margay(Attachment::Veth, Features::All)),
    ("margay, pods on veths", Kind::Margay(Attachment::Veth, Features::None)),
    ("margay, pods on veths by tc, all on", Kind::Margay(Attachment::Tc, Features::All)),
    ("margay, pods on veths by tc", Kind::Margay(Attachment::Tc, Features::None)),
    ("Linux, veths, nftables, all on", Kind::Linux(Features::All)),
    ("Linux ip_forward, veths", Kind::Linux(Features::None)),
    ("Linux, wire without TSO, all on", Kind::LinuxCut(Features::All)),
    ("Linux, wire without TSO", Kind::LinuxCut(Features::None)),
];

/// Where a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToPod,
    Out,
    In,
}

impl Kind {
    /// Whether it differs from the others this way.
    fn concerns(self, way: Way) -> bool {
        match self {
            Kind::LinuxCut(_) => way != Way::ToPod,
            // What comes in is cut before an uplink with XDP in any case.
            Kind::MargayCut(_) => way == Way::Out,
            _ => true,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let ways = [
        (Way::ToPod, "pod to pod"),
        (Way::Out, "pod to a host beyond the uplink"),
        (Way::In, "a host beyond the uplink to pod"),
    ];
    let cases = ways.into_iter().flat_map(|way| [1, 8].map(|streams| (way, streams)));
    cases.map(|((way, name), streams)| of_case(way, name, streams, arguments)).collect()
}

fn of_case(way: Way, name: &str, streams: u32, arguments: &Arguments) -> Outcome {
    let mut peers: Vec<(&'static str, Measure<'_>)> = Vec::new();
    for (name, kind) in KINDS.into_iter().filter(|(_, kind)| kind.concerns(way)) {
        peers.push((name, Box::new(move |time| measure(kind, way, streams, time))));
    }
    let notes = vec![
        "iperf3, MTU 1500, default offloads of the pods' devices and of the uplink; Gbit/s of \
         payload, as the receiver counted; ratios are to the first row"
            .to_owned(),
        "super-packets go out through a veth as an uplink whole, as through no wire, unless its \
         TSO and GSO are off; what comes in by it is cut before it if it has XDP, or if TSO and \
         GSO of the far end are off"
            .to_owned(),
        format!(
            "all on: each pod has {POLICIES} policies of which one lets the stream pass, a limit \
             of {} Gbit/s each way, and looks like its node outside",
            LIMIT / 1_000_000_000
        ),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    let plural = if streams == 1 { "stream" } else { "streams" };
    let title = format!("TCP, {name}, {streams} {plural}");
    Outcome { title, unit: "Gbit/s", look: Look::MoreIsBetter, notes, rows }
}

fn measure(kind: Kind, way: Way, streams: u32, time: Duration) -> Result<f64> {
    let margay = || Router::Margay(env!("CARGO_BIN_EXE_margay").into());
    let (router, attachment, features, workers) = match kind {
        Kind::Linux(features) | Kind::LinuxCut(features) => {
            (Router::Kernel, Attachment::Veth, features, 1)
        }
        Kind::Margay(attachment, features) => (margay(), attachment, features, 1),
        Kind::MargayCut(features) => (margay(), Attachment::Tap, features, 1),
        Kind::TwoWorkers(features) => (margay(), Attachment::Tap, features, 2),
    };
    let is_kernel = router == Router::Kernel;
    let mut pods = Pods::with_workers(2, router, attachment, workers)?;
    pods.open_outside()?;
    if matches!(kind, Kind::LinuxCut(_) | Kind::MargayCut(_)) {
        let (namespace, device) = match way {
            Way::In => (&pods.tor, FAR_END),
            _ => (pods.node.namespace(), UPLINK),
        };
        let off = ["-K", device, "tso", "off", "gso", "off"];
        process::run_ok(namespace.command("ethtool", &off), "", WAIT)?;
    }
    match features {
        Features::None => (),
        Features::All if is_kernel => {
            let nft = pods.node.namespace().command("nft", &["-f", "-"]);
            process::run_ok(nft, &ruleset(&pods)?, WAIT)?;
        }
        Features::All => limit_and_judge(&mut pods)?,
    }
    let load = Load::Streams(streams);
    let bits_per_s = match way {
        Way::ToPod => pods.measure(load, time)?,
        Way::Out => pods.measure_outside(load, time)?,
        Way::In => pods.measure_from_outside(load, time)?,
    };
    if features == Features::All && !is_kernel {
        let flows = pods.node.daemon()?.show("nat")?["flows"].as_u64();
        ensure!(flows.context("show nat: no flows")? > u64::from(streams), "flows are not tracked");
    }
    Ok(bits_per_s / 1e9)
}

fn limit_and_judge(pods: &mut Pods) -> Result<()> {
    let pool = Pool { block_size: 20, nat_outgoing: true, ..Pool::new("10.65.0.0/16".parse()?) };
    pods.store.put_pool("pool-v4", pool)?;
    let controls = json!({ "ingressBandwidth": LIMIT, "egressBandwidth": LIMIT });
    for pod in pods.node.pods() {
        pods.store.put_limited_endpoint("edge1", pod, &controls, false)?;
    }
    for at in 0..POLICIES {
        let path = pods.store.directory().join(format!("policy-{at}.yaml"));
        write_yaml(&path, &policy(at))?;
    }
    let daemon = pods.node.daemon()?;
    process::wait_for("policy and limits to be in force", WAIT, || {
        let (policy, limits) = (daemon.show("policy")?, daemon.show("limits")?);
        let is_judged = |pod: &Value| {
            let rules = |way: &str| pod[way].as_array().map_or(0, Vec::len);
            rules("ingress").min(rules("egress")) >= usize::from(POLICIES)
        };
        let is_limited = |pod: &Value| pod["ingress"]["bandwidth"] == LIMIT;
        let of_both = |list: &Value, good: &dyn Fn(&Value) -> bool| {
            list.as_array().is_some_and(|list| list.len() == 2 && list.iter().all(good))
        };
        Ok((of_both(&policy, &is_judged) && of_both(&limits, &is_limited)).then_some(()))
    })
}

/// The port that policy number `at` lets pass; the last one is iperf3's.
fn port(at: u16) -> u16 {
    if at + 1 == POLICIES { PORT } else { OTHER_PORTS + at }
}

fn policy(at: u16) -> Value {
    let rule = json!([{
        "action": "Allow", "protocol": "TCP", "destination": { "ports": [port(at)] },
    }]);
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": format!("p{at}") },
        "spec": { "selector": "has(pod)", "order": at, "types": ["Ingress", "Egress"],
            "ingress": rule.clone(), "egress": rule },
    })
}

/// A chain a policy; what is established asks none of them.
fn ruleset(pods: &Pods) -> Result<String> {
    let mut text = String::from("table ip full {\n");
    for at in 0..POLICIES {
        let _ = writeln!(text, "chain p{at} {{ tcp dport {} accept; }}", port(at));
    }
    text += "chain forward { type filter hook forward priority 0; policy drop;\n";
    for pod in ["a", "b"] {
        let device = pods.node.pod(pod)?.host_device();
        for way in ["iifname", "oifname"] {
            let rate = LIMIT / 8_000_000;
            let _ = writeln!(text, "{way} \"{device}\" limit rate over {rate} mbytes/second drop");
        }
    }
    text += "ct state established,related accept\nct state invalid drop\n";
    for at in 0..POLICIES {
        let _ = writeln!(text, "jump p{at}");
    }
    let _ = writeln!(
        text,
        "}}\nchain out {{ type nat hook postrouting priority srcnat; oifname {UPLINK} masquerade; \
         }}\n}}"
    );
    Ok(text)
}
