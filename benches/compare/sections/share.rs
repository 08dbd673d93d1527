//! Ten greedy TCP pods on one uplink that has less than its device takes: how far each is off its
//! share. No peer has this: it says what margay keeps of what it promises.

use crate::pods::{Pods, SERVER, UPLINK};
use crate::report::{Look, Outcome};
use crate::{Arguments, Measure};
use anyhow::{Context, Result, anyhow};
use margay::lab::node::Router;
use margay::lab::pod::Attachment;
use margay::lab::process::wait_for;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PODS: u8 = 10;
/// What the uplink has, in bits a second.
const RATES: [u64; 2] = [20_000_000, 200_000_000];
const PORT: u16 = 7100;
const LIMIT: Duration = Duration::from_secs(20);
/// Until windows have their size.
const WARM_UP: Duration = Duration::from_secs(3);

/// A name, workers, and the weights of the pods.
type Case = (&'static str, u32, &'static [u32]);

const CASES: [Case; 3] = [
    ("ten pods", 1, &[1; PODS as usize]),
    ("ten pods, two workers", 2, &[1; PODS as usize]),
    ("weights 1:2:4", 1, &[1, 2, 4]),
];

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    RATES.map(|rate| of_rate(rate, arguments)).into()
}

fn of_rate(rate: u64, arguments: &Arguments) -> Outcome {
    let mut peers: Vec<(&'static str, Measure<'_>)> = Vec::new();
    for (name, workers, weights) in CASES {
        peers.push((
            name,
            Box::new(move |time| {
                let shares = shares(rate, workers, weights, time)?;
                eprintln!("    {shares:.3?}");
                let off = shares.iter().map(|share| (share - 1.0).abs()).fold(0.0, f64::max);
                Ok(off * 100.0)
            }),
        ));
    }
    let rows = crate::run_all(&mut peers, arguments);
    let notes = vec![
        "a TCP stream from each pod on a veth to a host beyond the uplink (uplinkBandwidth): what \
         applications read there after a warm-up of three seconds; the pod that is farthest off"
            .to_owned(),
    ];
    let title = format!("greedy TCP on an uplink of {} Mbit/s", rate / 1_000_000);
    Outcome { title, unit: "% off its share", look: Look::LessIsBetter, notes, rows }
}

/// What each pod has of its share.
fn shares(rate: u64, workers: u32, weights: &[u32], time: Duration) -> Result<Vec<f64>> {
    let margay = Router::Margay(env!("CARGO_BIN_EXE_margay").into());
    let mut pods = Pods::with_workers(weights.len() as u8, margay, Attachment::Veth, workers)?;
    pods.open_outside()?;
    let daemon = pods.node.daemon()?;
    daemon.stop()?;
    daemon.restart_with(json!({ "uplinkBandwidth": { UPLINK: rate } }))?;
    daemon.wait_ready()?;
    let all = pods.node.pods().to_vec();
    for (pod, weight) in all.iter().zip(weights) {
        let annotations = json!({ "margay.io/weight": weight.to_string() });
        pods.store.put_annotated_endpoint("edge1", pod, &json!({}), &annotations)?;
    }
    let to = SocketAddr::from((SERVER, PORT));
    let listener = pods.tor.enter(|| Ok(TcpListener::bind(to)?))?;
    let mut streams = Vec::new();
    let mut senders = Vec::new();
    for pod in &all {
        let dial = || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok());
        let sender = wait_for("a connection", LIMIT, || pod.namespace().enter(dial))?;
        // Attempts that were given up may have left others in the queue.
        let receiver = loop {
            let (receiver, from) = listener.accept()?;
            if from == sender.local_addr()? {
                break receiver;
            }
        };
        receiver.set_nonblocking(true)?;
        senders.push(send(sender));
        streams.push(receiver);
    }
    receive(&mut streams, WARM_UP)?;
    let bytes = receive(&mut streams, time)?;
    drop(streams);
    senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow!("a panic")))?;
    let (sum, all): (u64, u32) = (bytes.iter().sum(), weights.iter().sum());
    let share = |(bytes, weight): (&u64, &u32)| {
        *bytes as f64 * f64::from(all) / (sum * u64::from(*weight)) as f64
    };
    Ok(bytes.iter().zip(weights).map(share).collect())
}

fn send(mut stream: TcpStream) -> JoinHandle<()> {
    std::thread::spawn(move || while stream.write_all(&[0; 1 << 14]).is_ok() {})
}

fn receive(streams: &mut [TcpStream], time: Duration) -> Result<Vec<u64>> {
    let (end, mut buffer) = (Instant::now() + time, vec![0; 1 << 16]);
    let mut bytes = vec![0; streams.len()];
    while Instant::now() < end {
        for (stream, bytes) in streams.iter_mut().zip(&mut bytes) {
            *bytes += stream.read(&mut buffer).unwrap_or(0) as u64;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    bytes.iter().all(|bytes| *bytes > 0).then_some(bytes).context("a pod's stream stands still")
}
