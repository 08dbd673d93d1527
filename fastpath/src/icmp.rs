//! ICMP and ICMPv6 errors that a router sends (RFC 1812 4.3, RFC 4443): what they quote, and when
//! they may not be sent. How many are, [`Cause`] says.
//!
//! The error is a whole packet with an empty Ethernet header, to be routed like any other.

use crate::limit::Cause;
use crate::packet::Packet;
use crate::port::PortId;
use crate::sys::memory::{FramePool, HEADROOM};
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol};
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest ICMP error over IPv4, IP header included, in bytes (RFC 1812 4.3.2.3).
pub const MAX_V4_LEN: usize = 576;
/// Longest ICMPv6 error, IP header included, in bytes: the minimum MTU (RFC 4443 2.4 c).
pub const MAX_V6_LEN: usize = 1280;

const ICMP_HEADER_LEN: usize = 8;
const TTL: u8 = 64;
/// Internetwork control: RFC 1812 4.3.2.5 asks for precedence 6 or 7 on errors.
const V4_TOS: u8 = 0xc0;

/// What went wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// TTL or hop limit ended in transit.
    TtlExceeded,
    /// No route.
    NetUnreachable,
    /// The host on the link does not answer, or an unreachable route.
    HostUnreachable,
    /// A prohibit route, or policy that rejects.
    Prohibited,
    /// Larger than `mtu` bytes, and may not be fragmented.
    TooBig {
        /// MTU of the next hop, in bytes.
        mtu: u16,
    },
}

impl IcmpError {
    fn v4(self) -> (Icmpv4Message, u8) {
        match self {
            IcmpError::TtlExceeded => (Icmpv4Message::TimeExceeded, 0),
            IcmpError::NetUnreachable => (Icmpv4Message::DstUnreachable, 0),
            IcmpError::HostUnreachable => (Icmpv4Message::DstUnreachable, 1),
            IcmpError::TooBig { .. } => (Icmpv4Message::DstUnreachable, 4),
            IcmpError::Prohibited => (Icmpv4Message::DstUnreachable, 13),
        }
    }

    fn v6(self) -> (Icmpv6Message, u8) {
        match self {
            IcmpError::TtlExceeded => (Icmpv6Message::TimeExceeded, 0),
            IcmpError::NetUnreachable => (Icmpv6Message::DstUnreachable, 0),
            IcmpError::HostUnreachable => (Icmpv6Message::DstUnreachable, 3),
            IcmpError::TooBig { .. } => (Icmpv6Message::PktTooBig, 0),
            IcmpError::Prohibited => (Icmpv6Message::DstUnreachable, 1),
        }
    }

    /// Which of the worker's allowances it is of.
    pub fn cause(self) -> Cause {
        match self {
            IcmpError::TtlExceeded => Cause::TtlExceeded,
            IcmpError::TooBig { .. } => Cause::TooBig,
            _ => Cause::Unreachable,
        }
    }

    fn mtu(self) -> u16 {
        if let IcmpError::TooBig { mtu } = self { mtu } else { 0 }
    }
}

/// The error about `offending`, which must have been parsed, from `source`. `None` when no error
/// may be sent about this packet, when the families differ, or when no frame is free.
pub fn error(
    offending: &Packet,
    kind: IcmpError,
    source: IpAddr,
    pool: &mut FramePool,
) -> Option<Packet> {
    let ip = &offending.head()[usize::from(offending.l3)..];
    match (ip.first()? >> 4, source) {
        (4, IpAddr::V4(source)) => error_v4(offending, kind, source, pool),
        (6, IpAddr::V6(source)) => error_v6(offending, kind, source, pool),
        _ => None,
    }
}

/// RFC 1812 4.3.2.7: no error about an ICMP error, a later fragment, or a group destination.
fn may_answer_v4(offending: &Packet) -> Option<Ipv4Addr> {
    let view = ipv4::View::new(&offending.head()[usize::from(offending.l3)..])?;
    if view.fragment_offset() != 0 || !crate::parse::may_receive_v4(view.dst()) {
        return None;
    }
    if view.protocol() == protocol::ICMP {
        // Echo, timestamp and address mask messages are queries; all else is an error.
        let kind = *offending.head().get(usize::from(offending.l4))?;
        if !matches!(kind, 0 | 8 | 13..=18) {
            return None;
        }
    }
    Some(view.src())
}

/// RFC 4443 2.4 e: no error about an ICMPv6 error, a redirect, or a group destination.
fn may_answer_v6(offending: &Packet) -> Option<Ipv6Addr> {
    let ip = &offending.head()[usize::from(offending.l3)..];
    let view = ipv6::View::new(ip)?;
    let transport = view.transport()?;
    if transport.is_later_fragment() || view.dst().is_multicast() {
        return None;
    }
    if transport.protocol == protocol::ICMPV6 {
        let kind = *ip.get(transport.offset)?;
        if kind < 128 || kind == 137 {
            return None;
        }
    }
    Some(view.src())
}

fn error_v4(
    offending: &Packet,
    kind: IcmpError,
    source: Ipv4Addr,
    pool: &mut FramePool,
) -> Option<Packet> {
    let to = may_answer_v4(offending)?;
    let quote = quote_len(offending, MAX_V4_LEN - ipv4::MIN_HEADER_LEN);
    let icmp_len = ICMP_HEADER_LEN + quote;
    let mut packet = blank(ipv4::MIN_HEADER_LEN + icmp_len, pool)?;
    let bytes = packet.head_mut();
    let mut header = ipv4::header(source, to, protocol::ICMP, TTL, icmp_len as u16);
    header[1] = V4_TOS;
    ipv4::fill_checksum(&mut header);
    bytes[..ethernet::HEADER_LEN].copy_from_slice(&ethernet::header(
        Default::default(),
        Default::default(),
        ethernet::IPV4,
    ));
    let ip = &mut bytes[ethernet::HEADER_LEN..];
    ip[..ipv4::MIN_HEADER_LEN].copy_from_slice(&header);
    let icmp = &mut ip[ipv4::MIN_HEADER_LEN..];
    icmp[..ICMP_HEADER_LEN].fill(0);
    // RFC 1191 4: the MTU stands in the low 16 bits of the unused word.
    icmp[6..8].copy_from_slice(&kind.mtu().to_be_bytes());
    offending.copy_out(usize::from(offending.l3), &mut icmp[ICMP_HEADER_LEN..]);
    let mut view = Icmpv4Packet::new_unchecked(icmp);
    let (message, code) = kind.v4();
    view.set_msg_type(message);
    view.set_msg_code(code);
    view.fill_checksum();
    set_offsets(&mut packet, ipv4::MIN_HEADER_LEN);
    Some(packet)
}

fn error_v6(
    offending: &Packet,
    kind: IcmpError,
    source: Ipv6Addr,
    pool: &mut FramePool,
) -> Option<Packet> {
    let to = may_answer_v6(offending)?;
    let quote = quote_len(offending, MAX_V6_LEN - ipv6::HEADER_LEN);
    let icmp_len = ICMP_HEADER_LEN + quote;
    let mut packet = blank(ipv6::HEADER_LEN + icmp_len, pool)?;
    let bytes = packet.head_mut();
    bytes[..ethernet::HEADER_LEN].copy_from_slice(&ethernet::header(
        Default::default(),
        Default::default(),
        ethernet::IPV6,
    ));
    let ip = &mut bytes[ethernet::HEADER_LEN..];
    let header = ipv6::header(source, to, protocol::ICMPV6, TTL, icmp_len as u16);
    ip[..ipv6::HEADER_LEN].copy_from_slice(&header);
    let icmp = &mut ip[ipv6::HEADER_LEN..];
    icmp[..ICMP_HEADER_LEN].fill(0);
    offending.copy_out(usize::from(offending.l3), &mut icmp[ICMP_HEADER_LEN..]);
    let mut view = Icmpv6Packet::new_unchecked(icmp);
    let (message, code) = kind.v6();
    view.set_msg_type(message);
    view.set_msg_code(code);
    if kind.mtu() != 0 {
        view.set_pkt_too_big_mtu(u32::from(kind.mtu()));
    }
    view.fill_checksum(&source, &to);
    set_offsets(&mut packet, ipv6::HEADER_LEN);
    Some(packet)
}

/// Bytes of the offending IP packet that fit behind an ICMP header in `room` bytes.
fn quote_len(offending: &Packet, room: usize) -> usize {
    (offending.len() - usize::from(offending.l3)).min(room - ICMP_HEADER_LEN)
}

fn blank(ip_len: usize, pool: &mut FramePool) -> Option<Packet> {
    let frame = pool.alloc()?;
    Some(Packet::new(frame, HEADROOM, ethernet::HEADER_LEN + ip_len, PortId::NONE))
}

fn set_offsets(packet: &mut Packet, header_len: usize) {
    packet.l3 = ethernet::HEADER_LEN as u16;
    packet.l4 = (ethernet::HEADER_LEN + header_len) as u16;
}
