use super::*;
use crate::decap;
use crate::wire::ethernet;
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, UdpHeaderSlice};
use proptest::prelude::*;
use std::net::Ipv6Addr;

const LOCAL: Mac = Mac([0x66, 1, 2, 3, 4, 5]);
const REMOTE: Mac = Mac([0x66, 6, 7, 8, 9, 10]);

fn ends(port: u16) -> VxlanEnds {
    VxlanEnds { vni: Vni::new(4096).unwrap(), port, local: LOCAL, remote: REMOTE }
}

fn inner(packet: &[u8], hash: u32) -> Inner {
    Inner::of(packet, packet.len(), hash).unwrap()
}

/// The outer packet, its UDP checksum filled in where there is one.
fn wrap(encap: &Encap, packet: &[u8], hash: u32) -> Vec<u8> {
    let mut bytes = vec![0xee; encap.overhead()];
    assert!(encap.write(&mut bytes, inner(packet, hash)));
    bytes.extend(packet);
    if let Some(at) = encap.udp_to_sum() {
        let field = encap.udp_checksum(&bytes, checksum::sum(&bytes[at..]));
        bytes[at + 6..at + 8].copy_from_slice(&field.to_be_bytes());
    }
    bytes
}

fn v4_packet(payload: &[u8], class: u8) -> Vec<u8> {
    let (src, dst) = ([10, 65, 0, 1].into(), [10, 65, 1, 1].into());
    let mut header = ipv4::header(src, dst, 17, 63, payload.len() as u16);
    header[1] = class;
    ipv4::fill_checksum(&mut header);
    [&header, payload].concat()
}

fn v6_packet(payload: &[u8], class: u8) -> Vec<u8> {
    let address = Ipv6Addr::LOCALHOST;
    let mut header = ipv6::header(address, address, 17, 63, payload.len() as u16);
    header[0] |= class >> 4;
    header[1] |= class << 4;
    [&header, payload].concat()
}

#[test]
fn rfc_2003_3_1_an_ipip_packet_byte_for_byte() {
    let encap = Encap::ipip([172, 30, 0, 1].into(), [172, 30, 0, 2].into());
    let packet = v4_packet(&[1, 2, 3, 4], 0xb8);
    let wanted = [
        &[0x45, 0xb8, 0x00, 0x2c, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0xe1, 0xd6][..],
        &[172, 30, 0, 1, 172, 30, 0, 2],
        &packet,
    ]
    .concat();
    assert_eq!(wrap(&encap, &packet, 7), wanted);
    assert_eq!(encap.overhead(), 20);
}

#[test]
fn rfc_7348_5_a_vxlan_packet_byte_for_byte() {
    let (src, dst) = ([172, 30, 0, 1], [172, 30, 0, 2]);
    let encap = Encap::vxlan(src.into(), dst.into(), ends(4789)).unwrap();
    let packet = v4_packet(&[1, 2, 3, 4], 0);
    let wanted = [
        &[0x45, 0x00, 0x00, 0x4a, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xe2, 0x63][..],
        &[172, 30, 0, 1, 172, 30, 0, 2],
        &[0xd2, 0x34, 0x12, 0xb5, 0x00, 0x36, 0x00, 0x00],
        &[8, 0, 0, 0, 0x00, 0x10, 0x00, 0],
        &[0x66, 6, 7, 8, 9, 10, 0x66, 1, 2, 3, 4, 5, 0x08, 0x00],
        &packet,
    ]
    .concat();
    assert_eq!(wrap(&encap, &packet, 0x1234), wanted);
    assert_eq!((encap.overhead(), encap.udp_to_sum()), (50, None));
}

/// The next packet of another length and family finds nothing of the last one.
#[test]
fn over_ipv6_the_udp_checksum_covers_the_whole_packet() {
    let (src, dst): (IpAddr, IpAddr) = ("fd30::1".parse().unwrap(), "fd30::2".parse().unwrap());
    let encap = Encap::vxlan(src, dst, ends(4789)).unwrap();
    assert_eq!(encap.overhead(), 70);
    for packet in [v6_packet(&[9; 333], 0x2e << 2), v4_packet(&[], 1)] {
        let bytes = wrap(&encap, &packet, 0xabcd_ef01);
        let ip = Ipv6HeaderSlice::from_slice(&bytes).unwrap();
        let udp = UdpHeaderSlice::from_slice(&bytes[40..]).unwrap();
        let sum = udp.to_header().calc_checksum_ipv6(&ip.to_header(), &bytes[48..]).unwrap();
        assert_eq!(udp.checksum(), sum);
        assert_eq!(ip.flow_label().value(), 0xd_ef01);
        assert_eq!((usize::from(ip.payload_length()), ip.hop_limit()), (bytes.len() - 40, 64));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_written() {
    let ipip = Encap::ipip([172, 30, 0, 1].into(), [172, 30, 0, 2].into());
    let v4 = Inner { is_v6: false, traffic_class: 0, len: 100, hash: 0 };
    let refused = |encap: &Encap, room: usize, inner: Inner| {
        let mut bytes = vec![0xee; room];
        let done = encap.write(&mut bytes, inner);
        assert_eq!(bytes.iter().all(|byte| *byte == 0xee), !done);
        !done
    };
    assert!(refused(&ipip, 20, Inner { is_v6: true, ..v4 }), "IPv6 in IPIP");
    assert!(refused(&ipip, 19, v4) && refused(&ipip, 21, v4));
    assert!(refused(&ipip, 20, Inner { len: 65_516, ..v4 }), "longer than an IPv4 packet");
    assert!(!refused(&ipip, 20, Inner { len: 65_515, ..v4 }));
    let (v4_end, v6_end) = (IpAddr::from([172, 30, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST));
    assert!(Encap::vxlan(v4_end, v6_end, ends(1)).is_none(), "ends of two families");
    let wide = Encap::vxlan(v6_end, v6_end, ends(1)).unwrap();
    assert!(refused(&wide, 70, Inner { len: 65_506, ..v4 }));
    assert!(!refused(&wide, 70, Inner { len: 65_505, ..v4 }));
}

#[test]
fn rfc_7348_5_source_ports_are_in_the_dynamic_range_and_spread() {
    let mut seen = std::collections::BTreeSet::new();
    for hash in 0..20_000u32 {
        let port = source_port(hash.wrapping_mul(0x9e37_79b9));
        assert!(port >= 49_152);
        seen.insert(port);
    }
    assert!(seen.len() > 10_000, "{} ports", seen.len());
    assert_eq!(source_port(5), source_port(5), "one flow, one port");
}

#[test]
fn only_ip_has_a_class() {
    assert_eq!(Inner::of(&[0x45], 1, 0), None);
    assert_eq!(Inner::of(&[0x55, 0], 2, 0), None);
    assert_eq!(Inner::of(&[0x6f, 0xb0], 2, 0).unwrap().traffic_class, 0xfb);
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        payload in proptest::collection::vec(any::<u8>(), 0..1500), class: u8, hash: u32,
        port: u16, over_v6: bool, carries_v6: bool,
    ) {
        let (src, dst): (IpAddr, IpAddr) = match over_v6 {
            true => ("fd30::1".parse().unwrap(), "fd30::2".parse().unwrap()),
            false => ([172, 30, 0, 1].into(), [172, 30, 0, 2].into()),
        };
        let encap = Encap::vxlan(src, dst, ends(port)).unwrap();
        let make = if carries_v6 { v6_packet } else { v4_packet };
        let packet = make(&payload, class);
        let bytes = wrap(&encap, &packet, hash);
        let at = match over_v6 {
            true => {
                let outer = ipv6::View::new(&bytes).unwrap();
                prop_assert_eq!((outer.src().into(), outer.dst().into()), (src, dst));
                prop_assert_eq!(outer.traffic_class(), class);
                40
            }
            false => {
                let outer = Ipv4HeaderSlice::from_slice(&bytes).unwrap();
                prop_assert_eq!(outer.header_checksum(), outer.to_header().calc_header_checksum());
                prop_assert_eq!(usize::from(outer.total_len()), bytes.len());
                prop_assert!(outer.dont_fragment() && outer.identification() == 0);
                prop_assert_eq!(outer.dcp().value() << 2 | outer.ecn().value(), class);
                20
            }
        };
        let datagram = &bytes[at..];
        prop_assert_eq!(udp::View::new(datagram).unwrap().dst_port(), port);
        let frame = decap::vxlan(datagram, datagram.len(), Vni::new(4096).unwrap()).unwrap();
        let link = ethernet::View::new(&datagram[frame..]).unwrap();
        prop_assert_eq!((link.dst(), link.src()), (REMOTE, LOCAL));
        let kind = if carries_v6 { ethernet::IPV6 } else { ethernet::IPV4 };
        prop_assert_eq!(link.ethertype(), kind);
        prop_assert_eq!(link.payload(), &packet[..]);
    }

    #[test]
    fn ipip_goes_in_and_comes_out(
        payload in proptest::collection::vec(any::<u8>(), 0..1500), class: u8,
        src: u32, dst: u32,
    ) {
        let encap = Encap::ipip(src.into(), dst.into());
        let packet = v4_packet(&payload, class);
        let bytes = wrap(&encap, &packet, 0);
        let outer = Ipv4HeaderSlice::from_slice(&bytes).unwrap();
        prop_assert_eq!(outer.header_checksum(), outer.to_header().calc_header_checksum());
        prop_assert_eq!((outer.protocol().0, outer.ttl()), (4, TTL));
        prop_assert_eq!((outer.source_addr(), outer.destination_addr()), (src.into(), dst.into()));
        prop_assert_eq!(decap::ipip(&bytes[20..]), Ok(()));
        prop_assert_eq!(&bytes[20..], &packet[..]);
    }
}
