//! A cluster as people have them: three nodes, of which one is a route reflector and one is in
//! another subnet, pools that are tunneled between subnets, and a host outside that reaches pods
//! and services by what the top of rack has learnt by BGP.
//!
//! ```text
//!   outside 198.51.100.10 --- tor (AS 64600, its kernel forwards)
//!                              |  172.30.1.254         | 172.30.2.254
//!                    +---------+---------+             |
//!            edge1 (reflects) .1   edge2 .2       edge3 172.30.2.3
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use margay::lab::daemon::{Daemon, DaemonSpec};
use margay::lab::greeter::{Greeter, ask};
use margay::lab::measure::{IperfSpec, Load};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::network::Encap;
use margay::lab::node::{Node, Router};
use margay::lab::pod::{Pod, PodSpec};
use margay::lab::process::wait_for;
use margay::lab::scope::Scope;
use margay::lab::store::{Pool, Store, write_yaml};
use margay::lab::{requirements, steps};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(40);
const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };
const NODES: [[&str; 2]; 3] =
    [["172.30.1.1", "fd30:1::1"], ["172.30.1.2", "fd30:1::2"], ["172.30.2.3", "fd30:2::3"]];
const GATEWAYS: [[&str; 2]; 3] = [
    ["172.30.1.254", "fd30:1::fe"],
    ["172.30.1.254", "fd30:1::fe"],
    ["172.30.2.254", "fd30:2::fe"],
];
const OUTSIDE: [&str; 2] = ["198.51.100.10", "2001:db8:100::10"];
const SERVICE: [&str; 2] = ["10.96.0.80", "fd96::80"];
const PORTS: (u16, u16) = (80, 8080);

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

struct Cluster {
    // Before the scope, so that the daemons end first.
    nodes: Vec<Node>,
    tor: Daemon,
    outside: Namespace,
    pods: Vec<Pod>,
    encap: Encap,
    scope: Scope,
}

fn end<'a>(namespace: &'a Namespace, device: &'a str, addresses: &[String]) -> LinkEnd<'a> {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    LinkEnd { namespace, device, mac: None, addresses }
}

fn with_length(texts: [&str; 2]) -> [String; 2] {
    [format!("{}/24", texts[0]), format!("{}/64", texts[1])]
}

/// The links, and the ways that administrators give: defaults, and nothing of the cluster.
fn wire(tor: &Namespace, outside: &Namespace, nodes: &[Namespace]) {
    tor.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    tor.ip("link add rack type bridge\nlink set rack up").unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let device = format!("edge{}", number + 1);
        let own = with_length(NODES[number]);
        let gateway = with_length(GATEWAYS[number]);
        let far: &[String] = if number == 2 { &gateway } else { &[] };
        connect(LINK, &end(node, "uplink0", &own), &end(tor, &device, far)).unwrap();
        if number < 2 {
            tor.ip(&format!("link set {device} master rack")).unwrap();
        }
        let [v4, v6] = GATEWAYS[number];
        node.ip(&format!("route add default via {v4}\nroute add default via {v6}")).unwrap();
    }
    let rack = addresses(GATEWAYS[0]);
    tor.ip(&format!("addr add {}/24 dev rack\naddr add {}/64 dev rack nodad", rack[0], rack[1]))
        .unwrap();
    let near = with_length(["198.51.100.1", "2001:db8:100::1"]);
    connect(LINK, &end(outside, "eth0", &with_length(OUTSIDE)), &end(tor, "outside", &near))
        .unwrap();
    outside
        .ip("route add default via 198.51.100.1\nroute add default via 2001:db8:100::1")
        .unwrap();
}

/// The cluster's own BGP: the first node reflects, and is the only one to speak with the outside.
fn put_bgp(store: &Store) {
    let put = |kind: &str, name: &str, labels: serde_json::Value, spec: serde_json::Value| {
        let resource = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind,
            "metadata": { "name": name, "labels": labels }, "spec": spec,
        });
        let file = format!("{}-{name}.yaml", kind.to_lowercase());
        write_yaml(&store.directory().join(file), &resource).unwrap();
    };
    for (number, node) in NODES.into_iter().enumerate() {
        let [v4, v6] = with_length(node);
        let mut bgp = json!({ "ipv4Address": v4, "ipv6Address": v6 });
        let mut labels = json!({});
        if number == 0 {
            bgp["routeReflectorClusterID"] = json!("244.0.0.1");
            labels = json!({ "route-reflector": "true" });
        }
        put("Node", &format!("edge{}", number + 1), labels, json!({ "bgp": bgp }));
    }
    let ranges = json!([{ "cidr": "10.96.0.0/24" }, { "cidr": "fd96::/112" }]);
    let spec = json!({ "nodeToNodeMeshEnabled": false, "serviceClusterIPs": ranges });
    put("BGPConfiguration", "default", json!({}), spec);
    let spec = json!({ "nodeSelector": "all()", "peerSelector": "has(route-reflector)" });
    put("BGPPeer", "reflector", json!({}), spec);
    for gateway in addresses(GATEWAYS[0]) {
        store.put_peer("edge1", gateway, 64_600, false).unwrap();
    }
}

fn put_pools(store: &Store, encap: Encap, nat_outgoing: bool) {
    for (name, cidr, block_size) in [("pool-v4", "10.65.0.0/16", 20), ("pool-v6", "fd65::/48", 116)]
    {
        // IPIP is for IPv4.
        let encap = if name == "pool-v4" { encap } else { Encap::Vxlan };
        let cidr = cidr.parse().unwrap();
        let pool = Pool { cidr, block_size, encap, cross_subnet: true, nat_outgoing };
        store.put_pool(name, pool).unwrap();
    }
}

fn spec(node: &str, store: &Store, scope: &Scope, uplinks: &[&str]) -> DaemonSpec {
    DaemonSpec {
        uplinks: uplinks.iter().map(|name| (*name).to_owned()).collect(),
        bgp: true,
        ..DaemonSpec::new(crate::binary(), node, store, scope)
    }
}

/// Its store is its own, for it is no node of the cluster.
fn start_tor(scope: &Scope, namespace: &Namespace) -> Daemon {
    let store = Store::create(&scope.directory().join("tor-store")).unwrap();
    let [v4, v6] = with_length(GATEWAYS[0]).map(|text| text.parse().unwrap());
    store.put_node_of("tor", v4, v6, 64_600).unwrap();
    let networks = ["198.51.100.0/24", "2001:db8:100::/64"].map(|text| text.parse().unwrap());
    store.put_advertised(&networks).unwrap();
    for node in addresses(NODES[0]) {
        store.put_peer("tor", node, 64_512, false).unwrap();
    }
    let mut daemon = Daemon::start(spec("tor", &store, scope, &[]), namespace).unwrap();
    daemon.wait_ready().unwrap();
    daemon
}

impl Cluster {
    fn new(encap: Encap) -> Cluster {
        let scope = Scope::new().unwrap();
        let [tor, outside] = ["tor", "outside"].map(|name| scope.namespace(name).unwrap());
        let names = ["edge1", "edge2", "edge3"];
        let namespaces = names.map(|name| scope.namespace(name).unwrap());
        wire(&tor, &outside, &namespaces);
        let store = Store::create(&scope.directory().join("store")).unwrap();
        put_pools(&store, encap, false);
        put_bgp(&store);
        let mut nodes = Vec::new();
        for (number, namespace) in (1..).zip(namespaces) {
            let router = Router::Margay(crate::binary());
            let mut node = Node::new(number, namespace, router, store.clone()).unwrap();
            let spec = spec(&format!("edge{number}"), &store, &scope, &["uplink0"]);
            node.start_daemon(spec).unwrap();
            nodes.push(node);
        }
        let tor = start_tor(&scope, &tor);
        let mut pods = Vec::new();
        for (node, name) in [(0, "tap-a"), (1, "veth-b"), (2, "veth-c"), (2, "tap-c")] {
            let namespace = scope.namespace(&format!("pod-{name}")).unwrap();
            let spec = PodSpec::new(name, namespace, LINK.mtu - Encap::Vxlan.overhead());
            pods.push(nodes[node].add_pod(spec).unwrap().clone());
        }
        Cluster { nodes, tor, outside, pods, encap, scope }
    }

    fn store(&self) -> Store {
        Store::create(&self.scope.directory().join("store")).unwrap()
    }

    /// A server on every pod, which tells its name.
    fn serve(&self) -> Vec<Greeter> {
        let start = |pod: &Pod, address| {
            Greeter::start(pod.namespace(), at(address, PORTS.1), pod.name()).unwrap()
        };
        self.pods.iter().flat_map(|pod| pod.addresses().map(|own| start(pod, own))).collect()
    }

    /// Waits for the first answer; BGP takes its time.
    fn wait_for(&self, target: SocketAddr) -> (String, IpAddr) {
        let what = format!("an answer of {target}");
        wait_for(&what, LIMIT, || Ok(ask(&self.outside, target).ok()))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.tor.log_tail()))
    }

    fn outside_reaches_pods(&self) {
        for pod in &self.pods {
            for (own, outside) in pod.addresses().into_iter().zip(addresses(OUTSIDE)) {
                let seen = self.wait_for(at(own, PORTS.1));
                assert_eq!(seen, (pod.name().to_owned(), outside));
            }
            let (client, server) = (&self.outside, pod.namespace());
            let spec = IperfSpec { client, server, target: pod.v4(), load: Load::Tcp, seconds: 1 };
            let (_, text) = steps::run_load(spec).unwrap();
            println!("outside to {}: {text}", pod.name());
        }
    }

    /// All traffic to the service comes by the first node, whose own pod is no endpoint.
    fn outside_reaches_a_service(&self) {
        let elsewhere =
            [("edge2", &self.pods[1]), ("edge3", &self.pods[2]), ("edge3", &self.pods[3])];
        self.store().put_service("web", addresses(SERVICE), PORTS, &elsewhere).unwrap();
        let wanted: BTreeSet<String> =
            elsewhere.iter().map(|(_, pod)| pod.name().to_owned()).collect();
        for (service, node) in addresses(SERVICE).into_iter().zip(addresses(NODES[0])) {
            let target = at(service, PORTS.0);
            self.wait_for(target);
            let seen: Vec<_> = (0..40).map(|_| ask(&self.outside, target).unwrap()).collect();
            assert!(seen.iter().all(|(_, client)| *client == node), "{seen:?}");
            let names: BTreeSet<String> = seen.into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, wanted, "{target}");
        }
        for pod in &self.pods {
            let target = at(addresses(SERVICE)[0], PORTS.0);
            let names: BTreeSet<String> =
                (0..40).map(|_| ask(pod.namespace(), target).unwrap().0).collect();
            assert_eq!(names, wanted, "from {}", pod.name());
        }
    }

    /// Pods ask a server outside, which tells as whom it sees them.
    fn pods_reach_outside(&mut self) {
        let servers: Vec<_> = addresses(OUTSIDE)
            .map(|own| {
                (at(own, 7000), Greeter::start(&self.outside, at(own, 7000), "out").unwrap())
            })
            .into();
        for on in [false, true, false] {
            put_pools(&self.store(), self.encap, on);
            for node in &mut self.nodes {
                let daemon = node.daemon().unwrap();
                let follows = || Ok((daemon.show("nat")?["natOutgoing"] == on).then_some(()));
                wait_for("natOutgoing to be followed", LIMIT, follows).unwrap();
            }
            for (pod, node) in self.pods.iter().zip([0, 1, 2, 2]) {
                for (family, (target, _)) in servers.iter().enumerate() {
                    let (_, seen) = ask(pod.namespace(), *target).unwrap();
                    let node = addresses(NODES[node])[family];
                    let expected = if on { node } else { pod.addresses()[family] };
                    assert_eq!(seen, expected, "{} with natOutgoing {on}", pod.name());
                }
            }
        }
    }

    /// Only what crosses the subnets is in tunnels.
    fn tunnels_are_between_subnets(&mut self) {
        let shown = self.nodes[0].daemon().unwrap().show("tunnels").unwrap();
        let tunnels = shown.as_array().unwrap();
        let remotes: BTreeSet<&str> =
            tunnels.iter().map(|tunnel| tunnel["remote"].as_str().unwrap()).collect();
        assert!(remotes.contains(NODES[2][0]), "{shown:#}");
        for tunnel in tunnels {
            let is_far = NODES[2].contains(&tunnel["remote"].as_str().unwrap());
            assert_eq!(tunnel["txPackets"].as_u64().unwrap() > 0, is_far, "{tunnel:#}");
        }
    }
}

fn story(encap: Encap) {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut cluster = Cluster::new(encap);
    let _servers = cluster.serve();
    cluster.outside_reaches_pods();
    cluster.outside_reaches_a_service();
    cluster.tunnels_are_between_subnets();
    cluster.pods_reach_outside();
    crate::offload::demand_carrier(cluster.nodes[1].daemon().unwrap());
}

#[test]
fn outside_reaches_pods_and_services_and_pods_reach_outside_with_vxlan_between_subnets() {
    story(Encap::Vxlan);
}

#[test]
fn outside_reaches_pods_and_services_and_pods_reach_outside_with_ipip_between_subnets() {
    story(Encap::Ipip);
}
