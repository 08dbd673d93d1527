//! A pod that floods, beside others: nine that send a hundredth of the line each, and one whose
//! packets are forwarded while the flood is for the host itself or for neighbours that are absent.
//!
//! All pods hang on veths, and one worker has them all. Everything that sends shares a core with
//! the kernel's half of what the worker receives; the worker shares the other one with the sink.

use super::losses::Losses;
use crate::pods::{Pods, SERVER, UPLINK};
use crate::report::{Look, Outcome, Row};
use crate::rig::{pin, pin_workers};
use crate::{Arguments, GENERATOR_CORE, Measures, ROUTER_CORE};
use anyhow::{Context, Result, anyhow, ensure};
use margay::lab::node::Router;
use margay::lab::pod::{Attachment, HOST_MAC, Pod};
use margay::lab::process::{self, pause};
use margay_fastpath::pktgen::{Receiver, stamp};
use margay_fastpath::sys::bpf::AttachMode;
use margay_fastpath::sys::bpf::generator::Generator;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use nix::net::if_::if_nametoindex;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PODS: u8 = 10;
/// Bytes of a frame of 64 without its check sequence.
const FRAME: usize = 60;
/// What one core takes on veth, roughly, in packets a second; nine pods send a hundredth each.
const LINE: u64 = 1_000_000;
/// An address of the host, and the first of those that nobody on its uplink has.
const HOST: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 1);
const ABSENT: u32 = 0xac1f_0164;
const ABSENT_COUNT: u32 = 64;
/// Frames of one call to the generator.
const BATCH: u32 = 1 << 18;
const WARM_UP: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(10);

/// Where the flood goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    None,
    Outside,
    Host,
    Absent,
}

const FLOODS: [(&str, Flood); 4] = [
    ("no flood", Flood::None),
    ("a flood that is forwarded", Flood::Outside),
    ("a flood at the host's address", Flood::Host),
    ("a flood at 64 absent neighbours", Flood::Absent),
];

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let losers = RefCell::new(Vec::new());
    let mut peers: Vec<(&'static str, Measures<'_, 4>)> = Vec::new();
    for (name, kind) in FLOODS {
        let losers = &losers;
        let measure = move |time| {
            let (figures, losses) = beside(kind, time)?;
            let line = format!("{name}: lost by {losses}");
            eprintln!("{line}");
            losers.borrow_mut().push(line);
            Ok(figures)
        };
        peers.push((name, Box::new(measure)));
    }
    let figures = crate::run_figures(&mut peers, arguments);
    drop(peers);
    outcomes(figures, losers.into_inner())
}

fn outcomes([lost, share, p99, flood]: [Vec<Row>; 4], losers: Vec<String>) -> Vec<Outcome> {
    let load = format!(
        "nine pods send {} packets of 64 bytes a second each, from sockets, while a tenth floods \
         as fast as a core can beside them; CPU {GENERATOR_CORE} has all senders and the kernel's \
         half of what is received from them, CPU {ROUTER_CORE} the worker and the sink",
        LINE / 100
    );
    let outcome = |title: &str, (unit, look), note: &str, rows| Outcome {
        title: format!("floods: {title}"),
        unit,
        look,
        notes: vec![load.clone(), note.to_owned()],
        rows,
    };
    let sent = "between the socket of a pod and the sink, the pods' own veths included";
    let times = "between the socket of a pod and the sink; up to an eighth too long";
    let mut lost = outcome("lost by the nine", ("packets", Look::LessIsBetter), sent, lost);
    lost.notes.extend(losers);
    vec![
        lost,
        outcome("of what the nine sent came", ("%", Look::PerCent), sent, share),
        outcome("99th percentile of the nine's latency", ("us", Look::LessIsBetter), times, p99),
        outcome(
            "packets that came of the flood",
            ("Mpps", Look::TableOnly),
            "the rest was dropped",
            flood,
        ),
    ]
}

/// What the nine lose, per cent of theirs that come, their latency in us, and what comes of the
/// flood in Mpps; and who loses packets, and how many.
fn beside(kind: Flood, time: Duration) -> Result<([f64; 4], String)> {
    let margay = Router::Margay(env!("CARGO_BIN_EXE_margay").into());
    let mut pods = Pods::with_workers(PODS, margay, Attachment::Veth, 1)?;
    pin_workers(pods.node.daemon()?)?;
    let all: Vec<Pod> = pods.node.pods().to_vec();
    let (flooding, others) = all.split_first().context("pods")?;
    let receiver = pods.tor.enter(|| {
        let device = if_nametoindex("edge1")?;
        Ok(Receiver::attach(device, u32::from(PODS), AttachMode::Native)?)
    })?;
    let mut senders = Senders::new(others)?;
    process::wait_for("packets of all pods to come", LIMIT, || {
        let before = receiver.counts()?.stamped;
        senders.send_each()?;
        pause(Duration::from_millis(50))?;
        Ok((receiver.counts()?.stamped >= before + others.len() as u64).then_some(()))
    })?;
    let (edge, stop) = (pods.node.namespace().clone(), AtomicBool::new(false));
    let hosts = others.iter().map(Pod::host_device).collect();
    let mut places = vec![("the node's ends of the nine", &edge, hosts)];
    places.extend([("uplink", &edge, vec![UPLINK]), ("sink", &pods.tor, vec!["edge1"])]);
    let ends = others.iter().map(|pod| ("the pods", pod.namespace(), vec![pod.device()]));
    places.extend(ends);
    let daemon = pods.node.daemon()?;
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| match kind {
            Flood::None => Ok(()),
            _ => flood(flooding, kind, &stop),
        });
        let found = pause(WARM_UP).and_then(|()| {
            let before = Losses::read(Some(daemon), &places)?;
            let figures = watch(&receiver, &mut senders, time)?;
            Ok((figures, Losses::read(Some(daemon), &places)?.since(&before)))
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("the generator panicked"))??;
        found
    })
}

/// Times of the warm-up are not among these: there each pod sends next to nothing.
fn watch(receiver: &Receiver, senders: &mut Senders, time: Duration) -> Result<[f64; 4]> {
    let before = receiver.counts()?;
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            pin(GENERATOR_CORE);
            senders.send(time)
        });
        sender.join().map_err(|_| anyhow!("a pod's sender panicked"))?
    })?;
    let flooded = receiver.counts()?;
    pause(DRAIN)?;
    let after = receiver.counts()?;
    let arrived = after.stamped - before.stamped;
    ensure!(arrived > 0, "nothing arrived");
    let p99_ns = receiver.latency()?.within(990_000).context("no packet has a time")?;
    // What is not stamped is of the flood, or of a neighbour that asks.
    let of_flood = |counts: margay_fastpath::pktgen::Counts| counts.packets - counts.stamped;
    let flood = of_flood(flooded) - of_flood(before);
    Ok([
        sent.saturating_sub(arrived) as f64,
        arrived as f64 * 100.0 / sent as f64,
        p99_ns as f64 / 1e3,
        flood as f64 / time.as_secs_f64() / 1e6,
    ])
}

/// Sockets of pods, and what each has sent.
struct Senders {
    sockets: Vec<UdpSocket>,
    sequences: Vec<u32>,
}

impl Senders {
    fn new(pods: &[Pod]) -> Result<Senders> {
        let socket = |pod: &Pod| {
            pod.namespace().enter(|| {
                let socket = UdpSocket::bind((pod.v4(), 0))?;
                socket.connect((SERVER, 9))?;
                Ok(socket)
            })
        };
        let sockets: Vec<_> = pods.iter().map(socket).collect::<Result<_>>()?;
        Ok(Senders { sequences: vec![0; sockets.len()], sockets })
    }

    fn send_one(&mut self, at: usize) -> Result<()> {
        self.sockets[at].send(&stamp::now(at as u32, self.sequences[at]))?;
        self.sequences[at] += 1;
        Ok(())
    }

    fn send_each(&mut self) -> Result<()> {
        (0..self.sockets.len()).try_for_each(|at| self.send_one(at))
    }

    /// A packet of each pod, evenly over the time; how many. What cannot be sent in time is not
    /// made good, for it would be a flood of its own.
    fn send(&mut self, time: Duration) -> Result<u64> {
        let (rate, pods) = (LINE / 100, self.sockets.len() as u64);
        let (begin, mut rounds, mut sent) = (Instant::now(), 0, 0);
        while begin.elapsed() < time {
            let due = begin.elapsed().as_micros() as u64 * rate / 1_000_000;
            rounds = rounds.max(due.saturating_sub(rate / 1000));
            while rounds < due {
                self.send_each()?;
                rounds += 1;
                sent += pods;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(sent)
    }
}

/// Frames of a pod, to its kernel's next hop.
fn frames(pod: &Pod, kind: Flood) -> Result<Vec<Vec<u8>>> {
    let mac = |text: &str| text.parse::<Mac>().map_err(|()| anyhow!("{text} is no MAC address"));
    let IpAddr::V4(src) = pod.v4() else { anyhow::bail!("no IPv4 address") };
    let link = ethernet::header(mac(HOST_MAC)?, mac(pod.mac())?, ethernet::IPV4);
    let destinations: Vec<Ipv4Addr> = match kind {
        Flood::None => Vec::new(),
        Flood::Outside => vec![SERVER],
        Flood::Host => vec![HOST],
        Flood::Absent => (0..ABSENT_COUNT).map(|at| Ipv4Addr::from(ABSENT + at)).collect(),
    };
    let frame = |dst: Ipv4Addr| {
        let mut bytes = link.to_vec();
        bytes.extend(ipv4::header(src, dst, protocol::UDP, 64, (FRAME - 34) as u16));
        bytes.extend([0x13, 0x88, 0, 9, 0, (FRAME - 34) as u8, 0, 0]);
        bytes.resize(FRAME, 0);
        bytes
    };
    Ok(destinations.into_iter().map(frame).collect())
}

fn flood(pod: &Pod, kind: Flood, stop: &AtomicBool) -> Result<()> {
    let frames = frames(pod, kind)?;
    pod.namespace().enter(|| {
        pin(GENERATOR_CORE);
        // Those who send little are to send when they want to.
        let thread = nix::unistd::gettid().to_string();
        process::run_ok(process::command("renice", &["-n", "10", "-p", &thread]), "", LIMIT)?;
        let generator = Generator::new(&frames, if_nametoindex(pod.device())?)?;
        while !stop.load(Ordering::Relaxed) {
            generator.send(BATCH)?;
        }
        Ok(())
    })
}
