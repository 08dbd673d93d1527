//! The limits of section tc in frames of 9014 bytes: at rates of which one core does not carry as
//! many frames of 1514. UDP from sockets, from veth to veth.

use super::tc::{self, DEVICE, KINDS, Kind, POD, WARM_UP};
use crate::report::{Look, Outcome};
use crate::rig::{IN_MAC, Rig, pin};
use crate::{Arguments, GENERATOR_CORE, Measure, ROUTER_CORE};
use anyhow::{Context, Result, anyhow, ensure};
use margay::lab::namespace::{LinkSpec, Namespace};
use margay::lab::process::pause;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MTU: u32 = 9000;
const PAYLOAD: usize = MTU as usize - 28;
const FRAME_BITS: u64 = (MTU as u64 + 14) * 8;
/// So many that hashes of their flows give both queues some.
const SOCKETS: usize = 64;
const PORT: u16 = 5300;

pub(crate) fn run(mbits: u64, arguments: &Arguments) -> Outcome {
    let rate = mbits * 1_000_000;
    let mut peers: Vec<(&'static str, Measure<'_>)> = Vec::new();
    for (name, kind) in KINDS {
        peers.push((name, Box::new(move |time| Ok(udp(kind, rate, time)? * 100.0))));
    }
    let notes = vec![format!(
        "MTU {MTU}: frames of 9014 bytes, from {SOCKETS} sockets on CPU {GENERATOR_CORE}, half as \
         much again as the limit; workers, the kernel's receive and the sink on CPU {ROUTER_CORE}; \
         frames that the sink's device took after a second of warm-up, burst of 100 ms"
    )];
    let rows = crate::run_all(&mut peers, arguments);
    let title = format!("limit of {mbits} Mbit/s, UDP in jumbo frames");
    Outcome { title, unit: "% of it", look: Look::PerCent, notes, rows }
}

/// The part of its rate that comes through.
fn udp(kind: Kind, rate: u64, time: Duration) -> Result<f64> {
    let link = LinkSpec { mtu: MTU, queues: kind.queues() };
    let rig = Rig::with_links(DEVICE, link)?;
    let _daemon = tc::limiter(&rig, kind, rate, link)?;
    rig.pin_receive()?;
    rig.generator.ip(&format!(
        "route add {POD}/32 via 10.10.0.1\n\
         neigh replace 10.10.0.1 lladdr {IN_MAC} dev g0 nud permanent"
    ))?;
    // Nobody reads: what comes is dropped where it would wait.
    let _sink = rig.sink.enter(|| Ok(UdpSocket::bind((POD, PORT))?))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| rig.generator.enter(|| send(rate, &stop)));
        let found = pause(WARM_UP).and_then(|()| watch(&rig.sink, time));
        stop.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("the generator panicked"))??;
        Ok(found? / rate as f64)
    })
}

/// Bits a second that come in.
fn watch(sink: &Namespace, time: Duration) -> Result<f64> {
    let (before, start) = (frames(sink)?, Instant::now());
    pause(time)?;
    let (after, elapsed) = (frames(sink)?, start.elapsed());
    ensure!(after > before, "nothing arrived");
    Ok(((after - before) * FRAME_BITS) as f64 / elapsed.as_secs_f64())
}

/// Frames that the sink's device has received.
fn frames(sink: &Namespace) -> Result<u64> {
    let text = sink.read("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("s0:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(packets.context("/proc/net/dev has no s0")?.parse()?)
}

fn send(rate: u64, stop: &AtomicBool) -> Result<()> {
    pin(GENERATOR_CORE);
    let sockets = (0..SOCKETS).map(|_| {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect((POD, PORT))?;
        Ok(socket)
    });
    let sockets: Vec<UdpSocket> = sockets.collect::<Result<_>>()?;
    let (bytes, per_second) = ([0; PAYLOAD], rate * 3 / 2 / FRAME_BITS);
    let (begin, mut sent) = (Instant::now(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_nanos() * u128::from(per_second) / 1_000_000_000) as u64;
        // What could not be sent in a hundredth of a second is not made good.
        sent = sent.max(due.saturating_sub(per_second / 100));
        if sent == due {
            std::thread::sleep(Duration::from_micros(50));
        }
        while sent < due {
            // A full device drops, and says so.
            sockets[sent as usize % SOCKETS].send(&bytes).ok();
            sent += 1;
        }
    }
    Ok(())
}
