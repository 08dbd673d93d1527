//! A thousand pods on one worker: all reachable, and nearly free while they are idle.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use margay::lab::network::Network;
use margay::lab::pod::{GATEWAY_V4, HOST_MAC, Pod, PodSpec};

const PODS: u32 = 1000;
/// Longest time until all are attached.
const ATTACHED: Duration = Duration::from_secs(120);
/// How long after the last answer the daemon counts as idle.
const SETTLED: Duration = Duration::from_secs(5);
/// How long the idle daemon is watched.
const WATCHED: Duration = Duration::from_secs(5);
/// It is not idle yet while the kernel tells how a thousand neighbours age.
const WINDOWS: usize = 6;
/// Largest part of one core that it may take meanwhile, in per cent.
const IDLE: f64 = 2.0;
/// Clock ticks a second, in which the kernel counts processor time.
const TICKS: f64 = 100.0;

/// User and system time of the process so far, in clock ticks.
fn processor_ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    // Fields 14 and 15; the state behind the name is field 3.
    fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum()
}

fn add_pods(network: &mut Network) {
    let namespace = network.scope().namespace("pods").unwrap();
    for number in 0..PODS {
        let spec = PodSpec {
            device: format!("pod{number}"),
            table: Some(1000 + number),
            ..PodSpec::new(&format!("many{number}"), namespace.clone(), 1500)
        };
        network.nodes[0].add_pod(spec).unwrap();
    }
    // The kernel's neighbour table is one for all namespaces and takes 1,024 by default, which the
    // pods' routers need; permanent entries do not count.
    let neighbor = |number| {
        format!("neigh replace {GATEWAY_V4} lladdr {HOST_MAC} dev pod{number} nud permanent\n")
    };
    namespace.ip(&(0..PODS).map(neighbor).collect::<String>()).unwrap();
}

/// Those of the pods that do not answer within a while: nobody listens there, so a pod that is
/// reached refuses the session.
fn silent(network: &Network, pods: &[Pod]) -> Vec<Pod> {
    let refuses = |pod: &&Pod| {
        let target = SocketAddr::new(pod.v4(), 4002);
        let result = TcpStream::connect_timeout(&target, Duration::from_millis(300));
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let silent = || {
        poke(pods);
        pods.iter().filter(|pod| !refuses(pod)).cloned().collect()
    };
    network.outside.enter(|| Ok(silent())).unwrap()
}

/// One datagram to each, so that their link addresses are looked for all at once.
fn poke(pods: &[Pod]) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for pod in pods {
        // Port unreachable is a fine answer.
        socket.send_to(b"wake up", (pod.v4(), 4002)).ok();
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_secs(2));
}

#[test]
fn a_thousand_pods_forward_and_idle_cheaply() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut network = Network::without_pods(crate::margay(1500)).unwrap();
    add_pods(&mut network);
    // The daemon may still be attaching the last ones.
    let mut silent_pods = network.nodes[0].pods().to_vec();
    let start = Instant::now();
    while !silent_pods.is_empty() && start.elapsed() < ATTACHED {
        silent_pods = silent(&network, &silent_pods);
    }
    let names: Vec<&str> = silent_pods.iter().map(Pod::name).take(10).collect();
    assert!(names.is_empty(), "{} pods do not answer: {names:?}...", silent_pods.len());

    let daemon = network.nodes[0].daemon().unwrap();
    std::thread::sleep(SETTLED);
    let used = || {
        let before = processor_ticks(daemon.pid());
        std::thread::sleep(WATCHED);
        (processor_ticks(daemon.pid()) - before) / TICKS / WATCHED.as_secs_f64() * 100.0
    };
    let mut seen = Vec::new();
    while seen.len() < WINDOWS && seen.last().is_none_or(|used| *used >= IDLE) {
        seen.push(used());
    }
    println!("the idle daemon takes {seen:.2?} % of a core");
    assert!(seen.last().is_some_and(|used| *used < IDLE), "{seen:.2?} % of a core while idle");
    crate::frames::demand_all(daemon);
}
