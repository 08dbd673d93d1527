//! Each branch of the program, run by the kernel itself (BPF_PROG_TEST_RUN).

mod tc;

use super::program::{XDP_PASS, XDP_REDIRECT, listing};
use super::*;
use crate::port::xdp::{XdpDevice, XdpMode, XdpPort, XdpSpec, open};
use crate::port::{Port, PortId};
use crate::sys::bpf::XdpContext;
use std::net::{Ipv4Addr, Ipv6Addr};

const VXLAN_PORT: u16 = 4789;
const UNICAST: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn frame(mac: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = mac.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 2]);
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn ipv4(dst: &str) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1];
    header.extend(dst.parse::<Ipv4Addr>().unwrap().octets());
    frame(UNICAST, 0x0800, &header)
}

fn ipv6(dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
    header.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    header.extend(dst.parse::<Ipv6Addr>().unwrap().octets());
    header.extend(payload);
    frame(UNICAST, 0x86dd, &header)
}

fn steered(local: &[&str], range: PortRange) -> Steered {
    let local = local.iter().map(|text| (text.parse().unwrap(), range)).collect();
    Steered { local, ..Steered::default() }
}

/// A program whose slot for queue 0 of the loopback is taken by a socket.
struct Bench {
    steering: Steering,
    xsks: Map,
    program: Program,
}

impl Bench {
    fn new() -> Bench {
        let steering = Steering::new(&Arena::new(256, 0).unwrap(), VXLAN_PORT).unwrap();
        let xsks = steering.new_xskmap(4).unwrap();
        let program = steering.load(&xsks, PortId(0), 4).unwrap().0;
        Bench { steering, xsks, program }
    }

    /// Has a socket take queue 0 of the loopback, for as long as it lives.
    fn take_queue(&self) -> (XdpDevice, Vec<XdpPort>) {
        let spec = XdpSpec { mode: XdpMode::Generic, ..XdpSpec::pod(PortId(0), "lo") };
        let (device, parts) = open(&self.steering, &spec).unwrap();
        let socket = parts[0].poll_fd().unwrap();
        self.xsks.update(&0u32.to_ne_bytes(), &socket.to_ne_bytes()).unwrap();
        (device, parts)
    }

    fn verdict(&self, packet: &[u8]) -> u32 {
        let context = XdpContext { ifindex: 1, rx_queue: 0 };
        let run = self.program.test_run(packet, context, 1).unwrap();
        assert_eq!(run.packet, packet, "the program wrote into the packet");
        run.verdict
    }
}

/// Runs in a network namespace of its own: devices are those of the calling thread's, and the
/// loopback's queue is free.
pub(crate) fn in_namespace(test: impl FnOnce() + Send) {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    };
    let outcome = std::thread::scope(|scope| scope.spawn(body).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// The host's addresses in these tests.
const LOCAL: [&str; 2] = ["192.0.2.7", "2001:db8::7"];

fn forwarded() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("ipv4", ipv4("198.51.100.1")),
        ("1/8", ipv4("1.0.0.1")),
        ("126/8", ipv4("126.255.255.255")),
        ("128/8", ipv4("128.0.0.1")),
        ("223/8", ipv4("223.255.255.255")),
        ("169.253", ipv4("169.253.1.1")),
        ("169.255", ipv4("169.255.1.1")),
        ("next to a local address", ipv4("192.0.2.8")),
        ("ipv6", ipv6("2001:db8::1:1", 17, &[])),
        ("fec0::/10", ipv6("fec0::1", 17, &[])),
        ("fd00::/8", ipv6("fd00::1", 17, &[])),
        ("next to a local ipv6 address", ipv6("2001:db8::8", 17, &[])),
        ("echo request", ipv6("2001:db8::8", 58, &[128])),
        ("ICMPv6 132", ipv6("2001:db8::8", 58, &[132])),
        ("ICMPv6 138", ipv6("2001:db8::8", 58, &[138])),
    ]
}

fn kept() -> Vec<(&'static str, Vec<u8>)> {
    let to = |mac: [u8; 6], mut packet: Vec<u8>| {
        packet[..6].copy_from_slice(&mac);
        packet
    };
    vec![
        ("short frame", frame(UNICAST, 0x0800, &[])),
        ("short ipv4", ipv4("198.51.100.1")[..33].to_vec()),
        ("short ipv6", ipv6("2001:db8::8", 17, &[])[..53].to_vec()),
        ("ICMPv6 without a type", ipv6("2001:db8::8", 58, &[])),
        ("arp", frame(UNICAST, 0x0806, &[0; 28])),
        ("other protocol", frame(UNICAST, 0x88cc, &[0; 46])),
        ("vlan", frame(UNICAST, 0x8100, &ipv4("198.51.100.1")[10..])),
        ("local ipv4", ipv4(LOCAL[0])),
        ("local ipv6", ipv6(LOCAL[1], 6, &[])),
        ("0/8", ipv4("0.0.0.0")),
        ("127/8", ipv4("127.0.0.1")),
        ("link-local ipv4", ipv4("169.254.1.1")),
        ("first group ipv4", ipv4("224.0.0.5")),
        ("last group ipv4", ipv4("239.255.255.255")),
        ("reserved", ipv4("240.0.0.1")),
        ("broadcast", ipv4("255.255.255.255")),
        ("link-local ipv6", ipv6("fe80::1", 17, &[])),
        ("end of link-local ipv6", ipv6("febf::1", 17, &[])),
        ("group ipv6", ipv6("ff02::1", 17, &[])),
        ("router solicitation", ipv6("2001:db8::8", 58, &[133])),
        ("neighbor solicitation", ipv6("2001:db8::8", 58, &[135])),
        ("redirect", ipv6("2001:db8::8", 58, &[137])),
        ("group link address", to([1, 0, 0x5e, 0, 0, 5], ipv4("198.51.100.1"))),
        ("broadcast link address", to([0xff; 6], ipv6("2001:db8::8", 17, &[]))),
    ]
}

#[test]
fn every_branch_steers_as_it_should() {
    in_namespace(|| {
        let bench = Bench::new();
        bench.steering.set(&steered(&LOCAL, NO_PORTS)).unwrap();
        for (name, packet) in forwarded().iter().chain(&kept()) {
            assert_eq!(bench.verdict(packet), XDP_PASS, "{name}, no socket");
        }
        let _socket = bench.take_queue();
        for (name, packet) in &forwarded() {
            assert_eq!(bench.verdict(packet), XDP_REDIRECT, "{name}");
        }
        for (name, packet) in &kept() {
            assert_eq!(bench.verdict(packet), XDP_PASS, "{name}");
        }
        assert!(bench.xsks.delete(&0u32.to_ne_bytes()).unwrap());
        assert_eq!(bench.verdict(&forwarded()[0].1), XDP_PASS);
    });
}

/// `packet` with an IPv4 header of this protocol, and what follows the header.
fn over_v4(dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ipv4(dst);
    bytes[23] = protocol;
    bytes.extend(payload);
    bytes
}

fn datagram(port: u16) -> Vec<u8> {
    [&[0xc0, 0][..], &port.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

/// An ICMP error that quotes a packet from its IP header on.
fn quoting(kind: u8, packet: &[u8]) -> Vec<u8> {
    [&[kind, 4, 0, 0, 0, 0, 5, 0][..], packet].concat()
}

/// What the workers get of packets to `v4` and `v6`, if tunnels end there.
fn of_tunnels(v4: &str, v6: &str) -> Vec<(&'static str, Vec<u8>)> {
    let ipip = over_v4("192.0.2.9", 4, &[0; 8])[14..].to_vec();
    let vxlan = over_v4("192.0.2.9", 17, &datagram(VXLAN_PORT))[14..].to_vec();
    let vxlan_v6 = ipv6("2001:db8::9", 17, &datagram(VXLAN_PORT))[14..].to_vec();
    let mut options = over_v4(v4, 4, &[]);
    options[14] = 0x46;
    let fragment = |at: usize, value, payload: &[u8]| {
        let mut bytes = over_v4(v4, 17, payload);
        bytes[at] = value;
        bytes
    };
    vec![
        ("first fragment", fragment(20, 0x20, &datagram(VXLAN_PORT))),
        ("last fragment, of one byte", fragment(21, 1, &[0])),
        ("fragment over IPv6", ipv6(v6, 44, &[17, 0, 0, 1, 0, 0, 0, 7])),
        ("IPIP", over_v4(v4, 4, &[])),
        ("IPIP with options", options),
        ("VXLAN", over_v4(v4, 17, &datagram(VXLAN_PORT))),
        ("VXLAN over IPv6", ipv6(v6, 17, &datagram(VXLAN_PORT))),
        ("too big, of IPIP", over_v4(v4, 1, &quoting(3, &ipip))),
        ("time exceeded, of VXLAN", over_v4(v4, 1, &quoting(11, &vxlan))),
        ("unreachable, of VXLAN", over_v4(v4, 1, &quoting(3, &vxlan))),
        ("too big, of VXLAN over IPv6", ipv6(v6, 58, &quoting(2, &vxlan_v6))),
        ("parameter problem, of VXLAN over IPv6", ipv6(v6, 58, &quoting(4, &vxlan_v6))),
    ]
}

/// What stays with the kernel although tunnels end at its address.
fn beside_tunnels(v4: &str, v6: &str) -> Vec<(&'static str, Vec<u8>)> {
    let change = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let vxlan = || over_v4(v4, 17, &datagram(VXLAN_PORT));
    let dns = over_v4("192.0.2.9", 17, &datagram(53))[14..].to_vec();
    let tcp = over_v4("192.0.2.9", 6, &[0; 8])[14..].to_vec();
    let ipip = over_v4("192.0.2.9", 4, &[0; 8])[14..].to_vec();
    let dns_v6 = ipv6("2001:db8::9", 17, &datagram(53))[14..].to_vec();
    let vxlan_v6 = ipv6("2001:db8::9", 17, &datagram(VXLAN_PORT))[14..].to_vec();
    let long_quote = change(quoting(3, &ipip), 8, 0x46);
    vec![
        ("TCP", over_v4(v4, 6, &[0; 20])),
        ("other datagram", over_v4(v4, 17, &datagram(VXLAN_PORT + 1))),
        ("short datagram", over_v4(v4, 17, &datagram(VXLAN_PORT)[..7])),
        ("datagram behind options", change(vxlan(), 14, 0x46)),
        ("echo request", over_v4(v4, 1, &quoting(8, &ipip))),
        ("too big, of others", over_v4(v4, 1, &quoting(3, &dns))),
        ("unreachable, of TCP", over_v4(v4, 1, &quoting(3, &tcp))),
        ("error that quotes less than it must", over_v4(v4, 1, &quoting(3, &ipip[..27]))),
        ("error behind options", change(over_v4(v4, 1, &quoting(3, &ipip)), 14, 0x46)),
        ("error about a header with options", over_v4(v4, 1, &long_quote)),
        ("TCP over IPv6", ipv6(v6, 6, &[0; 20])),
        ("other datagram over IPv6", ipv6(v6, 17, &datagram(53))),
        ("short over IPv6", ipv6(v6, 17, &datagram(VXLAN_PORT)[..7])),
        ("echo request over IPv6", ipv6(v6, 58, &quoting(128, &vxlan_v6))),
        ("no type of ICMPv6", ipv6(v6, 58, &quoting(0, &vxlan_v6))),
        ("reserved ICMPv6 error", ipv6(v6, 58, &quoting(5, &vxlan_v6))),
        ("too big, of others over IPv6", ipv6(v6, 58, &quoting(2, &dns_v6))),
        ("quotes less over IPv6", ipv6(v6, 58, &quoting(2, &vxlan_v6[..47]))),
        ("solicitation", ipv6(v6, 58, &[&[135][..], &[0; 60]].concat())),
    ]
}

/// Ports for translation in these tests.
const PORTS: PortRange = PortRange { first: 61_000, last: 65_000 };

/// A transport header of 8 bytes: source port 53, then these bytes.
fn transport(at_2: u16, at_4: u16) -> Vec<u8> {
    [[0, 53], at_2.to_be_bytes(), at_4.to_be_bytes(), [0, 0]].concat()
}

fn local_v4(protocol: u8, word: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = ipv4(LOCAL[0]);
    packet[14 + 6..14 + 8].copy_from_slice(&word.to_be_bytes());
    packet[14 + 9] = protocol;
    packet.extend(payload);
    packet
}

fn icmp(kind: u8, id: u16) -> Vec<u8> {
    let mut bytes = transport(0, id);
    bytes[0] = kind;
    bytes
}

/// Packets to the host's address, and whether the workers get them.
fn to_the_host() -> Vec<(&'static str, Vec<u8>, bool)> {
    let v4 = |protocol, payload: &[u8]| local_v4(protocol, 0x4000, payload);
    let v6 = |next, payload: &[u8]| ipv6(LOCAL[1], next, payload);
    let mut options = v4(17, &transport(22, 0));
    options[14] = 0x46;
    vec![
        ("first port", v4(17, &transport(61_000, 0)), true),
        ("last port", v4(6, &transport(65_000, 0)), true),
        ("below", v4(6, &transport(60_999, 0)), false),
        ("above", v4(17, &transport(65_001, 0)), false),
        ("a service of the host", v4(6, &transport(179, 0)), false),
        ("SCTP", v4(132, &transport(61_000, 0)), false),
        ("tunnel", v4(4, &transport(61_000, 0)), false),
        ("short", v4(17, &transport(61_000, 0)[..7]), false),
        ("options", options, true),
        ("first fragment", local_v4(17, 0x2000, &transport(22, 0)), true),
        ("last fragment", local_v4(17, 185, &transport(22, 0)), true),
        ("ping", v4(1, &icmp(8, 61_000)), false),
        ("answer to a ping", v4(1, &icmp(0, 61_000)), true),
        ("answer to the host's ping", v4(1, &icmp(0, 1234)), false),
        ("unreachable", v4(1, &icmp(3, 0)), true),
        ("time exceeded", v4(1, &icmp(11, 0)), true),
        ("timestamp", v4(1, &icmp(13, 61_000)), false),
        ("v6 first port", v6(17, &transport(61_000, 0)), true),
        ("v6 below", v6(6, &transport(60_999, 0)), false),
        ("v6 above", v6(6, &transport(65_001, 0)), false),
        ("v6 fragment", v6(44, &transport(22, 0)), true),
        ("v6 ping", v6(58, &icmp(128, 61_000)), false),
        ("v6 answer to a ping", v6(58, &icmp(129, 61_000)), true),
        ("v6 answer to the host's ping", v6(58, &icmp(129, 1234)), false),
        ("v6 too big", v6(58, &icmp(2, 0)), true),
        ("v6 discovery", v6(58, &icmp(136, 61_000)), false),
        ("v6 short", v6(17, &transport(61_000, 0)[..7]), false),
    ]
}

/// Ports for services in these tests.
const NODE_PORTS: [u16; 2] = [30_000, 30_080];

/// Packets to ports of the host's address that may be services', and whether the workers get them.
fn to_node_ports() -> Vec<(&'static str, Vec<u8>, bool)> {
    let mut packets = Vec::new();
    for (name, protocol) in [("TCP", 6), ("UDP", 17), ("SCTP", 132)] {
        for (port, is_ours) in [(29_999, false), (30_000, true), (30_001, false), (30_080, true)] {
            let bytes = transport(port, 0);
            packets.push((name, local_v4(protocol, 0x4000, &bytes), is_ours));
            packets.push((name, ipv6(LOCAL[1], protocol, &bytes), is_ours));
        }
    }
    packets.extend([
        ("answer to a ping", local_v4(1, 0x4000, &icmp(0, 30_000)), false),
        ("ping", local_v4(1, 0x4000, &icmp(8, 30_000)), false),
        ("unreachable", local_v4(1, 0x4000, &icmp(3, 0)), true),
        ("fragment", local_v4(17, 185, &transport(22, 0)), true),
        ("v6 answer to a ping", ipv6(LOCAL[1], 58, &icmp(129, 30_000)), false),
        ("v6 too big", ipv6(LOCAL[1], 58, &icmp(2, 0)), true),
    ]);
    packets
}

#[test]
fn where_tunnels_end_their_packets_go_to_the_workers_and_nothing_else() {
    in_namespace(|| {
        let bench = Bench::new();
        let [v4, v6] = LOCAL;
        let ends: Vec<IpAddr> =
            ["192.0.2.6", "2001:db8::6", v4, v6].iter().map(|text| text.parse().unwrap()).collect();
        let local: BTreeMap<_, _> = ends.iter().map(|address| (*address, NO_PORTS)).collect();
        let mut steered = Steered { local, ..Steered::default() };
        steered.tunnel_ends = ends[2..].to_vec();
        bench.steering.set(&steered).unwrap();
        let _socket = bench.take_queue();
        for (name, packet) in of_tunnels(v4, v6) {
            assert_eq!(bench.verdict(&packet), XDP_REDIRECT, "{name}");
        }
        for (name, packet) in beside_tunnels(v4, v6) {
            assert_eq!(bench.verdict(&packet), XDP_PASS, "{name}");
        }
        for (name, packet) in of_tunnels("192.0.2.6", "2001:db8::6") {
            assert_eq!(bench.verdict(&packet), XDP_PASS, "{name}, where none ends");
        }
        steered.tunnel_ends.clear();
        bench.steering.set(&steered).unwrap();
        for (name, packet) in of_tunnels(v4, v6) {
            assert_eq!(bench.verdict(&packet), XDP_PASS, "{name}, where none ends any more");
        }
    });
}

#[test]
fn ports_for_translation_go_to_the_workers_and_the_hosts_own_stay() {
    in_namespace(|| {
        let bench = Bench::new();
        let spec = XdpSpec { mode: XdpMode::Generic, ..XdpSpec::pod(PortId(0), "lo") };
        let (_device, parts) = open(&bench.steering, &spec).unwrap();
        let socket = parts[0].poll_fd().unwrap();
        bench.xsks.update(&0u32.to_ne_bytes(), &socket.to_ne_bytes()).unwrap();
        let set = |translation, ports: &[u16]| {
            let services = LOCAL.iter().flat_map(|at| {
                ports
                    .iter()
                    .flat_map(|port| [6, 17, 132].map(|kind| (at.parse().unwrap(), *port, kind)))
            });
            let services = services.collect();
            bench.steering.set(&Steered { services, ..steered(&LOCAL, translation) }).unwrap();
        };
        let demand = |packets: Vec<(&str, Vec<u8>, bool)>, when: &str| {
            for (name, packet, is_ours) in packets {
                let expected = if is_ours { XDP_REDIRECT } else { XDP_PASS };
                assert_eq!(bench.verdict(&packet), expected, "{name}, {when}");
            }
        };
        set(PORTS, &[]);
        demand(to_the_host(), "nothing is served");
        set(NO_PORTS, &NODE_PORTS);
        demand(to_node_ports(), "nothing is translated");
        set(PORTS, &NODE_PORTS);
        demand(to_node_ports(), "something is translated");
        demand(to_the_host(), "something is served");
        set(NO_PORTS, &[]);
        for (name, packet, _) in to_the_host().into_iter().chain(to_node_ports()) {
            assert_eq!(bench.verdict(&packet), XDP_PASS, "{name}, nothing is translated");
        }
    });
}

#[test]
fn local_addresses_are_changed_in_place() {
    let bench = Bench::new();
    let set = |texts: &[&str]| {
        bench.steering.set(&steered(texts, NO_PORTS)).unwrap();
    };
    let in_v4 = |text: &str| {
        let key = text.parse::<Ipv4Addr>().unwrap().octets();
        bench.steering.local_v4.lookup(&key).unwrap().is_some()
    };
    let in_v6 = |text: &str| {
        let key = text.parse::<Ipv6Addr>().unwrap().octets();
        bench.steering.local_v6.lookup(&key).unwrap().is_some()
    };
    set(&["10.0.0.1", "10.0.0.2", "::5"]);
    assert!(in_v4("10.0.0.1") && in_v4("10.0.0.2") && in_v6("::5"));
    set(&["10.0.0.2", "10.0.0.3", "10.0.0.2"]);
    assert!(!in_v4("10.0.0.1") && in_v4("10.0.0.2") && in_v4("10.0.0.3") && !in_v6("::5"));
    set(&[]);
    assert!(!in_v4("10.0.0.2") && !in_v4("10.0.0.3"));
}

/// The numbers in it are as a little-endian machine loads them.
#[cfg(target_endian = "little")]
#[test]
fn the_committed_listing_is_the_program() {
    let bench = Bench::new();
    let text = listing(bench.steering.maps(Hook::Xdp), &bench.xsks);
    assert_eq!(text, include_str!("program.lst"), "steering/program.lst should read:\n{text}");
}
