//! Ten greedy TCP pods on one uplink that has less than its device takes: how far each is off its
//! share. No peer has this: it says what margay keeps of what it promises.

use crate::pods::{Pods, SERVER, UPLINK};
use crate::report::{Look, Outcome};
use crate::{Arguments, Measures};
use anyhow::{Context, Result, anyhow};
use margay::lab::namespace::Namespace;
use margay::lab::node::Router;
use margay::lab::pod::{Attachment, Pod};
use margay::lab::process::{run_ok, wait_for};
use serde_json::{Value, json};
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
    RATES.into_iter().flat_map(|rate| of_rate(rate, arguments)).collect()
}

fn of_rate(rate: u64, arguments: &Arguments) -> [Outcome; 2] {
    let mut peers: Vec<(&'static str, Measures<'_, 2>)> = Vec::new();
    for (name, workers, weights) in CASES {
        peers.push((
            name,
            Box::new(move |time| {
                let shares = shares(rate, workers, weights, time)?;
                eprintln!("    {shares:.3?}");
                let off = |share: &f64| (share - 1.0).abs() * 100.0;
                Ok(shares.map(|of_pods| of_pods.iter().map(off).fold(0.0, f64::max)))
            }),
        ));
    }
    let [came, read] = crate::run_figures(&mut peers, arguments);
    let load = "a TCP stream from each pod on a veth to a host beyond the uplink \
                (uplinkBandwidth), after a warm-up of three seconds; the pod that is farthest off";
    let outcome = |what: &str, note: &str, rows| Outcome {
        title: format!("greedy TCP on an uplink of {} Mbit/s: {what}", rate / 1_000_000),
        unit: "% off its share",
        look: Look::LessIsBetter,
        notes: vec![load.to_owned(), note.to_owned()],
        rows,
    };
    [
        outcome("bytes that came", "bytes of IP packets as the far end of the uplink counts", came),
        outcome(
            "bytes that were read",
            "what applications read there: behind a packet that was lost bytes wait, and come all \
             at once, perhaps in another ten seconds",
            read,
        ),
    ]
}

/// Counters of what comes from each pod.
fn count_arrivals(tor: &Namespace, pods: &[Pod]) -> Result<()> {
    let counters = (0..pods.len()).map(|at| format!("counter pod{at} {{ }}\n"));
    let rules = pods.iter().enumerate();
    let rules = rules.map(|(at, pod)| format!("ip saddr {} counter name pod{at}\n", pod.v4()));
    let chain = format!(
        "chain arrivals {{ type filter hook prerouting priority -300;\n{}}}\n",
        rules.collect::<String>()
    );
    let table = format!("table ip share {{\n{}{chain}}}\n", counters.collect::<String>());
    run_ok(tor.command("nft", &["-f", "-"]), &table, LIMIT)?;
    Ok(())
}

/// What these say, in bytes.
fn arrivals(tor: &Namespace, pods: usize) -> Result<Vec<u64>> {
    let args = ["-j", "list", "counters", "table", "ip", "share"];
    let found: Value = serde_json::from_str(&run_ok(tor.command("nft", &args), "", LIMIT)?)?;
    let listed = found["nftables"].as_array().context("nft lists nothing")?;
    let bytes = |at: usize| {
        let name = format!("pod{at}");
        let mut counters = listed.iter().map(|one| &one["counter"]);
        let counter = counters.find(|counter| counter["name"] == *name);
        counter.and_then(|counter| counter["bytes"].as_u64()).context("nft has no such counter")
    };
    (0..pods).map(bytes).collect()
}

/// What each pod has of its share: of what comes, and of what is read.
fn shares(rate: u64, workers: u32, weights: &[u32], time: Duration) -> Result<[Vec<f64>; 2]> {
    let margay = Router::Margay(env!("CARGO_BIN_EXE_margay").into());
    let mut pods = Pods::with_workers(weights.len() as u8, margay, Attachment::Veth, workers)?;
    pods.open_outside()?;
    pods.node.daemon()?.reconfigure(json!({ "uplinkBandwidth": { UPLINK: rate } }))?;
    let all = pods.node.pods().to_vec();
    for (pod, weight) in all.iter().zip(weights) {
        let annotations = json!({ "margay.io/weight": weight.to_string() });
        pods.store.put_annotated_endpoint("edge1", pod, &json!({}), &annotations)?;
    }
    count_arrivals(&pods.tor, &all)?;
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
    let before = arrivals(&pods.tor, all.len())?;
    let read = receive(&mut streams, time)?;
    let after = arrivals(&pods.tor, all.len())?;
    drop(streams);
    senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow!("a panic")))?;
    let came = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    Ok([came, read].map(|bytes: Vec<u64>| {
        let (sum, all): (u64, u32) = (bytes.iter().sum(), weights.iter().sum());
        let part = |bytes: u64, weight: u32| {
            bytes as f64 * f64::from(all) / (sum * u64::from(weight)) as f64
        };
        bytes.iter().zip(weights).map(|(bytes, weight)| part(*bytes, *weight)).collect()
    }))
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
