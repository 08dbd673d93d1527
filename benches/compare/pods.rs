//! A node with pods, and what is beyond its uplink.

use anyhow::Result;
use margay::lab::daemon::DaemonSpec;
use margay::lab::measure::{IperfSpec, Load, iperf};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::node::{Node, Router};
use margay::lab::pod::{Attachment, PodSpec};
use margay::lab::scope::Scope;
use margay::lab::store::{Pool, Store};
use std::net::Ipv4Addr;
use std::time::Duration;

const MTU: u32 = 1500;
pub(crate) const UPLINK: &str = "uplink0";
/// The other end of the uplink.
pub(crate) const FAR_END: &str = "edge1";
/// What is beyond the uplink, by which address there, with which link address.
const OUTSIDE: &str = "203.0.113.0/24";
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const TOR: &str = "172.31.1.254";
const TOR_MAC: &str = "02:00:00:00:01:fe";

/// A node has a way out; its kernel answers ARP for the pods' gateway only if it has one.
fn plug_uplink(edge: &Namespace, tor: &Namespace, queues: u32) -> Result<()> {
    let end = |namespace, device, mac, addresses: [&str; 2]| -> Result<LinkEnd<'_>> {
        let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(LinkEnd { namespace, device, mac, addresses })
    };
    connect(
        LinkSpec { mtu: MTU, queues },
        &end(edge, UPLINK, None, ["172.31.1.1/24", "fd31:1::1/64"])?,
        &end(tor, FAR_END, Some(TOR_MAC), ["172.31.1.254/24", "fd31:1::fe/64"])?,
    )?;
    edge.ip(&format!(
        "route add default via {TOR}\nroute add default via fd31:1::fe\n\
         neigh replace {TOR} lladdr {TOR_MAC} dev {UPLINK} nud permanent"
    ))
}

/// A node with pods, the first of which are `a` and `b`, and what is beyond its uplink.
pub(crate) struct Pods {
    pub(crate) node: Node,
    pub(crate) store: Store,
    pub(crate) tor: Namespace,
    _scope: Scope,
}

impl Pods {
    pub(crate) fn new(router: Router, attachment: Attachment) -> Result<Pods> {
        Pods::with_workers(2, router, attachment, 1)
    }

    /// So many pods, 26 at most, and workers.
    pub(crate) fn with_workers(
        count: u8,
        router: Router,
        attachment: Attachment,
        workers: u32,
    ) -> Result<Pods> {
        let scope = Scope::new()?;
        let store = Store::create(&scope.directory().join("store"))?;
        store.put_pool("pool-v4", Pool { block_size: 20, ..Pool::new("10.65.0.0/16".parse()?) })?;
        store.put_pool("pool-v6", Pool { block_size: 116, ..Pool::new("fd65::/48".parse()?) })?;
        store.put_node("edge1", "172.30.0.1/24".parse()?, "fd30::1/64".parse()?)?;
        let (edge, tor) = (scope.namespace("edge1")?, scope.namespace("tor")?);
        plug_uplink(&edge, &tor, workers)?;
        let mut node = Node::new(1, edge, router.clone(), store.clone())?;
        if let Router::Margay(binary) = router {
            node.start_daemon(DaemonSpec {
                uplinks: vec![UPLINK.to_owned()],
                workers,
                static_routes: vec![(OUTSIDE.parse()?, TOR.parse()?)],
                ..DaemonSpec::new(binary, "edge1", &store, &scope)
            })?;
        }
        for name in (b'a'..b'a' + count).map(|letter| char::from(letter).to_string()) {
            let namespace = scope.namespace(&format!("pod-{name}"))?;
            node.add_pod(PodSpec { attachment, ..PodSpec::new(&name, namespace, MTU) })?;
        }
        Ok(Pods { node, store, tor, _scope: scope })
    }

    /// Gives what is beyond the uplink an address there, and the way back to pods and node.
    pub(crate) fn open_outside(&self) -> Result<()> {
        self.tor.ip(&format!(
            "addr add {SERVER}/32 dev lo\nroute add 10.65.0.0/16 via 172.31.1.1\n\
             route add 172.30.0.1/32 via 172.31.1.1"
        ))
    }

    /// Bits a second of payload from the first pod to a host beyond the uplink.
    pub(crate) fn measure_outside(&self, load: Load, time: Duration) -> Result<f64> {
        let result = iperf(IperfSpec {
            client: self.node.pod("a")?.namespace(),
            server: &self.tor,
            target: SERVER.into(),
            load,
            seconds: time.as_secs_f64().ceil() as u32,
        })?;
        Ok(result.bits_per_s)
    }

    /// Bits a second of payload from a host beyond the uplink to the first pod.
    pub(crate) fn measure_from_outside(&self, load: Load, time: Duration) -> Result<f64> {
        let pod = self.node.pod("a")?;
        let result = iperf(IperfSpec {
            client: &self.tor,
            server: pod.namespace(),
            target: pod.v4(),
            load,
            seconds: time.as_secs_f64().ceil() as u32,
        })?;
        Ok(result.bits_per_s)
    }

    /// Bits a second of payload from the first pod to the second.
    pub(crate) fn measure(&self, load: Load, time: Duration) -> Result<f64> {
        let (client, server) = (self.node.pod("a")?, self.node.pod("b")?);
        let result = iperf(IperfSpec {
            client: client.namespace(),
            server: server.namespace(),
            target: server.v4(),
            load,
            seconds: time.as_secs_f64().ceil() as u32,
        })?;
        Ok(result.bits_per_s)
    }
}
