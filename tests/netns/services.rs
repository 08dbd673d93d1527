//! Services as clients see them: an outside host with routes to nodes, and pods.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use margay::lab::greeter::{self, Greeter};
use margay::lab::namespace::Namespace;
use margay::lab::network::{Network, NetworkSpec};

const FRONTEND: &str = "10.96.0.1:80";
const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(15);

/// Which pod answers, and as whom it sees the client.
fn asked(from: &Namespace, at: &str) -> Option<(String, String)> {
    let (name, client) = greeter::ask(from, at.parse().unwrap()).ok()?;
    Some((name, client.to_string()))
}

/// Pods that answer, each with the clients that it sees.
fn all_asked(from: &Namespace, at: &str) -> BTreeSet<(String, String)> {
    (0..12).filter_map(|_| asked(from, at)).collect()
}

fn names(from: &Namespace, at: &str) -> BTreeSet<String> {
    all_asked(from, at).into_iter().map(|(name, _)| name).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The usual network with a pod that serves on each node, `near` and `far`.
struct Rig {
    network: Network,
    pods: [margay::lab::pod::Pod; 2],
    _serving: Vec<Greeter>,
}

impl Rig {
    /// The outside has routes to the nodes, and one for ClusterIPs, to the first node.
    fn new() -> Rig {
        let network = Network::start(NetworkSpec { workers: 2, ..crate::margay(1500) }).unwrap();
        for (prefix, via) in [("10.96.0.0/24", "172.31.1.1"), ("fd96::/64", "fd31:1::1")] {
            network.tor.route(prefix.parse().unwrap(), via.parse().unwrap()).unwrap();
        }
        let pods = [network.nodes[0].pod("veth-a"), network.nodes[1].pod("veth-b")]
            .map(|pod| pod.unwrap().clone());
        let mut serving = Vec::new();
        for (pod, name) in pods.iter().zip(["near", "far"]) {
            for address in pod.addresses() {
                let at = SocketAddr::new(address, PORT);
                serving.push(Greeter::start(pod.namespace(), at, name).unwrap());
            }
        }
        Rig { network, pods, _serving: serving }
    }

    /// Writes a service of both families, with more of its specification in `spec`.
    fn put_service(&self, spec: &str) {
        self.write(
            "service",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: lab}}\nspec:\n  \
                 type: NodePort\n  clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, \"fd96::1\"]\n  \
                 ipFamilies: [IPv4, IPv6]\n  {spec}\n  \
                 ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]\n"
            ),
        );
    }

    /// Writes which of the pods are ready.
    fn put_ready(&self, ready: &[usize]) {
        for (at, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let members: String = ready
                .iter()
                .map(|pod| {
                    let (address, node) = (self.pods[*pod].addresses()[at], pod + 1);
                    format!(
                        "  - {{addresses: [\"{address}\"], nodeName: edge{node}, \
                         conditions: {{ready: true}}}}\n"
                    )
                })
                .collect();
            let text = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: web-{at}, namespace: lab, \
                 labels: {{kubernetes.io/service-name: web}}}}\n\
                 addressType: {family}\nports: [{{port: {PORT}, protocol: TCP}}]\n\
                 endpoints:\n{members}"
            );
            self.write(&format!("slice-{at}"), &text);
        }
    }

    fn write(&self, name: &str, text: &str) {
        let directory = self.network.scope().directory().join("store");
        let draft = directory.join(format!("{name}.draft"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, directory.join(format!("{name}.yaml"))).unwrap();
    }

    fn outside(&self) -> &Namespace {
        &self.network.outside
    }

    /// Waits until these pods answer at an address, and no others.
    fn wait_for(&self, from: &Namespace, at: &str, wanted: &BTreeSet<String>) {
        let end = Instant::now() + PATIENCE;
        loop {
            // Asking those who do not answer takes long: it must have begun in time.
            let in_time = Instant::now() < end;
            let seen = names(from, at);
            if seen == *wanted {
                return;
            }
            assert!(in_time, "{at}: {seen:?} answer, not {wanted:?}");
        }
    }
}

#[test]
fn outside_hosts_and_pods_reach_the_endpoints_of_a_service() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let rig = Rig::new();
    rig.put_service("sessionAffinity: None");
    rig.put_ready(&[0, 1]);
    let both = set(["near", "far"]);
    for (at, node) in [(FRONTEND, "172.30.0.1"), ("[fd96::1]:80", "fd30::1")] {
        rig.wait_for(rig.outside(), at, &both);
        let seen = asked(rig.outside(), at).unwrap();
        assert_eq!(seen.1, node, "clients from outside look like the node");
        for name in ["tap-a", "narrow-a", "veth-a"] {
            let pod = rig.network.nodes[0].pod(name).unwrap();
            let seen = all_asked(pod.namespace(), at);
            let names: BTreeSet<String> = seen.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names, both, "{name}");
            let own = pod.addresses()[usize::from(at.starts_with('['))].to_string();
            for (server, client) in seen {
                // An endpoint that asks itself looks like the node: the answer must come by it.
                let hairpin = name == "veth-a" && server == "near";
                assert_eq!(client, if hairpin { node } else { &own }, "{name} at {server}");
            }
        }
    }
    // An endpoint that is taken away keeps its connections, and gets no new ones.
    let mut kept: Vec<TcpStream> = Vec::new();
    while kept.len() < 6 {
        let mut stream = greeter::connect(rig.outside(), FRONTEND.parse().unwrap()).unwrap();
        if greeter::line(&mut stream).unwrap().starts_with("near") {
            kept.push(stream);
        }
    }
    rig.put_ready(&[1]);
    rig.wait_for(rig.outside(), FRONTEND, &set(["far"]));
    for stream in &mut kept {
        stream.write_all(b"x").unwrap();
        assert_eq!(greeter::line(stream).unwrap(), "near again");
    }
}

#[test]
fn node_ports_are_served_at_every_address_of_the_node() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let rig = Rig::new();
    rig.put_service("externalTrafficPolicy: Cluster");
    rig.put_ready(&[0, 1]);
    let both = set(["near", "far"]);
    for (at, node) in [
        ("172.31.1.1:30080", "172.30.0.1"),
        ("172.30.0.1:30080", "172.30.0.1"),
        ("172.31.2.1:30080", "172.30.0.2"),
        ("[fd31:1::1]:30080", "fd30::1"),
        ("[fd31:2::1]:30080", "fd30::2"),
    ] {
        rig.wait_for(rig.outside(), at, &both);
        let clients: BTreeSet<String> =
            all_asked(rig.outside(), at).into_iter().map(|(_, client)| client).collect();
        assert_eq!(clients, set([node]), "{at}");
    }
    // Also from pods, here and on the other node; and beside it the host's ports are its own.
    for (node, name) in [(0, "tap-a"), (1, "tap-b"), (0, "narrow-a")] {
        let pod = rig.network.nodes[node].pod(name).unwrap();
        assert_eq!(names(pod.namespace(), "172.31.1.1:30080"), both, "{name}");
    }
    let host = rig.network.nodes[0].namespace();
    let _host = Greeter::start(host, ([0; 4], PORT).into(), "host").unwrap();
    assert_eq!(names(rig.outside(), &format!("172.31.1.1:{PORT}")), set(["host"]));
    // With the policy Local, only endpoints of the node, which see the client itself.
    rig.put_service("externalTrafficPolicy: Local");
    for (at, client, name) in [
        ("172.31.1.1:30080", "198.51.100.10", "near"),
        ("172.31.2.1:30080", "198.51.100.10", "far"),
        ("[fd31:1::1]:30080", "2001:db8:100::10", "near"),
    ] {
        rig.wait_for(rig.outside(), at, &set([name]));
        let seen = all_asked(rig.outside(), at);
        assert_eq!(seen, BTreeSet::from([(name.to_owned(), client.to_owned())]), "{at}");
    }
    let pod = rig.network.nodes[0].pod("tap-a").unwrap();
    assert_eq!(names(pod.namespace(), "172.31.1.1:30080"), both, "no hindrance for pods");
    // Without an endpoint on the node there is none to answer.
    rig.put_ready(&[1]);
    rig.wait_for(rig.outside(), "172.31.1.1:30080", &set([]));
    rig.wait_for(rig.outside(), "172.31.2.1:30080", &set(["far"]));
}

#[test]
fn affine_clients_stay_and_a_local_policy_keeps_pods_on_their_node() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let rig = Rig::new();
    let affine = "sessionAffinity: ClientIP\n  \
                  sessionAffinityConfig: {clientIP: {timeoutSeconds: 3600}}";
    rig.put_service(affine);
    rig.put_ready(&[0]);
    rig.wait_for(rig.outside(), FRONTEND, &set(["near"]));
    // The other one, which it might have had as well, comes too late.
    rig.put_ready(&[0, 1]);
    let pods: Vec<&Namespace> =
        rig.network.nodes.iter().flat_map(|node| node.pods()).map(|pod| pod.namespace()).collect();
    let end = Instant::now() + PATIENCE;
    let reached = |wanted: &str| pods.iter().any(|pod| names(pod, FRONTEND) == set([wanted]));
    while !reached("far") {
        assert!(Instant::now() < end, "nobody is sent to the other endpoint");
    }
    assert_eq!(names(rig.outside(), FRONTEND), set(["near"]));
    for pod in &pods {
        assert_eq!(names(pod, FRONTEND).len(), 1, "{} has more than one", pod.name());
    }
    rig.put_ready(&[1]);
    rig.wait_for(rig.outside(), FRONTEND, &set(["far"]));
    // Pods keep to their node.
    rig.put_service("internalTrafficPolicy: Local");
    rig.put_ready(&[0, 1]);
    for (node, name, wanted) in [(0, "tap-a", "near"), (1, "tap-b", "far")] {
        let pod = rig.network.nodes[node].pod(name).unwrap();
        rig.wait_for(pod.namespace(), FRONTEND, &set([wanted]));
    }
}
