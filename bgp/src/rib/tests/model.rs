//! Random lives that the RIB and its twin go through.

use super::twin::{Kind, PEERS, Route, Twin, agreed_with, asn, has_add_path, in_order, is_client};
use super::*;
use proptest::prelude::*;

const NETS: u32 = 24;
/// Path identifiers that peers with ADD-PATH use.
const IDS: u32 = 3;

#[derive(Debug, Clone)]
enum Event {
    Announce { peer: usize, id: u32, nets: (u32, u32), path: Vec<u32>, numbers: (u8, u8, u8) },
    Withdraw { peer: usize, id: u32, nets: (u32, u32) },
    Import(usize, Kind),
    Export(usize, Kind),
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
    let nets = || (0..NETS, 1u32..8);
    let numbers = (0u8..3, 0u8..3, 1u8..4);
    let announce =
        (0..PEERS, 0..IDS, nets(), path, numbers).prop_map(|(peer, id, nets, path, numbers)| {
            Event::Announce { peer, id, nets, path, numbers }
        });
    let kind = || {
        prop_oneof![4 => Just(Kind::Accepts), 1 => Just(Kind::Rejects),
        3 => Just(Kind::Changes)]
    };
    prop_oneof![
        6 => announce,
        3 => (0..PEERS, 0..IDS, nets())
            .prop_map(|(peer, id, nets)| Event::Withdraw { peer, id, nets }),
        1 => (0..PEERS, kind()).prop_map(|(peer, kind)| Event::Import(peer, kind)),
        1 => (0..PEERS, kind()).prop_map(|(peer, kind)| Event::Export(peer, kind)),
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

    fn nets((first, count): (u32, u32)) -> Vec<Ipv4Net> {
        (first..(first + count).min(NETS)).map(net).collect()
    }

    fn step(&mut self, event: Event) {
        let Both { rib, twin, ids, far } = self;
        match event {
            Event::Announce { peer, id, nets, path, numbers: (pref, med, number) } => {
                let internal = asn(peer) == OUR_AS;
                let path = if internal { path } else { [vec![asn(peer)], path].concat() };
                let one = Attributes {
                    med: (med > 0).then_some(u32::from(med)),
                    ..attributes(&path, hop(number), internal.then_some(99 + u32::from(pref)))
                };
                self.announce((peer, id), &one, &Both::nets(nets));
            }
            Event::Withdraw { peer, id, nets } => self.withdraw((peer, id), &Both::nets(nets)),
            Event::Import(peer, kind) => {
                twin.import[peer] = kind;
                rib.set_peer(ids[peer], Both::options(twin, peer));
            }
            Event::Export(peer, kind) => {
                twin.export[peer] = kind;
                rib.set_peer(ids[peer], Both::options(twin, peer));
            }
            Event::Up(peer) => self.up(peer),
            Event::Down(peer) => {
                rib.down(ids[peer], FamilySet::EMPTY);
                if std::mem::take(&mut twin.up[peer]) {
                    twin.routes.retain(|(_, of, _), _| *of != peer);
                }
                far[peer] = Far::default();
            }
            Event::Restart(peer) => self.restart(peer),
            Event::EndOfRib(peer) => {
                if twin.up[peer] {
                    end_of_rib(rib, ids[peer]);
                    twin.routes.retain(|(_, of, _), route| *of != peer || !route.stale);
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
                    far[peer].read(rib, ids[peer], &agreed_with(peer));
                }
            }
            Event::Work(budget) => drop(rib.work(budget)),
        }
        self.answer();
    }

    fn options(twin: &Twin, peer: usize) -> PeerOptions {
        PeerOptions {
            import: twin.import[peer].policy(),
            export: twin.export[peer].policy(),
            ..peer_options(peer as u8 + 1, asn(peer), is_client(peer))
        }
    }

    fn announce(&mut self, (peer, id): (usize, u32), one: &Attributes, nets: &[Ipv4Net]) {
        if !self.twin.up[peer] {
            return;
        }
        let id = if has_add_path(peer) { id } else { 0 };
        announce_path(&mut self.rib, self.ids[peer], (one, id), nets, &agreed_with(peer));
        for net in nets {
            let route = Route { attributes: one.clone(), stale: false };
            self.twin.routes.insert(((*net).into(), peer, id), route);
        }
    }

    fn withdraw(&mut self, (peer, id): (usize, u32), nets: &[Ipv4Net]) {
        if !self.twin.up[peer] {
            return;
        }
        let id = if has_add_path(peer) { id } else { 0 };
        withdraw_path(&mut self.rib, self.ids[peer], id, nets, &agreed_with(peer));
        for net in nets {
            self.twin.routes.remove(&((*net).into(), peer, id));
        }
    }

    /// The session goes, and its routes stay for now.
    fn restart(&mut self, peer: usize) {
        let families = FamilySet::EMPTY.with(Family::Ipv4Unicast);
        self.rib.down(self.ids[peer], families);
        if std::mem::take(&mut self.twin.up[peer]) {
            let routes = &mut self.twin.routes;
            routes.retain(|(_, of, _), route| *of != peer || !route.stale);
            let all = routes.iter_mut().filter(|((_, of, _), _)| *of == peer);
            all.for_each(|(_, route)| route.stale = true);
        }
        self.far[peer] = Far::default();
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
        let agreed = (asn(peer), agreed_with(peer));
        up_as(&mut self.rib, self.ids[peer], peer as u8 + 1, agreed, stale);
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
            let far = &mut self.far[peer];
            far.read(&mut self.rib, self.ids[peer], &agreed_with(peer));
            let mut heard: BTreeMap<IpNet, Vec<Attributes>> = BTreeMap::new();
            let plain = far.heard.iter().map(|(net, one)| (*net, one.clone()));
            let paths = far.paths.iter().map(|((net, _), one)| (*net, one.clone()));
            plain.chain(paths).for_each(|(net, one)| heard.entry(net).or_default().push(one));
            heard.values_mut().for_each(|paths| *paths = in_order(std::mem::take(paths)));
            let expected = self.twin.heard_by(peer);
            let mut nets = heard.keys().chain(expected.keys());
            if let Some(net) = nets.find(|net| heard.get(net) != expected.get(net)) {
                let (heard, expected) = (heard.get(net), expected.get(net));
                panic!("peer {peer}, {net}: heard {heard:#?}, not {expected:#?}");
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
            both.twin.routes.retain(|(_, of, _), _| *of != peer);
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
