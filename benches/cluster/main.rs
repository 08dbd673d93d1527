//! A large cluster in a real etcd: how long a node takes from its start to the full FIB, how long
//! one change takes until the packet path does it, and what memory that costs.
//!
//! ```text
//! cargo bench --bench cluster -- [--nodes N] [--endpoints N] [--changes N] [--seed N]
//! ```
//!
//! As root. The daemon is a process in a namespace, with real pods. A change is timed from before
//! it is written to etcd until the first packet of a steady stream arrives where it leads: packets
//! from a pod through VXLAN, of which the far side has every other node's end.

mod content;
mod rig;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use content::Size;
use margay_control::resource::Key;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use rig::Rig;
use serde_json::json;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const VXLAN: u16 = 4789;
/// Between two packets of the stream.
const GAP: Duration = Duration::from_micros(200);
/// Longest wait for a change.
const LIMIT: Duration = Duration::from_secs(10);
const STARTS: usize = 3;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    #[arg(long, default_value_t = 20_000)]
    endpoints: u32,
    /// Changes of each sort.
    #[arg(long, default_value_t = 300)]
    changes: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is changed, to and fro between two nodes.
#[derive(Debug, Clone, Copy)]
enum Sort {
    /// A block goes to another node.
    Block,
    /// A pod that has borrowed an address comes and goes.
    Endpoint,
}

/// The ends of the two nodes that packets go to.
struct Sink {
    sockets: [UdpSocket; 2],
}

impl Sink {
    fn new(rig: &Rig, nodes: [u32; 2]) -> Result<Sink> {
        let bind = |node| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((content::node_address(node), VXLAN))?;
            socket.set_read_timeout(Some(LIMIT))?;
            Ok(socket)
        };
        let [a, b] = nodes;
        Ok(Sink { sockets: rig.far.enter(|| Ok([bind(a)?, bind(b)?]))? })
    }

    /// Forgets what has come to one of them.
    fn drain(&self, at: usize) -> Result<()> {
        let socket = &self.sockets[at];
        socket.set_nonblocking(true)?;
        while socket.recv(&mut [0; 2048]).is_ok() {}
        Ok(socket.set_nonblocking(false)?)
    }

    fn wait(&self, at: usize) -> Result<Instant> {
        self.sockets[at].recv(&mut [0; 2048]).context("no packet comes to the other node")?;
        Ok(Instant::now())
    }
}

/// Sends from the first pod until told to end.
fn stream(rig: &Rig, to: Ipv4Addr, stop: &AtomicBool) -> Result<()> {
    rig.pods.enter(|| {
        let socket = UdpSocket::bind((content::address_of(0, 1), 0))?;
        while !stop.load(Ordering::Relaxed) {
            // Unreachable is what a route that is missing says.
            socket.send_to(&[0; 32], (to, 9)).ok();
            std::thread::sleep(GAP);
        }
        Ok(())
    })
}

/// Writes one change: `at` is the node of the two that packets go to afterwards.
async fn change(store: &Store, sort: Sort, nodes: [u32; 2], at: usize) -> Result<()> {
    let key = |kind: &str, namespace: &str, name: String| Key {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name,
    };
    match sort {
        Sort::Block => {
            let block = store.get(&key("IPAMBlock", "", content::block_name(nodes[0]))).await?;
            let mut spec = block.spec();
            spec["affinity"] = json!(format!("host:{}", content::node_name(nodes[at])));
            store.update(block.with_spec(spec)).await?;
        }
        Sort::Endpoint => {
            let pod = content::borrower(nodes[1], content::address_of(nodes[0], 60));
            let pod = Document::new(pod)?;
            match at {
                0 => store.delete(&store.get(&pod.key).await?).await?,
                _ => drop(store.create(pod).await?),
            }
        }
    }
    Ok(())
}

/// Milliseconds from each change to the first packet that follows it, and of the daemon's steps.
fn measure(
    (rig, runtime, store): (&Rig, &Runtime, &Store),
    sort: Sort,
    nodes: [u32; 2],
    count: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let sink = Sink::new(rig, nodes)?;
    let stop = AtomicBool::new(false);
    let (mut times, mut steps) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| stream(rig, content::address_of(nodes[0], 60), &stop));
        let outcome = (|| -> Result<()> {
            sink.wait(0)?;
            for round in 1..=count {
                let at = round % 2;
                sink.drain(at)?;
                let begin = Instant::now();
                let writing = {
                    let store = store.clone();
                    runtime.spawn(async move { change(&store, sort, nodes, at).await })
                };
                times.push((sink.wait(at)? - begin).as_secs_f64() * 1e3);
                runtime.block_on(writing)??;
                std::thread::sleep(Duration::from_millis(20));
                steps.push(rig.status()?.step_microseconds as f64 / 1e3);
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok((times, steps))
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() as f64 * part).ceil() as usize).clamp(1, values.len()) - 1]
}

/// The FIB leads to these nodes' blocks through a tunnel to each.
fn check(rig: &Rig, size: Size) -> Result<()> {
    for node in (1..size.nodes).step_by(1 + size.nodes as usize / 50) {
        let prefix = format!("{}/26", content::address_of(node, 0));
        let found = rig.route(&prefix)?;
        let end = content::node_address(node).to_string();
        ensure!(found.to_string().contains(&end), "{prefix} does not lead to {end}: {found}");
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let size =
        Size { nodes: arguments.nodes, endpoints: arguments.endpoints, seed: arguments.seed };
    let mut rig = Rig::new(size)?;
    rig.wait_etcd()?;
    rig.start(|status| status.ready)?;
    let empty = rig.memory()?;
    rig.stop()?;
    println!("empty cluster: {:.0} MiB, peak {:.0} MiB", empty.now, empty.peak);

    // What connects does so from this thread's namespace: the runtime's threads are born in it.
    let (runtime, store) = rig.far.enter(|| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let store = runtime.block_on(async { Store::open(&rig.store()) })?;
        Ok((runtime, store))
    })?;
    let begin = Instant::now();
    let count = runtime.block_on(runtime.spawn({
        let store = store.clone();
        async move { size.write(&store).await }
    }))??;
    println!("{count} resources written in {:.1} s", begin.elapsed().as_secs_f64());

    // Blocks of the others and the own one, and the own pods.
    let routes = (size.nodes + size.pods_of(0)) as usize;
    for start in 0..STARTS {
        let full = |status: &margay_control::api::status::StatusAnswer| {
            status.ready
                && status.routes_v4 >= routes
                && status.endpoints == size.pods_of(0) as usize
        };
        let time = rig.start(full)?;
        check(&rig, size)?;
        let (status, memory) = (rig.status()?, rig.memory()?);
        println!(
            "start {start}: full FIB ({} routes, {} in the kernel) after {:.2} s; {:.0} MiB, peak \
             {:.0} MiB",
            status.routes_v4,
            status.kernel_routes,
            time.as_secs_f64(),
            memory.now,
            memory.peak
        );
        if start + 1 < STARTS {
            rig.stop()?;
        }
    }
    for sort in [Sort::Block, Sort::Endpoint] {
        let nodes = [size.nodes / 2, size.nodes / 3];
        let (mut times, mut steps) =
            measure((&rig, &runtime, &store), sort, nodes, arguments.changes)?;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| percentile(&mut times, part));
        println!(
            "{sort:?}: {} changes, to the first packet p50 {p50:.1} ms, p99 {p99:.1} ms, max \
             {max:.1} ms; step p50 {:.1} ms, p99 {:.1} ms",
            times.len(),
            percentile(&mut steps, 0.5),
            percentile(&mut steps, 0.99)
        );
    }
    let memory = rig.memory()?;
    println!("at the end: {:.0} MiB, peak {:.0} MiB", memory.now, memory.peak);
    rig.stop()
}
