//! Host endpoints on a real kernel: what others may say to a node itself, what it may say to them,
//! and what its pods may; also while its daemon is dead, and no longer once it has stopped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use margay::lab::namespace::Namespace;
use margay::lab::network::{NODE_ADDRESSES, Network, UPLINK};

/// How long a connection may take; packets that are dropped never come.
const WAIT: Duration = Duration::from_millis(350);
/// How long a change of the store may take to be in force.
const PATIENCE: Duration = Duration::from_secs(12);
/// The node, on the device that its host endpoint is.
const NODE: &str = "172.31.1.1";
/// Its neighbour there.
const TOR: &str = "172.31.1.254";
/// A failsafe port that nobody listens on otherwise.
const FAILSAFE: u16 = 6443;

const POLICY: &str = "
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: up, labels: {role: edge}}, \
  spec: {node: edge1, interfaceName: UPLINK}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: edge}, \
  spec: {selector: role == 'edge', types: [Ingress, Egress], \
    ingress: [{action: Allow, protocol: TCP, source: {nets: [172.31.1.0/24, 'fd31:1::/64']}, \
      destination: {ports: ['80:89']}}, {action: Allow, protocol: ICMP}], \
    egress: [{action: Deny, protocol: TCP, destination: {ports: [91]}}, {action: Allow}]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: early}, \
  spec: {selector: role == 'edge', order: 1, types: [Ingress], preDNAT: true, \
    applyOnForward: true, \
    ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: stateless}, \
  spec: {selector: role == 'edge', order: 2, types: [Ingress, Egress], doNotTrack: true, \
    applyOnForward: true, \
    ingress: [{action: Allow, protocol: TCP, destination: {ports: [90]}}, \
      {action: Deny, protocol: TCP, destination: {ports: [82]}}], \
    egress: [{action: Allow, protocol: TCP, source: {ports: [90]}}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: pod, namespace: lab}, \
  spec: {selector: \"pod == 'veth-a'\", types: [Egress], \
    egress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}}
";

/// Ports that everybody listens on. Nobody accepts: the kernel does.
fn listen(namespace: &Namespace) -> Vec<TcpListener> {
    let ports = [80, 81, 82, 90, 91, 92, FAILSAFE];
    let bind = || Ok(ports.map(|port| TcpListener::bind(("::", port)).unwrap()));
    namespace.enter(bind).unwrap().into()
}

/// A connection and whether it should come about.
type Check<'a> = (&'a str, &'a Namespace, SocketAddr, bool);

fn succeeds((_, from, to, _): &Check) -> bool {
    from.enter(|| Ok(TcpStream::connect_timeout(to, WAIT)?)).is_ok()
}

/// What is not as it should be, after it had its time.
fn wrong(checks: &[Check]) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let wrong = checks.iter().filter(|check| succeeds(check) != check.3);
        let wrong: Vec<String> =
            wrong.map(|(what, _, to, yes)| format!("{what} to {to}: not {yes}")).collect();
        if wrong.is_empty() || begin.elapsed() > PATIENCE {
            return wrong;
        }
    }
}

fn put(network: &Network, text: &str) {
    let path = network.scope().directory().join("store/host.yaml");
    let draft = Path::new(&path).with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, &path).unwrap();
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn host_endpoints_are_enforced_and_fail_safe() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut network = Network::without_pods(crate::margay(1500)).unwrap();
    network.add_pod(0, "veth-a").unwrap();
    let node = network.nodes[0].namespace().clone();
    let (tor, outside) = (network.tor.clone(), network.outside.clone());
    let pod = network.nodes[0].pod("veth-a").unwrap().namespace().clone();
    let other = network.nodes[1].namespace().clone();
    let _listeners: Vec<_> = [&node, &tor, &outside, &other].map(listen).into();
    put(&network, &POLICY.replace("UPLINK", UPLINK));
    let v6 = "fd31:1::1";
    let fabric = NODE_ADDRESSES[0][0];
    let enforced = [
        ("allowed", &tor, at(NODE, 80), true),
        ("allowed by IPv6", &tor, at(v6, 80), true),
        ("allowed, but not from there", &outside, at(NODE, 80), false),
        ("not allowed", &tor, at(NODE, 92), false),
        ("not allowed by IPv6", &tor, at(v6, 92), false),
        ("denied before NAT", &tor, at(NODE, 81), false),
        ("denied before tracking", &tor, at(NODE, 82), false),
        ("allowed before tracking, both ways", &tor, at(NODE, 90), true),
        ("a failsafe port", &tor, at(NODE, FAILSAFE), true),
        ("by a device without endpoint", &other, at(fabric, 92), true),
        ("the host out, allowed", &node, at(TOR, 80), true),
        ("the host out, denied", &node, at(TOR, 91), false),
        ("the host to itself", &node, at(NODE, 92), true),
    ];
    let of_pods = [
        ("a pod to its host, allowed", &pod, at(NODE, 80), true),
        ("a pod to its host, denied", &pod, at(NODE, 92), false),
        ("a pod past the host endpoint", &pod, at("198.51.100.10", 80), true),
    ];
    assert_eq!(wrong(&[&enforced[..], &of_pods].concat()), Vec::<String>::new());
    let shown = network.nodes[0].daemon().unwrap().show("status").unwrap();
    assert_eq!(shown["errors"].as_array().map_or(0, Vec::len), 0, "{shown}");
    unknown_pods_are_not_heard(&network, &node);
    network.nodes[0].daemon().unwrap().kill();
    assert_eq!(wrong(&enforced), Vec::<String>::new(), "with a dead daemon");
    let daemon = network.nodes[0].daemon().unwrap();
    daemon.restart().unwrap();
    daemon.wait_ready().unwrap();
    assert_eq!(wrong(&enforced[3..5]), Vec::<String>::new(), "with the next daemon");
    daemon.stop().unwrap();
    let open = [("once it has stopped", &tor, at(NODE, 92), true)];
    assert_eq!(wrong(&open), Vec::<String>::new());
}

/// A device with the name of a pod's, and no endpoint for it.
fn unknown_pods_are_not_heard(network: &Network, node: &Namespace) {
    let stranger = network.scope().namespace("pod-stranger").unwrap();
    let name = stranger.name();
    node.ip(&format!(
        "link add calistranger type veth peer name eth0 netns {name}\n\
         link set calistranger up\naddr add 192.0.2.1/24 dev calistranger"
    ))
    .unwrap();
    stranger.ip("addr add 192.0.2.2/24 dev eth0\nlink set eth0 up").unwrap();
    let unheard = [("a stranger", &stranger, at("192.0.2.1", 80), false)];
    assert_eq!(wrong(&unheard), Vec::<String>::new());
    node.ip(
        "link set calistranger down\nlink set calistranger name straight0\nlink set straight0 up",
    )
    .unwrap();
    let heard = [("another name", &stranger, at("192.0.2.1", 80), true)];
    assert_eq!(wrong(&heard), Vec::<String>::new());
}
