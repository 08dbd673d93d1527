//! A router node: a namespace with uplinks and pods, routed by margay or by the kernel itself.
//!
//! The kernel's variant has the same links, addresses and routes. It tests the scaffolding without
//! the daemon, and is the peer that margay is measured against.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::daemon::{Daemon, DaemonSpec};
use super::namespace::Namespace;
use super::pod::{Attachment, Pod, PodSpec};
use super::process;
use super::store::Store;

/// Longest time that listing the node's addresses may take.
const ADDRESS_LIMIT: Duration = Duration::from_secs(10);

/// Who forwards on the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Router {
    /// The kernel's own forwarding; TAP pods become veth pods.
    Kernel,
    /// A margay daemon of this binary on each node.
    Margay(PathBuf),
}

/// A router node.
#[derive(Debug)]
pub struct Node {
    name: String,
    number: u8,
    namespace: Namespace,
    router: Router,
    store: Store,
    pods: Vec<Pod>,
    next_pod: u32,
    daemon: Option<Daemon>,
}

impl Node {
    /// Node number `number` in `namespace`; its uplinks are the caller's to make.
    pub fn new(number: u8, namespace: Namespace, router: Router, store: Store) -> Result<Node> {
        let name = format!("edge{number}");
        store.put_affinity(&name, block_v4(number)?.into())?;
        store.put_affinity(&name, block_v6(number)?.into())?;
        if router == Router::Kernel {
            namespace.sysctl(&[
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                ("net/ipv6/conf/default/forwarding", "1"),
            ])?;
        }
        let pods = Vec::new();
        Ok(Node { name, number, namespace, router, store, pods, next_pod: 10, daemon: None })
    }

    /// Its name in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its kernel side and its daemon live.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The blocks that its pods' addresses come from, IPv4 first.
    pub fn blocks(&self) -> Result<[IpNet; 2]> {
        Ok([block_v4(self.number)?.into(), block_v6(self.number)?.into()])
    }

    /// Whether `address` is one that the node itself has, on any device.
    pub fn owns(&self, address: IpAddr) -> Result<bool> {
        let command = process::command("ip", &["-n", self.namespace.name(), "-j", "addr"]);
        let list: Value = serde_json::from_str(&process::run_ok(command, "", ADDRESS_LIMIT)?)
            .context("ip addr")?;
        let devices = list.as_array().context("ip addr: no list")?;
        let infos = devices.iter().filter_map(|device| device["addr_info"].as_array()).flatten();
        let wanted = address.to_string();
        Ok(infos.into_iter().any(|info| info["local"] == wanted.as_str()))
    }

    /// Its pods, in the order in which they were added.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pod of that name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.name() == name);
        found.with_context(|| format!("no pod {name} on {}", self.name))
    }

    /// Makes a pod as the CNI plugin would: device, endpoint in the store; for a TAP the other way
    /// round, so the daemon must run.
    pub fn add_pod(&mut self, mut spec: PodSpec) -> Result<&Pod> {
        if self.router == Router::Kernel {
            spec.attachment = Attachment::Veth;
        }
        let (v4, v6) = (host_v4(self.number, self.next_pod)?, host_v6(self.number, self.next_pod)?);
        let pod = Pod::new(spec, self.number, self.next_pod, v4, v6);
        self.next_pod += 1;
        if pod.attachment().is_veth() {
            pod.plug_veth(&self.namespace)?;
        }
        self.store.put_endpoint(&self.name, &pod)?;
        if pod.attachment() == Attachment::Tap && self.daemon.is_some() {
            pod.plug_tap()?;
        }
        if self.router == Router::Kernel {
            let device = pod.host_device();
            let [v4, v6] = pod.addresses();
            self.namespace
                .ip(&format!("route add {v4} dev {device}\nroute add {v6} dev {device}"))?;
        }
        self.pods.push(pod);
        self.pods.last().context("the pod just added")
    }

    /// Removes the pod's endpoint and device.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name)?.clone();
        self.store.remove_endpoint(&self.name, &pod)?;
        if pod.attachment().is_veth() {
            pod.unplug_veth()?;
        }
        self.pods.retain(|other| other.name() != name);
        Ok(())
    }

    /// Starts the daemon and waits until it is ready; nothing to do when the kernel forwards.
    /// The specification's binary, node and store are this node's.
    pub fn start_daemon(&mut self, spec: DaemonSpec) -> Result<()> {
        let daemon = self.daemon.insert(Daemon::start(spec, &self.namespace)?);
        daemon.wait_ready()?;
        let mut taps = self.pods.iter().filter(|pod| pod.attachment() == Attachment::Tap);
        taps.try_for_each(Pod::plug_tap)
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().with_context(|| format!("no daemon runs on {}", self.name))
    }

    /// Ends the daemon and waits for it.
    pub fn stop_daemon(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.stop(),
            None => Ok(()),
        }
    }
}

/// The IPv4 block of node number `node`: 4,096 addresses.
fn block_v4(node: u8) -> Result<Ipv4Net> {
    Ipv4Net::new(Ipv4Addr::new(10, 65, node * 16, 0), 20).context("IPv4 block")
}

/// The IPv6 block of node number `node`: 4,096 addresses.
fn block_v6(node: u8) -> Result<Ipv6Net> {
    let base = Ipv6Addr::new(0xfd65, 0, 0, u16::from(node), 0, 0, 0, 0);
    Ipv6Net::new(base, 116).context("IPv6 block")
}

fn host_v4(node: u8, number: u32) -> Result<Ipv4Addr> {
    let address = Ipv4Addr::from(u32::from(block_v4(node)?.addr()) + number);
    let inside = block_v4(node)?.contains(&address);
    inside.then_some(address).with_context(|| format!("no address left for pod {number}"))
}

fn host_v6(node: u8, number: u32) -> Result<Ipv6Addr> {
    let address = Ipv6Addr::from(u128::from(block_v6(node)?.addr()) + u128::from(number));
    let inside = block_v6(node)?.contains(&address);
    inside.then_some(address).with_context(|| format!("no address left for pod {number}"))
}
