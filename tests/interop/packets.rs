//! Real packets through a real daemon: a route that BIRD announces carries TCP, and carries nothing
//! soon after it is withdrawn, or after BFD has found BIRD dead.
//!
//! ```text
//!   client 192.0.2.10 ---- margay 10.9.0.1 ---- BIRD 10.9.0.2, and 203.0.113.1 on its loopback
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use margay::lab::daemon::{Daemon as Margay, DaemonSpec};
use margay::lab::namespace::{self, LinkEnd, LinkSpec, Namespace};
use margay::lab::process::{pause, wait_for};
use margay::lab::scope::Scope;
use margay::lab::store::{Store, write_yaml};
use serde_json::json;

use crate::bird::{Bird, Version};
use crate::network::Daemon;
use crate::place::Place;
use crate::probe::{Asker, Echo};
use crate::speaker::{Announcement, Family, Options, Peer, Speaker};

/// What BIRD announces, and who answers there.
const PREFIX: &str = "203.0.113.0/24";
const SERVER: &str = "203.0.113.1";
/// Longest time from a withdrawal, or a death, to the last answer.
const GONE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(20);
const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };

/// The picture above, running.
struct Path {
    // In the order in which they are to end.
    margay: Margay,
    bird: Bird,
    bird_place: Place,
    client: Namespace,
    _scope: Scope,
}

impl Path {
    fn start() -> Result<Path> {
        let scope = Scope::new()?;
        let (client, router, far) =
            (scope.namespace("client")?, scope.namespace("router")?, scope.namespace("bird")?);
        join(&client, ("eth0", "192.0.2.10/24"), &router, ("left0", "192.0.2.1/24"))?;
        join(&router, ("right0", "10.9.0.1/24"), &far, ("eth0", "10.9.0.2/24"))?;
        client.ip("route add default via 192.0.2.1")?;
        far.ip(&format!("addr add {SERVER}/32 dev lo\nroute add 192.0.2.0/24 via 10.9.0.1"))?;
        // What passes has been forwarded by margay.
        router.sysctl(&[("net/ipv4/ip_forward", "0")])?;

        let mut speaker = Speaker::new(2, 65002);
        let us = Speaker::new(1, 65001);
        speaker.add_neighbor(&us, &Options { bfd: true, ..Options::default() });
        speaker.neighbors.retain(|neighbor| neighbor.address.is_ipv4());
        let place = Place::new(far, scope.directory().join("bird"))?;
        let mut bird = Bird::new(Version::Two, place.clone(), speaker)?;
        bird.start()?;

        let spec = DaemonSpec {
            binary: PathBuf::from(env!("CARGO_BIN_EXE_margay")),
            node: "edge".to_owned(),
            store: store(&scope)?.directory().to_owned(),
            uplinks: vec!["left0".to_owned(), "right0".to_owned()],
            static_routes: Vec::new(),
            bgp: true,
            workers: 1,
            directory: scope.directory(),
            detached: false,
        };
        let mut margay = Margay::start(spec, &router)?;
        margay.wait_ready()?;
        let mut path = Path { margay, bird, bird_place: place, client, _scope: scope };
        let up = wait_for("the session", LIMIT, || {
            pause(Duration::from_millis(50))?;
            Ok(path.bird.established(us.v4.into())?.then_some(()))
        });
        up.with_context(|| format!("{}\n--\n{}", path.margay.log_tail(), path.bird.log_tail()))?;
        Ok(path)
    }

    /// Announces the prefix, and waits until margay forwards to it.
    fn announce(&mut self) -> Result<()> {
        self.bird.announce(&Announcement::new(PREFIX, &[]))?;
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

    fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(SERVER.parse().unwrap(), port)
    }

    /// Runs `end` while the client asks the server, whose answers must end with the route.
    fn check_end(&mut self, end: impl FnOnce(&mut Path) -> Result<()>) -> Result<()> {
        let server = self.server(4001);
        let _echo = Echo::udp(&self.bird_place.namespace, server.ip(), server.port());
        let asker = Asker::udp(&self.client, server);
        pause(Duration::from_secs(1))?;
        let ended = Instant::now();
        end(self)?;
        pause(Duration::from_secs(3))?;
        let answers = asker.finish();
        ensure!(answers.count() > 20, "only {} answers", answers.count());
        let late = answers.first_after(ended + GONE);
        ensure!(late.is_none(), "an answer {:?} after the route's end", late.map(|at| at - ended));
        Ok(())
    }
}

fn store(scope: &Scope) -> Result<Store> {
    let store = Store::create(&scope.directory().join("store"))?;
    store.put_node_of("edge", net("10.9.0.1/24"), net("fd09::1/64"), 65001)?;
    store.put_advertised(&[])?;
    let peer = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPPeer",
        "metadata": {
            "name": "bird",
            "annotations": { "margay.io/bfd": "interval=100ms,multiplier=3" },
        },
        "spec": { "node": "edge", "peerIP": "10.9.0.2", "asNumber": 65002 },
    });
    write_yaml(&store.directory().join("bgppeer-bird.yaml"), &peer)?;
    Ok(store)
}

fn net(text: &str) -> IpNet {
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

#[test]
fn a_learnt_route_carries_tcp_and_ends_with_its_withdrawal() {
    if !crate::alone::can_run(Daemon::Bird2) {
        return;
    }
    let _turn = crate::Turn::take();
    let mut path = Path::start().unwrap();
    path.announce().unwrap();
    let server = path.server(4000);
    {
        let _echo = Echo::tcp(&path.bird_place.namespace, server.ip(), server.port());
        let asker = Asker::tcp(&path.client, server);
        pause(Duration::from_secs(1)).unwrap();
        assert!(asker.finish().count() > 20);
    }
    path.check_end(|path| path.bird.withdraw(net(PREFIX))).unwrap();
}

/// The daemon is halted, not its kernel: nothing but BFD can tell soon that its routes are old.
#[test]
fn a_route_of_a_peer_that_bfd_finds_dead_carries_nothing() {
    if !crate::alone::can_run(Daemon::Bird2) {
        return;
    }
    let _turn = crate::Turn::take();
    let mut path = Path::start().unwrap();
    path.announce().unwrap();
    let bfd = wait_for("BFD", LIMIT, || {
        pause(Duration::from_millis(50))?;
        let sessions = path.bird.ask(Family::V4, "show bfd sessions")?;
        Ok(sessions.lines().any(|line| line.contains(" Up ")).then_some(()))
    });
    bfd.with_context(|| path.margay.log_tail()).unwrap();
    path.check_end(|path| path.bird_place.signal(nix::sys::signal::Signal::SIGSTOP)).unwrap();
}
