//! ICMP messages for the tests.

use super::*;
use etherparse::{Icmpv4Type, Icmpv6Type};

/// Destination unreachable with this code, about the packet `about` (from its IP header on).
pub(in super::super) fn unreachable(src: [u8; 4], dst: [u8; 4], code: u8, about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The library's own sum takes the MTU for zero in the other codes.
    let mtu = if code == 4 { [0, 0, 5, 0x14] } else { [0; 4] };
    let header = Icmpv4Type::Unknown { type_u8: 3, code_u8: code, bytes5to8: mtu };
    let quote = &about[..about.len().min(28)];
    let link = PacketBuilder::ethernet2([9; 6], MAC).ipv4(src, dst, 64);
    link.icmpv4(header).write(&mut bytes, quote).unwrap();
    bytes
}

pub(super) fn unreachable_v6(src: &str, dst: &str, about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Icmpv6Type::PacketTooBig { mtu: 1280 };
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let link = PacketBuilder::ethernet2([9; 6], MAC).ipv6(address(src), address(dst), 64);
    link.icmpv6(header).write(&mut bytes, about).unwrap();
    bytes
}

/// An echo request or reply.
pub(super) fn echo(src: [u8; 4], dst: [u8; 4], id: u16, asks: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let link = PacketBuilder::ethernet2([9; 6], MAC).ipv4(src, dst, 64);
    let step = if asks { link.icmpv4_echo_request(id, 1) } else { link.icmpv4_echo_reply(id, 1) };
    step.write(&mut bytes, b"ping").unwrap();
    bytes
}

pub(super) fn echo_id(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[38], bytes[39]])
}

/// What an ICMP error quotes, as a packet.
pub(super) fn quote_of(error: &[u8], header: usize) -> Vec<u8> {
    let mut bytes = error[..14].to_vec();
    bytes.extend(&error[14 + header + 8..]);
    bytes
}
