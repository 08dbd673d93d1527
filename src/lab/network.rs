//! The lab's network: two router nodes with pods, a link between them, and an outside host behind
//! a top-of-rack router that knows the nodes' blocks.
//!
//! ```text
//!                         outside 198.51.100.10
//!                            |
//!                           tor 198.51.100.1 (kernel forwarding)
//!            172.31.1.254 /     \ 172.31.2.254
//!                        /       \
//!        edge1 172.31.1.1         edge2 172.31.2.1
//!              172.30.0.1 ------- 172.30.0.2
//!          10.65.16.0/20           10.65.32.0/20
//! ```
//!
//! IPv6 alike: 2001:db8:100::/64, fd31:1::/64, fd31:2::/64, fd30::/64, fd65:0:0:N::/116.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::daemon::DaemonSpec;
use super::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use super::node::{Node, Router};
use super::pod::PodSpec;
use super::scope::Scope;
use super::store::{Pool, Store};
use super::tor::{HOST, Peer, Tor};

/// How many bytes the MTU of the pod with the narrow link is below the others'.
pub const NARROW: u32 = 100;
/// The node's device towards the other node.
pub const FABRIC: &str = "fabric0";
/// The node's device towards the top of rack.
pub const UPLINK: &str = "uplink0";

/// The nodes' own addresses, those between them, IPv4 first.
pub const NODE_ADDRESSES: [[&str; 2]; 2] = [["172.30.0.1", "fd30::1"], ["172.30.0.2", "fd30::2"]];

/// How packets between nodes are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Encap {
    /// As they are.
    #[default]
    None,
    /// IPv4 in IPv4, and IPv6 as it is.
    Ipip,
    /// VXLAN, each family over itself.
    Vxlan,
}

impl Encap {
    /// True when IPv6 is carried too.
    pub fn carries_v6(self) -> bool {
        self == Encap::Vxlan
    }

    /// Most bytes that it takes from the links' MTU.
    pub fn overhead(self) -> u32 {
        match self {
            Encap::None => 0,
            Encap::Ipip => 20,
            Encap::Vxlan => 70,
        }
    }
}

/// What a network is to be like.
#[derive(Debug, Clone)]
pub struct NetworkSpec {
    /// Who forwards on the nodes.
    pub router: Router,
    /// MTU of all links but that of the narrow pod, in bytes.
    pub mtu: u32,
    /// Queues of the links between routers and of pods on veths.
    pub queues: u32,
    /// Worker threads of each daemon.
    pub workers: u32,
    /// How packets between pods of different nodes are carried.
    pub encap: Encap,
    /// Whether the routers tell each other their routes by BGP; else routes are static.
    pub bgp: bool,
    /// With BGP: who speaks it on the top of rack.
    pub peer: Peer,
    /// Whether it is to be left behind, see [`Network::keep`].
    pub detached: bool,
}

/// A running network. Dropping it ends the daemons and removes everything.
#[derive(Debug)]
pub struct Network {
    spec: NetworkSpec,
    /// The router nodes `edge1` and `edge2`.
    pub nodes: [Node; 2],
    /// The top of rack, forwarding by its kernel.
    pub tor: Namespace,
    /// With BGP: who speaks it there.
    pub tor_daemon: Option<Tor>,
    /// The host outside.
    pub outside: Namespace,
    scope: Scope,
}

impl Network {
    /// Builds the links, nodes and pods, and starts the daemons. Removes leftovers first.
    pub fn start(spec: NetworkSpec) -> Result<Network> {
        let mut network = Network::without_pods(spec)?;
        for (node, pods) in [(0, ["veth-a", "narrow-a", "tap-a"]), (1, ["veth-b", "", "tap-b"])] {
            for pod in pods.into_iter().filter(|pod| !pod.is_empty()) {
                network.add_pod(node, pod)?;
            }
        }
        Ok(network)
    }

    /// As [`Network::start`], with daemons but without pods.
    pub fn without_pods(spec: NetworkSpec) -> Result<Network> {
        let scope = Scope::new()?;
        let tor = scope.namespace("tor")?;
        let outside = scope.namespace("outside")?;
        let store = Store::create(&scope.directory().join("store"))?;
        put_pools(&store, spec.encap, false)?;
        let node = |number: u8| -> Result<Node> {
            let namespace = scope.namespace(&format!("edge{number}"))?;
            let [v4, v6] = NODE_ADDRESSES[usize::from(number) - 1];
            let (v4, v6) = (net(&format!("{v4}/24"))?, net(&format!("{v6}/64"))?);
            store.put_node(&format!("edge{number}"), v4, v6)?;
            Node::new(number, namespace, spec.router.clone(), store.clone())
        };
        let nodes = [node(1)?, node(2)?];
        let mut network = Network { spec, nodes, tor, tor_daemon: None, outside, scope };
        network.make_links()?;
        network.make_routes()?;
        network.start_daemons(&store)?;
        if network.spec.bgp {
            let tor = Tor::start(&network.spec, &network.scope, &network.tor, &store)?;
            network.tor_daemon = Some(tor);
        }
        Ok(network)
    }

    /// Adds a pod to node `node` (0 or 1) in a namespace of its own: by TAP when its name begins
    /// with `tap`, with a narrower link when it begins with `narrow`, by veth otherwise.
    pub fn add_pod(&mut self, node: usize, name: &str) -> Result<()> {
        let narrower = if name.starts_with("narrow") { NARROW } else { self.spec.encap.overhead() };
        let namespace = self.scope.namespace(&format!("pod-{name}"))?;
        let spec = PodSpec::new(name, namespace, self.spec.mtu - narrower);
        let link = LinkSpec { queues: self.spec.queues, ..spec.link };
        self.nodes[node].add_pod(PodSpec { link, ..spec }).map(|_| ())
    }

    /// What it was built from.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Its namespaces and its directory.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The datastore of the nodes.
    pub fn store(&self) -> Result<Store> {
        Store::create(&self.scope.directory().join("store"))
    }

    /// Writes the pools anew, with `natOutgoing` or without.
    pub fn put_pools(&self, nat_outgoing: bool) -> Result<()> {
        put_pools(&self.store()?, self.spec.encap, nat_outgoing)
    }

    /// The outside host's addresses, IPv4 first.
    pub fn outside_addresses(&self) -> Result<[IpAddr; 2]> {
        Ok([HOST[0].parse()?, HOST[1].parse()?])
    }

    /// Leaves everything running when dropped, until the next lab starts. Daemons stay only if the
    /// specification says `detached`.
    pub fn keep(&mut self) {
        self.scope.keep();
        for node in &mut self.nodes {
            if let Ok(daemon) = node.daemon() {
                daemon.release();
            }
        }
        self.tor_daemon.iter_mut().for_each(Tor::release);
    }

    fn make_links(&self) -> Result<()> {
        let spec = LinkSpec { mtu: self.spec.mtu, queues: self.spec.queues };
        let [edge1, edge2] = [self.nodes[0].namespace(), self.nodes[1].namespace()];
        let link = |left: (&Namespace, &str, [&str; 2]), right: (&Namespace, &str, [&str; 2])| {
            let end = |(namespace, device, addresses): (_, _, [&str; 2])| -> Result<LinkEnd> {
                let addresses = addresses.iter().map(|text| net(text)).collect::<Result<_>>()?;
                Ok(LinkEnd { namespace, device, mac: None, addresses })
            };
            connect(spec, &end(left)?, &end(right)?)
        };
        link(
            (edge1, FABRIC, ["172.30.0.1/24", "fd30::1/64"]),
            (edge2, FABRIC, ["172.30.0.2/24", "fd30::2/64"]),
        )?;
        link(
            (edge1, UPLINK, ["172.31.1.1/24", "fd31:1::1/64"]),
            (&self.tor, "edge1", ["172.31.1.254/24", "fd31:1::fe/64"]),
        )?;
        link(
            (edge2, UPLINK, ["172.31.2.1/24", "fd31:2::1/64"]),
            (&self.tor, "edge2", ["172.31.2.254/24", "fd31:2::fe/64"]),
        )?;
        link(
            (&self.outside, "eth0", ["198.51.100.10/24", "2001:db8:100::10/64"]),
            (&self.tor, "outside", ["198.51.100.1/24", "2001:db8:100::1/64"]),
        )
    }

    fn make_routes(&self) -> Result<()> {
        let default = |namespace: &Namespace, v4: &str, v6: &str| {
            namespace.ip(&format!("route add default via {v4}\nroute add default via {v6}"))
        };
        default(&self.outside, "198.51.100.1", "2001:db8:100::1")?;
        self.tor.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        for (at, node) in self.nodes.iter().enumerate() {
            let number = at + 1;
            let (v4, v6) = (format!("172.31.{number}.254"), format!("fd31:{number}::fe"));
            // Behind a default route, nobody could tell when a learnt one ends.
            if self.spec.peer == Peer::Margay {
                default(node.namespace(), &v4, &v6)?;
            }
            let (v4, v6) = (format!("172.31.{number}.1"), format!("fd31:{number}::1"));
            // The nodes' own addresses are no networks that BGP tells of.
            for (own, via) in NODE_ADDRESSES[at].iter().zip([&v4, &v6]) {
                self.tor.route(IpNet::from(own.parse::<IpAddr>()?), via.parse()?)?;
            }
            if !self.spec.bgp {
                for (block, via) in node.blocks()?.into_iter().zip([v4, v6]) {
                    self.tor.route(block, via.parse()?)?;
                }
            }
            if self.spec.router == Router::Kernel {
                let (v4, v6) = (format!("172.30.0.{number}"), format!("fd30::{number}"));
                for (block, via) in node.blocks()?.into_iter().zip([v4, v6]) {
                    self.nodes[1 - at].namespace().route(block, via.parse()?)?;
                }
            }
        }
        Ok(())
    }

    fn start_daemons(&mut self, store: &Store) -> Result<()> {
        let Router::Margay(binary) = self.spec.router.clone() else { return Ok(()) };
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let number = at + 1;
            let mut static_routes = vec![
                (net("198.51.100.0/24")?, format!("172.31.{number}.254").parse()?),
                (net("2001:db8:100::/64")?, format!("fd31:{number}::fe").parse()?),
            ];
            if self.spec.bgp {
                static_routes.clear();
            }
            node.start_daemon(DaemonSpec {
                uplinks: vec![FABRIC.to_owned(), UPLINK.to_owned()],
                static_routes,
                bgp: self.spec.bgp,
                workers: self.spec.workers,
                detached: self.spec.detached,
                ..DaemonSpec::new(&binary, node.name(), store, &self.scope)
            })?;
        }
        Ok(())
    }
}

fn put_pools(store: &Store, encap: Encap, nat_outgoing: bool) -> Result<()> {
    let pool = Pool { block_size: 20, encap, nat_outgoing, ..Pool::new(net("10.65.0.0/16")?) };
    store.put_pool("pool-v4", pool)?;
    let encap = if encap.carries_v6() { encap } else { Encap::None };
    let pool = Pool { block_size: 116, encap, nat_outgoing, ..Pool::new(net("fd65::/48")?) };
    store.put_pool("pool-v6", pool)
}

fn net(text: &str) -> Result<IpNet> {
    text.parse().with_context(|| format!("not a prefix: {text}"))
}
