//! A long random life: a hub whose whole configuration is rewritten a thousand times, with peers
//! on loopback that announce, withdraw, die and come back. Whenever all is quiet, what the hub
//! uses and what each peer has heard must be what an obvious model makes of the last configuration
//! alone. `MARGAY_SEED` repeats a life.

use super::model::{Heard, Model, NETS, PEERS, Peering, Wants, address, asn, prefix};
use super::*;
use std::collections::BTreeSet;

const REWRITES: usize = 1000;
/// Rewrites between two looks.
const BURST: usize = 20;

/// SplitMix64: numbers for a life.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True so many times in a hundred.
    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

struct World {
    dice: Dice,
    network: u8,
    wants: Wants,
    hub: Node,
    /// Those that live.
    peers: Vec<Option<Node>>,
    kills: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let network = network();
        let hub = Node::start(Node::config(address(network, 0), asn(0), 1), Options::default());
        let peers = (0..PEERS).map(|_| None).collect();
        let wants = Wants::default();
        World { dice: Dice(seed), network, wants, hub, peers, kills: 0 }
    }

    /// Routes of a speaker, each with what tells it from others.
    fn own_routes(&mut self, number: usize) -> BTreeMap<IpNet, OwnRoute> {
        let mut routes = BTreeMap::new();
        for net in 0..NETS {
            // The hub has few of its own: they hide all others.
            if !self.dice.percent(if number == 0 { 10 } else { 40 }) {
                continue;
            }
            let communities = match self.dice.below(4) {
                0 => vec![Community(net << 16 | number as u32)],
                _ => Vec::new(),
            };
            let local_pref = 99 + self.dice.below(3) as u32;
            let route = OwnRoute { local_pref, communities, ..OwnRoute::default() };
            routes.insert(prefix(net), route);
        }
        routes
    }

    /// Another configuration of the hub. `hard`: also what only new sessions can follow.
    fn rewrite(&mut self, hard: bool) {
        for at in 0..PEERS {
            let mut peering = self.wants.peers[at];
            peering.import = self.dice.pick(&model::KINDS);
            peering.export = self.dice.pick(&model::KINDS);
            let modes = [NextHopMode::Auto, NextHopMode::Own, NextHopMode::Keep];
            peering.next_hop = self.dice.pick(&modes);
            peering.client = asn(at + 1) == asn(0) && self.dice.percent(50);
            if hard && self.dice.percent(5) {
                peering.present = self.dice.percent(80);
                peering.add_path = self.dice.percent(50);
                peering.hold_s = 90 + self.dice.below(3) as u16;
                peering.passive = self.dice.percent(20);
            }
            self.wants.peers[at] = peering;
        }
        self.wants.cluster = Ipv4Addr::new(1, 0, 0, self.dice.below(2) as u8);
        self.wants.max_ecmp = 1 + self.dice.below(4) as usize;
        if self.dice.percent(30) {
            self.wants.own = Arc::new(self.own_routes(0));
        }
        self.apply();
    }

    fn apply(&mut self) {
        let config = &mut self.hub.config;
        config.instance.cluster_id = Some(self.wants.cluster);
        config.instance.max_ecmp = self.wants.max_ecmp;
        config.own_routes = Arc::clone(&self.wants.own);
        config.peers.clear();
        for (at, peering) in self.wants.peers.iter().enumerate() {
            if peering.present {
                let other = Node::config(address(self.network, at + 1), asn(at + 1), 0);
                let peer = of_hub(config, &other, peering, self.wants.cluster);
                config.peers.insert(format!("peer{at}"), peer);
            }
        }
        self.hub.apply();
    }

    /// A peer comes to life, or says other things.
    fn stir(&mut self, at: usize) {
        self.wants.routes[at] = Arc::new(self.own_routes(at + 1));
        let own_routes = Arc::clone(&self.wants.routes[at]);
        let node = self.peers[at].get_or_insert_with(|| {
            let number = at as u8 + 2;
            let here = Node::config(address(self.network, at + 1), asn(at + 1), number);
            let hub = Node::config(address(self.network, 0), asn(0), 1);
            let mut config = here.clone();
            config.peers.insert("peer".to_owned(), peer_config(&here, &hub));
            Node::start(config, Options::default())
        });
        node.config.own_routes = own_routes;
        node.apply();
    }

    /// A peer goes: with a word, or without one, and then its routes stay for a while.
    fn kill(&mut self, at: usize) {
        if let Some(node) = self.peers[at].take() {
            self.kills += 1;
            let restart = self.dice.percent(50);
            let farewell = StopReason::Shutdown(String::new());
            node.handle.stop(if restart { StopReason::Restart } else { farewell });
        }
    }

    fn pump(&mut self) {
        self.hub.pump();
        self.peers.iter_mut().flatten().for_each(Node::pump);
    }

    fn pause(&mut self, milliseconds: u64) {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until {
            self.pump();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is wrong still; nothing once all is as the model says.
    fn fault(&mut self) -> Option<String> {
        self.pump();
        let model = Model { wants: &self.wants, network: self.network };
        let status = self.hub.handle.status();
        let shown: BTreeSet<&String> = status.peers.keys().collect();
        let names: BTreeSet<&String> = self.hub.config.peers.keys().collect();
        if shown != names {
            return Some(format!("peers {shown:?}, not {names:?}"));
        }
        let down = status.peers.iter().find(|(_, peer)| peer.state != State::Established);
        if let Some((name, peer)) = down {
            return Some(format!("{name} is {:?}: {:?}", peer.state, peer.last_error));
        }
        let wanted = model.fib();
        let mut nets = wanted.keys().chain(self.hub.fib.keys());
        if let Some(net) = nets.find(|net| wanted.get(net) != self.hub.fib.get(net)) {
            let (has, wanted) = (self.hub.fib.get(net), wanted.get(net));
            return Some(format!("the hub sends {net} to {has:?}, not {wanted:?}"));
        }
        (0..PEERS).find_map(|at| {
            let heard = heard(self.peers[at].as_ref()?)?;
            let wanted = model.heard_by(at);
            let mut nets = heard.keys().chain(wanted.keys());
            let net = nets.find(|net| heard.get(net) != wanted.get(net))?;
            let (heard, wanted) = (heard.get(net), wanted.get(net));
            Some(format!("peer{at} has heard of {net} {heard:#?}, not {wanted:#?}"))
        })
    }

    #[track_caller]
    fn settle(&mut self, life: &str) {
        let until = Instant::now() + PATIENCE;
        let mut good = 0;
        while good < 2 {
            let fault = self.fault();
            good = if fault.is_none() { good + 1 } else { 0 };
            if Instant::now() > until {
                panic!("{life}: {}", fault.unwrap_or_default());
            }
            self.pause(5);
        }
    }
}

/// How the hub sees a peer.
fn of_hub(hub: &BgpConfig, other: &BgpConfig, peering: &Peering, cluster: Ipv4Addr) -> PeerConfig {
    let mut peer = peer_config(hub, other);
    peer.import = peering.import.policy();
    peer.export = peering.export.policy();
    peer.next_hop = peering.next_hop;
    peer.client_of = peering.client.then_some(cluster);
    peer.session.hold_time_s = peering.hold_s;
    peer.session.passive = peering.passive;
    if !peering.add_path {
        peer.session.add_path_tx = FamilySet::EMPTY;
    }
    peer
}

/// All that a peer has been told.
fn heard(node: &Node) -> Option<Heard> {
    let query = RouteQuery {
        prefix: None,
        longer: true,
        peer: Some("peer".to_owned()),
        direction: Direction::In,
        most: 10_000,
    };
    let views = futures::executor::block_on(node.handle.query_routes(query))?;
    let mut heard = Heard::new();
    for view in views {
        heard.entry(view.prefix).or_default().push(view.attributes);
    }
    heard.values_mut().for_each(|paths| model::sort(paths));
    Some(heard)
}

#[test]
fn a_thousand_rewrites_end_where_a_naive_model_does() {
    let seed = std::env::var("MARGAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut world = World::new(seed);
    (0..PEERS).for_each(|at| world.stir(at));
    for burst in 0..REWRITES / BURST {
        // Some also end sessions, which takes them a few seconds to come back from.
        let hard = burst % 6 == 0;
        for _ in 0..BURST {
            world.rewrite(hard);
            let at = world.dice.below(PEERS as u64) as usize;
            if hard && world.dice.percent(15) {
                world.kill(at);
            } else if world.dice.percent(30) {
                world.stir(at);
            }
            let pause = world.dice.below(8);
            world.pause(pause);
        }
        let dead: Vec<usize> = (0..PEERS).filter(|at| world.peers[*at].is_none()).collect();
        dead.into_iter().for_each(|at| world.stir(at));
        world.settle(&format!("MARGAY_SEED={seed}, burst {burst}"));
    }
    assert!(world.kills > 8, "{} peers were killed", world.kills);
    // Nothing stays of all that.
    world.wants.peers.iter_mut().for_each(|peering| peering.present = false);
    world.wants.own = Arc::default();
    world.apply();
    eventually("the hub is empty", || {
        world.pump();
        let rib = world.hub.handle.status().rib;
        rib.prefixes == [0, 0] && (rib.attribute_sets, rib.groups) == (0, 0)
    });
    assert!(world.hub.fib.is_empty());
}
