//! One test for each rule that routers have broken, and for each clause that a comment cites.

use super::*;

pub(super) fn rib_with(peers: &[(u8, u32, bool)]) -> (Rib, Vec<PeerId>) {
    let mut rib = Rib::new(options());
    let ids: Vec<PeerId> = peers
        .iter()
        .map(|(number, asn, client)| rib.add_peer(peer_options(*number, *asn, *client)).unwrap())
        .collect();
    for ((number, asn, _), id) in peers.iter().zip(&ids) {
        up(&mut rib, *id, *number, *asn, FamilySet::EMPTY);
    }
    (rib, ids)
}

#[test]
fn rfc_4456_section_8_a_route_that_comes_back_is_refused_and_its_old_path_goes() {
    let (mut rib, ids) = rib_with(&[(1, OUR_AS, true), (2, OUR_AS, true)]);
    let good = attributes(&[], [192, 0, 2, 1], Some(100));
    let looped = Attributes { originator_id: Some(ROUTER_ID), ..good.clone() };
    let reflected = Attributes { cluster_list: vec![ROUTER_ID], ..good.clone() };
    for bad in [looped, reflected] {
        announce(&mut rib, ids[0], &good, &[net(1)], &agreed(OUR_AS));
        settle(&mut rib);
        let mut far = Far::default();
        far.read(&mut rib, ids[1], &agreed(OUR_AS));
        announce(&mut rib, ids[0], &bad, &[net(1)], &agreed(OUR_AS));
        settle(&mut rib);
        far.read(&mut rib, ids[1], &agreed(OUR_AS));
        assert!(far.heard.is_empty());
        withdraw(&mut rib, ids[0], &[net(1)], &agreed(OUR_AS));
    }
}

#[test]
fn rfc_1997_well_known_communities_keep_routes_at_home() {
    let (mut rib, ids) = rib_with(&[(1, OUR_AS, true), (2, OUR_AS, true), (3, 65001, false)]);
    let with = |community: u32| Attributes {
        communities: vec![Community(community)],
        ..attributes(&[], [192, 0, 2, 1], Some(100))
    };
    announce(&mut rib, ids[0], &with(0xffff_ff01), &[net(1)], &agreed(OUR_AS));
    announce(&mut rib, ids[0], &with(0xffff_ff02), &[net(2)], &agreed(OUR_AS));
    settle(&mut rib);
    let (mut internal, mut external) = (Far::default(), Far::default());
    internal.read(&mut rib, ids[1], &agreed(OUR_AS));
    external.read(&mut rib, ids[2], &agreed(65001));
    assert_eq!(internal.heard.keys().copied().collect::<Vec<_>>(), [net(1).into()]);
    assert!(external.heard.is_empty());
}

#[test]
fn a_hundred_peers_of_one_kind_are_one_group_and_hear_nothing_of_themselves() {
    let peers: Vec<(u8, u32, bool)> = (1..=100).map(|number| (number, 65001, false)).collect();
    let (mut rib, ids) = rib_with(&peers);
    for (at, id) in ids.iter().enumerate() {
        let one = attributes(&[65001], [10, 0, 0, at as u8 + 1], None);
        announce(&mut rib, *id, &one, &[net(at as u32)], &agreed(65001));
    }
    settle(&mut rib);
    assert_eq!((rib.counts().groups, rib.counts().members), (1, 100));
    for (at, id) in ids.iter().enumerate() {
        let mut far = Far::default();
        far.read(&mut rib, *id, &agreed(65001));
        assert_eq!(far.heard.len(), 99);
        assert!(!far.heard.contains_key(&net(at as u32).into()));
    }
}

#[test]
fn rule_4_end_of_rib_never_overtakes_routes() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false)]);
    let one = attributes(&[65001], [192, 0, 2, 1], None);
    let nets: Vec<Ipv4Net> = (0..3000).map(net).collect();
    announce(&mut rib, ids[0], &one, &nets, &agreed(65001));
    let late = rib.add_peer(peer_options(2, 65002, false)).unwrap();
    up(&mut rib, late, 2, 65002, FamilySet::EMPTY);
    let mut far = Far::default();
    while rib.work(100) {
        let mut out = Vec::new();
        rib.fill(late, 500, &mut out);
        far.take(&out, &agreed(65001));
        assert!(!far.end_of_rib || far.heard.len() == 3000);
    }
    far.read(&mut rib, late, &agreed(65001));
    assert!(far.end_of_rib && far.heard.len() == 3000);
}

#[test]
fn rule_8_a_peer_that_reads_nothing_neither_holds_up_others_nor_fills_memory() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false), (3, 65002, false)]);
    let nets: Vec<Ipv4Net> = (0..2000).map(net).collect();
    let (mut reader, mut sleeper) = (Far::default(), Far::default());
    // Enough for several times what the log may hold: 200 rounds of 2000 messages.
    for round in 0..200u32 {
        for (at, part) in nets.chunks(1).enumerate() {
            let one = attributes(&[65001, 100 + round, at as u32 + 1], [192, 0, 2, 1], None);
            announce(&mut rib, ids[0], &one, part, &agreed(65001));
        }
        settle(&mut rib);
        reader.read(&mut rib, ids[1], &agreed(65001));
        assert_eq!(reader.heard.len(), nets.len());
        let kept: usize = rib
            .v4
            .groups
            .iter()
            .flatten()
            .flat_map(|group| &group.log)
            .map(|chunk| chunk.bytes)
            .sum();
        assert!(kept <= 2 * group::LOG_LIMIT, "{kept} bytes are kept");
    }
    sleeper.read(&mut rib, ids[2], &agreed(65001));
    assert_eq!(sleeper.heard, reader.heard);
    assert!(sleeper.updates < reader.updates, "states in between were sent");
}

#[test]
fn rule_9_a_peer_that_goes_down_costs_one_number_and_then_a_sweep() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false)]);
    let nets: Vec<Ipv4Net> = (0..5000).map(net).collect();
    announce(&mut rib, ids[0], &attributes(&[65001], [192, 0, 2, 1], None), &nets, &agreed(65001));
    settle(&mut rib);
    let mut far = Far::default();
    far.read(&mut rib, ids[1], &agreed(65001));
    rib.down(ids[0], FamilySet::EMPTY);
    assert!(rib.v4.for_fib.contains(0), "from before");
    assert_eq!(rib.v4.sweep_left, 5000);
    let mut slices = 0;
    while rib.work(500) {
        slices += 1;
    }
    assert!(slices >= 10, "{slices}");
    far.read(&mut rib, ids[1], &agreed(65001));
    assert!(far.heard.is_empty());
    assert_eq!(rib.peer_counts(ids[0]).received, 0);
}

#[test]
fn a_stale_route_that_comes_again_unchanged_is_told_to_nobody() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false)]);
    let one = attributes(&[65001], [192, 0, 2, 1], None);
    announce(&mut rib, ids[0], &one, &[net(1), net(2)], &agreed(65001));
    settle(&mut rib);
    let mut far = Far::default();
    far.read(&mut rib, ids[1], &agreed(65001));
    let (updates, family) = (far.updates, FamilySet::EMPTY.with(Family::Ipv4Unicast));
    rib.down(ids[0], family);
    settle(&mut rib);
    up(&mut rib, ids[0], 1, 65001, family);
    announce(&mut rib, ids[0], &one, &[net(1)], &agreed(65001));
    settle(&mut rib);
    far.read(&mut rib, ids[1], &agreed(65001));
    assert_eq!((far.updates, far.heard.len()), (updates, 2));
    end_of_rib(&mut rib, ids[0]);
    settle(&mut rib);
    far.read(&mut rib, ids[1], &agreed(65001));
    assert_eq!(far.heard.keys().copied().collect::<Vec<_>>(), [net(1).into()]);
}

#[test]
fn a_new_policy_is_heard_without_a_new_session() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false), (3, 65002, false)]);
    let one = attributes(&[65001], [192, 0, 2, 1], None);
    announce(&mut rib, ids[0], &one, &[net(1), net(2)], &agreed(65001));
    settle(&mut rib);
    let (mut changed, mut same) = (Far::default(), Far::default());
    changed.read(&mut rib, ids[1], &agreed(65001));
    same.read(&mut rib, ids[2], &agreed(65001));
    let silent =
        PeerOptions { export: Arc::new(Policy::reject_all()), ..peer_options(2, 65002, false) };
    rib.set_peer(ids[1], silent);
    settle(&mut rib);
    changed.read(&mut rib, ids[1], &agreed(65001));
    same.read(&mut rib, ids[2], &agreed(65001));
    assert_eq!((changed.heard.len(), same.heard.len()), (0, 2));
    rib.set_peer(ids[1], peer_options(2, 65002, false));
    let deaf =
        PeerOptions { import: Arc::new(Policy::reject_all()), ..peer_options(1, 65001, false) };
    settle(&mut rib);
    changed.read(&mut rib, ids[1], &agreed(65001));
    assert_eq!(changed.heard.len(), 2);
    rib.set_peer(ids[0], deaf);
    settle(&mut rib);
    changed.read(&mut rib, ids[1], &agreed(65001));
    assert_eq!((changed.heard.len(), rib.peer_counts(ids[0]).accepted), (0, 0));
    assert_eq!(rib.peer_counts(ids[0]).received, 2);
}

#[test]
fn rfc_4724_section_4_1_nothing_is_said_before_selection() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false)]);
    rib.hold_selection();
    announce(
        &mut rib,
        ids[0],
        &attributes(&[65001], [192, 0, 2, 1], None),
        &[net(1)],
        &agreed(65001),
    );
    settle(&mut rib);
    let mut far = Far::default();
    far.read(&mut rib, ids[1], &agreed(65001));
    assert!(!far.end_of_rib && far.heard.is_empty() && !rib.has_changes());
    end_of_rib(&mut rib, ids[0]);
    assert!(rib.has_end_of_rib(ids[0]) && !rib.has_end_of_rib(ids[1]));
    rib.end_of_hold();
    settle(&mut rib);
    far.read(&mut rib, ids[1], &agreed(65001));
    assert!(far.end_of_rib && far.heard.len() == 1 && rib.has_changes());
}

#[test]
fn equal_routes_are_used_side_by_side_and_people_are_told_why_one_won() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65001, false), (3, 65001, false)]);
    for (at, id) in ids.iter().enumerate() {
        let longer = if at == 2 { vec![65001, 7] } else { vec![65001] };
        let one = attributes(&longer, [192, 0, 2, at as u8 + 1], None);
        announce(&mut rib, *id, &one, &[net(1)], &agreed(65001));
    }
    let mut changes = Vec::new();
    rib.take_changes(10, &mut changes);
    let hops: Vec<IpAddr> = changes[0].paths.iter().map(|path| path.next_hop).collect();
    assert_eq!(hops, [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
    let views = rib.routes(&RouteFilter::default(), 10);
    let told: Vec<_> = views.iter().map(|one| (one.best, one.used, one.step)).collect();
    let expected = [
        (true, true, Some(Step::RouterId)),
        (false, true, Some(Step::RouterId)),
        (false, false, Some(Step::AsPathLength)),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_walk_over_the_routes_in_steps_sees_what_a_whole_one_does() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false)]);
    let nets: Vec<Ipv4Net> = (0..500).map(net).collect();
    for (id, asn) in ids.iter().zip([65001, 65002]) {
        let one = attributes(&[asn], [192, 0, 2, 1], None);
        announce(&mut rib, *id, &one, &nets, &agreed(asn));
    }
    settle(&mut rib);
    let inside = Some("20.0.0.0/17".parse().unwrap());
    let one = Some(net(7).into());
    let of = |direction| RouteFilter { peer: Some(ids[0]), direction, ..RouteFilter::default() };
    let filters = [
        (RouteFilter::default(), 1000),
        (RouteFilter { prefix: inside, longer: true, ..RouteFilter::default() }, 256),
        (RouteFilter { prefix: one, ..RouteFilter::default() }, 2),
        (RouteFilter { direction: Direction::Best, ..RouteFilter::default() }, 1000),
        (of(Direction::In), 500),
        (of(Direction::Out), 0),
    ];
    for (filter, count) in filters {
        let whole = rib.routes(&filter, 10_000);
        let mut seen = Vec::new();
        let mut walk = RouteWalk::new(filter);
        let mut steps = 1;
        while rib.walk(&mut walk, 7, 10_000, &mut seen) {
            steps += 1;
        }
        assert_eq!((&seen, steps > 70), (&whole, filter.prefix != one), "{filter:?}");
        assert_eq!(whole.len(), count, "{filter:?}");
        let few = rib.routes(&filter, 10);
        assert_eq!(few.len(), count.min(10), "{filter:?}");
    }
}

/// Numbers of generations come again: what is older must be gone by then.
#[test]
fn no_route_rises_from_the_dead_however_often_a_peer_comes_and_goes() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false), (2, 65002, false)]);
    let one = attributes(&[65001], [192, 0, 2, 1], None);
    let other = attributes(&[65002], [192, 0, 2, 2], None);
    announce(&mut rib, ids[1], &other, &[net(2)], &agreed(65002));
    for _ in 0..600 {
        announce(&mut rib, ids[0], &one, &[net(1)], &agreed(65001));
        rib.down(ids[0], FamilySet::EMPTY);
        up(&mut rib, ids[0], 1, 65001, FamilySet::EMPTY);
        let views = rib.routes(&RouteFilter::default(), 10);
        let prefixes: Vec<IpNet> = views.iter().map(|view| view.prefix).collect();
        assert_eq!(prefixes, [net(2).into()]);
        // What a refresh begins and never ends loses nothing, however fast.
        let begin = RouteRefresh { family: Family::Ipv4Unicast, subtype: Subtype::Begin };
        rib.refresh(ids[1], &begin);
        announce(&mut rib, ids[1], &other, &[net(2)], &agreed(65002));
    }
    settle(&mut rib);
    assert_eq!((rib.peer_counts(ids[0]).received, rib.peer_counts(ids[1]).received), (0, 1));
}
