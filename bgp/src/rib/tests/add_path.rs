//! RFC 7911 as far as we send several paths: a test for each clause, and for each of the RIB's own
//! rules where several paths could break it.

use super::adj_out::MAX_PATHS;
use super::rules::rib_with;
use super::*;

/// A RIB with plain peers from number 1 on, and behind them those with ADD-PATH.
fn rib_of(plain: &[(u8, u32, bool)], several: &[(u8, u32, bool)]) -> (Rib, Vec<PeerId>) {
    let (mut rib, mut ids) = rib_with(plain);
    for (number, asn, client) in several {
        let id = rib.add_peer(peer_options(*number, *asn, *client)).unwrap();
        up_as(&mut rib, id, *number, (*asn, agreed_paths(*asn)), FamilySet::EMPTY);
        ids.push(id);
    }
    (rib, ids)
}

/// Reads until nothing is left, with a log that may be full: then each waits for the other.
fn read_all(rib: &mut Rib, far: &mut Far, id: PeerId, agreed: &Negotiated) {
    loop {
        let has_work = rib.work(37);
        far.read(rib, id, agreed);
        if !has_work && !rib.work(37) && !rib.has_output(id) {
            return;
        }
    }
}

/// Attributes of some hundred bytes, to fill the log.
fn long(path: &[u32]) -> Attributes {
    attributes(&[path, &[7; 100]].concat(), [192, 0, 2, 1], None)
}

/// What a plain peer with a number announces.
fn of_peer(number: u8, asn: u32) -> Attributes {
    attributes(&[asn], [192, 0, 2, number], None)
}

/// The first AS behind ours of each path that was heard, by identifier.
fn sources(far: &Far, net: Ipv4Net) -> BTreeMap<u32, u32> {
    let paths = far.paths.iter().filter(|((of, _), _)| *of == net.into());
    paths.map(|((_, id), one)| (*id, one.as_path.asns().nth(1).unwrap())).collect()
}

#[test]
fn rfc_7911_section_3_path_identifiers_are_of_our_own_making() {
    let (mut rib, ids) = rib_of(&[(1, 65001, false)], &[(2, 65002, false), (3, 65003, false)]);
    announce(&mut rib, ids[0], &of_peer(1, 65001), &[net(1)], &agreed(65001));
    for id in [7, 70_000] {
        let one = attributes(&[65002, id], [192, 0, 2, 2], None);
        announce_path(&mut rib, ids[1], (&one, id), &[net(1)], &agreed_paths(65002));
    }
    settle(&mut rib);
    let mut far = Far::default();
    far.read(&mut rib, ids[2], &agreed_paths(65003));
    assert_eq!(far.paths.len(), 3);
    assert!(far.paths.keys().all(|(_, id)| *id <= 3), "{:?}", far.paths.keys());
    let filter =
        RouteFilter { peer: Some(ids[2]), direction: Direction::Out, ..Default::default() };
    let views = rib.routes(&filter, 10);
    let shown: Vec<u32> = views.iter().map(|view| view.path_id).collect();
    assert_eq!(shown, far.paths.keys().map(|(_, id)| *id).collect::<Vec<_>>());
}

#[test]
fn rfc_7911_section_5_without_the_capability_there_is_one_path() {
    let plain = [(1, 65001, false), (2, 65002, false), (3, 65003, false)];
    let (mut rib, ids) = rib_of(&plain, &[(4, 65004, false)]);
    for (at, asn) in [65001, 65002].into_iter().enumerate() {
        announce(&mut rib, ids[at], &of_peer(at as u8 + 1, asn), &[net(1)], &agreed(asn));
    }
    settle(&mut rib);
    assert_eq!(rib.counts().groups, 2);
    let (mut one, mut both) = (Far::default(), Far::default());
    one.read(&mut rib, ids[2], &agreed(65003));
    both.read(&mut rib, ids[3], &agreed_paths(65004));
    assert_eq!((one.heard.len(), both.paths.len()), (1, 2));
    assert!(one.end_of_rib && both.end_of_rib);
}

#[test]
fn rfc_7911_section_5_the_same_identifier_again_replaces_and_an_unknown_one_is_ignored() {
    let (mut rib, ids) = rib_of(&[(1, 65001, false)], &[(2, 65002, false)]);
    let path = |last: u32| attributes(&[65002, last], [192, 0, 2, 2], None);
    for (id, last) in [(1, 5), (2, 6), (1, 7)] {
        announce_path(&mut rib, ids[1], (&path(last), id), &[net(1)], &agreed_paths(65002));
    }
    withdraw_path(&mut rib, ids[1], 9, &[net(1)], &agreed_paths(65002));
    let lasts = |rib: &Rib| {
        let views = rib.routes(&RouteFilter::default(), 10);
        let mut lasts: Vec<u32> =
            views.iter().filter_map(|view| view.attributes.as_path.asns().nth(1)).collect();
        lasts.sort_unstable();
        lasts
    };
    assert_eq!(lasts(&rib), [6, 7]);
    withdraw_path(&mut rib, ids[1], 2, &[net(1)], &agreed_paths(65002));
    assert_eq!(lasts(&rib), [7]);
}

/// Also the bound on paths.
#[test]
fn rfc_7911_section_5_the_best_route_is_among_those_sent() {
    let count = MAX_PATHS as u8 + 6;
    let plain: Vec<(u8, u32, bool)> =
        (1..=count).map(|number| (number, 64_600 + u32::from(number), false)).collect();
    let (mut rib, ids) = rib_of(&plain, &[(250, 65250, false)]);
    let far_id = *ids.last().unwrap();
    let mut far = Far::default();
    // The last one has the shortest path; before it the far end has heard of enough others.
    for (number, asn, _) in &plain {
        let path = if *number == count { vec![*asn] } else { vec![*asn, 9] };
        let one = attributes(&path, [192, 0, 2, *number], None);
        announce(&mut rib, ids[usize::from(*number) - 1], &one, &[net(1)], &agreed(*asn));
        settle(&mut rib);
        far.read(&mut rib, far_id, &agreed_paths(65250));
    }
    let heard = sources(&far, net(1));
    assert_eq!(heard.len(), MAX_PATHS);
    assert!(heard.values().any(|asn| *asn == 64_600 + u32::from(count)), "the best one");
    // Which ones are left out does not depend on who came first.
    let late = rib.add_peer(peer_options(251, 65251, false)).unwrap();
    up_as(&mut rib, late, 251, (65251, agreed_paths(65251)), FamilySet::EMPTY);
    let mut order: Vec<u32> = heard.into_values().collect();
    order.sort_unstable();
    let lowest = 64_601..64_600 + MAX_PATHS as u32;
    assert_eq!(order, lowest.chain([64_600 + u32::from(count)]).collect::<Vec<_>>());
}

#[test]
fn a_path_keeps_its_identifier_whatever_others_do() {
    let plain: Vec<(u8, u32, bool)> =
        (1..=4).map(|number| (number, 65000 + u32::from(number), false)).collect();
    let (mut rib, ids) = rib_of(&plain, &[(9, 65009, false)]);
    let mut far = Far::default();
    let say = |rib: &mut Rib, far: &mut Far, at: usize, there: Option<u32>| {
        let asn = plain[at].1;
        match there {
            Some(med) => {
                let one = Attributes { med: Some(med), ..of_peer(at as u8 + 1, asn) };
                announce(rib, ids[at], &one, &[net(1)], &agreed(asn));
            }
            None => withdraw(rib, ids[at], &[net(1)], &agreed(asn)),
        }
        settle(rib);
        far.read(rib, ids[4], &agreed_paths(65009));
        sources(far, net(1))
    };
    for at in 0..3 {
        say(&mut rib, &mut far, at, Some(1));
    }
    let before = sources(&far, net(1));
    let second = *before.iter().find(|(_, asn)| **asn == 65002).unwrap().0;
    let left = say(&mut rib, &mut far, 0, None);
    assert_eq!((left.len(), left[&second]), (2, 65002));
    for at in [3, 0, 2] {
        assert_eq!(say(&mut rib, &mut far, at, Some(5))[&second], 65002);
    }
    assert_eq!(say(&mut rib, &mut far, 1, Some(6))[&second], 65002, "with other attributes");
    assert_eq!(say(&mut rib, &mut far, 2, None)[&second], 65002);
}

/// A path that takes the place of another one leaves no gap at the receiver.
#[test]
fn a_replaced_path_is_one_message_and_no_withdrawal() {
    let plain = [(1, 65001, false), (2, 65002, false)];
    let (mut rib, ids) = rib_of(&plain, &[(3, 65003, false)]);
    let mut far = Far::default();
    announce(&mut rib, ids[0], &of_peer(1, 65001), &[net(1)], &agreed(65001));
    settle(&mut rib);
    far.read(&mut rib, ids[2], &agreed_paths(65003));
    let updates = far.updates;
    withdraw(&mut rib, ids[0], &[net(1)], &agreed(65001));
    announce(&mut rib, ids[1], &of_peer(2, 65002), &[net(1)], &agreed(65002));
    settle(&mut rib);
    far.read(&mut rib, ids[2], &agreed_paths(65003));
    assert_eq!((far.updates, sources(&far, net(1))), (updates + 1, [(1, 65002)].into()));
}

#[test]
fn nobody_hears_of_paths_of_its_own_and_one_group_serves_all() {
    let several: Vec<(u8, u32, bool)> =
        (1..=10).map(|number| (number, 65000 + u32::from(number), false)).collect();
    let (mut rib, ids) = rib_of(&[], &several);
    for ((number, asn, _), id) in several.iter().zip(&ids) {
        for path_id in 0..2 {
            let one = attributes(&[*asn, path_id + 1], [192, 0, 2, *number], None);
            announce_path(&mut rib, *id, (&one, path_id), &[net(1)], &agreed_paths(*asn));
        }
    }
    settle(&mut rib);
    assert_eq!((rib.counts().groups, rib.counts().members), (1, 10));
    for ((_, asn, _), id) in several.iter().zip(&ids) {
        let mut far = Far::default();
        far.read(&mut rib, *id, &agreed_paths(*asn));
        let heard = sources(&far, net(1));
        assert_eq!(heard.len(), 18);
        assert!(heard.values().all(|source| source != asn));
    }
}

/// RFC 4456 section 6, path by path.
#[test]
fn reflection_is_decided_path_by_path() {
    let (mut rib, ids) = rib_of(
        &[(1, OUR_AS, true), (2, OUR_AS, false), (3, 65003, false)],
        &[(4, OUR_AS, false), (5, OUR_AS, true)],
    );
    for at in 0..3u8 {
        let (path, pref) = if at == 2 { (vec![65003], None) } else { (vec![], Some(100)) };
        let asn = if at == 2 { 65003 } else { OUR_AS };
        let one = attributes(&path, [192, 0, 2, at + 1], pref);
        announce(&mut rib, ids[usize::from(at)], &one, &[net(1)], &agreed(asn));
    }
    settle(&mut rib);
    let hops = |rib: &mut Rib, id: PeerId| {
        let mut far = Far::default();
        far.read(rib, id, &agreed_paths(OUR_AS));
        let hops = far.paths.values().map(|one| one.next_hop.unwrap().to_string());
        hops.collect::<std::collections::BTreeSet<String>>()
    };
    let named = |last: &[u8]| last.iter().map(|last| format!("192.0.2.{last}")).collect();
    assert_eq!(hops(&mut rib, ids[3]), named(&[1, 3]), "no client: nothing of other non-clients");
    assert_eq!(hops(&mut rib, ids[4]), named(&[1, 2, 3]));
}

/// RFC 2918 and RFC 7313.
#[test]
fn a_refresh_brings_all_paths_with_their_identifiers_again() {
    let plain = [(1, 65001, false), (2, 65002, false)];
    let (mut rib, ids) = rib_of(&plain, &[(3, 65003, false)]);
    for (at, asn) in [65001, 65002].into_iter().enumerate() {
        let nets: Vec<Ipv4Net> = (0..1500).map(net).collect();
        announce(&mut rib, ids[at], &of_peer(at as u8 + 1, asn), &nets, &agreed(asn));
    }
    settle(&mut rib);
    let mut far = Far::default();
    far.read(&mut rib, ids[2], &agreed_paths(65003));
    let before = far.paths.clone();
    let wrong = (net(3).into(), 77);
    far.paths.insert(wrong, of_peer(1, 65001));
    let request = RouteRefresh { family: Family::Ipv4Unicast, subtype: Subtype::Request };
    rib.refresh(ids[2], &request);
    far.read(&mut rib, ids[2], &agreed_paths(65003));
    assert_eq!((before.len(), &far.paths), (3000, &before));
}

/// RFC 7911 section 5: identifiers may be others after a restart, and forwarding goes on.
#[test]
fn rfc_7911_section_5_other_identifiers_after_a_restart_do_no_harm() {
    let (mut rib, ids) = rib_of(&[(1, 65001, false)], &[(2, 65002, false)]);
    let families = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    let path = |hop: u8| attributes(&[65002], [192, 0, 2, hop], None);
    for id in 1..=2u32 {
        let one = path(id as u8);
        announce_path(&mut rib, ids[1], (&one, id), &[net(1)], &agreed_paths(65002));
    }
    settle(&mut rib);
    let mut changes = Vec::new();
    rib.take_changes(10, &mut changes);
    rib.down(ids[1], families);
    settle(&mut rib);
    up_as(&mut rib, ids[1], 2, (65002, agreed_paths(65002)), families);
    for id in 11..=12u32 {
        let one = path(id as u8 - 10);
        announce_path(&mut rib, ids[1], (&one, id), &[net(1)], &agreed_paths(65002));
        settle(&mut rib);
        rib.take_changes(10, &mut changes);
    }
    end_of_rib(&mut rib, ids[1]);
    settle(&mut rib);
    rib.take_changes(10, &mut changes);
    for change in &changes {
        let hops: Vec<String> = change.paths.iter().map(|one| one.next_hop.to_string()).collect();
        assert_eq!(hops, ["192.0.2.1", "192.0.2.2"], "each hop once, at any time");
    }
    assert_eq!(rib.peer_counts(ids[1]).received, 2);
}

/// Rule 8 with several paths: what was missed is made up for by identifiers too.
#[test]
fn a_member_far_behind_hears_the_newest_paths_and_loses_those_that_are_gone() {
    let plain = [(1, 65001, false), (2, 65002, false)];
    let (mut rib, ids) = rib_of(&plain, &[(3, 65003, false), (4, 65003, false)]);
    let nets: Vec<Ipv4Net> = (0..500).map(net).collect();
    let (mut reader, mut sleeper) = (Far::default(), Far::default());
    let agreed_far = agreed_paths(65003);
    for round in 0..30u32 {
        for (source, asn) in [65001u32, 65002].into_iter().enumerate() {
            for (at, part) in nets.chunks(1).enumerate() {
                let one = long(&[asn, 100 + round, at as u32 + 1]);
                announce(&mut rib, ids[source], &one, part, &agreed(asn));
            }
        }
        read_all(&mut rib, &mut reader, ids[2], &agreed_far);
        if round == 0 {
            sleeper.read(&mut rib, ids[3], &agreed_far);
        }
    }
    withdraw(&mut rib, ids[0], &nets[..200], &agreed(65001));
    withdraw(&mut rib, ids[1], &nets[100..300], &agreed(65002));
    read_all(&mut rib, &mut reader, ids[2], &agreed_far);
    sleeper.read(&mut rib, ids[3], &agreed_far);
    assert_eq!(reader.paths.len(), 600);
    assert_eq!(sleeper.paths, reader.paths);
    assert!(sleeper.updates < reader.updates / 2, "states in between were sent");
}

/// A peer that changes its group while it is owed a withdrawal gets it from the new one.
#[test]
fn what_a_member_is_owed_goes_with_it_to_another_group() {
    for several in [false, true] {
        let agreed_far = if several { agreed_paths(65003) } else { agreed(65003) };
        let (mut rib, ids) =
            rib_with(&[(1, 65001, false), (2, 65002, false), (3, 65003, false), (4, 65003, false)]);
        for at in [2, 3] {
            rib.down(ids[at], FamilySet::EMPTY);
            up_as(&mut rib, ids[at], at as u8 + 1, (65003, agreed_far), FamilySet::EMPTY);
        }
        let nets: Vec<Ipv4Net> = (0..500).map(net).collect();
        let (mut reader, mut sleeper) = (Far::default(), Far::default());
        for round in 0..60u32 {
            // What is withdrawn after the first round does not come again.
            let some = if round == 0 { &nets[..] } else { &nets[200..] };
            for (at, part) in some.chunks(1).enumerate() {
                let one = long(&[65001, 100 + round, at as u32 + 1]);
                announce(&mut rib, ids[0], &one, part, &agreed(65001));
            }
            if round == 0 {
                announce(&mut rib, ids[1], &of_peer(2, 65002), &nets[..10], &agreed(65002));
                settle(&mut rib);
                sleeper.read(&mut rib, ids[3], &agreed_far);
                assert!(sleeper.end_of_rib);
                withdraw(&mut rib, ids[0], &nets[..200], &agreed(65001));
                withdraw(&mut rib, ids[1], &nets[..10], &agreed(65002));
            }
            read_all(&mut rib, &mut reader, ids[2], &agreed_far);
        }
        let export = Arc::new(Policy::new(Vec::new(), true));
        rib.set_peer(ids[3], PeerOptions { export, ..peer_options(4, 65003, false) });
        let options = peer_options(4, 65003, false);
        rib.set_peer(ids[3], PeerOptions { next_hop: NextHopMode::Own, ..options });
        settle(&mut rib);
        sleeper.read(&mut rib, ids[3], &agreed_far);
        assert_eq!(
            (sleeper.heard.len(), sleeper.paths.len()),
            if several { (0, 300) } else { (300, 0) }
        );
        assert_eq!((sleeper.heard, sleeper.paths), (reader.heard, reader.paths));
    }
}

/// A peer that changes its group before its first routes have all been told gets an End-of-RIB.
#[test]
fn rule_4_a_member_that_changes_its_group_hears_the_end_of_rib_behind_all_routes() {
    let (mut rib, ids) = rib_with(&[(1, 65001, false)]);
    let nets: Vec<Ipv4Net> = (0..3000).map(net).collect();
    announce(&mut rib, ids[0], &of_peer(1, 65001), &nets, &agreed(65001));
    let late = rib.add_peer(peer_options(2, 65002, false)).unwrap();
    up(&mut rib, late, 2, 65002, FamilySet::EMPTY);
    let mut far = Far::default();
    rib.work(1000);
    let options = peer_options(2, 65002, false);
    rib.set_peer(late, PeerOptions { next_hop: NextHopMode::Own, ..options });
    let request = RouteRefresh { family: Family::Ipv4Unicast, subtype: Subtype::Request };
    rib.refresh(late, &request);
    while rib.work(100) {
        let mut out = Vec::new();
        rib.fill(late, 500, &mut out);
        far.take(&out, &agreed(65002));
        assert!(!far.end_of_rib || far.heard.len() == 3000);
    }
    far.read(&mut rib, late, &agreed(65002));
    assert!(far.end_of_rib && far.heard.len() == 3000);
}
