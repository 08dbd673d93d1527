//! The first look at a packet: finds its headers and refuses what a router must not forward.
//!
//! IPv4 is checked as RFC 1812 5.2.2 and 5.3.7 ask, IPv6 as RFC 8200 3 and RFC 4291 2.5.6 do. After
//! [`parse_any`] the packet's `l3` and `l4` are set, and link-layer padding is cut off.

use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::sys::memory::FramePool;
use margay_tunnels::wire::{ethernet, ethernet::Mac, ipv4, ipv6, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a good packet is, and the address that decides where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// IPv4, with its destination.
    V4(Ipv4Addr),
    /// IPv6, with its destination.
    V6(Ipv6Addr),
    /// ARP, or neighbour discovery over IPv6: for whoever answers on this link.
    Neighbor,
}

impl Parsed {
    /// The destination, if it is an IP packet.
    pub fn dst(&self) -> Option<IpAddr> {
        match self {
            Parsed::V4(address) => Some(IpAddr::V4(*address)),
            Parsed::V6(address) => Some(IpAddr::V6(*address)),
            Parsed::Neighbor => None,
        }
    }
}

/// What nearly all packets are: good IPv4 without options, to a port of this link address
/// ([`Mac::word`]).
/// `None` for all else, and then nothing has been changed: [`parse_any`] finds out what it is.
#[inline(always)]
pub fn plain_v4(packet: &mut Packet, mac: u64, pool: &mut FramePool) -> Option<Ipv4Addr> {
    const START: usize = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN;
    let start = packet.start::<START>()?;
    let link = ethernet::View::new(start)?;
    let view = ipv4::View::new(link.payload())?;
    let available = packet.len() - ethernet::HEADER_LEN;
    let total_len = view.total_len();
    let good = link.dst_word() == mac
        && link.ethertype() == ethernet::IPV4
        && view.has_plain_header()
        && (ipv4::MIN_HEADER_LEN..=available).contains(&total_len)
        && may_send_v4(view.src())
        && may_receive_v4(view.dst());
    let dst = view.dst();
    if !good {
        return None;
    }
    set_offsets(packet, ipv4::MIN_HEADER_LEN);
    if total_len < available {
        packet.truncate(ethernet::HEADER_LEN + total_len, pool);
    }
    Some(dst)
}

/// Looks at a packet that came in on a port whose link address is `mac`.
#[inline(never)]
pub fn parse_any(
    packet: &mut Packet,
    mac: Mac,
    pool: &mut FramePool,
) -> Result<Parsed, DropReason> {
    let link = ethernet::View::new(packet.head()).ok_or(DropReason::Truncated)?;
    let (dst, ethertype) = (link.dst(), link.ethertype());
    if dst != mac {
        return not_to_us(packet, dst, ethertype);
    }
    match ethertype {
        ethernet::IPV4 => parse_v4(packet, pool),
        ethernet::IPV6 => parse_v6(packet, pool),
        ethernet::ARP => Ok(Parsed::Neighbor),
        _ => Err(DropReason::EtherType),
    }
}

/// Group addresses: ARP and neighbour solicitations are heard; nothing else is forwarded
/// (RFC 1812 5.3.4: no packet that came as a link-layer broadcast).
#[cold]
fn not_to_us(packet: &mut Packet, dst: Mac, ethertype: u16) -> Result<Parsed, DropReason> {
    if !dst.is_multicast() {
        return Err(DropReason::NotOurMac);
    }
    match ethertype {
        ethernet::ARP => Ok(Parsed::Neighbor),
        ethernet::IPV6 if is_neighbor_discovery(packet) => {
            set_offsets(packet, ipv6::HEADER_LEN);
            Ok(Parsed::Neighbor)
        }
        _ => Err(DropReason::BadDestination),
    }
}

fn is_neighbor_discovery(packet: &Packet) -> bool {
    let ip = &packet.head()[ethernet::HEADER_LEN..];
    ipv6::View::new(ip).is_some_and(|view| {
        view.next_header() == protocol::ICMPV6
            && ip.get(ipv6::HEADER_LEN).is_some_and(|kind| (133..=137).contains(kind))
    })
}

#[inline]
fn set_offsets(packet: &mut Packet, header_len: usize) {
    packet.l3 = ethernet::HEADER_LEN as u16;
    packet.l4 = (ethernet::HEADER_LEN + header_len) as u16;
}

#[inline]
fn parse_v4(packet: &mut Packet, pool: &mut FramePool) -> Result<Parsed, DropReason> {
    let available = packet.len() - ethernet::HEADER_LEN;
    let bytes = &packet.head()[ethernet::HEADER_LEN..];
    // RFC 1812 5.2.2, checks (1) to (5), in that order of what can be read.
    let view = ipv4::View::new(bytes).ok_or(DropReason::Truncated)?;
    let (header_len, total_len) = (view.header_len(), view.total_len());
    if view.version() != 4 || header_len < ipv4::MIN_HEADER_LEN || total_len < header_len {
        return Err(DropReason::BadHeader);
    }
    if total_len > available || header_len > bytes.len() {
        return Err(DropReason::Truncated);
    }
    if !view.checksum_ok() {
        return Err(DropReason::BadChecksum);
    }
    let (src, dst) = (view.src(), view.dst());
    if !may_send_v4(src) {
        return Err(DropReason::BadSource);
    }
    if !may_receive_v4(dst) {
        return Err(DropReason::BadDestination);
    }
    set_offsets(packet, header_len);
    if total_len < available {
        packet.truncate(ethernet::HEADER_LEN + total_len, pool);
    }
    Ok(Parsed::V4(dst))
}

#[inline]
fn parse_v6(packet: &mut Packet, pool: &mut FramePool) -> Result<Parsed, DropReason> {
    let available = packet.len() - ethernet::HEADER_LEN;
    let bytes = &packet.head()[ethernet::HEADER_LEN..];
    let view = ipv6::View::new(bytes).ok_or(DropReason::Truncated)?;
    if view.version() != 6 {
        return Err(DropReason::BadHeader);
    }
    let total_len = ipv6::HEADER_LEN + view.payload_len();
    if total_len > available {
        return Err(DropReason::Truncated);
    }
    let (src, dst) = (view.src(), view.dst());
    let transport = view.transport().ok_or(DropReason::BadExtension)?;
    if transport.offset > total_len {
        return Err(DropReason::BadExtension);
    }
    // Never forwarded: a hop limit below 255 makes it worthless (RFC 4861 11.2).
    if transport.protocol == protocol::ICMPV6 && is_neighbor_discovery(packet) {
        set_offsets(packet, ipv6::HEADER_LEN);
        return Ok(Parsed::Neighbor);
    }
    if !may_send_v6(src) {
        return Err(DropReason::BadSource);
    }
    if !may_receive_v6(dst) {
        return Err(DropReason::BadDestination);
    }
    set_offsets(packet, transport.offset);
    if total_len < available {
        packet.truncate(ethernet::HEADER_LEN + total_len, pool);
    }
    Ok(Parsed::V6(dst))
}

/// RFC 1812 5.3.7: no packet with a source of group, broadcast, loopback or "this network".
#[inline]
pub fn may_send_v4(src: Ipv4Addr) -> bool {
    is_unicast(src.to_bits())
}

/// Destinations that a router forwards: not this network, loopback, link-local or class D and E.
#[inline]
pub fn may_receive_v4(dst: Ipv4Addr) -> bool {
    is_unicast(dst.to_bits()) && dst.to_bits() >> 16 != 0xa9fe
}

/// First octet 1 to 223, but not 127.
#[inline]
fn is_unicast(address: u32) -> bool {
    static UNICAST: [bool; 256] = {
        let (mut table, mut first) = ([false; 256], 1);
        while first < 224 {
            table[first] = first != 127;
            first += 1;
        }
        table
    };
    UNICAST[(address >> 24) as usize]
}

/// RFC 4291: no packet with a source of group, loopback, unspecified or link scope is forwarded.
#[inline]
pub fn may_send_v6(src: Ipv6Addr) -> bool {
    !(src.is_multicast() || src.is_unicast_link_local() || u128::from(src) <= 1)
}

/// The same for destinations.
#[inline]
pub fn may_receive_v6(dst: Ipv6Addr) -> bool {
    may_send_v6(dst)
}
