//! A million UDP flows from veth to veth whose sources are translated: how fast they begin, how
//! fast packets of all of them go through, and what a flow takes in memory.

use crate::machine::Setting;
use crate::peers::forwarder;
use crate::peers::{daemon, linux};
use crate::report::{Look, Outcome};
use crate::rig::{IN_MAC, Rig};
use crate::{Arguments, Measures};
use anyhow::{Context, Result, anyhow, bail, ensure};
use margay::lab::daemon::Daemon;
use margay::lab::process::{self, pause};
use margay::lab::store::Pool;
use margay_fastpath::pktgen::{Frames, Pace, Sender, Source};
use margay_fastpath::sys::bpf::generator::Generator;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FLOWS: u32 = 1 << 20;
/// Each of the endpoints inside sends to all servers; no two have the same port, so that nobody has
/// to look for another one.
const SERVERS: u32 = 64;
const PODS: u32 = 64;
const FIRST_PORT: u32 = 16_384;
/// Share of the flows whose beginning is timed: few enough for most packets to be of new ones.
const BEGUN: f64 = 0.25;
const POLL: Duration = Duration::from_millis(5);
/// Share of the flows that must be there before packets of all are sent.
const WHOLE: f64 = 0.99;
/// Packets a second with which a table is filled, nearly without loss.
const GENTLE: u64 = 250_000;
/// No flow ends meanwhile.
const IDLE_S: u32 = 600;
const FILL_LIMIT: Duration = Duration::from_secs(60);
const RULES: &str = "add table ip nat\n\
    add chain ip nat out { type nat hook postrouting priority srcnat; }\n\
    add rule ip nat out ip saddr 10.10.0.0/24 oifname out0 masquerade\n";
const MAX: (&str, &str) = ("/proc/sys/net/netfilter/nf_conntrack_max", "2097152");
/// Sets the greatest number of flows as well.
const BUCKETS: (&str, &str) = ("/proc/sys/net/netfilter/nf_conntrack_buckets", "1048576");
/// Bytes of a bucket of the kernel's table.
const BUCKET: f64 = 8.0;

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let frames = frames();
    let mut peers: Vec<(&'static str, Measures<'_, 3>)> = vec![
        ("margay", Box::new(|time| margay(&frames, time))),
        ("Linux conntrack, masquerade", Box::new(|time| linux(&frames, time))),
    ];
    let [new_flows, steady, bytes] = crate::run_figures(&mut peers, arguments);
    let setting = format!(
        "{PODS} sources with {} ports each, {SERVERS} destinations; ports are kept; rig, \
         generator, sink and cores as in the section veth to veth",
        FLOWS / PODS / SERVERS
    );
    vec![
        Outcome {
            title: "NAT: new flows".to_owned(),
            unit: "million a second",
            look: Look::MoreIsBetter,
            notes: vec![
                setting,
                "packets of 2^20 flows in turn, at the generator's speed, into an empty table: how \
                 fast the first quarter of the flows begins"
                    .to_owned(),
            ],
            rows: new_flows,
        },
        Outcome {
            title: "NAT: 1,048,576 flows, packets of all in turn".to_owned(),
            unit: "Mpps",
            look: Look::MoreIsBetter,
            notes: vec![
                "margay: one worker, flows 2^21; Linux: nf_conntrack_buckets 2^20, nftables"
                    .to_owned(),
            ],
            rows: steady,
        },
        Outcome {
            title: "NAT: memory of a flow".to_owned(),
            unit: "bytes",
            look: Look::LessIsBetter,
            notes: vec![
                "margay: what the process has more than before the first flow; Linux: what the \
                 kernel's slabs have more, and the buckets"
                    .to_owned(),
            ],
            rows: bytes,
        },
    ]
}

/// A packet of each flow, in an order in which neighbours have nothing in common.
fn frames() -> Vec<Vec<u8>> {
    (0..FLOWS).map(|at| frame(at.wrapping_mul(0x9e37_79b1) % FLOWS)).collect()
}

fn frame(flow: u32) -> Vec<u8> {
    let (server, endpoint) = (flow % SERVERS, flow / SERVERS);
    let src = Ipv4Addr::from(0x0a0a_0040 + endpoint % PODS);
    let dst = Ipv4Addr::from(forwarder::FIRST + server * 256 + 1);
    forwarder::udp(IN_MAC, (src, (FIRST_PORT + endpoint) as u16), (dst, 9))
}

/// New flows, packets of all of them, both in millions a second; bytes of a flow.
fn margay(frames: &[Vec<u8>], time: Duration) -> Result<[f64; 3]> {
    let rig = Rig::new()?;
    let store = rig.store()?;
    let pods = Pool { nat_outgoing: true, ..Pool::new("10.10.0.0/24".parse()?) };
    store.put_pool("pods", pods)?;
    let ports = format!("{FIRST_PORT}-{}", FIRST_PORT + FLOWS / SERVERS - 1);
    let nat = json!({
        "flows": 2 * FLOWS, "portRange": ports, "outgoingAddresses": ["10.20.0.1"],
        "timeouts": {"nf_conntrack_udp_timeout": IDLE_S},
    });
    let daemon = daemon::route_by_margay(&rig, &store, false, json!({ "nat": nat }))?;
    let resident = |daemon: &Daemon| {
        process::proc_field(&format!("/proc/{}/status", daemon.pid()), "RssAnon:")
    };
    let before = resident(&daemon)?;
    let flows = || -> Result<f64> {
        daemon.show("nat")?["flows"].as_f64().context("show nat: no number of flows")
    };
    let begun = fill(&rig, frames, flows)?;
    let bytes = (resident(&daemon)? - before) * 1024.0 / f64::from(FLOWS);
    Ok([begun, rig.measure_frames(frames, 63, time)?, bytes])
}

fn linux(frames: &[Vec<u8>], time: Duration) -> Result<[f64; 3]> {
    // All namespaces share the table. What is set last is set back first.
    let _max = Setting::set(MAX.0, MAX.1)?;
    let _buckets = Setting::set(BUCKETS.0, BUCKETS.1)?;
    let rig = Rig::new()?;
    linux::route_by_kernel(&rig)?;
    rig.router.sysctl(&[("net/netfilter/nf_conntrack_udp_timeout", &IDLE_S.to_string())])?;
    process::run_ok(rig.router.command("nft", &["-f", "-"]), RULES, FILL_LIMIT)?;
    let before = process::proc_field("/proc/meminfo", "SUnreclaim:")?;
    let flows = || -> Result<f64> {
        let count = rig.router.read("/proc/sys/net/netfilter/nf_conntrack_count")?;
        Ok(count.trim().parse()?)
    };
    let begun = fill(&rig, frames, flows)?;
    let slabs = (process::proc_field("/proc/meminfo", "SUnreclaim:")? - before) * 1024.0;
    let bytes = slabs / f64::from(FLOWS) + BUCKET;
    Ok([begun, rig.measure_frames(frames, 63, time)?, bytes])
}

/// Begins all flows; how fast, in millions a second.
fn fill(rig: &Rig, frames: &[Vec<u8>], flows: impl Fn() -> Result<f64> + Sync) -> Result<f64> {
    // Without it the last veth takes no frames.
    let _sink = rig.sink(63)?;
    let mut found = 0.0;
    let gentle = Frames::captured(frames.to_vec())?;
    let pace = Pace { per_second: Some(GENTLE), limit: Some(FLOWS.into()), ..Pace::default() };
    rig.generate(frames, |generator| {
        found = begin(generator, &flows)?;
        let start = Instant::now();
        while flows()? < f64::from(FLOWS) * WHOLE {
            ensure!(start.elapsed() < FILL_LIMIT, "only {} of {FLOWS} flows have begun", flows()?);
            Sender::new(&gentle, rig.egress()?)?.send(pace, FILL_LIMIT, &|| false)?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// Packets of new flows at the generator's speed, until [`BEGUN`] of all flows have begun; how fast
/// they did since the first of them was seen, in millions a second.
fn begin(generator: &Generator, flows: impl Fn() -> Result<f64>) -> Result<f64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                generator.send(FLOWS)?;
            }
            Ok(())
        });
        let watched = watch(flows);
        stop.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("the generator panicked"))??;
        watched
    })
}

fn watch(flows: impl Fn() -> Result<f64>) -> Result<f64> {
    let start = Instant::now();
    let mut first: Option<(f64, Instant)> = None;
    while start.elapsed() < FILL_LIMIT {
        pause(POLL)?;
        let (count, now) = (flows()?, Instant::now());
        let Some((before, since)) = first.filter(|_| count > 0.0) else {
            first = Some((count, now));
            continue;
        };
        if count >= f64::from(FLOWS) * BEGUN {
            return Ok((count - before) / now.duration_since(since).as_secs_f64() / 1e6);
        }
    }
    bail!("after {} s less than {BEGUN} of the flows have begun", FILL_LIMIT.as_secs())
}
