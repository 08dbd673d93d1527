//! What two OPENs agree on.

use std::net::Ipv4Addr;

use super::*;
use crate::wire::capability::{AddPath, GracefulRestart, NextHopFamily, RestartFamily};

fn open(asn: u32, id: u8, capabilities: &[Capability]) -> Open {
    let capabilities = [&[Capability::FourOctetAs(asn)], capabilities].concat();
    Open { asn, hold_time_s: 90, router_id: Ipv4Addr::new(10, 0, 0, id), capabilities }
}

fn family(family: Family) -> Capability {
    Capability::family(family)
}

#[test]
fn plain_speakers_agree_on_the_default() {
    let agreed = negotiate(&open(1, 1, &[]), &open(2, 2, &[]), 2);
    assert_eq!(agreed, Ok(Negotiated::default()));
}

#[test]
fn another_as_than_the_configured_is_refused() {
    let refused = negotiate(&open(1, 1, &[]), &open(2, 2, &[]), 3);
    assert_eq!(refused, Err(Notification::new(2, 2)));
}

/// RFC 6286 section 2.2.
#[test]
fn our_identifier_in_our_as_is_refused_and_in_another_is_not() {
    let refused = negotiate(&open(1, 7, &[]), &open(1, 7, &[]), 1);
    assert_eq!(refused, Err(Notification::new(2, 3)));
    assert!(negotiate(&open(1, 7, &[]), &open(2, 7, &[]), 2).is_ok());
    assert!(negotiate(&open(1, 7, &[]), &open(1, 8, &[]), 1).unwrap().ibgp);
}

/// RFC 5492 section 5.
#[test]
fn no_common_family_names_those_that_we_need() {
    let ours = open(1, 1, &[family(Family::Ipv6Unicast)]);
    let refused = negotiate(&ours, &open(2, 2, &[]), 2);
    assert_eq!(refused, Err(Notification::with_data(2, 7, &[1, 4, 0, 2, 0, 1])));
}

#[test]
fn families_are_those_of_both() {
    let ours = open(1, 1, &Family::ALL.map(family));
    let theirs = open(2, 2, &[family(Family::Ipv6Unicast), Capability::Multiprotocol(25, 70)]);
    let agreed = negotiate(&ours, &theirs, 2).unwrap();
    assert_eq!(agreed.families, FamilySet::EMPTY.with(Family::Ipv6Unicast));
}

#[test]
fn a_two_octet_peer_is_one_without_the_capability() {
    let theirs = Open { capabilities: vec![], ..open(2, 2, &[]) };
    assert!(!negotiate(&open(1, 1, &[]), &theirs, 2).unwrap().asn4);
}

/// RFC 7911 section 4: one side sends what the other reads.
#[test]
fn add_path_goes_where_one_sends_and_the_other_reads() {
    let with =
        |receive, send| Capability::AddPath(vec![AddPath { afi: 1, safi: 1, receive, send }]);
    let v4 = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    for ours in 0..4 {
        for theirs in 0..4 {
            let side = |bits| with(bits & 1 != 0, bits & 2 != 0);
            let agreed =
                negotiate(&open(1, 1, &[side(ours)]), &open(2, 2, &[side(theirs)]), 2).unwrap();
            let set = |wanted| if wanted { v4 } else { FamilySet::EMPTY };
            assert_eq!(agreed.add_path_rx, set(ours & 1 != 0 && theirs & 2 != 0));
            assert_eq!(agreed.add_path_tx, set(ours & 2 != 0 && theirs & 1 != 0));
        }
    }
}

/// Rule 12: the limit for receiving is what we have said, that for sending what both have said.
#[test]
fn rule_12_receive_limit_is_what_we_advertised() {
    let plain = || open(1, 1, &[]);
    let extended = || open(2, 2, &[Capability::ExtendedMessage]);
    let limits = |ours: Open, theirs: Open| {
        let agreed = negotiate(&ours, &theirs, theirs.asn).unwrap();
        (agreed.max_rx, agreed.max_tx)
    };
    assert_eq!(limits(plain(), extended()), (4096, 4096));
    assert_eq!(limits(extended(), plain()), (65_535, 4096));
    assert_eq!(limits(extended(), open(3, 3, &[Capability::ExtendedMessage])), (65_535, 65_535));
}

#[test]
fn enhanced_refresh_needs_refresh() {
    let all = [Capability::RouteRefresh, Capability::EnhancedRouteRefresh];
    let agreed = negotiate(&open(1, 1, &all), &open(2, 2, &all), 2).unwrap();
    assert!(agreed.route_refresh && agreed.enhanced_refresh);
    let agreed = negotiate(&open(1, 1, &all), &open(2, 2, &all[1..]), 2).unwrap();
    assert!(!agreed.route_refresh && !agreed.enhanced_refresh);
}

#[test]
fn ipv6_next_hops_need_both() {
    let entry = NextHopFamily { afi: 1, safi: 1, next_hop_afi: 2 };
    let known = [Capability::ExtendedNextHop(vec![entry])];
    let agreed = negotiate(&open(1, 1, &known), &open(2, 2, &known), 2).unwrap();
    assert!(agreed.extended_next_hop);
    let agreed = negotiate(&open(1, 1, &known), &open(2, 2, &[]), 2).unwrap();
    assert!(!agreed.extended_next_hop);
}

#[test]
fn restart_is_what_the_peer_says_about_agreed_families() {
    let entry = |afi, forwarding| RestartFamily { afi, safi: 1, forwarding };
    let restart = |notification, families| {
        let restarted = true;
        Capability::GracefulRestart(GracefulRestart {
            restarted,
            notification,
            time_s: 120,
            families,
        })
    };
    let theirs = [
        family(Family::Ipv4Unicast),
        restart(true, vec![entry(1, true), entry(2, true), entry(9, true)]),
    ];
    let ours = [restart(false, vec![])];
    let agreed = negotiate(&open(1, 1, &ours), &open(2, 2, &theirs), 2).unwrap();
    let v4 = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    let expected = PeerRestart {
        restarted: true,
        notification: false,
        time_s: 120,
        families: v4,
        forwarding: v4,
    };
    assert_eq!(agreed.restart, Some(expected));
    let agreed = negotiate(&open(1, 1, &[]), &open(2, 2, &theirs), 2).unwrap();
    assert_eq!(agreed.restart, None);
}
