//! The lab's datastore: a directory of Calico resources that the daemons watch.
//!
//! One file per resource. A file is written beside and renamed, so that a watcher never reads half
//! of one.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::network::Encap;
use super::pod::{Attachment, Pod};

/// The Kubernetes namespace that the lab's pods are said to be in.
pub const POD_NAMESPACE: &str = "lab";

/// A directory of resources.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// An empty store in `directory`, which is created.
    pub fn create(directory: &Path) -> Result<Store> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Store { directory: directory.to_owned() })
    }

    /// Where the resources are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a node with its addresses on the link between the nodes.
    pub fn put_node(&self, name: &str, v4: IpNet, v6: IpNet) -> Result<()> {
        let bgp = json!({ "ipv4Address": v4, "ipv6Address": v6 });
        self.put("Node", name, &json!({ "name": name }), &json!({ "bgp": bgp }))
    }

    /// Writes an address pool without NAT, whose blocks are always reached by `encap`.
    pub fn put_pool(&self, name: &str, cidr: IpNet, block_size: u8, encap: Encap) -> Result<()> {
        self.write_pool((name, false), cidr, block_size, encap)
    }

    /// Writes an address pool without encapsulation, and with NAT-outgoing if that is asked for.
    pub fn put_pool_with_nat(
        &self,
        name: &str,
        cidr: IpNet,
        block_size: u8,
        nat_outgoing: bool,
    ) -> Result<()> {
        self.write_pool((name, nat_outgoing), cidr, block_size, Encap::None)
    }

    fn write_pool(
        &self,
        (name, nat_outgoing): (&str, bool),
        cidr: IpNet,
        block_size: u8,
        encap: Encap,
    ) -> Result<()> {
        let mode = |kind| if encap == kind { "Always" } else { "Never" };
        let (ipip, vxlan) = (mode(Encap::Ipip), mode(Encap::Vxlan));
        let spec = json!({
            "cidr": cidr, "blockSize": block_size, "ipipMode": ipip, "vxlanMode": vxlan,
            "natOutgoing": nat_outgoing, "nodeSelector": "all()",
        });
        self.put("IPPool", name, &json!({ "name": name }), &spec)
    }

    /// Writes the AS of a node whose addresses are these.
    pub fn put_node_of(&self, name: &str, v4: IpNet, v6: IpNet, asn: u32) -> Result<()> {
        let bgp = json!({ "ipv4Address": v4, "ipv6Address": v6, "asNumber": asn });
        self.put("Node", name, &json!({ "name": name }), &json!({ "bgp": bgp }))
    }

    /// Writes that `node` peers with an address of another AS, from whatever address it has there,
    /// and whether BFD watches it.
    pub fn put_peer(&self, node: &str, address: IpAddr, asn: u32, bfd: bool) -> Result<()> {
        let name = format!("{node}-{}", address.to_string().replace([':', '.'], "-"));
        let spec = json!({
            "node": node, "peerIP": address.to_string(), "asNumber": asn, "sourceAddress": "None",
        });
        let mut metadata = json!({ "name": name });
        if bfd {
            metadata["annotations"] = json!({ "margay.io/bfd": "interval=100ms,multiplier=3" });
        }
        self.put("BGPPeer", &name, &metadata, &spec)
    }

    /// Writes that nodes do not mesh, and advertise these prefixes.
    pub fn put_advertised(&self, prefixes: &[IpNet]) -> Result<()> {
        let prefixes: Vec<Value> = prefixes.iter().map(|net| json!({ "cidr": net })).collect();
        let spec = json!({ "nodeToNodeMeshEnabled": false, "serviceExternalIPs": prefixes });
        self.put("BGPConfiguration", "default", &json!({ "name": "default" }), &spec)
    }

    /// Writes that `node` owns the block `cidr`.
    pub fn put_affinity(&self, node: &str, cidr: IpNet) -> Result<()> {
        let name = format!("{node}-{}", cidr.to_string().replace([':', '.', '/'], "-"));
        let spec = json!({ "state": "confirmed", "node": node, "cidr": cidr, "deleted": "false" });
        self.put("BlockAffinity", &name, &json!({ "name": name }), &spec)
    }

    /// Writes the endpoint of a pod on `node`.
    pub fn put_endpoint(&self, node: &str, pod: &Pod) -> Result<()> {
        let name = endpoint_name(node, pod);
        let mut metadata = json!({
            "name": name,
            "namespace": POD_NAMESPACE,
            "labels": {
                "projectcalico.org/namespace": POD_NAMESPACE,
                "projectcalico.org/orchestrator": "k8s",
            },
        });
        if pod.attachment() == Attachment::Tap {
            metadata["annotations"] = json!({
                "margay.io/attachment": "tap",
                "margay.io/netns": pod.namespace().path(),
                "margay.io/device": pod.device(),
            });
        }
        let networks: Vec<IpNet> = pod.addresses().iter().copied().map(IpNet::from).collect();
        let mut spec = json!({
            "orchestrator": "k8s", "node": node, "pod": pod.name(), "endpoint": pod.device(),
            "interfaceName": pod.host_device(), "ipNetworks": networks,
            "profiles": [format!("kns.{POD_NAMESPACE}")],
        });
        spec["mac"] = json!(pod.mac());
        self.put("WorkloadEndpoint", &name, &metadata, &spec)
    }

    /// Removes the endpoint of a pod on `node`.
    pub fn remove_endpoint(&self, node: &str, pod: &Pod) -> Result<()> {
        let path = self.path("WorkloadEndpoint", &endpoint_name(node, pod));
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.directory.join(format!("{}-{name}.yaml", kind.to_lowercase()))
    }

    fn put(&self, kind: &str, name: &str, metadata: &Value, spec: &Value) -> Result<()> {
        let resource = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec,
        });
        write_yaml(&self.path(kind, name), &resource)
    }
}

/// Writes `value` to `path` as YAML, whole or not at all.
pub fn write_yaml(path: &Path, value: &Value) -> Result<()> {
    let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
    let draft = path.with_extension("draft");
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Calico's name of an endpoint: its segments joined by `-`, an inner `-` doubled.
fn endpoint_name(node: &str, pod: &Pod) -> String {
    let segments = [node, "k8s", pod.name(), pod.device()];
    segments.map(|segment| segment.replace('-', "--")).join("-")
}
