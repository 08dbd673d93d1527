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

/// An address pool.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// Its range.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// How its blocks on other nodes are reached.
    pub encap: Encap,
    /// So only where the node is in another subnet.
    pub cross_subnet: bool,
    /// Its pods look like their node outside.
    pub nat_outgoing: bool,
}

impl Pool {
    /// One with Calico's size of blocks, and nothing else.
    pub fn new(cidr: IpNet) -> Pool {
        let block_size = if cidr.addr().is_ipv4() { 26 } else { 122 };
        Pool { cidr, block_size, encap: Encap::None, cross_subnet: false, nat_outgoing: false }
    }
}

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

    /// Writes an address pool.
    pub fn put_pool(&self, name: &str, pool: Pool) -> Result<()> {
        let always = if pool.cross_subnet { "CrossSubnet" } else { "Always" };
        let mode = |kind| if pool.encap == kind { always } else { "Never" };
        let (ipip, vxlan) = (mode(Encap::Ipip), mode(Encap::Vxlan));
        let spec = json!({
            "cidr": pool.cidr, "blockSize": pool.block_size, "ipipMode": ipip, "vxlanMode": vxlan,
            "natOutgoing": pool.nat_outgoing, "nodeSelector": "all()",
        });
        self.put("IPPool", name, &json!({ "name": name }), &spec)
    }

    /// Writes a service and its endpoints, pods with the names of their nodes. `ports` are its own
    /// and theirs.
    pub fn put_service(
        &self,
        name: &str,
        addresses: [IpAddr; 2],
        ports: (u16, u16),
        endpoints: &[(&str, &Pod)],
    ) -> Result<()> {
        let metadata = json!({ "name": name, "namespace": POD_NAMESPACE });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
                "type": "ClusterIP", "clusterIP": addresses[0], "clusterIPs": addresses,
                "ports": [{ "port": ports.0, "targetPort": ports.1 }],
            },
        });
        write_yaml(&self.path("Service", name), &service)?;
        for (at, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let name_of_slice = format!("{name}-{}", family.to_lowercase());
            let members = endpoints
                .iter()
                .map(|(node, pod)| json!({ "addresses": [pod.addresses()[at]], "nodeName": node }));
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {
                    "name": name_of_slice, "namespace": POD_NAMESPACE,
                    "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": family, "ports": [{ "port": ports.1, "protocol": "TCP" }],
                "endpoints": members.collect::<Vec<_>>(),
            });
            write_yaml(&self.path("EndpointSlice", &name_of_slice), &slice)?;
        }
        Ok(())
    }

    /// Writes that nodes mesh and advertise these ranges of services' addresses.
    pub fn put_service_ranges(&self, ranges: &[IpNet]) -> Result<()> {
        let ranges: Vec<Value> = ranges.iter().map(|net| json!({ "cidr": net })).collect();
        let spec = json!({ "nodeToNodeMeshEnabled": true, "serviceClusterIPs": ranges });
        self.put("BGPConfiguration", "default", &json!({ "name": "default" }), &spec)
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
        self.put_limited_endpoint(node, pod, &json!({}), false)
    }

    /// Writes the endpoint of a pod on `node` with these `qosControls`; what is beyond its
    /// bandwidth waits if it is shaped.
    pub fn put_limited_endpoint(
        &self,
        node: &str,
        pod: &Pod,
        controls: &Value,
        shaped: bool,
    ) -> Result<()> {
        let annotations =
            if shaped { json!({ "margay.io/shaping": "Enabled" }) } else { json!({}) };
        self.put_annotated_endpoint(node, pod, controls, &annotations)
    }

    /// The same with further annotations.
    pub fn put_annotated_endpoint(
        &self,
        node: &str,
        pod: &Pod,
        controls: &Value,
        annotations: &Value,
    ) -> Result<()> {
        let name = endpoint_name(node, pod);
        let mut metadata = json!({
            "name": name,
            "namespace": POD_NAMESPACE,
            "labels": {
                "projectcalico.org/namespace": POD_NAMESPACE,
                "projectcalico.org/orchestrator": "k8s",
                "pod": pod.name(),
            },
        });
        metadata["annotations"] = match pod.attachment() {
            Attachment::Veth => json!({}),
            Attachment::Tc => json!({ "margay.io/attachment": "tc" }),
            Attachment::Tap => json!({
                "margay.io/attachment": "tap",
                "margay.io/netns": pod.namespace().path(),
                "margay.io/device": pod.device(),
            }),
        };
        for (name, value) in annotations.as_object().into_iter().flatten() {
            metadata["annotations"][name] = value.clone();
        }
        let networks: Vec<IpNet> = pod.addresses().iter().copied().map(IpNet::from).collect();
        let mut spec = json!({
            "orchestrator": "k8s", "node": node, "pod": pod.name(), "endpoint": pod.device(),
            "interfaceName": pod.host_device(), "ipNetworks": networks,
            "profiles": [format!("kns.{POD_NAMESPACE}")],
        });
        spec["mac"] = json!(pod.mac());
        spec["qosControls"] = controls.clone();
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
