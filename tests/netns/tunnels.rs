//! Tunnels against ends that are not margay's: the kernel's own VXLAN device, its FDB and
//! neighbours set by hand, and an IPIP end made of scapy; and between two margays.
//!
//! ```text
//!   pods -- edge1 (margay) ----- mid ----- far (the other end)
//!           172.30.1.1                     172.30.2.2
//!           10.65.16.0/20                  10.65.32.0/20
//! ```

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use margay::lab::daemon::{DaemonSpec, offloads};
use margay::lab::measure::{self, IperfSpec, Load, PingResult, PingSpec};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::network::Encap;
use margay::lab::node::{Node, Router};
use margay::lab::pod::PodSpec;
use margay::lab::process::{self, Process};
use margay::lab::requirements::{self, Tool};
use margay::lab::scope::Scope;
use margay::lab::steps;
use margay::lab::store::{Pool, Store};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);
/// What the far end has for a pod.
pub(crate) const FAR_POD: [&str; 2] = ["10.65.32.10", "fd65:0:0:2::10"];

pub(crate) struct Rig {
    // Before the scope, so that the daemon ends first.
    pub(crate) node: Node,
    pub(crate) mid: Namespace,
    pub(crate) far: Namespace,
    scope: Scope,
}

impl Rig {
    /// `mtus` of the links between the node and the router, and between that and the far end.
    fn new(encap: Encap, mtus: [u32; 2]) -> Rig {
        Rig::start(encap, mtus, offloads())
    }

    /// The same, with flow offload or without.
    pub(crate) fn start(encap: Encap, mtus: [u32; 2], offload: bool) -> Rig {
        let scope = Scope::new().unwrap();
        let edge = scope.namespace("edge1").unwrap();
        let mid = scope.namespace("mid").unwrap();
        let far = scope.namespace("far").unwrap();
        let link =
            |mtu, left: (&Namespace, &str, [&str; 2]), right: (&Namespace, &str, [&str; 2])| {
                let end = |(namespace, device, texts): (_, _, [&str; 2])| LinkEnd {
                    namespace,
                    device,
                    mac: None,
                    addresses: texts.map(|text| text.parse().unwrap()).to_vec(),
                };
                connect(LinkSpec { mtu, queues: 1 }, &end(left), &end(right)).unwrap();
            };
        link(
            mtus[0],
            (&edge, "uplink0", ["172.30.1.1/24", "fd30:1::1/64"]),
            (&mid, "edge1", ["172.30.1.254/24", "fd30:1::fe/64"]),
        );
        link(
            mtus[1],
            (&far, "eth0", ["172.30.2.2/24", "fd30:2::2/64"]),
            (&mid, "far", ["172.30.2.254/24", "fd30:2::fe/64"]),
        );
        mid.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
        edge.ip("route add default via 172.30.1.254\nroute add default via fd30:1::fe").unwrap();
        far.ip("route add default via 172.30.2.254\nroute add default via fd30:2::fe").unwrap();
        let pods = FAR_POD.map(|pod| format!("addr add {pod} dev lo")).join("\n");
        far.ip(&pods.replace("::10 dev", "::10/128 dev")).unwrap();
        let store = store(&scope, encap);
        let router = Router::Margay(crate::binary());
        let mut node = Node::new(1, edge, router, store.clone()).unwrap();
        node.start_daemon(DaemonSpec {
            uplinks: vec!["uplink0".to_owned()],
            offload,
            ..DaemonSpec::new(crate::binary(), "edge1", &store, &scope)
        })
        .unwrap();
        Rig { node, mid, far, scope }
    }

    /// A pod on the node, by TAP if its name begins so.
    pub(crate) fn pod(&mut self, name: &str, mtu: u32) -> Namespace {
        let namespace = self.scope.namespace(&format!("pod-{name}")).unwrap();
        self.node.add_pod(PodSpec::new(name, namespace, mtu)).unwrap().namespace().clone()
    }

    fn addresses(&self, pod: &str) -> [IpAddr; 2] {
        self.node.pod(pod).unwrap().addresses()
    }

    /// The kernel's VXLAN devices at the far end, as Calico's agent would set them up.
    pub(crate) fn kernel_vxlan(&self) {
        let run = |program: &str, args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            let output = self.far.run(program, &args, LIMIT).unwrap();
            assert!(output.status.success(), "{program} {args:?}: {}", output.stderr);
        };
        for (device, name, local, remote, end, block, pod) in [
            ("vxlan.calico", "", "172.30.2.2", "172.30.1.1", "10.65.16.1", "10.65.16.0/20", 0),
            (
                "vxlan-v6.calico",
                "-v6",
                "fd30:2::2",
                "fd30:1::1",
                "fd65:0:0:1::1",
                "fd65:0:0:1::/116",
                1,
            ),
        ] {
            let (own, theirs) = (vtep(&format!("far{name}")), vtep(&format!("edge1{name}")));
            let mtu = if pod == 0 { 1450 } else { 1430 };
            run(
                "ip",
                &format!(
                    "link add {device} address {own} mtu {mtu} type vxlan id 4096 dstport 4789 \
                 local {local} nolearning"
                ),
            );
            run("ip", &format!("link set {device} up"));
            run("bridge", &format!("fdb add {theirs} dev {device} dst {remote}"));
            run("ip", &format!("neigh add {end} lladdr {theirs} dev {device} nud permanent"));
            run("ip", &format!("route add {end} dev {device}"));
            let source = FAR_POD[pod];
            run("ip", &format!("route add {block} via {end} dev {device} onlink src {source}"));
        }
    }

    pub(crate) fn tunnels(&mut self) -> Value {
        self.node.daemon().unwrap().show("tunnels").unwrap()
    }

    fn drops(&mut self) -> String {
        format!("{:?}", self.node.daemon().unwrap().drops().unwrap())
    }

    /// Pings succeed, and so does a load in each direction.
    fn demand_traffic(&mut self, pod: &str, family: usize) {
        let (namespace, address) =
            (self.node.pod(pod).unwrap().namespace().clone(), self.addresses(pod)[family]);
        let (far_end, far): (Namespace, IpAddr) =
            (self.far.clone(), FAR_POD[family].parse().unwrap());
        for (from, to) in [(&namespace, far), (&far_end, address)] {
            let result = measure::ping(from, PingSpec { count: 5, ..PingSpec::to(to) }).unwrap();
            assert_eq!(result.received, 5, "{}\n{}", result.text, self.drops());
        }
        let udp = Load::Udp { length: 1200, rate: 40_000_000 };
        for (client, server, target) in
            [(&namespace, &far_end, far), (&far_end, &namespace, address)]
        {
            for load in [Load::Tcp, udp] {
                let spec = IperfSpec { client, server, target, load, seconds: 1 };
                let (_, text) = steps::run_load(spec).unwrap_or_else(|error| {
                    panic!("{pod} {target} {load:?}: {error:#}\n{}", self.drops())
                });
                println!("{pod} {target} {load:?}: {text}");
            }
        }
    }

    pub(crate) fn checksum_errors(&self) -> u64 {
        let pods = self.node.pods().iter().map(|pod| pod.namespace());
        pods.chain([&self.far, &self.mid])
            .map(|namespace| measure::checksum_errors(namespace).unwrap())
            .sum()
    }
}

/// Two nodes with a block each, in pools that always have tunnels.
fn store(scope: &Scope, encap: Encap) -> Store {
    let store = Store::create(&scope.directory().join("store")).unwrap();
    let net = |text: &str| text.parse().unwrap();
    let pool = Pool { block_size: 20, encap, ..Pool::new(net("10.65.0.0/16")) };
    store.put_pool("pool-v4", pool).unwrap();
    let encap = if encap.carries_v6() { encap } else { Encap::None };
    let pool = Pool { block_size: 116, encap, ..Pool::new(net("fd65::/48")) };
    store.put_pool("pool-v6", pool).unwrap();
    store.put_node("edge1", net("172.30.1.1/24"), net("fd30:1::1/64")).unwrap();
    store.put_node("far", net("172.30.2.2/24"), net("fd30:2::2/64")).unwrap();
    store.put_affinity("far", net("10.65.32.0/20")).unwrap();
    store.put_affinity("far", net("fd65:0:0:2::/116")).unwrap();
    store
}

/// Calico's link address of a VTEP, by another program's SHA-1.
fn vtep(name: &str) -> String {
    let digest = process::run_ok(process::command("sha1sum", &[]), name, LIMIT).unwrap();
    let pairs: Vec<&str> = (0..5).map(|at| &digest[at * 2..at * 2 + 2]).collect();
    format!("66:{}", pairs.join(":"))
}

#[test]
fn the_kernels_vxlan_device_is_the_far_end() {
    let tools = [requirements::STEPS, crate::wire::TOOLS].concat();
    let Some(_turn) = crate::turn(&tools) else { return };
    let mut rig = Rig::new(Encap::Vxlan, [1500, 1500]);
    rig.kernel_vxlan();
    rig.pod("veth", 1430);
    rig.pod("tap", 1430);
    let before = rig.checksum_errors();
    for family in [0, 1] {
        let file = rig.scope.directory().join(format!("wire{family}.capture"));
        let capture = crate::wire::Capture::to_file(&rig.mid, "edge1", file);
        for pod in ["veth", "tap"] {
            rig.demand_traffic(pod, family);
        }
        crate::wire::demand_right_packets(&capture.finish(), 1000);
    }
    assert_eq!(rig.checksum_errors(), before);
    let tunnels = rig.tunnels();
    let tunnels = tunnels.as_array().unwrap();
    assert_eq!(tunnels.len(), 2, "{tunnels:#?}");
    for (tunnel, (remote, mtu)) in tunnels.iter().zip([("172.30.2.2", 1450), ("fd30:2::2", 1430)]) {
        assert_eq!((&tunnel["node"], &tunnel["kind"]), (&"far".into(), &"vxlan".into()));
        assert_eq!((&tunnel["remote"], &tunnel["mtu"]), (&remote.into(), &mtu.into()));
        assert!(tunnel["rxPackets"].as_u64().unwrap() > 1000, "{tunnel:#}");
        assert!(tunnel["txPackets"].as_u64().unwrap() > 1000, "{tunnel:#}");
        assert_eq!((&tunnel["rxDrops"], &tunnel["pathMtu"]), (&0.into(), &Value::Null));
    }
    crate::frames::demand_all(rig.node.daemon().unwrap());
}

/// The host of the node itself reaches pods elsewhere, and is reached from there.
#[test]
fn the_hosts_own_packets_go_through_tunnels_too() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let rig = Rig::new(Encap::Vxlan, [1500, 1500]);
    rig.kernel_vxlan();
    for far in FAR_POD {
        let spec = PingSpec { count: 5, ..PingSpec::to(far.parse().unwrap()) };
        let result = measure::ping(rig.node.namespace(), spec).unwrap();
        assert_eq!(result.received, 5, "{}", result.text);
    }
}

/// Sends packets until somebody says that they are too big. The first ones may find neighbours
/// unresolved, and fall without a word about their size.
fn refused(from: &Namespace, spec: PingSpec) -> PingResult {
    let told = || Ok(Some(measure::ping(from, spec)?).filter(|result| result.mtu.is_some()));
    process::wait_for("word of the path's MTU", LIMIT, told).unwrap()
}

#[test]
fn path_mtus_are_found_both_ways() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    // The underlay is narrower behind the router, and one pod's link is narrower still.
    let mut rig = Rig::new(Encap::Vxlan, [1500, 1400]);
    rig.kernel_vxlan();
    let pod = rig.pod("veth", 1430);
    rig.pod("narrow", 1290);
    for (family, inside) in [1350, 1330].into_iter().enumerate() {
        let far: IpAddr = FAR_POD[family].parse().unwrap();
        let spec = PingSpec { size: 1430, dont_fragment: true, ..PingSpec::to(far) };
        let result = refused(&pod, spec);
        assert_eq!((result.mtu, result.received), (Some(inside), 0), "{}", result.text);
        let tunnel = &rig.tunnels()[family];
        assert_eq!((&tunnel["pathMtu"], &tunnel["mtu"]), (&1400.into(), &inside.into()));
        let narrow = rig.addresses("narrow")[family];
        let spec = PingSpec { size: 1310, dont_fragment: true, ..PingSpec::to(narrow) };
        let result = refused(&rig.far, spec);
        assert_eq!((result.mtu, result.received), (Some(1290), 0), "{}", result.text);
        let spec =
            IperfSpec { client: &pod, server: &rig.far, target: far, load: Load::Tcp, seconds: 1 };
        steps::run_load(spec).unwrap();
    }
    // Without DF a packet is cut before it goes in, and arrives. The far kernel's own device knows
    // nothing of the path yet: its first answer is in outer fragments.
    rig.far.ip("route flush cache").unwrap();
    let spec = PingSpec { size: 1430, ..PingSpec::to(FAR_POD[0].parse().unwrap()) };
    let before = fragments_made(&rig.far);
    let result = measure::ping(&pod, spec).unwrap();
    assert_eq!(result.received, result.sent, "{}\n{}", result.text, rig.drops());
    assert!(fragments_made(&rig.far) > before, "no answer was in fragments");
    crate::offload::demand_carrier(rig.node.daemon().unwrap());
}

/// IPv4 fragments that a namespace's kernel has made.
fn fragments_made(namespace: &Namespace) -> u64 {
    let text = namespace.read("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let [names, values] = [lines.next().unwrap(), lines.next().unwrap()];
    let at = names.split(' ').position(|name| name == "FragCreates").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn an_ipip_end_of_another_making_finds_every_byte_in_its_place() {
    let python = Tool { program: "scapy", package: "python3-scapy" };
    let tools = [requirements::STEPS, &[python]].concat();
    let Some(_turn) = crate::turn(&tools) else { return };
    let mut rig = Rig::new(Encap::Ipip, [1500, 1500]);
    // The kernel there knows no IPIP, and would say so.
    rig.far.ip("route add blackhole 172.30.1.1").unwrap();
    let script: PathBuf = rig.scope.directory().join("ipip_peer.py");
    std::fs::write(&script, include_str!("ipip_peer.py")).unwrap();
    let log = rig.scope.directory().join("ipip_peer.log");
    let args = [script.to_str().unwrap(), "eth0", "172.30.2.2", "172.30.1.1"];
    let _peer = Process::start_logged(rig.far.command("/usr/bin/python3", &args), &log).unwrap();
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    process::wait_for("scapy", LIMIT, || Ok(read().contains("ready").then_some(()))).unwrap();
    let (veth, tap) = (rig.pod("veth", 1480), rig.pod("tap", 1480));
    let target = FAR_POD[0].parse().unwrap();
    for (pod, size) in [(&veth, 84), (&tap, 84), (&veth, 1480), (&tap, 28)] {
        let result = measure::ping(pod, PingSpec { size, ..PingSpec::to(target) }).unwrap();
        // Its answers may be late on a busy machine.
        assert!(result.received > 0, "{}\n{}\n{}", result.text, read(), rig.drops());
    }
    process::wait_for("all packets to be answered", LIMIT, || {
        Ok((rig.tunnels()[0]["rxPackets"] == 12).then_some(()))
    })
    .unwrap();
    let lines = read();
    let (same, other): (Vec<&str>, Vec<&str>) =
        lines.lines().filter(|line| *line != "ready").partition(|line| *line == "same");
    assert!(other.is_empty(), "{other:#?}");
    assert_eq!(same.len(), 12);
}

/// What `margay lab` does, with all that goes between the nodes in tunnels.
#[test]
fn the_labs_steps_go_well_over_tunnels() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    for encap in ["ipip", "vxlan"] {
        let args = ["lab", "-o", "json", "--encap", encap];
        let command = process::command(crate::binary().to_str().unwrap(), &args);
        let output = process::run(command, "", Duration::from_secs(90)).unwrap();
        let report: Value = serde_json::from_str(&output.stdout).expect(&output.stderr);
        let failed = report["steps"].as_array().unwrap().iter().filter(|step| step["ok"] != true);
        let failed: Vec<&Value> = failed.collect();
        assert!(failed.is_empty() && output.status.success(), "{encap}: {failed:#?}");
        let carried = report["steps"].as_array().unwrap().iter();
        let carried = carried.filter(|step| step["name"].as_str().unwrap().contains("tunnels"));
        assert_eq!(carried.count(), 2, "one for each network");
    }
}
