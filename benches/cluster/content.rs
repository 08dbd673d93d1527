//! A cluster as Calico keeps it in etcd, made up from a seed: nodes with a block each, pods with
//! labels in a hundred namespaces, and policies that select some of them.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Writes at the same time.
const WRITERS: usize = 64;
const NAMESPACES: u32 = 100;
const APPS: u32 = 50;
const POLICIES: u32 = 100;
/// The node that is measured: it is node 0.
pub(crate) const NODE: &str = "edge-0";

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) nodes: u32,
    pub(crate) endpoints: u32,
    pub(crate) seed: u64,
}

/// xorshift64*, so that a seed always makes the same cluster.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % u64::from(end)) as u32
    }
}

pub(crate) fn node_name(node: u32) -> String {
    format!("edge-{node}")
}

/// Its address, which is on no link of the measured node.
pub(crate) fn node_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 20, 0, 0)) + node)
}

/// Its block of 64 addresses.
fn block(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + 64 * node)
}

/// An address in a node's block. The first one is that of its tunnels.
pub(crate) fn address_of(node: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block(node)) + number)
}

/// Name of a node's block.
pub(crate) fn block_name(node: u32) -> String {
    format!("{}-26", block(node).to_string().replace('.', "-"))
}

impl Size {
    /// Pods of a node; the last nodes have one less where they cannot all have as many.
    pub(crate) fn pods_of(self, node: u32) -> u32 {
        self.endpoints / self.nodes + u32::from(node < self.endpoints % self.nodes)
    }

    fn documents(self) -> Vec<Value> {
        let mut random = Random(self.seed.max(1));
        let mut all = shared();
        for namespace in 0..NAMESPACES {
            all.push(profile(namespace));
        }
        for policy in 0..POLICIES {
            let [namespace, of, from] = [NAMESPACES, APPS, APPS].map(|end| random.below(end));
            let rule = json!({"action": "Allow", "protocol": "TCP",
                "source": {"selector": format!("app == 'app-{from}'")},
                "destination": {"ports": [80, 443]}});
            let spec = json!({"selector": format!("app == 'app-{of}'"), "types": ["Ingress"],
                "order": 100, "ingress": [rule]});
            let metadata = json!({"name": format!("policy-{policy}"),
                "namespace": format!("ns-{namespace}")});
            all.push(resource("NetworkPolicy", metadata, spec));
        }
        for node in 0..self.nodes {
            all.extend(node_of(node));
            all.extend(block_of(node, self.pods_of(node)));
            for pod in 0..self.pods_of(node) {
                let labels = (random.below(NAMESPACES), random.below(APPS));
                all.push(endpoint(node, pod, labels));
            }
        }
        all
    }

    /// Writes all of it; answers how many resources that are.
    pub(crate) async fn write(self, store: &Store) -> Result<usize> {
        let documents = self.documents();
        let count = documents.len();
        let write = |value| async move { store.create(Document::new(value)?).await.map(drop) };
        futures::stream::iter(documents)
            .map(write)
            .buffer_unordered(WRITERS)
            .try_collect::<()>()
            .await?;
        Ok(count)
    }
}

fn resource(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec})
}

fn shared() -> Vec<Value> {
    let pool = json!({"cidr": "10.128.0.0/9", "blockSize": 26, "vxlanMode": "Always",
        "natOutgoing": true, "nodeSelector": "all()"});
    vec![resource("IPPool", json!({"name": "pool"}), pool)]
}

fn profile(namespace: u32) -> Value {
    let name = format!("ns-{namespace}");
    let allow = json!([{"action": "Allow"}]);
    let labels = json!({"pcns.projectcalico.org/name": name});
    let spec = json!({"ingress": allow, "egress": allow, "labelsToApply": labels});
    resource("Profile", json!({"name": format!("kns.{name}")}), spec)
}

/// A node as it has written itself; the measured one does so when it starts.
fn node_of(node: u32) -> Option<Value> {
    let [_, _, a, b] = node.to_be_bytes();
    let spec = json!({
        "bgp": {"ipv4Address": format!("{}/32", node_address(node))},
        "ipv4VXLANTunnelAddr": address_of(node, 0),
        "vxlanTunnelMACAddr": format!("66:00:00:00:{a:02x}:{b:02x}"),
    });
    (node > 0).then(|| resource("Node", json!({"name": node_name(node)}), spec))
}

/// A block whose first addresses are given out, and its affinity.
fn block_of(node: u32, pods: u32) -> [Value; 2] {
    let (name, cidr) = (node_name(node), format!("{}/26", block(node)));
    let taken = if node > 0 { pods + 1 } else { pods };
    let skipped = u32::from(node == 0);
    let attribute = |at: u32| match at {
        0 if node > 0 => json!({"handle_id": format!("vxlan-tunnel-addr-{name}"),
            "secondary": {"node": name, "type": "vxlanTunnelAddress"}}),
        _ => json!({"handle_id": format!("k8s-pod-network.{node}-{at}"),
            "secondary": {"node": name, "namespace": "ns", "pod": format!("pod-{at}")}}),
    };
    let ordinals: Vec<u32> = (skipped..skipped + taken).collect();
    let place = |ordinal: u32| ordinals.iter().position(|one| *one == ordinal);
    let free: Vec<u32> = (0..64).filter(|ordinal| place(*ordinal).is_none()).collect();
    let spec = json!({
        "cidr": cidr, "affinity": format!("host:{name}"), "deleted": false,
        "allocations": (0..64).map(place).collect::<Vec<_>>(), "unallocated": free,
        "attributes": ordinals.iter().map(|at| attribute(*at)).collect::<Vec<_>>(),
        "sequenceNumber": 1_767_603_600_000_000_000_u64,
    });
    let affinity = json!({"state": "confirmed", "node": name, "cidr": cidr, "type": "host",
        "deleted": "false"});
    let block = json!({"name": block_name(node)});
    let claim = json!({"name": format!("{name}-{}", block_name(node))});
    [resource("IPAMBlock", block, spec), resource("BlockAffinity", claim, affinity)]
}

/// Pods have the addresses behind that of the tunnels.
fn endpoint(node: u32, pod: u32, (namespace, app): (u32, u32)) -> Value {
    let labels = json!({"app": format!("app-{app}"), "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/namespace": format!("ns-{namespace}")});
    let metadata = json!({"name": format!("edge--{node}-k8s-pod--{pod}-eth0"),
        "namespace": format!("ns-{namespace}"), "labels": labels});
    let device = if node == 0 { local_device(pod) } else { format!("cali{node:05}{pod:06}") };
    let spec = json!({"orchestrator": "k8s", "node": node_name(node), "endpoint": "eth0",
        "pod": format!("pod-{pod}"), "containerID": format!("{node:032x}{pod:032x}"),
        "interfaceName": device, "profiles": [format!("kns.ns-{namespace}")],
        "ipNetworks": [format!("{}/32", address_of(node, pod + 1))]});
    resource("WorkloadEndpoint", metadata, spec)
}

/// The host's end of a pod of the measured node.
pub(crate) fn local_device(pod: u32) -> String {
    format!("cali00{pod:08x}")
}

/// A pod on `node` with an address of the block of `owner`: it is reached by a route of its own.
pub(crate) fn borrower(node: u32, address: Ipv4Addr) -> Value {
    let metadata = json!({"name": format!("edge--{node}-k8s-borrower-eth0"), "namespace": "ns-0"});
    let spec = json!({"orchestrator": "k8s", "node": node_name(node), "endpoint": "eth0",
        "pod": "borrower", "interfaceName": "cali0borrower", "profiles": ["kns.ns-0"],
        "ipNetworks": [format!("{address}/32")]});
    resource("WorkloadEndpoint", metadata, spec)
}
