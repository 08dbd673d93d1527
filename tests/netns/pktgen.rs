//! `margay pktgen` through real routers: what the generator sends, the sink finds whole, in order,
//! and timed.

use std::time::Duration;

use margay::lab::measure::{PingSpec, ping};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::process::{self, Output};
use margay::lab::requirements::{self, Tool};
use margay::lab::scope::Scope;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// The machine may be busy: what a full ring drops is lost, but no more than so many of 100.
const MOST_LOST: u64 = 10;
const ROUTER_MAC: &str = "02:00:00:00:00:11";
const SINK_MAC: &str = "02:00:00:00:00:13";
/// Measurements until one finds a throughput.
const TRIES: usize = 5;

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

/// Generator, a kernel that forwards, and a sink's namespace.
///
/// ```text
/// generator eth0 198.18.0.2 --- in0 kernel out0 --- eth0 198.19.0.2 sink
/// ```
struct Line {
    generator: Namespace,
    sink: Namespace,
    _router: Namespace,
    _scope: Scope,
}

impl Line {
    fn new() -> Line {
        let scope = Scope::new().unwrap();
        let [generator, router, sink] =
            ["generator", "router", "sink"].map(|name| scope.namespace(name).unwrap());
        let end = |namespace, device, mac, address: &str| LinkEnd {
            namespace,
            device,
            mac,
            addresses: vec![address.parse().unwrap()],
        };
        let spec = LinkSpec { mtu: 1500, queues: 1 };
        let near = end(&router, "in0", Some(ROUTER_MAC), "198.18.0.1/24");
        connect(spec, &end(&generator, "eth0", None, "198.18.0.2/24"), &near).unwrap();
        let far = end(&sink, "eth0", Some(SINK_MAC), "198.19.0.2/24");
        connect(spec, &end(&router, "out0", None, "198.19.0.1/24"), &far).unwrap();
        router.sysctl(&[("net/ipv4/ip_forward", "1")]).unwrap();
        // The sink answers nobody, and a veth takes redirected frames with GRO.
        let neighbor = format!("neigh replace 198.19.0.2 lladdr {SINK_MAC} dev out0 nud permanent");
        router.ip(&neighbor).unwrap();
        let output = router.run("ethtool", &["-K", "in0", "gro", "on"], LIMIT).unwrap();
        assert!(output.status.success(), "{}", output.stderr);
        Line { generator, sink, _router: router, _scope: scope }
    }

    fn measure(&self, args: &[&str]) -> Value {
        let netns = self.sink.name();
        let from = ["--port", "eth0", "--src", "198.18.0.2"];
        let to = ["--dst-mac", ROUTER_MAC, "--dst", "198.19.0.2"];
        let sink = ["--sink", "eth0", "--sink-netns", netns, "--flows", "4", "-o", "json"];
        let short = ["--time", "0.3", "--trial", "0.15", "--pause", "0.02"];
        answer(&pktgen(&self.generator, &[&from[..], &to, &sink, &short, args].concat()))
    }
}

#[test]
fn a_kernel_that_forwards_is_measured() {
    const TOOLS: &[Tool] = &[Tool { program: "ethtool", package: "ethtool" }];
    let Some(_turn) = crate::turn(TOOLS) else { return };
    let line = Line::new();
    for via in ["redirect", "socket"] {
        let all = ["--via", via, "--measure", "throughput,maximum,latency"];
        let coarse = ["--precision", "20", "--loss", "20", "--rate", "5000"];
        // Where others have the cores nothing may pass for as long as a measurement takes.
        let found = (0..TRIES).map(|_| line.measure(&[&all[..], &coarse].concat()));
        let mut found = found.skip_while(|found| found["throughput"]["sent"].is_null());
        let found = found.next().expect("a throughput");
        let number = |path: &str| found.pointer(path).and_then(Value::as_f64).expect(path);
        assert!(number("/throughput/lossPercent") <= 20.0, "{found:#}");
        assert!(number("/throughput/packetsPerSecond") >= 100.0, "{found:#}");
        assert!(number("/maximum/received") > 0.0, "{found:#}");
        assert!(number("/maximum/received") <= number("/maximum/sent"), "{found:#}");
        let (p50, max) = (number("/latency/latencyNs/p50"), number("/latency/latencyNs/max"));
        assert!(p50 > 0.0 && p50 <= max, "{found:#}");
        let histogram = found["latency"]["latencyNs"]["histogram"].as_array().unwrap();
        let timed: f64 = histogram.iter().map(|it| it["packets"].as_f64().unwrap()).sum();
        assert_eq!(timed, number("/latency/received"), "{found:#}");
        assert!(found["trials"].as_array().is_some_and(|trials| !trials.is_empty()));
    }
    let output = pktgen(&line.generator, &["--port", "eth0", "--measure", "latency"]);
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    let lost = ["--dst-mac", "02:00:00:00:00:99", "--measure", "maximum", "--sink", "eth0"];
    let lost = [&["--port", "eth0", "--sink-netns", line.sink.name()], &lost[..]].concat();
    let output = pktgen(&line.generator, &lost);
    assert!(output.stderr.contains("none came to eth0"), "{}", output.stderr);
}
