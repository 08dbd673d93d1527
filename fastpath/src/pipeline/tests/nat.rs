//! Translation as a stage of the pipeline: routes by the new destination, errors that find back,
//! fragments that waited, and flows of other workers.

use super::*;
use crate::flow::{Limits, Timeouts};
use crate::nat::{Class, Filtering, PortRange, Ranges, Rules};

/// Pods are in 10.1.0.0/24, and look like 192.0.2.1.
fn router(workers: u16) -> Router {
    let mut router = Router::new();
    let ranges = Ranges::new(&[
        ("10.1.0.0/24".parse().unwrap(), Class(Class::POOL.0 | Class::INSIDE.0)),
        ("10.1.0.1/32".parse().unwrap(), Class::LOCAL),
        ("192.0.2.1/32".parse().unwrap(), Class::OUTSIDE),
    ]);
    router.tables.nat = Some(Arc::new(Rules {
        generation: 1,
        ranges,
        outside_v4: vec!["192.0.2.1".parse().unwrap()],
        outside_v6: Vec::new(),
        ports: PortRange { first: 61_000, last: 65_535 },
        taken: Vec::new(),
        exclude_nodes: false,
        filtering: Filtering::default(),
        limits: Limits { sessions: 1000, per_source: 0 },
        timeouts: Timeouts::default(),
        workers,
        services: None,
    }));
    router
}

fn addresses(bytes: &[u8]) -> (String, String) {
    let view = ipv4::View::new(&bytes[14..]).unwrap();
    (view.src().to_string(), view.dst().to_string())
}

/// A datagram from port 53 to the pod's outside port, which is the one that it sends from.
fn answer(ttl: u8) -> Vec<u8> {
    let mut bytes = v4("172.16.0.9", "192.0.2.1", ttl, b"answer");
    bytes[34..38].copy_from_slice(&[0, 53, 0x30, 0x39]);
    bytes
}

fn fragment_of(whole: &[u8], from: usize, to: usize, more: bool) -> Vec<u8> {
    let mut bytes = whole[..34].to_vec();
    bytes.extend(&whole[34 + from..34 + to]);
    let flag = if more { ipv4::MORE_FRAGMENTS } else { 0 };
    ipv4::set_fragment(&mut bytes[14..], (20 + to - from) as u16, 7, (from / 8) as u16 | flag);
    bytes
}

#[test]
fn a_flow_is_translated_both_ways_and_routed_by_what_it_is_then() {
    let mut router = router(1);
    let question = v4("10.1.0.5", "172.16.0.9", 64, b"question");
    let other = v4("10.1.0.5", "10.1.0.1", 64, b"to the host");
    let sent = router.feed(PODS, &[question.clone(), other, question]);
    assert_eq!(sent.len(), 3);
    for (port, bytes) in sent {
        let expected =
            if port == UPLINK { ("192.0.2.1", "172.16.0.9") } else { ("10.1.0.5", "10.1.0.1") };
        assert_eq!(addresses(&bytes), (expected.0.to_owned(), expected.1.to_owned()));
    }
    let back = router.feed(UPLINK, &[answer(64)]);
    assert_eq!(back[0].0, PODS);
    assert_eq!(addresses(&back[0].1), ("172.16.0.9".to_owned(), "10.1.0.5".to_owned()));
    assert_eq!((router.drops(), router.pipeline.tracker().unwrap().report().sessions), (0, 1));
    router.assert_no_frame_missing();
}

#[test]
fn rfc_5508_req_8_the_routers_own_errors_go_to_the_pod_and_quote_what_it_sent() {
    let mut router = router(1);
    let late = v4("10.1.0.5", "172.16.0.9", 1, b"late");
    let (kind, code, _, quoted) = icmp_v4(&router.feed(PODS, std::slice::from_ref(&late)));
    assert_eq!((kind, code), (11, 0));
    assert_eq!(quoted, late[14..]);
    // RFC 4787 REQ-13: too big for the uplink, and not to be fragmented.
    let mut big = v4("10.1.0.5", "172.16.0.9", 64, &[7; 1450]);
    set_df(&mut big);
    let (kind, code, word, quoted) = icmp_v4(&router.feed(PODS, std::slice::from_ref(&big)));
    assert_eq!((kind, code, word), (3, 4, 1400));
    assert_eq!(quoted[..40], big[14..54]);
    router.assert_no_frame_missing();
}

#[test]
fn fragments_that_come_before_the_first_leave_after_it() {
    let mut router = router(1);
    let whole = v4("10.1.0.5", "172.16.0.9", 64, &[9; 2000]);
    let first = fragment_of(&whole, 0, 800, true);
    let middle = fragment_of(&whole, 800, 1600, true);
    let last = fragment_of(&whole, 1600, 2008, false);
    assert!(router.feed(PODS, &[last]).is_empty());
    let sent = router.feed(PODS, &[middle, first]);
    assert_eq!(sent.len(), 3);
    for (port, bytes) in &sent {
        assert_eq!((*port, addresses(bytes).0.as_str()), (UPLINK, "192.0.2.1"));
    }
    assert_eq!(router.drops(), 0);
    // Without their first one they end, counted.
    let lost = fragment_of(&v4("10.1.0.5", "172.16.0.8", 64, &[9; 900]), 800, 908, false);
    assert!(router.feed(PODS, &[lost]).is_empty());
    router.now_ns += 30_000_000_000;
    router.with(|pipeline, view| pipeline.tick(view));
    assert_eq!(router.dropped(DropReason::FragmentTimeout), 1);
    router.assert_no_frame_missing();
}

#[test]
fn a_flow_of_another_worker_is_handed_over_and_carried_on_there() {
    let (mut one, mut two) = (router(2), router(2));
    two.pipeline = Pipeline::new(FramePool::new(two.arena.clone()), Arc::default()).of_worker(1);
    // Port 0x3039 is in pair 0x181c, which is the first worker's; the next pair is the second's.
    let own = v4("10.1.0.5", "172.16.0.9", 64, b"own");
    let mut others = own.clone();
    others[34..36].copy_from_slice(&0x303bu16.to_be_bytes());
    assert_eq!(one.feed(PODS, &[own, others.clone()]).len(), 1);
    let handed = std::mem::take(&mut one.pipeline.handed);
    assert_eq!(handed.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [1]);
    handed.into_iter().for_each(|(_, packet)| packet.free(&mut one.pipeline.pool));
    let mut packet = two.packet(&others, PODS);
    crate::parse::parse_any(&mut packet, MARGAY, &mut two.pipeline.pool).unwrap();
    two.with(|pipeline, view| pipeline.process_handed(view, &mut vec![packet]));
    let sent = two.sent();
    assert_eq!((sent[0].0, addresses(&sent[0].1).0.as_str()), (UPLINK, "192.0.2.1"));
    assert_eq!(sent[0].1[34..36], 0x303bu16.to_be_bytes());
    two.assert_no_frame_missing();
}

#[test]
fn without_rules_flows_end_and_nothing_is_held() {
    let mut router = router(1);
    let whole = v4("10.1.0.5", "172.16.0.9", 64, &[9; 2000]);
    router.feed(
        PODS,
        &[v4("10.1.0.5", "172.16.0.9", 64, b"x"), fragment_of(&whole, 800, 1600, true)],
    );
    router.tables.nat = None;
    router.with(|pipeline, view| pipeline.tick(view));
    assert!(router.pipeline.tracker().is_none());
    let sent = router.feed(PODS, &[v4("10.1.0.5", "172.16.0.9", 64, b"x")]);
    assert_eq!(addresses(&sent[0].1).0, "10.1.0.5");
    router.assert_no_frame_missing();
}
