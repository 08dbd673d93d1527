//! Limits beside flow offload: a pod that sends twice what it may, of which the XDP program carries
//! what passes, or gives it to the worker to wait. Rates and order are taken where packets arrive.
//!
//! A machine that stands still for a while gives a pod less than its limit; so "no less" has
//! several tries, and "no more" has none.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use margay::lab::process::wait_for;
use margay::lab::requirements::Tool;
use serde_json::{Value, json};

use crate::offload::{ECHO, Lab};

const TOOLS: &[Tool] = &[Tool { program: "ethtool", package: "ethtool" }];
const PATIENCE: Duration = Duration::from_secs(20);
/// Bits a second.
const RATE: u64 = 50_000_000;
/// A frame of 1250 bytes, 42 of which are headers.
const PAYLOAD: usize = 1208;
const FRAME_BITS: u64 = 10_000;
const WINDOW: Duration = Duration::from_millis(800);
const TRIES: usize = 10;

/// What has come to a socket.
#[derive(Default)]
struct Arrivals {
    count: u64,
    /// Numbers that came behind a larger one.
    late: u64,
    largest: u64,
}

impl Arrivals {
    /// Receives for so long; how many came, and bits a second between the first and the last.
    fn receive(&mut self, socket: &UdpSocket, time: Duration) -> (u64, f64) {
        let (mut bytes, before) = ([0; 2048], self.count);
        let (mut first, mut last) = (None, Instant::now());
        let end = last + time;
        while Instant::now() < end {
            if socket.recv(&mut bytes).is_ok() {
                last = Instant::now();
                first.get_or_insert(last);
                let number = bytes.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
                self.count += 1;
                self.late += u64::from(number < self.largest);
                self.largest = self.largest.max(number);
            }
        }
        let count = self.count - before;
        let time = (last - first.unwrap_or(last)).as_secs_f64().max(1e-3);
        (count, count.saturating_sub(1) as f64 * FRAME_BITS as f64 / time)
    }
}

/// Sends numbers, so many packets a second for each per cent of the rate, until told to stop.
fn send(socket: &UdpSocket, percent: &std::sync::atomic::AtomicU64, stop: &AtomicBool) {
    let mut bytes = vec![0; PAYLOAD];
    let (mut number, mut last) = (0_u64, Instant::now());
    let mut due = 0.0;
    while !stop.load(Ordering::Relaxed) {
        let share = percent.load(Ordering::Relaxed) as f64 / 100.0;
        let rate = RATE as f64 / FRAME_BITS as f64 * share;
        // After a standstill only what belongs to the last moments is sent.
        due = (due + rate * last.elapsed().as_secs_f64()).min(rate / 20.0);
        last = Instant::now();
        while due >= 1.0 {
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            socket.send(&bytes).ok();
            (number, due) = (number + 1, due - 1.0);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Lab {
    /// The pod may send so much from now on.
    fn limit(&mut self, shaped: bool) {
        let controls = json!({ "egressBandwidth": RATE, "egressBurst": RATE / 10 });
        let pod = self.node.pod("a").unwrap().clone();
        self.store.put_limited_endpoint("edge1", &pod, &controls, shaped).unwrap();
        wait_for("the limit to be in force", PATIENCE, || {
            Ok((self.egress()["bandwidth"] == RATE).then_some(()))
        })
        .unwrap();
    }

    fn egress(&mut self) -> Value {
        self.node.daemon().unwrap().show("limits").unwrap()[0]["egress"].clone()
    }
}

fn hold(shaped: bool) {
    let mut lab = Lab::new(true);
    lab.limit(shaped);
    let to: SocketAddr = ECHO.parse().unwrap();
    let server = lab.outside.enter(|| Ok(UdpSocket::bind(to)?)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let client = lab.pod.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    client.connect(to).unwrap();
    let (stop, percent) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(40));
    let mut arrivals = Arrivals::default();
    let mut seen = Vec::new();
    let best = std::thread::scope(|scope| {
        scope.spawn(|| send(&client, &percent, &stop));
        // Less than it may, so that the program carries the flow.
        wait_for("the flow to be carried", PATIENCE, || {
            arrivals.receive(&server, WINDOW / 4);
            Ok((lab.carried()[0] > 500).then_some(()))
        })
        .unwrap();
        percent.store(200, Ordering::Relaxed);
        let begin = Instant::now();
        let mut all = arrivals.receive(&server, WINDOW / 2).0;
        let mut best = 0.0_f64;
        while seen.len() < TRIES && best < 0.99 {
            let (count, measured) = arrivals.receive(&server, WINDOW);
            all += count;
            // The burst, and what waits 25 ms at most, may come beside the rate.
            let may = RATE as f64 * (begin.elapsed().as_secs_f64() + 0.125);
            assert!((all * FRAME_BITS) as f64 <= may, "{all} packets, {may:.0} bits may pass");
            let share = measured / RATE as f64;
            // More than the limit is what a standstill has saved up.
            best = if share <= 1.01 { share.max(best) } else { best };
            seen.push(format!("{share:.3}"));
        }
        // And less again.
        percent.store(40, Ordering::Relaxed);
        let before = lab.carried()[0];
        wait_for("the flow to be carried again", PATIENCE, || {
            arrivals.receive(&server, WINDOW / 4);
            Ok((lab.carried()[0] > before + 200).then_some(()))
        })
        .unwrap();
        stop.store(true, Ordering::Relaxed);
        best
    });
    arrivals.receive(&server, WINDOW / 4);
    let (egress, carried) = (lab.egress(), lab.carried());
    println!("shaped: {shaped}: {seen:?} of the limit, {carried:?} carried, {egress}");
    assert!(best >= 0.98, "{seen:?} of the limit");
    assert_eq!(arrivals.late, 0, "of {} so many came behind a later one", arrivals.count);
    let lost = if shaped { "limit-queue-full" } else { "limit-bandwidth" };
    assert!(egress["dropped"][lost].as_u64() > Some(1000), "{egress}");
    let delayed = egress["delayed"].as_u64().unwrap();
    assert_eq!(delayed > 0, shaped, "{egress}");
    assert!(
        egress["packets"].as_u64() >= Some(arrivals.count),
        "{egress}, {} came",
        arrivals.count
    );
}

#[test]
fn a_pod_whose_flow_is_carried_is_held_to_its_limit() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    hold(false);
}

#[test]
fn a_shaped_pod_whose_flow_is_carried_has_its_rate_and_its_order() {
    let Some(_turn) = crate::turn(TOOLS) else { return };
    hold(true);
}
