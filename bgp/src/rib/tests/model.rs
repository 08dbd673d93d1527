//! The twin, and the random lives that both go through.

use super::*;
use proptest::prelude::*;

const PEERS: usize = 7;
const NETS: u32 = 24;

/// Peers 0 to 2 external, 3 and 4 internal clients, 5 and 6 internal.
fn asn(peer: usize) -> u32 {
    if peer < 3 { 65001 + peer as u32 % 2 } else { OUR_AS }
}

fn is_client(peer: usize) -> bool {
    matches!(peer, 3 | 4)
}

#[derive(Debug, Clone)]
struct Route {
    attributes: Attributes,
    stale: bool,
}

#[derive(Debug, Default)]
struct Twin {
    up: [bool; PEERS],
    routes: BTreeMap<(IpNet, usize), Route>,
    own: BTreeMap<IpNet, u32>,
    unreachable: std::collections::BTreeSet<IpAddr>,
}

impl Twin {
    fn refused(attributes: &Attributes) -> bool {
        attributes.as_path.asns().any(|asn| asn == OUR_AS)
    }

    /// The best route to a prefix: its peer, or none for our own; and its attributes.
    fn best(&self, net: IpNet) -> Option<(Option<usize>, Attributes)> {
        if let Some(local_pref) = self.own.get(&net) {
            let attributes = Attributes { local_pref: Some(*local_pref), ..Attributes::default() };
            return Some((None, attributes));
        }
        let mut left: Vec<(usize, &Attributes)> = (0..PEERS)
            .filter_map(|peer| Some((peer, &self.routes.get(&(net, peer))?.attributes)))
            .filter(|(_, attributes)| !Twin::refused(attributes))
            .filter(|(_, one)| !self.unreachable.contains(&one.next_hop.unwrap().address()))
            .collect();
        let preference = |one: &Attributes| one.local_pref.unwrap_or(100);
        let highest = left.iter().map(|(_, one)| preference(one)).max()?;
        left.retain(|(_, one)| preference(one) == highest);
        let shortest = left.iter().map(|(_, one)| one.as_path.length()).min()?;
        left.retain(|(_, one)| one.as_path.length() == shortest);
        let med = |one: &Attributes| (one.as_path.neighbor_as().unwrap_or(0), one.med.unwrap_or(0));
        let meds: Vec<(u32, u32)> = left.iter().map(|(_, one)| med(one)).collect();
        left.retain(|(_, one)| {
            let (asn, mine) = med(one);
            meds.iter().all(|(other, value)| *other != asn || *value >= mine)
        });
        if left.iter().any(|(peer, _)| asn(*peer) != OUR_AS) {
            left.retain(|(peer, _)| asn(*peer) != OUR_AS);
        }
        // Router IDs and addresses are in the order of the peers.
        let (peer, attributes) = left.first()?;
        Some((Some(*peer), (*attributes).clone()))
    }

    fn heard_by(&self, peer: usize) -> BTreeMap<IpNet, Attributes> {
        let nets: std::collections::BTreeSet<IpNet> =
            self.routes.keys().map(|(net, _)| *net).chain(self.own.keys().copied()).collect();
        let told = nets.into_iter().filter_map(|net| {
            let (from, mut attributes) = self.best(net)?;
            let internal = from.is_some_and(|from| asn(from) == OUR_AS);
            let reflects = from.is_some_and(is_client) || is_client(peer);
            if from == Some(peer) || asn(peer) == OUR_AS && internal && !reflects {
                return None;
            }
            if asn(peer) != OUR_AS {
                attributes.as_path.prepend(OUR_AS, 1);
                attributes.local_pref = None;
                attributes.med = None;
                attributes.next_hop = Some(NextHop::V4(ROUTER_ID));
            } else {
                attributes.local_pref = Some(attributes.local_pref.unwrap_or(100));
                attributes.next_hop.get_or_insert(NextHop::V4(ROUTER_ID));
                if let (true, Some(from)) = (internal, from) {
                    attributes.originator_id = Some([10, 0, 0, from as u8 + 1].into());
                    attributes.cluster_list = vec![ROUTER_ID];
                }
            }
            Some((net, attributes))
        });
        told.collect()
    }
}

#[derive(Debug, Clone)]
enum Event {
    Announce { peer: usize, first: u32, count: u32, path: Vec<u32>, pref: u8, med: u8, hop: u8 },
    Withdraw { peer: usize, first: u32, count: u32 },
    Up(usize),
    Down(usize),
    Restart(usize),
    EndOfRib(usize),
    Refresh(usize),
    Own { net: u32, local_pref: Option<u32> },
    Hop { hop: u8, reachable: bool },
    Read(usize),
    Work(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let path =
        proptest::collection::vec(prop_oneof![Just(65001), Just(65002), Just(3), 4u32..6], 0..3);
    let announce = (0..PEERS, 0..NETS, 1u32..8, path, 0u8..3, 0u8..3, 1u8..4).prop_map(
        |(peer, first, count, path, pref, med, hop)| Event::Announce {
            peer,
            first,
            count,
            path,
            pref,
            med,
            hop,
        },
    );
    prop_oneof![
        6 => announce,
        3 => (0..PEERS, 0..NETS, 1u32..8)
            .prop_map(|(peer, first, count)| Event::Withdraw { peer, first, count }),
        2 => (0..PEERS).prop_map(Event::Up),
        1 => (0..PEERS).prop_map(Event::Down),
        1 => (0..PEERS).prop_map(Event::Restart),
        1 => (0..PEERS).prop_map(Event::EndOfRib),
        1 => (0..PEERS).prop_map(Event::Refresh),
        1 => (0..NETS, proptest::option::of(50u32..60))
            .prop_map(|(net, local_pref)| Event::Own { net, local_pref }),
        1 => (1u8..4, any::<bool>()).prop_map(|(hop, reachable)| Event::Hop { hop, reachable }),
        2 => (0..PEERS).prop_map(Event::Read),
        2 => (1usize..60).prop_map(Event::Work),
    ]
}

struct Both {
    rib: Rib,
    twin: Twin,
    ids: Vec<PeerId>,
    far: Vec<Far>,
}

fn hop(number: u8) -> [u8; 4] {
    [192, 0, 2, number]
}

impl Both {
    fn new() -> Both {
        let mut rib = Rib::new(RibOptions { track_next_hops: true, ..options() });
        let ids = (0..PEERS).map(|peer| {
            rib.add_peer(peer_options(peer as u8 + 1, asn(peer), is_client(peer))).unwrap()
        });
        let ids = ids.collect();
        let far = (0..PEERS).map(|_| Far::default()).collect();
        Both { rib, twin: Twin::default(), ids, far }
    }

    fn nets(first: u32, count: u32) -> Vec<Ipv4Net> {
        (first..(first + count).min(NETS)).map(net).collect()
    }

    fn step(&mut self, event: Event) {
        let Both { rib, twin, ids, far } = self;
        match event {
            Event::Announce { peer, first, count, path, pref, med, hop: number } => {
                let internal = asn(peer) == OUR_AS;
                let path = if internal { path } else { [vec![asn(peer)], path].concat() };
                let one = Attributes {
                    med: (med > 0).then_some(u32::from(med)),
                    ..attributes(&path, hop(number), internal.then_some(99 + u32::from(pref)))
                };
                self.announce(peer, &one, &Both::nets(first, count));
            }
            Event::Withdraw { peer, first, count } => {
                if twin.up[peer] {
                    let nets = Both::nets(first, count);
                    withdraw(rib, ids[peer], &nets, &agreed(asn(peer)));
                    nets.iter().for_each(|net| drop(twin.routes.remove(&((*net).into(), peer))));
                }
            }
            Event::Up(peer) => self.up(peer),
            Event::Down(peer) => {
                rib.down(ids[peer], FamilySet::EMPTY);
                if std::mem::take(&mut twin.up[peer]) {
                    twin.routes.retain(|(_, of), _| *of != peer);
                }
                far[peer] = Far::default();
            }
            Event::Restart(peer) => {
                rib.down(ids[peer], FamilySet::EMPTY.with(Family::Ipv4Unicast));
                if std::mem::take(&mut twin.up[peer]) {
                    twin.routes.retain(|(_, of), route| *of != peer || !route.stale);
                    let all = twin.routes.iter_mut().filter(|((_, of), _)| *of == peer);
                    all.for_each(|(_, route)| route.stale = true);
                }
                far[peer] = Far::default();
            }
            Event::EndOfRib(peer) => {
                if twin.up[peer] {
                    end_of_rib(rib, ids[peer]);
                    twin.routes.retain(|(_, of), route| *of != peer || !route.stale);
                }
            }
            Event::Refresh(peer) => {
                if twin.up[peer] {
                    let family = Family::Ipv4Unicast;
                    let request = RouteRefresh { family, subtype: Subtype::Request };
                    rib.refresh(ids[peer], &request);
                }
            }
            Event::Own { net: number, local_pref } => self.own(net(number).into(), local_pref),
            Event::Hop { hop: number, reachable } => {
                let address = IpAddr::from(hop(number));
                if reachable {
                    twin.unreachable.remove(&address);
                } else {
                    twin.unreachable.insert(address);
                }
                rib.set_next_hop(address, reachable.then_some(5));
            }
            Event::Read(peer) => {
                if twin.up[peer] {
                    far[peer].read(rib, ids[peer], &agreed(asn(peer)));
                }
            }
            Event::Work(budget) => drop(rib.work(budget)),
        }
        self.answer();
    }

    fn announce(&mut self, peer: usize, one: &Attributes, nets: &[Ipv4Net]) {
        if !self.twin.up[peer] {
            return;
        }
        announce(&mut self.rib, self.ids[peer], one, nets, &agreed(asn(peer)));
        for net in nets {
            let route = Route { attributes: one.clone(), stale: false };
            self.twin.routes.insert(((*net).into(), peer), route);
        }
    }

    fn own(&mut self, prefix: IpNet, local_pref: Option<u32>) {
        let route = |local_pref| OwnRoute { local_pref, ..OwnRoute::default() };
        self.rib.originate(prefix, local_pref.map(route));
        match local_pref {
            Some(local_pref) => drop(self.twin.own.insert(prefix, local_pref)),
            None => drop(self.twin.own.remove(&prefix)),
        }
    }

    fn up(&mut self, peer: usize) {
        if std::mem::replace(&mut self.twin.up[peer], true) {
            return;
        }
        let stale = FamilySet::EMPTY.with(Family::Ipv4Unicast);
        up(&mut self.rib, self.ids[peer], peer as u8 + 1, asn(peer), stale);
        self.far[peer] = Far::default();
    }

    fn answer(&mut self) {
        let mut requests = Vec::new();
        self.rib.take_next_hop_requests(&mut requests);
        for (address, wanted) in requests {
            let reachable = !self.twin.unreachable.contains(&address);
            if wanted {
                self.rib.set_next_hop(address, reachable.then_some(5));
            }
        }
    }

    fn compare(&mut self) {
        settle(&mut self.rib);
        for peer in 0..PEERS {
            if !self.twin.up[peer] {
                continue;
            }
            self.far[peer].read(&mut self.rib, self.ids[peer], &agreed(asn(peer)));
            let (heard, expected) = (&self.far[peer].heard, self.twin.heard_by(peer));
            let mut nets = heard.keys().chain(expected.keys());
            if let Some(net) = nets.find(|net| heard.get(net) != expected.get(net)) {
                let (heard, expected) = (heard.get(net), expected.get(net));
                panic!("peer {peer}, {net}: heard {heard:?}, not {expected:?}");
            }
            assert!(self.far[peer].end_of_rib, "peer {peer} waits for End-of-RIB");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_peer_hears_what_a_naive_model_says(
        events in proptest::collection::vec(event(), 1..250), every in 5usize..60,
    ) {
        let mut both = Both::new();
        (0..PEERS).for_each(|peer| both.up(peer));
        for (at, event) in events.into_iter().enumerate() {
            both.step(event);
            if at % every == 0 {
                both.compare();
            }
        }
        both.compare();
        let mut changes = Vec::new();
        both.rib.take_changes(usize::MAX >> 1, &mut changes);
        for peer in 0..PEERS {
            both.step(Event::Down(peer));
            both.twin.routes.retain(|(_, of), _| *of != peer);
            both.rib.remove_peer(both.ids[peer]);
        }
        for net in 0..NETS {
            both.step(Event::Own { net, local_pref: None });
        }
        settle(&mut both.rib);
        both.rib.take_changes(usize::MAX >> 1, &mut changes);
        settle(&mut both.rib);
        let counts = both.rib.counts();
        prop_assert_eq!(counts.prefixes, [0, 0]);
        prop_assert_eq!(counts.attribute_sets, 0, "sets that nobody has");
    }
}
