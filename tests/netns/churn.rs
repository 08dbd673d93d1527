//! Devices come and go under traffic, again and again: no frame, descriptor or thread is lost.

use std::net::SocketAddr;
use std::time::Duration;

use margay::lab::daemon::Daemon;
use margay::lab::measure::{self, PingSpec};
use margay::lab::network::Network;
use margay::lab::pod::PodSpec;
use margay::lab::{process, requirements};

use crate::frames;
use crate::probe::{Asker, Echo};

const ROUNDS: usize = 200;
/// The first node's addresses on its uplink.
const UPLINK: [&str; 2] = ["172.31.1.1", "fd31:1::1"];

/// What the daemon holds on to.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
}

fn held(daemon: &Daemon) -> Held {
    let count =
        |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", daemon.pid())).unwrap().count();
    Held { descriptors: count("fd"), threads: count("task") }
}

fn spec(network: &Network) -> PodSpec {
    PodSpec::new("churn", network.scope().namespace("churn").unwrap(), network.spec().mtu)
}

fn answers(network: &Network, name: &str) -> anyhow::Result<()> {
    let pod = network.nodes[0].pod(name)?;
    let what = format!("{name} to answer");
    process::wait_for(&what, Duration::from_secs(10), || {
        let spec = PingSpec { count: 1, ..PingSpec::to(pod.v4()) };
        Ok((measure::ping(&network.outside, spec)?.received == 1).then_some(()))
    })
}

/// One pod comes and goes, and the uplink loses its carrier in between.
fn round(network: &mut Network, spec: &PodSpec, wait: bool) {
    network.nodes[0].add_pod(spec.clone()).unwrap();
    if wait {
        answers(network, "churn").unwrap();
    }
    network.tor.ip("link set edge1 down\nlink set edge1 up").unwrap();
    // The kernel forgets the routes of a device that goes down, and its IPv6 addresses.
    network.tor.configure("edge1", &["fd31:1::fe/64".parse().unwrap()]).unwrap();
    for (block, via) in network.nodes[0].blocks().unwrap().into_iter().zip(UPLINK) {
        network.tor.route(block, via.parse().unwrap()).unwrap();
    }
    network.nodes[0].remove_pod("churn").unwrap();
}

#[test]
fn two_hundred_pods_come_and_go_and_links_flap() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = crate::network(1500);
    let pod = network.nodes[0].pod("veth-a").unwrap().clone();
    let _echo = Echo::udp(pod.namespace(), pod.v4(), 4001);
    let spec = spec(&network);
    // The first round makes what is made once only.
    round(&mut network, &spec, true);
    answers(&network, "veth-a").unwrap();
    let daemon = network.nodes[0].daemon().unwrap();
    frames::demand_all(daemon);
    let before = held(daemon);

    let traffic = Asker::udp(&network.outside, SocketAddr::new(pod.v4(), 4001));
    for number in 1..=ROUNDS {
        round(&mut network, &spec, number % 20 == 0);
    }
    answers(&network, "veth-a").unwrap();
    let traffic = traffic.finish();
    println!("{} answers in between, longest gap {:?}", traffic.count(), traffic.longest_gap());
    assert!(traffic.count() > ROUNDS, "only {} answers in {ROUNDS} rounds", traffic.count());

    let daemon = network.nodes[0].daemon().unwrap();
    // Threads of the runtime that have nothing to do end after a while.
    let no_more =
        |now: Held| now.descriptors <= before.descriptors && now.threads <= before.threads;
    process::wait_for(
        "no more descriptors and threads than before",
        Duration::from_secs(10),
        || Ok(no_more(held(daemon)).then_some(())),
    )
    .unwrap_or_else(|error| panic!("{error}: {before:?}, now {:?}", held(daemon)));
    frames::demand_all(daemon);
}
