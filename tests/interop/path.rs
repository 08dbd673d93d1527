//! A way for real packets through margay and another daemon's namespace:
//!
//! ```text
//!   client 192.0.2.10 ---- margay 10.9.0.1 ---- other 10.9.0.2, and on its loopback interface
//!                                               203.0.113.1 and 10.9.9.2
//! ```
//!
//! Where BFD is to be over several hops the other one speaks from 10.9.9.2.
//! The other one announces the server's prefix, margay the client's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use margay::lab::daemon::{Daemon as Margay, DaemonSpec};
use margay::lab::namespace::{self, LinkEnd, LinkSpec, Namespace};
use margay::lab::process::{self, pause, wait_for};
use margay::lab::scope::Scope;
use margay::lab::store::{Store, write_yaml};
use serde_json::json;

use crate::network::Daemon;
use crate::place::Place;
use crate::speaker::{Announcement, Hops, Options, Peer, Speaker};

/// What the other daemon announces, and who answers there.
pub(crate) const PREFIX: &str = "203.0.113.0/24";
const SERVER: &str = "203.0.113.1";
/// What margay announces.
const CLIENTS: &str = "192.0.2.0/24";
const LIMIT: Duration = Duration::from_secs(20);
/// Longest time that listing routes may take.
const LIST: Duration = Duration::from_secs(5);
const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };

/// Who is at the far end, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spec {
    pub(crate) options: Options,
    /// The router's kernel may forward, too; else what passes has been forwarded by margay.
    pub(crate) kernel_forwards: bool,
}

/// The picture above, running.
pub(crate) struct Path {
    // In the order in which they are to end.
    pub(crate) margay: Margay,
    pub(crate) peer: Box<dyn Peer>,
    pub(crate) place: Place,
    pub(crate) client: Namespace,
    _scope: Scope,
}

impl Path {
    /// Starts both daemons, and waits for their session.
    pub(crate) fn start(daemon: Daemon, spec: &Spec) -> Result<Path> {
        let scope = Scope::new()?;
        let (client, router, far) =
            (scope.namespace("client")?, scope.namespace("router")?, scope.namespace("far")?);
        join(&client, ("eth0", "192.0.2.10/24"), &router, ("left0", "192.0.2.1/24"))?;
        join(&router, ("right0", "10.9.0.1/24"), &far, ("eth0", "10.9.0.2/24"))?;
        client.ip("route add default via 192.0.2.1")?;
        far.ip(&format!("addr add {SERVER}/32 dev lo\naddr add 10.9.9.2/32 dev lo"))?;
        if !writes_kernel(daemon) {
            far.ip(&format!("route add {CLIENTS} via 10.9.0.1"))?;
        }
        if !spec.kernel_forwards {
            // margay allows it by sysctl, for just such a time.
            router.ip("rule add iif left0 blackhole\nrule add iif right0 blackhole")?;
        }
        let mut speaker = Speaker::new(2, 65002);
        let us = Speaker::new(1, 65001);
        speaker.add_neighbor(&us, &spec.options);
        speaker.neighbors.retain(|neighbor| neighbor.address.is_ipv4());
        if spec.options.bfd == Some(Hops::Several) {
            speaker.neighbors[0].local = Some("10.9.9.2".parse()?);
        }
        let place = Place::new(far, scope.directory().join("far"))?;
        let mut peer = daemon.peer(place.clone(), speaker)?;
        peer.start()?;
        let mut margay = Margay::start(margay_spec(&scope, spec)?, &router)?;
        margay.wait_ready()?;
        let mut path = Path { margay, peer, place, client, _scope: scope };
        path.wait_session()?;
        if writes_kernel(daemon) {
            path.wait_kernel()?;
        }
        Ok(path)
    }

    pub(crate) fn wait_session(&mut self) -> Result<()> {
        let up = wait_for("the session", LIMIT, || {
            pause(Duration::from_millis(50))?;
            // What a killed daemon leaves of its socket refuses until the next one listens.
            let Ok(peers) = self.margay.show("bgp peers") else { return Ok(None) };
            Ok((peers[0]["session"] == "Established").then_some(()))
        });
        up.with_context(|| format!("{}\n--\n{}", self.margay.log_tail(), self.peer.log_tail()))
    }

    /// Waits until the other daemon has given its kernel the way back.
    fn wait_kernel(&self) -> Result<()> {
        let name = self.place.namespace.name().to_owned();
        let listed = wait_for("the way back in the kernel", LIMIT, || {
            pause(Duration::from_millis(50))?;
            let args = ["-n", &name, "route", "show", CLIENTS];
            let text = process::run_ok(process::command("ip", &args), "", LIST)?;
            Ok(text.contains("via 10.9.0.1").then_some(()))
        });
        listed.with_context(|| format!("{}\n--\n{}", self.margay.log_tail(), self.peer.log_tail()))
    }

    /// Announces the prefix, and waits until margay forwards to it.
    pub(crate) fn announce(&mut self) -> Result<()> {
        self.peer.announce(&Announcement::new(PREFIX, &[]))?;
        let shown = wait_for("the route", LIMIT, || {
            pause(Duration::from_millis(20))?;
            let routes = self.margay.show("routes")?;
            let mut routes = routes.as_array().into_iter().flatten();
            let found =
                routes.any(|route| route["prefix"] == PREFIX && route["target"] == "forward");
            Ok(found.then_some(()))
        });
        shown.with_context(|| self.margay.log_tail())
    }

    pub(crate) fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(SERVER.parse().unwrap(), port)
    }
}

/// GoBGP leaves the kernel alone.
fn writes_kernel(daemon: Daemon) -> bool {
    daemon != Daemon::Gobgpd
}

fn margay_spec(scope: &Scope, spec: &Spec) -> Result<DaemonSpec> {
    Ok(DaemonSpec {
        uplinks: vec!["left0".to_owned(), "right0".to_owned()],
        bgp: true,
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge", &store(scope, spec)?, scope)
    })
}

fn store(scope: &Scope, spec: &Spec) -> Result<Store> {
    let store = Store::create(&scope.directory().join("store"))?;
    store.put_node_of("edge", net("10.9.0.1/24"), net("fd09::1/64"), 65001)?;
    store.put_advertised(&[net(CLIENTS)])?;
    let mut peer = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPPeer",
        "metadata": { "name": "far" },
        "spec": { "node": "edge", "peerIP": "10.9.0.2", "asNumber": 65002 },
    });
    if spec.options.bfd.is_some() {
        peer["metadata"]["annotations"] = json!({ "margay.io/bfd": "interval=100ms,multiplier=3" });
    }
    if spec.options.bfd == Some(Hops::Several) {
        peer["spec"]["peerIP"] = json!("10.9.9.2");
        peer["spec"]["reachableBy"] = json!("10.9.0.2");
    }
    write_yaml(&store.directory().join("bgppeer-far.yaml"), &peer)?;
    Ok(store)
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn join(
    left: &Namespace,
    (left_device, left_address): (&str, &str),
    right: &Namespace,
    (right_device, right_address): (&str, &str),
) -> Result<()> {
    let end = |namespace, device, address| LinkEnd {
        namespace,
        device,
        mac: None,
        addresses: vec![net(address)],
    };
    let left = end(left, left_device, left_address);
    namespace::connect(LINK, &left, &end(right, right_device, right_address))
}
