//! How long one label takes to reach the packet path, end to end: a daemon in a network of
//! namespaces, with a store of 20,000 endpoints, 1,000 of them here, 10,000 policies and 80
//! network sets of 1,000 ranges.
//!
//! A pod's label, or that of an endpoint elsewhere, changes so that datagrams to the pod pass, and
//! back. Two times are told: the daemon's own, from the event of its store until all workers have
//! the new tables, and the one that datagrams find, from the file's change, where the watched
//! directory waits for 30 ms of quiet and looks at all files first. As root:
//!
//! ```text
//! cargo bench --bench relabel -- [--changes N] [--namespaces N]
//! ```

#[path = "acl/random.rs"]
mod random;
#[path = "relabel/store.rs"]
mod store;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use margay::lab::namespace::Namespace;
use margay::lab::network::{Encap, Network, NetworkSpec};
use margay::lab::node::Router;
use margay::lab::process;
use margay::lab::tor::Peer;
use serde_json::Value;
use store::{Cluster, Who};

const PATIENCE: Duration = Duration::from_secs(120);
/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(200);
/// Each datagram has a source port of its own.
const PORTS: std::ops::Range<u16> = 1024..65_000;

#[derive(Debug, Parser)]
struct Arguments {
    /// Changes of each kind.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Namespaces of the cluster, each with 40 endpoints, two of them here, and 20 policies.
    #[arg(long, default_value_t = 500)]
    namespaces: usize,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let spec = NetworkSpec {
        router: Router::Margay(PathBuf::from(env!("CARGO_BIN_EXE_margay"))),
        mtu: 1500,
        queues: 1,
        workers: 1,
        bgp: false,
        peer: Peer::Margay,
        encap: Encap::None,
        detached: false,
    };
    let mut network = Network::without_pods(spec)?;
    // The other node would only take processor time.
    network.nodes[1].stop_daemon()?;
    network.add_pod(0, "veth-a")?;
    let cluster = Cluster { namespaces: arguments.namespaces, store: network.store()? };
    let before = resident_mib(&mut network)?;
    let begin = Instant::now();
    let devices = cluster.write_all()?;
    println!(
        "{} endpoints, {devices} of them here, {} policies; files written in {:.1} s",
        cluster.endpoints(),
        cluster.policies(),
        begin.elapsed().as_secs_f64(),
    );
    let begin = Instant::now();
    process::wait_for("all endpoints to be known", PATIENCE, || {
        let status = status(&mut network)?;
        Ok((status["endpoints"].as_u64() > Some(devices as u64)).then_some(()))
    })?;
    let status = status(&mut network)?;
    println!(
        "in force {:.1} s later, of which the last step took {} ms; {:.0} MiB, {before:.0} before",
        begin.elapsed().as_secs_f64(),
        status["stepMicroseconds"].as_u64().unwrap_or_default() / 1000,
        resident_mib(&mut network)?,
    );
    let mut ports = PORTS.cycle();
    for who in [Who::Here, Who::Elsewhere] {
        let mut times = Times::default();
        for _ in 0..arguments.changes {
            change(&mut network, &cluster, who, &mut times, &mut ports)?;
        }
        times.report(who);
    }
    Ok(())
}

/// Milliseconds.
#[derive(Debug, Default)]
struct Times {
    /// From the store's event until all workers have the tables.
    told: Vec<f64>,
    /// From the file's change until a datagram passes.
    passed: Vec<f64>,
}

impl Times {
    fn report(mut self, who: Who) {
        let [told, passed] = [&mut self.told, &mut self.passed].map(|times| {
            times.sort_by(f64::total_cmp);
            [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
        });
        println!(
            "label of an endpoint {who:?}: event to workers {told:.1?} ms, file to packet \
             {passed:.1?} ms (median, 99th percentile, most)"
        );
    }
}

/// Lets datagrams pass by a label, and takes it away again.
fn change(
    network: &mut Network,
    cluster: &Cluster,
    who: Who,
    times: &mut Times,
    ports: &mut impl Iterator<Item = u16>,
) -> Result<()> {
    let pod = network.nodes[0].pod("veth-a")?.clone();
    let to = SocketAddr::new(pod.v4(), who.port());
    let server = pod.namespace().enter(|| Ok(UdpSocket::bind(("0.0.0.0", who.port()))?))?;
    server.set_nonblocking(true)?;
    for opens in [true, false] {
        let steps = steps(network)?;
        let begin = Instant::now();
        cluster.put_label(who, opens)?;
        if opens {
            let passed = first_passed(&network.outside, &server, to, ports)?;
            times.passed.push((passed - begin).as_secs_f64() * 1e3);
        }
        let status = process::wait_for("the change to be told", PATIENCE, || {
            let status = status(network)?;
            Ok((status["steps"].as_u64() > Some(steps)).then_some(status))
        })?;
        let told = status["storeLatencyMicroseconds"].as_u64().context("a latency")?;
        times.told.push(told as f64 / 1e3);
        // Whatever follows a change is not to be in the way of the next.
        process::pause(Duration::from_millis(50))?;
    }
    Ok(())
}

/// When the first datagram was sent that passed.
fn first_passed(
    from: &Namespace,
    server: &UdpSocket,
    to: SocketAddr,
    ports: &mut impl Iterator<Item = u16>,
) -> Result<Instant> {
    let mut sent: Vec<Instant> = Vec::new();
    let begin = Instant::now();
    let ports: Vec<u16> = ports.take(4000).collect();
    from.enter(|| {
        for port in &ports {
            let socket = UdpSocket::bind(("0.0.0.0", *port))?;
            sent.push(Instant::now());
            socket.send_to(&((sent.len() - 1) as u16).to_be_bytes(), to)?;
            std::thread::sleep(PAUSE);
            let mut number = [0; 2];
            if server.recv(&mut number).is_ok() {
                return Ok(sent[usize::from(u16::from_be_bytes(number))]);
            }
        }
        anyhow::bail!("nothing passed within {:?}", begin.elapsed())
    })
}

fn status(network: &mut Network) -> Result<Value> {
    network.nodes[0].daemon()?.show("status")
}

fn steps(network: &mut Network) -> Result<u64> {
    status(network)?["steps"].as_u64().context("a number of steps")
}

fn resident_mib(network: &mut Network) -> Result<f64> {
    let pid = network.nodes[0].daemon()?.pid();
    Ok(process::proc_field(&format!("/proc/{pid}/status"), "VmRSS:")? / 1024.0)
}
