//! The daemon is killed under load: the host behind the same uplink does not notice, and pods are
//! back soon after the daemon is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use margay::lab::measure::{IperfSpec, Load};
use margay::lab::{measure, requirements};

use crate::probe::{Asker, Echo};

/// Of the first node, on the device that margay also takes pod traffic from.
const HOST: &str = "172.31.1.1";
/// Longest time from the daemon's start until a pod answers.
const BACK: Duration = Duration::from_secs(1);

#[test]
fn a_killed_daemon_leaves_the_host_reachable_and_restarts_quickly() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut network = crate::network(1500);
    let outside = network.outside.clone();
    let host = SocketAddr::new(HOST.parse().unwrap(), 4000);
    let pod = network.nodes[0].pod("veth-a").unwrap().clone();
    let _host_echo = Echo::tcp(network.nodes[0].namespace(), host.ip(), host.port());
    let _pod_echo = Echo::udp(pod.namespace(), pod.v4(), 4001);
    let to_host = Asker::tcp(&outside, host);
    let to_pod = Asker::udp(&outside, SocketAddr::new(pod.v4(), 4001));

    let daemon = network.nodes[0].daemon().unwrap();
    let (killed, restarted) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            measure::iperf(IperfSpec {
                client: &outside,
                server: pod.namespace(),
                target: pod.v6(),
                load: Load::Udp { length: 1000, rate: 50_000_000 },
                seconds: 6,
            })
        });
        std::thread::sleep(Duration::from_secs(2));
        let killed = Instant::now();
        daemon.kill();
        std::thread::sleep(Duration::from_secs(1));
        let restarted = Instant::now();
        daemon.restart().unwrap();
        daemon.wait_ready().unwrap();
        // iperf3 itself may give up on what was lost.
        load.join().unwrap().ok();
        (killed, restarted)
    });

    let (host, pod) = (to_host.finish(), to_pod.finish());
    println!("host: {} answers, longest gap {:?}", host.count(), host.longest_gap());
    assert!(host.longest_gap() < BACK, "the host was away for {:?}", host.longest_gap());
    assert!(host.first_after(restarted).is_some(), "the session ended with the daemon");
    assert!(pod.count() > 50, "only {} answers of the pod", pod.count());
    let back = pod.first_after(restarted).expect("the pod never came back") - restarted;
    println!("pod: {back:?} after the start, {:?} after the kill", restarted + back - killed);
    println!("pod: {} of {} lost", pod.lost(), pod.asked());
    assert!(back < BACK, "the pod was back after {back:?}");
    let again = pod.since(restarted + back).longest_gap();
    assert!(again < BACK, "the pod was away again for {again:?}");
    crate::offload::demand_carrier(network.nodes[0].daemon().unwrap());
}
