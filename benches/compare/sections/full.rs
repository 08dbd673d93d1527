//! Everything at once: a pod's flows through connection tracking, 100 policies, source NAT and a
//! limit that is never reached; beside the same without any of it, and beside the kernel with
//! nftables rules that do the same.

use crate::machine::Setting;
use crate::peers::forwarder::{self, FIRST};
use crate::report::{Look, Outcome};
use crate::rig::{FLOWS, IN_MAC, OUT_MAC, Rig};
use crate::{Arguments, Measure};
use anyhow::{Context, Result, ensure};
use margay::lab::daemon::{Daemon, DaemonSpec};
use margay::lab::namespace::Namespace;
use margay::lab::pod::{Pod, PodSpec};
use margay::lab::process;
use margay::lab::store::{Pool, Store, write_yaml};
use margay_fastpath::pktgen::{Frames, Pace, Sender, Source};
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The pod behind the rig's first device, which has the name of its endpoint's.
const POD: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);
const DEVICE: &str = "cali0100000001";
/// What the pod looks like from outside.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const POLICIES: u32 = 100;
const FIRST_PORT: u16 = 16_384;
const SERVER_PORT: u16 = 9;
/// More than any router here carries, in bits a second.
const LIMIT: u64 = 40_000_000_000;
/// Packets a second with which flows begin and are answered.
const GENTLE: u64 = 50_000;
const WAIT: Duration = Duration::from_secs(20);
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Features {
    /// All of it, for flows that were answered.
    All,
    /// All of it, for flows that nobody answers, as those of logs and metrics are.
    OneWay,
    None,
}

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay, offload, all on", Box::new(|time| margay(Features::All, true, time))),
        (
            "margay, offload, all on, no answers",
            Box::new(|time| margay(Features::OneWay, true, time)),
        ),
        ("margay, offload, all off", Box::new(|time| margay(Features::None, true, time))),
        ("margay, all on", Box::new(|time| margay(Features::All, false, time))),
        ("margay, all on, no answers", Box::new(|time| margay(Features::OneWay, false, time))),
        ("margay, all off", Box::new(|time| margay(Features::None, false, time))),
        ("Linux, nftables, all on", Box::new(|time| linux(Features::All, time))),
        ("Linux, nftables, all on, no answers", Box::new(|time| linux(Features::OneWay, time))),
        ("Linux, all off", Box::new(|time| linux(Features::None, time))),
    ];
    let notes = vec![
        format!(
            "{FLOWS} UDP flows of a pod, each of which was answered once before, or never; \
             connection tracking, {POLICIES} policies of which one lets a flow pass, masquerading, \
             and a limit of {} Gbit/s; 64 bytes, cores as for veth",
            LIMIT / 1_000_000_000
        ),
        "margay, offload: threaded NAPI of the ingress veth on the router's core, beside the \
         worker, as Linux has it; ratios are to the first row. margay: AF_XDP alone"
            .to_owned(),
        "Linux: established flows pass by the first rule, as with Felix, and the limit is a rule \
         before it; a flow without answers is not established there"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    let title = "full: tracking, 100 policies, NAT and a limit".to_owned();
    vec![Outcome { title, unit: "Mpps", look: Look::MoreIsBetter, notes, rows }]
}

fn rig() -> Result<Rig> {
    let rig = Rig::with_devices([DEVICE, "out0"], 1)?;
    // Answers come in by this one.
    rig.tool("ethtool", &["-K", "out0", "gro", "on"])?;
    Ok(rig)
}

fn server(flow: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + flow % 256 * 256 + 1)
}

fn port(flow: u32) -> u16 {
    FIRST_PORT + flow as u16
}

/// Begins all flows, has them answered if they are translated, and measures.
fn measure(rig: &Rig, features: Features, time: Duration) -> Result<f64> {
    let forth =
        (0..FLOWS).map(|at| forwarder::udp(IN_MAC, (POD, port(at)), (server(at), SERVER_PORT)));
    let frames: Vec<Vec<u8>> = forth.collect();
    if features != Features::None {
        // Without the sink the last veth takes no frames.
        let _sink = rig.sink(63)?;
        send_once(&rig.generator, "g0", frames.clone())?;
    }
    if features == Features::All {
        let back = (0..FLOWS)
            .map(|at| forwarder::udp(OUT_MAC, (server(at), SERVER_PORT), (NODE, port(at))));
        send_once(&rig.sink, "s0", back.collect())?;
    }
    rig.measure_frames(&frames, 63, time)
}

fn send_once(from: &Namespace, device: &str, frames: Vec<Vec<u8>>) -> Result<()> {
    let limit = Some(frames.len() as u64);
    let frames = Frames::captured(frames)?;
    from.enter(|| {
        let pace = Pace { per_second: Some(GENTLE), limit, ..Pace::default() };
        Sender::new(&frames, if_nametoindex(device)?)?.send(pace, WAIT, &|| false)?;
        Ok(())
    })
}

fn linux(features: Features, time: Duration) -> Result<f64> {
    let rig = rig()?;
    rig.router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    let routes = forwarder::routes()?;
    let lines: Vec<String> =
        routes.iter().map(|net| format!("route add {net} via 10.20.0.2")).collect();
    rig.router.ip(&lines.join("\n"))?;
    rig.pin_receive()?;
    if features == Features::None {
        return measure(&rig, features, time);
    }
    process::run_ok(rig.router.command("nft", &["-f", "-"]), &ruleset(), WAIT)?;
    let _max = Setting::set(MAX, "262144")?;
    let rate = measure(&rig, features, time)?;
    let table = rig.tool("nft", &["list", "counter", "ip", "full", "established"])?;
    let packets = table.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    let packets: u64 = packets.context("nft: no counter")?.parse()?;
    let are_established = packets > u64::from(FLOWS) * 10;
    ensure!(
        are_established == (features == Features::All),
        "{packets} packets of established flows"
    );
    Ok(rate)
}

/// A chain a policy, and sets of addresses; what is established asks none of them.
fn ruleset() -> String {
    let mut text = String::from("table ip full {\ncounter established { }\n");
    for at in 0..POLICIES {
        let _ = writeln!(
            text,
            "set s{at} {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}\n\
             chain p{at} {{ ip daddr @s{at} udp dport {SERVER_PORT} accept; }}",
            nets(at).join(", ")
        );
    }
    let _ = writeln!(
        text,
        "chain forward {{ type filter hook forward priority 0; policy drop;\n\
         iifname \"{DEVICE}\" limit rate over {} mbytes/second drop\n\
         ct state established,related counter name established accept\n\
         ct state invalid drop",
        LIMIT / 8_000_000
    );
    for at in 0..POLICIES {
        let _ = writeln!(text, "iifname \"{DEVICE}\" jump p{at}");
    }
    text + "}\nchain out { type nat hook postrouting priority srcnat; oifname out0 masquerade; }\n}"
}

/// Where policy number `at` lets the pod send to: each of the routes is in one policy.
fn nets(at: u32) -> Vec<String> {
    let thirds = (at..256).step_by(POLICIES as usize);
    thirds.map(|third| format!("{}/24", Ipv4Addr::from(FIRST + third * 256))).collect()
}

fn margay(features: Features, offload: bool, time: Duration) -> Result<f64> {
    let rig = rig()?;
    let store = rig.store()?;
    put_resources(&rig, &store, features)?;
    let via = "10.20.0.2".parse()?;
    let routes = forwarder::routes()?.into_iter().map(|net| (net.into(), via));
    let spec = DaemonSpec {
        uplinks: vec!["out0".to_owned()],
        static_routes: routes.collect(),
        offload,
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge1", &store, &rig.scope)
    };
    let last = FIRST_PORT + FLOWS as u16 - 1;
    let nat = json!({
        "portRange": format!("{FIRST_PORT}-{last}"), "outgoingAddresses": [NODE.to_string()],
    });
    let daemon = rig.daemon(spec, json!({ "nat": nat }))?;
    in_force(&daemon, features)?;
    if offload {
        rig.pin_receive()?;
    }
    let rate = measure(&rig, features, time)?;
    let ports = daemon.show("ports")?;
    let carried = ports.as_array().into_iter().flatten().map(|port| &port["offloadedTxPackets"]);
    let is_carried = carried.filter_map(Value::as_u64).any(|packets| packets > 0);
    ensure!(is_carried == offload, "carried by the program: {is_carried}");
    if features != Features::None {
        let flows = daemon.show("nat")?["flows"].as_u64().context("show nat: no flows")?;
        ensure!(flows >= u64::from(FLOWS), "only {flows} of {FLOWS} flows are translated");
    }
    Ok(rate)
}

fn in_force(daemon: &Daemon, features: Features) -> Result<()> {
    process::wait_for("policy and limit to be in force", WAIT, || {
        let policy = daemon.show("policy")?;
        let rules = policy[0]["egress"].as_array().map_or(0, Vec::len);
        let limited = daemon.show("limits")?[0]["egress"]["bandwidth"] == LIMIT;
        let is_ready = match features {
            Features::All | Features::OneWay => rules >= POLICIES as usize && limited,
            Features::None => policy[0]["open"] == true,
        };
        Ok(is_ready.then_some(()))
    })
}

fn put_resources(rig: &Rig, store: &Store, features: Features) -> Result<()> {
    let spec =
        PodSpec { device: "g0".to_owned(), ..PodSpec::new("client", rig.generator.clone(), 1500) };
    let pod = Pod::new(spec, 1, 1, POD, "fd10::2".parse()?);
    ensure!(pod.host_device() == DEVICE, "its device is {}", pod.host_device());
    let all = features != Features::None;
    store.put_pool("pods", Pool { nat_outgoing: all, ..Pool::new("10.10.0.0/24".parse()?) })?;
    let controls = if all { json!({ "egressBandwidth": LIMIT }) } else { json!({}) };
    store.put_limited_endpoint("edge1", &pod, &controls, false)?;
    let policies = match features {
        Features::None => vec![policy("out", "Egress", json!({ "action": "Allow" }))],
        Features::All | Features::OneWay => (0..POLICIES)
            .map(|at| {
                let to = json!({ "nets": nets(at), "ports": [SERVER_PORT] });
                let rule = json!({ "action": "Allow", "protocol": "UDP", "destination": to });
                policy(&format!("p{at}"), "Egress", rule)
            })
            .collect(),
    };
    let inwards = policy("in", "Ingress", json!({ "action": "Allow" }));
    for (at, resource) in policies.iter().chain([&inwards]).enumerate() {
        write_yaml(&store.directory().join(format!("policy-{at}.yaml")), resource)?;
    }
    Ok(())
}

fn policy(name: &str, direction: &str, rule: Value) -> Value {
    let mut spec = json!({ "selector": "pod == 'client'", "types": [direction] });
    spec[direction.to_lowercase()] = json!([rule]);
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": name }, "spec": spec,
    })
}
