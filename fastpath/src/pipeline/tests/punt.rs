//! What is punted is held to its allowance, by cause and port.

use super::*;
use crate::limit::Allowance;

const SECOND_NS: u64 = 1_000_000_000;

/// Feeds so many packets by a port, in bursts; how many packets come out.
fn flood(router: &mut Router, from: PortId, frame: &[u8], count: u64) -> u64 {
    let mut sent = 0;
    for at in (0..count).step_by(BURST) {
        let burst = vec![frame.to_vec(); (count - at).min(BURST as u64) as usize];
        sent += router.feed(from, &burst).len() as u64;
    }
    sent
}

/// UDP or TCP from port 12345 to `port` of the host.
fn to_host(kind: u8, port: u16) -> Vec<u8> {
    let mut frame = v4(SRC, "10.1.0.1", 64, &[0; 20]);
    frame[23] = kind;
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    ipv4::fill_checksum(&mut frame[14..]);
    frame
}

#[test]
fn a_flood_at_the_host_leaves_routing_and_other_ports_alone() {
    let mut router = Router::new();
    let Allowance { burst, per_second } = Cause::Host.allowance();
    let udp = to_host(protocol::UDP, 53);
    assert_eq!(flood(&mut router, PODS, &udp, 2 * burst), burst);
    assert_eq!(router.dropped(DropReason::PuntHost), burst);
    for routing in [to_host(protocol::TCP, 179), to_host(protocol::UDP, 3784)] {
        assert_eq!(flood(&mut router, PODS, &routing, 10), 10);
    }
    assert_eq!(flood(&mut router, UPLINK, &udp, 10), 10);
    router.now_ns += SECOND_NS / per_second * 7;
    assert_eq!(flood(&mut router, PODS, &udp, 64), 7);
    let Allowance { burst, .. } = Cause::Routing.allowance();
    let sent = flood(&mut router, PODS, &to_host(protocol::TCP, 179), 2 * burst);
    assert_eq!(sent + 20, burst, "what routing may have is bounded too");
    assert_eq!(router.dropped(DropReason::PuntRouting), burst + 20);
    router.assert_no_frame_missing();
}

#[test]
fn errors_of_one_kind_and_port_leave_those_of_others_alone() {
    let mut router = Router::new();
    let expired = v4(SRC, "172.16.0.9", 1, b"x");
    let mut too_big = v4(SRC, "172.16.0.9", 64, &[0; 1450]);
    set_df(&mut too_big);
    let burst = Cause::TtlExceeded.allowance().burst;
    assert_eq!(flood(&mut router, PODS, &expired, 300), burst);
    assert_eq!(router.dropped(DropReason::IcmpTtlSuppressed), 300 - burst);
    assert_eq!(router.dropped(DropReason::TtlExceeded), 300, "each packet has its own reason");
    assert_eq!(flood(&mut router, PODS, &too_big, 120), burst);
    assert_eq!(router.dropped(DropReason::IcmpTooBigSuppressed), 120 - burst);
    assert_eq!(flood(&mut router, UPLINK, &expired, 5), 5);
    router.assert_no_frame_missing();
}

#[test]
fn a_scan_of_absent_neighbors_leaves_other_ports_theirs() {
    let mut router = Router::new();
    let Allowance { burst, .. } = Cause::Resolve.allowance();
    let scan: Vec<_> = (0..256u32)
        .cycle()
        .take(2 * burst as usize)
        .enumerate()
        .map(|(at, host)| v4(SRC, &format!("192.168.{}.{host}", at / 256 % 2), 64, b"x"))
        .collect();
    // Twice the addresses that may be asked for.
    router.writer.insert("192.168.0.0/16".parse().unwrap(), TargetId(6)).unwrap();
    let addresses = 512;
    for frames in scan.chunks(BURST) {
        assert!(router.feed(PODS, frames).is_empty());
    }
    assert_eq!(router.pipeline.requests.len() as u64, burst);
    let unasked = router.dropped(DropReason::PuntUnresolved);
    assert!(unasked >= addresses - burst, "{unasked}");
    let other = v4("172.16.0.1", "192.168.9.9", 64, b"x");
    assert!(router.feed(UPLINK, &[other]).is_empty());
    assert_eq!(router.pipeline.requests.len() as u64, burst + 1);
    router.with(|pipeline, _| pipeline.clear());
    router.assert_no_frame_missing();
}

#[test]
fn a_storm_of_neighbor_messages_is_answered_up_to_a_rate() {
    let mut router = Router::new();
    let mut arp = ethernet::header(Mac([0xff; 6]), POD, ethernet::ARP).to_vec();
    arp.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(POD.0);
    arp.extend([10, 1, 0, 5, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    let burst = Cause::Neighbor.allowance().burst;
    assert_eq!(flood(&mut router, TAP, &arp, 250), burst);
    assert_eq!(router.dropped(DropReason::PuntNeighbor), 250 - burst);
    router.assert_no_frame_missing();
}

#[test]
fn the_host_is_told_by_which_way_its_packets_have_come() {
    use crate::hand_over;
    let source = |frame: &[u8]| Mac(frame[6..12].try_into().unwrap());
    let mut router = Router::new();
    let udp = to_host(protocol::UDP, 53);
    let by =
        |router: &mut Router, port| source(&router.feed(port, std::slice::from_ref(&udp))[0].1);
    assert_eq!(by(&mut router, UPLINK), hand_over::address(Some("uplink"), false));
    assert_eq!(by(&mut router, PODS), hand_over::JUDGED, "pods' rules have been asked");
    let mut handed = |mark: &dyn Fn(&mut Packet)| {
        let mut packet = router.packet(&udp, UPLINK);
        mark(&mut packet);
        router.with(|pipeline, view| pipeline.deliver(view, packet));
        source(&router.sent()[0].1)
    };
    assert_eq!(handed(&Packet::set_from_tunnel), hand_over::address(None, false));
    let asked = hand_over::address(Some("uplink"), true);
    assert_eq!(handed(&|packet| packet.set_asked(false)), asked);
    assert_eq!(handed(&|packet| packet.set_asked(true)), hand_over::JUDGED);
    assert_eq!(handed(&|packet| packet.in_port = PortId::NONE), hand_over::JUDGED);
    let gone = hand_over::address(Some(""), false);
    assert_eq!(handed(&|packet| packet.in_port = PortId(77)), gone);
    router.assert_no_frame_missing();
}
