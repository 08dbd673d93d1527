//! A bandwidth limit end to end: margay's, policing and shaping, and Linux's token bucket filter,
//! at five rates. UDP from veth to veth at more than the rate; between two pods in super-packets
//! where the rate is more than one core has of packets; and one TCP stream between two pods.
//!
//! Margay limits what goes to a pod, and `tc tbf` what goes out by the same device, as Kubernetes'
//! bandwidth plugin has it; both count whole frames.

use super::jumbo;
use crate::machine::CoreTime;
use crate::pods::Pods;
use crate::report::{Look, Outcome};
use crate::rig::{IN_MAC, Rig, pin};
use crate::{Arguments, GENERATOR_CORE, Measure, Measures, ROUTER_CORE};
use anyhow::{Context, Result, anyhow, ensure};
use margay::lab::daemon::{Daemon, DaemonSpec};
use margay::lab::measure::Load;
use margay::lab::namespace::{LinkSpec, Namespace};
use margay::lab::node::Router;
use margay::lab::pod::{Attachment, Pod, PodSpec};
use margay::lab::process::{self, pause};
use margay::lab::store::Pool;
use margay_fastpath::pktgen::{Frames, Pace, Protocol, Receiver, Sender, Source, Template};
use margay_fastpath::sys::bpf::AttachMode;
use margay_tunnels::wire::ethernet::Mac;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
pub(crate) const DEVICE: &str = "cali0100000001";
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(20);
const LINE: Duration = Duration::from_secs(60);
/// A full frame with its check sequence, as the generator counts, and without, as limits do.
const LENGTH: usize = 1518;
const FRAME_BITS: u64 = 1514 * 8;
/// Of a full frame, what TCP with timestamps carries.
const TCP_PART: f64 = 1448.0 / 1514.0;
/// Of a super-packet: what a full frame carries of UDP, and so many of those.
const DATAGRAM: u16 = 1472;
const DATAGRAMS: usize = 40;
/// Rates from which UDP is sent so as well, in Mbit/s.
const FAST: u64 = 1_000;
/// Rates from which UDP is sent in jumbo frames as well, in Mbit/s.
const FASTER: u64 = 5_000;
const PORT: u16 = 5300;
/// A burst is what a tenth of a second brings: a policer does not make good what a generator that
/// stands still for longer than the burst has not sent.
const BURSTS: u64 = 10;

/// How a limit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Policed,
    PolicedByTwo,
    Shaped,
    Tbf,
}

pub(crate) const KINDS: [(&str, Kind); 4] = [
    ("margay, shaping", Kind::Shaped),
    ("margay, policing", Kind::Policed),
    ("margay, policing, two workers", Kind::PolicedByTwo),
    ("Linux ip_forward, tc tbf", Kind::Tbf),
];

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let rates = arguments.rates.iter().copied();
    let udp = rates.clone().flat_map(|mbits| of_udp(mbits, arguments));
    let mut found: Vec<Outcome> = udp.collect();
    let fast = rates.clone().filter(|mbits| *mbits >= FAST);
    found.extend(fast.map(|mbits| of_super_packets(mbits, arguments)));
    let faster = rates.clone().filter(|mbits| *mbits >= FASTER);
    found.extend(faster.map(|mbits| jumbo::run(mbits, arguments)));
    found.extend(rates.map(|mbits| of_tcp(mbits, arguments)));
    found
}

fn burst(rate: u64) -> u64 {
    rate / BURSTS
}

fn of_udp(mbits: u64, arguments: &Arguments) -> [Outcome; 2] {
    let rate = mbits * 1_000_000;
    let mut peers: Vec<(&'static str, Measures<'_, 2>)> = Vec::new();
    for (name, kind) in KINDS {
        peers.push((name, Box::new(move |time| udp(kind, rate, time))));
    }
    let [rows, busy] = crate::run_figures(&mut peers, arguments);
    let notes = vec![
        format!(
            "UDP in frames of 1514 bytes, half as much again as the limit, generator on CPU \
             {GENERATOR_CORE}, router and sink on CPU {ROUTER_CORE}; bytes of frames as the sink \
             counted after a second of warm-up, burst of 100 ms"
        ),
        "two workers: one uplink and one pod with two queues each, both workers on the router's \
         core, generators on both"
            .to_owned(),
    ];
    let of_core = vec![format!(
        "how much of CPU {ROUTER_CORE} was not idle; the kernel's receive runs there for all \
         (threaded NAPI), and so does the sink; a worker with traffic polls"
    )];
    [
        Outcome {
            title: format!("limit of {mbits} Mbit/s, UDP"),
            unit: "% of it",
            look: Look::PerCent,
            notes,
            rows,
        },
        Outcome {
            title: format!("limit of {mbits} Mbit/s, UDP, the router's core"),
            unit: "% busy",
            look: Look::LessIsBetter,
            notes: of_core,
            rows: busy,
        },
    ]
}

impl Kind {
    /// Workers, and queues of each device.
    pub(crate) fn queues(self) -> u32 {
        if self == Kind::PolicedByTwo { 2 } else { 1 }
    }
}

/// What keeps the limit in the rig's router, where the pod's device is limited.
pub(crate) fn limiter(rig: &Rig, kind: Kind, rate: u64, link: LinkSpec) -> Result<Option<Daemon>> {
    if kind != Kind::Tbf {
        return Ok(Some(limited(rig, kind, rate, link)?));
    }
    rig.router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    filter(&rig.router, DEVICE, rate)?;
    Ok(None)
}

/// Per cent of its rate that come through, and of the router's core that this took.
fn udp(kind: Kind, rate: u64, time: Duration) -> Result<[f64; 2]> {
    let link = LinkSpec { mtu: 1500, queues: kind.queues() };
    let rig = Rig::with_links(DEVICE, link)?;
    let _daemon = limiter(&rig, kind, rate, link)?;
    rig.pin_receive()?;
    let attach = || Ok(Receiver::attach(if_nametoindex("s0")?, 1, AttachMode::Native)?);
    let receiver = rig.sink.enter(attach)?;
    let cores: &[usize] =
        if link.queues == 2 { &[GENERATOR_CORE, ROUTER_CORE] } else { &[GENERATOR_CORE] };
    let stop = AtomicBool::new(false);
    let per_second = (rate * 3 / 2 / FRAME_BITS / cores.len() as u64).max(1);
    let send = |core: usize| {
        rig.generator.enter(|| {
            pin(core);
            let pace = Pace { per_second: Some(per_second), ..Pace::default() };
            let mut sender = Sender::new(&frames(core)?, rig.egress()?)?;
            Ok(sender.send(pace, LINE, &|| stop.load(Ordering::Relaxed))?)
        })
    };
    std::thread::scope(|scope| {
        let send = &send;
        let senders: Vec<_> = cores.iter().map(|core| scope.spawn(move || send(*core))).collect();
        let found = pause(WARM_UP).and_then(|()| watch(&receiver, time));
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            let sent = sender.join().map_err(|_| anyhow!("the generator panicked"))??;
            ensure!(sent.packets > 0, "nothing was sent");
        }
        let (bits_per_s, core) = found?;
        Ok([bits_per_s / rate as f64 * 100.0, core * 100.0])
    })
}

/// Bits a second that come in, and the part of the router's core that is not idle.
fn watch(receiver: &Receiver, time: Duration) -> Result<(f64, f64)> {
    let (before, start) = (receiver.counts()?, Instant::now());
    let core = CoreTime::of(ROUTER_CORE)?;
    pause(time)?;
    let (after, elapsed) = (receiver.counts()?, start.elapsed());
    let busy = core.busy_since()?;
    ensure!(after.packets > before.packets, "nothing arrived");
    Ok(((after.bytes - before.bytes) as f64 * 8.0 / elapsed.as_secs_f64(), busy))
}

fn frames(core: usize) -> Result<Frames> {
    let template = Template {
        macs: [IN_MAC, Mac([2, 0, 0, 0, 0, 2])],
        src: Ipv4Addr::new(10, 10, 0, 2).into(),
        dst: POD.into(),
        destinations: 1,
        protocol: Protocol::Udp,
        ports: [2000 + core as u16, 9],
        flows: 1,
        lengths: vec![LENGTH],
    };
    Ok(Frames::stamped(&template)?)
}

/// Linux's limit.
fn filter(router: &Namespace, device: &str, rate: u64) -> Result<()> {
    let (rate_text, burst) = (format!("{rate}bit"), format!("{}b", burst(rate) / 8));
    let args = ["qdisc", "add", "dev", device, "root", "tbf", "rate", &rate_text, "burst", &burst];
    let args = [&args[..], &["latency", "25ms"]].concat();
    process::run_ok(router.command("tc", &args), "", WAIT)?;
    Ok(())
}

fn controls(rate: u64) -> Value {
    json!({ "ingressBandwidth": rate, "ingressBurst": burst(rate) })
}

/// Margay's: the sink is a pod.
fn limited(rig: &Rig, kind: Kind, rate: u64, link: LinkSpec) -> Result<Daemon> {
    let spec = PodSpec {
        link,
        device: "s0".to_owned(),
        ..PodSpec::new("server", rig.sink.clone(), link.mtu)
    };
    let pod = Pod::new(spec, 1, 1, POD, "fd20::2".parse()?);
    ensure!(pod.host_device() == DEVICE, "its device is {}", pod.host_device());
    let store = rig.store()?;
    store.put_pool("pods", Pool::new("10.20.0.0/24".parse()?))?;
    store.put_limited_endpoint("edge1", &pod, &controls(rate), kind == Kind::Shaped)?;
    let spec = DaemonSpec {
        uplinks: vec!["in0".to_owned()],
        workers: link.queues,
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge1", &store, &rig.scope)
    };
    let daemon = rig.daemon(spec, Value::Null)?;
    in_force(&daemon, rate)?;
    Ok(daemon)
}

fn in_force(daemon: &Daemon, rate: u64) -> Result<()> {
    process::wait_for("the limit to be in force", WAIT, || {
        Ok((daemon.show("limits")?[0]["ingress"]["bandwidth"] == rate).then_some(()))
    })
}

fn of_super_packets(mbits: u64, arguments: &Arguments) -> Outcome {
    let rate = mbits * 1_000_000;
    let mut peers: Vec<(&'static str, Measure<'_>)> = Vec::new();
    for (name, kind) in kinds_of_one_worker() {
        peers.push((name, Box::new(move |time| super_packets(kind, rate, time))));
    }
    let notes = vec![format!(
        "UDP_SEGMENT, {DATAGRAMS} datagrams of {DATAGRAM} bytes at once, a quarter more than the \
         limit, from pod to pod (margay: on TAPs; Linux: on veths); frames of 1514 bytes as the \
         receiver counted them after a second of warm-up, burst of 100 ms; both ends and the \
         router on the same two cores"
    )];
    let rows = crate::run_all(&mut peers, arguments);
    let title = format!("limit of {mbits} Mbit/s, UDP in super-packets");
    Outcome { title, unit: "% of it", look: Look::PerCent, notes, rows }
}

/// The part of its rate that comes through.
fn super_packets(kind: Kind, rate: u64, time: Duration) -> Result<f64> {
    let pods = limited_pods(kind, Attachment::Tap, rate)?;
    let (client, server) = (pods.node.pod("a")?, pods.node.pod("b")?);
    let to = SocketAddr::new(server.v4(), PORT);
    let receiver = server.namespace().enter(|| Ok(UdpSocket::bind(to)?))?;
    setsockopt(&receiver, sockopt::UdpGroSegment, &true)?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20))?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let sender = client.namespace().enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
    setsockopt(&sender, sockopt::UdpGsoSegment, &i32::from(DATAGRAM))?;
    sender.connect(to)?;
    let stop = AtomicBool::new(false);
    let per_second = (rate * 5 / 4 / FRAME_BITS / DATAGRAMS as u64).max(1);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send_super_packets(&sender, per_second, &stop));
        let found = receive(&receiver, WARM_UP).and_then(|_| receive(&receiver, time));
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        let frames = found? / f64::from(DATAGRAM);
        ensure!(frames > 0.0, "nothing arrived");
        Ok(frames * FRAME_BITS as f64 / rate as f64 * 100.0)
    })
}

fn send_super_packets(socket: &UdpSocket, per_second: u64, stop: &AtomicBool) {
    let (bytes, begin, mut sent) = (vec![0; DATAGRAMS * usize::from(DATAGRAM)], Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_micros() as u64 * per_second / 1_000_000;
        // What could not be sent in time is not made good.
        sent = sent.max(due.saturating_sub(per_second / 100));
        while sent < due {
            socket.send(&bytes).ok();
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Bytes of payload a second.
fn receive(socket: &UdpSocket, time: Duration) -> Result<f64> {
    let (begin, mut bytes, mut buffer) = (Instant::now(), 0, vec![0; 1 << 16]);
    while begin.elapsed() < time {
        bytes += socket.recv(&mut buffer).unwrap_or(0);
    }
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}

fn kinds_of_one_worker() -> impl Iterator<Item = (&'static str, Kind)> {
    KINDS.into_iter().filter(|(_, kind)| *kind != Kind::PolicedByTwo)
}

fn of_tcp(mbits: u64, arguments: &Arguments) -> Outcome {
    let rate = mbits * 1_000_000;
    let mut peers: Vec<(&'static str, Measure<'_>)> = Vec::new();
    for (name, kind) in kinds_of_one_worker() {
        peers.push((name, Box::new(move |time| stream(kind, rate, time))));
    }
    let notes = vec![format!(
        "one iperf3 stream from pod to pod, MTU 1500, both ends and the router on the same two \
             cores; payload as the receiver counted, beside what frames of 1514 bytes at the limit \
             can carry; from {FAST} Mbit/s on margay has the pods on TAPs, below on veths as Linux"
    )];
    let rows = crate::run_all(&mut peers, arguments);
    Outcome {
        title: format!("limit of {mbits} Mbit/s, TCP goodput"),
        unit: "% of it",
        look: Look::PerCent,
        notes,
        rows,
    }
}

fn stream(kind: Kind, rate: u64, time: Duration) -> Result<f64> {
    let is_fast = rate >= FAST * 1_000_000;
    let attachment = if is_fast { Attachment::Tap } else { Attachment::Veth };
    let pods = limited_pods(kind, attachment, rate)?;
    let bits_per_s = pods.measure(Load::Tcp, time).context("iperf3")?;
    Ok(bits_per_s / (rate as f64 * TCP_PART) * 100.0)
}

/// Two pods, the second of which has a limit; the kernel has both on veths.
fn limited_pods(kind: Kind, attachment: Attachment, rate: u64) -> Result<Pods> {
    let (router, attachment) = match kind {
        Kind::Tbf => (Router::Kernel, Attachment::Veth),
        _ => (Router::Margay(env!("CARGO_BIN_EXE_margay").into()), attachment),
    };
    let mut pods = Pods::new(router, attachment)?;
    let server = pods.node.pod("b")?.clone();
    if kind == Kind::Tbf {
        filter(pods.node.namespace(), server.host_device(), rate)?;
    } else {
        let is_shaped = kind == Kind::Shaped;
        pods.store.put_limited_endpoint("edge1", &server, &controls(rate), is_shaped)?;
        in_force(pods.node.daemon()?, rate)?;
    }
    Ok(pods)
}
