//! `margay pktgen` through real routers: what the generator sends, the sink finds whole, in order,
//! and timed.

use std::time::Duration;

use margay::lab::measure::{PingSpec, ping};
use margay::lab::namespace::Namespace;
use margay::lab::process::{self, Output};
use margay::lab::requirements;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// The machine may be busy: what a full ring drops is lost, but no more than so many of 100.
const MOST_LOST: u64 = 10;

fn pktgen(namespace: &Namespace, args: &[&str]) -> Output {
    let binary = crate::binary();
    let args = [&["pktgen"], args].concat();
    namespace.run(binary.to_str().unwrap(), &args, LIMIT).unwrap()
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}", output.stderr);
    serde_json::from_str(&output.stdout).expect(&output.stdout)
}

/// What the sink says of what was sent to it, and what the generator says.
fn sent_and_received(from: &Namespace, to: &Namespace, args: &[&str]) -> (Value, Value) {
    let binary = crate::binary();
    let sink_args = ["pktgen", "sink", "--port", "eth0", "-o", "json"];
    let sink = to.command(binary.to_str().unwrap(), &sink_args);
    std::thread::scope(|scope| {
        let end = scope.spawn(move || process::run(sink, "", LIMIT).unwrap());
        let attached = || {
            let link = to.run("ip", &["link", "show", "eth0"], LIMIT)?.stdout;
            Ok(link.contains("xdp").then_some(()))
        };
        process::wait_for("the sink to be attached", LIMIT, attached).unwrap();
        let args = [&["--port", "eth0", "-o", "json"], args].concat();
        let sent = answer(&pktgen(from, &args));
        let pids = to.run("ip", &["netns", "pids", to.name()], LIMIT).unwrap().stdout;
        for pid in pids.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if name.contains("pktgen\0sink") {
                let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
            }
        }
        (sent, answer(&end.join().unwrap()))
    })
}

#[test]
fn what_is_sent_through_a_router_arrives_whole_and_in_order() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let network = crate::network(1500);
    let from = network.nodes[0].pod("veth-a").unwrap();
    let to = network.nodes[1].pod("veth-b").unwrap();
    // The router's MAC address is learnt.
    assert!(ping(from.namespace(), PingSpec::to(to.v4())).unwrap().received > 0);
    let (src, dst) = (from.v4().to_string(), to.v4().to_string());
    let args = ["--src", &src, "--dst", &dst, "--flows", "16", "--imix"];
    let args = [&args[..], &["--rate", "20000", "--count", "20000"]].concat();
    let (sent, received) = sent_and_received(from.namespace(), to.namespace(), &args);
    assert_eq!(sent["packets"], 20_000, "{sent:#}");
    let number = |key: &str| received[key].as_u64().unwrap();
    assert!(number("stamped") <= 20_000, "{received:#}");
    assert!(number("stamped") * 100 >= 20_000 * (100 - MOST_LOST), "{received:#}");
    assert!(number("lost") <= 20_000 - number("stamped"), "{received:#}");
    assert_eq!((number("reordered"), number("damaged")), (0, 0), "{received:#}");
    let times = &received["latencyNs"];
    let time = |key: &str| times[key].as_u64().unwrap();
    assert!(time("p50") > 0 && time("p50") <= time("p99"), "{times}");
    assert!(time("p99") <= time("max"), "{times}");
}

#[test]
fn what_cannot_be_sent_is_said() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let scope = margay::lab::scope::Scope::new().unwrap();
    let namespace = scope.namespace("alone").unwrap();
    for (args, words) in [
        (&["--port", "none0"][..], "no such device"),
        (&["--port", "lo"], "--dst-mac"),
        (&["--port", "lo", "--dst-mac", "02:00:00:00:00:01"], "takes no frames"),
        (&["--port", "lo", "--dst-mac", "02:00:00:00:00:01", "--size", "63"], "64 to 3004"),
        (&["sink", "--port", "none0"], "no such device"),
    ] {
        let output = pktgen(&namespace, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", output.stdout);
        assert!(output.stderr.contains(words), "{args:?}: {}", output.stderr);
    }
}
