//! Traffic control, as a stage of the pipeline.

use super::*;
use crate::limit::{EndpointLimits, Limits, Rate, Rates, Waiting, Wanted, WayLimits, dscp::Dscp};
use crate::nat::{Class, Ranges};
use crate::segment::tests::as_super;
use margay_acl::Direction;

/// Bytes of a frame of [`v4`] without payload.
const FRAME: u64 = 42;
const SECOND_NS: u64 = 1_000_000_000;

fn bits(per_second: u64, burst: u64) -> WayLimits {
    let bits = Some(Rate { per_second, burst });
    WayLimits { rates: Rates { bits, ..Rates::default() }, shaped: false }
}

fn packets(per_second: u64, burst: u64) -> WayLimits {
    let packets = Some(Rate { per_second, burst });
    WayLimits { rates: Rates { packets, ..Rates::default() }, shaped: false }
}

/// Limits of what is behind a port.
fn limit(router: &mut Router, port: PortId, ingress: WayLimits, egress: WayLimits) {
    let wanted = Wanted { ways: [ingress, egress], dscp: None };
    let limits = Arc::new(EndpointLimits::new(wanted, 1, 1));
    router.tables.limits = Some(Arc::new(Limits::new(&[(port, limits)], Ranges::default())));
}

fn frame() -> Vec<u8> {
    v4(SRC, "172.16.0.9", 64, b"")
}

fn account(router: &Router, port: PortId, direction: Direction) -> crate::limit::Totals {
    let limits = router.tables.limits_of(port).unwrap();
    limits.way(direction).account.totals(router.now_ns)
}

#[test]
fn an_endpoint_sends_no_more_than_it_may() {
    let mut router = Router::new();
    let none = WayLimits::default();
    limit(&mut router, PODS, none, bits(FRAME * 8, 2 * FRAME * 8));
    let free = v6("fd00::5", "fd01::1", 64, b"");
    let sent = router.feed(PODS, &[frame(), vec![0; 20], frame(), frame(), free]);
    // The last one is as long, and too late as well.
    assert_eq!((sent.len(), router.dropped(DropReason::LimitBandwidth)), (2, 2));
    router.now_ns += SECOND_NS;
    assert_eq!(router.feed(PODS, &[frame(), frame()]).len(), 1);
    let totals = account(&router, PODS, Direction::Egress);
    assert_eq!((totals.packets, totals.bytes, totals.dropped), (3, 3 * FRAME, [3, 0, 0, 0]));
    // Others send as they like.
    let others = vec![v4("172.16.0.1", "10.1.0.5", 64, b""); 64];
    assert_eq!(router.feed(UPLINK, &others).len(), 64);
    limit(&mut router, PODS, none, packets(1, 3));
    router.now_ns += SECOND_NS;
    assert_eq!(router.feed(PODS, &vec![frame(); 64]).len(), 3);
    assert_eq!(router.dropped(DropReason::LimitPacketRate), 61);
    router.assert_no_frame_missing();
}

/// The second port sends to the first one, whose endpoint is limited.
#[test]
fn an_endpoint_receives_no_more_than_it_may() {
    let mut router = Router::new();
    limit(&mut router, PODS, packets(1, 2), WayLimits::default());
    let mut burst: Vec<Packet> =
        (0..4).map(|_| router.packet(&v4("172.16.0.1", SRC, 64, b""), UPLINK)).collect();
    router.with(|pipeline, view| pipeline.limit_to(view, PODS, &mut burst));
    assert_eq!((burst.len(), router.dropped(DropReason::LimitPacketRate)), (2, 2));
    let pool = &mut router.pipeline.pool;
    burst.drain(..).for_each(|packet| packet.free(pool));
    assert_eq!(router.feed(PODS, &vec![frame(); 8]).len(), 8);
    assert_eq!(account(&router, PODS, Direction::Ingress).packets, 2);
    router.assert_no_frame_missing();
}

/// UDP of three parts: 42 bytes of headers before each.
fn super_packet(router: &mut Router, from: PortId) -> Packet {
    let mut packet = router.packet(&v4(SRC, "172.16.0.9", 64, &[7; 300]), from);
    as_super(&mut packet, 34, Gso::Udp, 100);
    packet
}

#[test]
fn of_a_super_packet_as_many_parts_pass_as_may() {
    let mut router = Router::new();
    for (limits, passed) in [
        (packets(1, 2), 2),
        (packets(1, 3), 1),
        (bits(1, 3 * 142 * 8), 1),
        (bits(1, 3 * 142 * 8 - 1), 2),
    ] {
        limit(&mut router, PODS, limits, limits);
        router.pipeline.limits = Default::default();
        let mut burst = vec![super_packet(&mut router, PODS)];
        router.with(|pipeline, view| pipeline.process(view, PODS, &mut burst));
        assert_eq!(router.sent().len(), passed, "{limits:?}");
        assert_eq!(account(&router, PODS, Direction::Egress).bytes % 142, 0);
        let mut burst = vec![super_packet(&mut router, UPLINK)];
        (burst[0].l3, burst[0].l4) = (14, 34);
        router.with(|pipeline, view| pipeline.limit_to(view, PODS, &mut burst));
        assert_eq!(burst.len(), passed, "{limits:?}");
        let pool = &mut router.pipeline.pool;
        burst.drain(..).for_each(|packet| packet.free(pool));
    }
    router.assert_no_frame_missing();
}

#[test]
fn what_is_shaped_waits_in_order_and_no_longer_than_it_should() {
    let mut router = Router::new();
    // A frame each 10 ms: two wait 10 and 20 ms, and no more may.
    let shaped = WayLimits { shaped: true, ..bits(FRAME * 800, FRAME * 8) };
    limit(&mut router, PODS, shaped, shaped);
    let frames: Vec<_> = (0..5).map(|at| v4(SRC, "172.16.0.9", 64 - at, b"")).collect();
    assert_eq!(router.feed(PODS, &frames).len(), 1);
    assert_eq!((router.pipeline.waiting(), router.dropped(DropReason::LimitQueue)), (2, 2));
    let totals = account(&router, PODS, Direction::Egress);
    assert_eq!((totals.delayed, totals.waiting, totals.dropped), (2, 2, [0, 0, 0, 2]));
    let mut burst: Vec<Packet> = (0..2).map(|_| router.packet(&frame(), UPLINK)).collect();
    burst.iter_mut().for_each(|packet| (packet.l3, packet.l4) = (14, 34));
    router.with(|pipeline, view| pipeline.limit_to(view, PODS, &mut burst));
    assert_eq!((burst.len(), router.pipeline.waiting()), (1, 3));
    let pool = &mut router.pipeline.pool;
    burst.drain(..).for_each(|packet| packet.free(pool));
    router.now_ns += 9_900_000;
    assert!(router.with(|pipeline, view| pipeline.release(view)).is_none());
    router.now_ns += 150_000;
    let mut released = Vec::new();
    while let Some(packet) = router.with(|pipeline, view| pipeline.release(view)) {
        released.push(packet);
    }
    let [Waiting::From(from), Waiting::To(PODS, to)] = <[Waiting; 2]>::try_from(released).unwrap()
    else {
        panic!("one each way");
    };
    to.free(&mut router.pipeline.pool);
    let mut burst = vec![from];
    router.with(|pipeline, view| pipeline.process_handed(view, &mut burst));
    let sent = router.sent();
    assert_eq!((sent.len(), sent[0].1[22]), (1, 62));
    // One that comes just before the other one's time goes behind it.
    router.now_ns += 9_850_000 + 5_000;
    assert_eq!(router.feed(PODS, &frames[..1]).len(), 0);
    assert_eq!(account(&router, PODS, Direction::Egress).waiting, 2);
    router.with(|pipeline, _| pipeline.clear());
    router.assert_no_frame_missing();
}

#[test]
fn what_leaves_the_cluster_is_marked() {
    let mut router = Router::new();
    let wanted = Wanted { dscp: Dscp::new(46), ..Wanted::default() };
    let limits = Arc::new(EndpointLimits::new(wanted, 1, 1));
    let inside = Ranges::new(&[("172.16.1.0/24".parse().unwrap(), Class::POOL)]);
    router.tables.limits = Some(Arc::new(Limits::new(&[(PODS, limits)], inside)));
    let frames = ["172.16.0.9", "172.16.1.9", "172.16.2.9"].map(|dst| v4(SRC, dst, 64, b""));
    let v6 = v6("fd00::5", "fd01::1", 64, b"");
    let sent = router.feed(PODS, &[&frames[..], &[v6]].concat());
    let point = |bytes: &[u8]| (u16::from_be_bytes([bytes[14], bytes[15]]) >> 2) & 0x3ff;
    let points: Vec<u16> = sent.iter().map(|(_, bytes)| point(bytes) & 0x3f).collect();
    assert_eq!(points[..3], [46, 0, 46]);
    assert_eq!(u16::from_be_bytes([sent[3].1[14], sent[3].1[15]]) >> 6 & 0x3f, 46);
    let others = router.feed(UPLINK, &[v4("172.16.0.1", "172.16.0.9", 64, b"")]);
    assert_eq!(point(&others[0].1) & 0x3f, 0);
    router.assert_no_frame_missing();
}
