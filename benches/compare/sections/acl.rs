//! New flows to a pod with policy, veth to veth: margay, and Linux with nftables chains in the
//! shape that Felix gives them.
//!
//! Every packet begins a flow. It passes one policy with N rules that do not match, and is let
//! through by one of N policies with one rule each, every one as often as the others; both are
//! asked for addresses in sets.

use crate::machine::Setting;
use crate::peers::felix;
use crate::peers::forwarder::FRAME;
use crate::report::{Look, Outcome};
use crate::rig::{IN_MAC, Rig};
use crate::{Arguments, Measure};
use anyhow::{Context, Result, ensure};
use margay::lab::daemon::DaemonSpec;
use margay::lab::namespace::Namespace;
use margay::lab::pod::{Pod, PodSpec};
use margay::lab::process;
use margay::lab::store::{Pool, write_yaml};
use margay_fastpath::sys::bpf::generator::Generator;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Numbers of rules, and of policies: 100 is the case that Calico's users have.
const SIZES: [u16; 3] = [0, 100, 1000];
/// Sources, from which flows differ by their ports.
const SOURCES: u32 = 4000;
/// The pod, behind a device that has the name of its endpoint's.
const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
const DEVICE: &str = "cali0100000001";
/// 10.128.0.0: sources of flows.
const FIRST: u32 = 0x0a80_0000;
/// The port that flows go to, and the first of those that nobody does.
const PORT: u16 = 9;
const OTHER_PORTS: u16 = 20_000;
/// Flows that may be known at a time: they are forgotten a second after their only packet.
const FLOWS: usize = 1 << 22;
/// Of packets that a router has forwarded.
const TTL: u8 = 63;
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    SIZES.map(|size| of_size(size, arguments)).into()
}

fn of_size(size: u16, arguments: &Arguments) -> Outcome {
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay", Box::new(move |time| margay(size, time))),
        ("nftables, Felix's chains", Box::new(move |time| linux(size, time))),
    ];
    let notes = vec![
        "million flows a second, each of one 64-byte UDP packet that was let through, as the sink \
         counted; flows end after a second; rig and cores as for veth"
            .to_owned(),
        format!(
            "{size} rules that do not match, then {size} policies of which one does, at random; \
             {SOURCES} sources in sets"
        ),
        "nftables: connection tracking, dispatch by a verdict map, a chain for each policy, marks \
         between them, sets of addresses"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    let title = match size {
        0 => "acl: a pod without policy",
        100 => "acl: 100 policies and 100 rules",
        _ => "acl: 1000 policies and 1000 rules",
    };
    Outcome { title: title.to_owned(), unit: "Mflow/s", look: Look::MoreIsBetter, notes, rows }
}

/// Sources in turn; the ones of one policy's set are those with the same remainder.
fn frames() -> Vec<Vec<u8>> {
    let frames = (0..SOURCES).map(|number| {
        let router = IN_MAC;
        let mut bytes = ethernet::header(router, Mac([2, 0, 0, 0, 0, 2]), ethernet::IPV4).to_vec();
        let src = Ipv4Addr::from(FIRST + number);
        bytes.extend(ipv4::header(src, POD, protocol::UDP, 64, (FRAME - 34) as u16));
        bytes.extend([0, 0]);
        bytes.extend(PORT.to_be_bytes());
        bytes.extend([0, (FRAME - 34) as u8, 0, 0]);
        bytes.resize(FRAME, 0);
        bytes
    });
    frames.collect()
}

/// The addresses of policy number `at` of so many.
pub(crate) fn members(at: u16, size: u16) -> Vec<Ipv4Addr> {
    let numbers = (u32::from(at)..SOURCES).step_by(usize::from(size));
    numbers.map(|number| Ipv4Addr::from(FIRST + number)).collect()
}

/// Ports of the rules that do not match.
pub(crate) fn other_ports(size: u16) -> impl Iterator<Item = u16> {
    OTHER_PORTS..OTHER_PORTS + size
}

pub(crate) fn port() -> u16 {
    PORT
}

fn pod(namespace: Namespace) -> Result<Pod> {
    let spec = PodSpec { device: "s0".to_owned(), ..PodSpec::new("server", namespace, 1500) };
    let pod = Pod::new(spec, 1, 1, POD, "fd20::2".parse()?);
    ensure!(pod.host_device() == DEVICE, "its device is {}", pod.host_device());
    Ok(pod)
}

fn linux(size: u16, time: Duration) -> Result<f64> {
    let rig = Rig::with_egress(DEVICE)?;
    rig.router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    let script = felix::ruleset(DEVICE, size);
    process::run_ok(rig.router.command("nft", &["-f", "-"]), &script, WAIT)?;
    // Tracking begins with the first rule about it; its sysctls are there from then on.
    rig.router.sysctl(&[("net/netfilter/nf_conntrack_udp_timeout", "1")])?;
    let most = FLOWS.to_string();
    let _most = Setting::set("/proc/sys/net/netfilter/nf_conntrack_max", &most)?;
    rig.pin_receive()?;
    rig.measure_made(Generator::with_fresh_ports, &frames(), (TTL, time))
}

fn margay(size: u16, time: Duration) -> Result<f64> {
    let rig = Rig::with_egress(DEVICE)?;
    let pod = pod(rig.sink.clone())?;
    let store = rig.store()?;
    store.put_pool("pods", Pool::new("10.20.0.0/24".parse()?))?;
    store.put_endpoint("edge1", &pod)?;
    for (at, resource) in resources(size).iter().enumerate() {
        write_yaml(&store.directory().join(format!("policy-{at}.yaml")), resource)?;
    }
    let spec = DaemonSpec {
        uplinks: vec!["in0".to_owned()],
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge1", &store, &rig.scope)
    };
    let timeouts = json!({ "nf_conntrack_udp_timeout": 1 });
    let nat = json!({ "nat": { "flows": FLOWS, "timeouts": timeouts } });
    let daemon = rig.daemon(spec, nat)?;
    let shown = process::wait_for("policy to be in force", WAIT, || {
        let shown = daemon.show("policy")?;
        let open = shown[0]["open"].as_bool().context("no endpoint")?;
        Ok((open == (size == 0)).then_some(shown))
    });
    let shown = shown?;
    let rules = shown[0]["ingress"].as_array().map_or(0, Vec::len);
    ensure!(rules >= 2 * usize::from(size), "{rules} rules: {shown}");
    rig.measure_made(Generator::with_fresh_ports, &frames(), (TTL, time))
}

/// Policy as Calico's resources. Without any the pod's profile, which the store lacks, lets nothing
/// pass; one rule for all does then.
fn resources(size: u16) -> Vec<Value> {
    let policy = |name: &str, order: u16, rules: Vec<Value>| {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": name },
            "spec": { "selector": "pod == 'server'", "order": order, "types": ["Ingress"],
                "ingress": rules },
        })
    };
    let open = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "out" },
        "spec": { "selector": "pod == 'server'", "types": ["Egress"],
            "egress": [{ "action": "Allow" }] },
    });
    if size == 0 {
        return vec![open, policy("in", 1, vec![json!({ "action": "Allow" })])];
    }
    let clients = "client == 'c0'";
    let others = other_ports(size).map(|port| {
        json!({ "action": "Allow", "protocol": "UDP", "source": { "selector": clients },
            "destination": { "ports": [port] } })
    });
    let mut all = vec![open, policy("others", 0, others.collect())];
    for at in 0..size {
        let nets: Vec<String> =
            members(at, size).iter().map(|address| format!("{address}/32")).collect();
        all.push(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
            "metadata": { "name": format!("c{at}"), "labels": { "client": format!("c{at}") } },
            "spec": { "nets": nets },
        }));
        let rule = json!({ "action": "Allow", "protocol": "UDP",
            "source": { "selector": format!("client == 'c{at}'") },
            "destination": { "ports": [PORT] } });
        all.push(policy(&format!("p{at}"), at + 1, vec![rule]));
    }
    all
}
