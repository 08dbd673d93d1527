//! Encapsulation: prepared outer headers, completed and put in front of each packet.
//!
//! IPIP (RFC 2003) carries IPv4 in IPv4, as Calico has it. VXLAN (RFC 7348) carries either family
//! over either. DF is always set, so that the underlay tells the path's MTU and never cuts outer
//! packets (RFC 2003 3.1 leaves the choice where the inner DF is clear; RFC 7348 4.3 forbids
//! fragments); such packets need no identification (RFC 6864 4.1), which is 0.
//! The UDP checksum is 0 over IPv4 (RFC 7348 5). Over IPv6 it is computed, as Linux and Calico do
//! by default, so RFC 6935's zero is never sent; see [`Encap::udp_checksum`].

use crate::wire::ethernet::{self, Mac};
use crate::wire::vxlan::{self, Vni};
use crate::wire::{checksum, ipv4, ipv6, protocol, udp};
use std::net::{IpAddr, Ipv4Addr};

/// TTL and hop limit of outer headers.
pub const TTL: u8 = 64;
/// Bytes that IPIP adds.
pub const IPIP_OVERHEAD: usize = ipv4::MIN_HEADER_LEN;
/// Bytes that VXLAN adds over IPv4, the inner Ethernet header included.
pub const VXLAN_V4_OVERHEAD: usize = ipv4::MIN_HEADER_LEN + VXLAN_LEN;
/// Bytes that VXLAN adds over IPv6.
pub const VXLAN_V6_OVERHEAD: usize = ipv6::HEADER_LEN + VXLAN_LEN;
/// First source port of VXLAN packets; the last is 65535 (RFC 7348 5).
pub const FIRST_PORT: u16 = 49_152;

const VXLAN_LEN: usize = udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN;

/// The ends of a VXLAN tunnel beside their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VxlanEnds {
    /// The network.
    pub vni: Vni,
    /// Destination port of UDP.
    pub port: u16,
    /// Link address of this end, in inner frames.
    pub local: Mac,
    /// Link address of the far end.
    pub remote: Mac,
}

/// What the outer headers take from the inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// IPv6, else IPv4.
    pub is_v6: bool,
    /// The byte of DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of the IP packet, its header included.
    pub len: usize,
    /// Hash of the flow: the same for all of its packets.
    pub hash: u32,
}

impl Inner {
    /// Of a packet that begins with its IP header, and has `len` bytes in all. `None` when the
    /// header is cut or of no known version.
    #[inline]
    pub fn of(header: &[u8], len: usize, hash: u32) -> Option<Inner> {
        let [first, second] = *header.first_chunk()?;
        let (is_v6, traffic_class) = match first >> 4 {
            4 => (false, second),
            6 => (true, first << 4 | second >> 4),
            _ => return None,
        };
        Some(Inner { is_v6, traffic_class, len, hash })
    }
}

/// The outer headers of one tunnel, from the outer IP header to the last byte before the inner one,
/// ready but for what differs between packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Encap {
    bytes: [u8; VXLAN_V6_OVERHEAD],
    len: u8,
    is_v6: bool,
    is_vxlan: bool,
    /// Sum of the words of an IPv4 header that are the same in each packet.
    sum: u32,
}

impl Encap {
    /// IPv4 in IPv4.
    pub fn ipip(src: Ipv4Addr, dst: Ipv4Addr) -> Encap {
        Encap::over_v4(src, dst, protocol::IPIP)
    }

    /// VXLAN; `None` when the addresses are of different families.
    pub fn vxlan(src: IpAddr, dst: IpAddr, ends: VxlanEnds) -> Option<Encap> {
        let (mut encap, at) = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                (Encap::over_v4(src, dst, protocol::UDP), ipv4::MIN_HEADER_LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = ipv6::header(src, dst, protocol::UDP, TTL, 0);
                let mut bytes = [0; VXLAN_V6_OVERHEAD];
                bytes[..ipv6::HEADER_LEN].copy_from_slice(&header);
                let encap = Encap { bytes, len: 0, is_v6: true, is_vxlan: true, sum: 0 };
                (encap, ipv6::HEADER_LEN)
            }
            _ => return None,
        };
        let rest = &mut encap.bytes[at..at + VXLAN_LEN];
        rest[2..4].copy_from_slice(&ends.port.to_be_bytes());
        rest[8..16].copy_from_slice(&vxlan::header(ends.vni));
        rest[16..].copy_from_slice(&ethernet::header(ends.remote, ends.local, ethernet::IPV4));
        (encap.len, encap.is_vxlan) = ((at + VXLAN_LEN) as u8, true);
        Some(encap)
    }

    fn over_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Encap {
        let mut header = ipv4::header(src, dst, protocol, TTL, 0);
        ipv4::set_fragment(&mut header, 0, 0, ipv4::DONT_FRAGMENT);
        header[10..12].fill(0);
        let sum = u32::from(checksum::fold(checksum::sum(&header)));
        let mut bytes = [0; VXLAN_V6_OVERHEAD];
        bytes[..header.len()].copy_from_slice(&header);
        let len = header.len() as u8;
        Encap { bytes, len, is_v6: false, is_vxlan: false, sum }
    }

    /// Bytes in front of the inner IP header: what the tunnel takes from the MTU.
    #[inline]
    pub fn overhead(&self) -> usize {
        usize::from(self.len)
    }

    /// The headers without what differs between packets: what [`Encap::write`] begins with.
    #[inline]
    pub fn headers(&self) -> &[u8] {
        &self.bytes[..self.overhead()]
    }

    /// Sum of the words of the outer IPv4 header, as they are in [`Encap::headers`].
    #[inline]
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// The underlay is IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// True when a packet of this family may go in: IPIP takes IPv4 only.
    #[inline]
    pub fn carries(&self, is_v6: bool) -> bool {
        self.is_vxlan || !is_v6
    }

    /// Where the UDP header is whose checksum must be filled in over the whole packet; `None`
    /// when there is none to fill in. Counted from the outer IP header.
    #[inline]
    pub fn udp_to_sum(&self) -> Option<usize> {
        self.is_v6.then_some(ipv6::HEADER_LEN)
    }

    /// Writes the headers into the bytes before the inner packet: exactly [`Encap::overhead`] of
    /// them. False, with nothing written, when there are not so many, or when the inner packet is
    /// too long or of a family that the tunnel does not carry.
    #[inline]
    #[must_use]
    pub fn write(&self, out: &mut [u8], inner: Inner) -> bool {
        let total = self.overhead() + inner.len;
        let longest = usize::from(u16::MAX) + if self.is_v6 { ipv6::HEADER_LEN } else { 0 };
        if out.len() != self.overhead() || total > longest || !self.carries(inner.is_v6) {
            return false;
        }
        out.copy_from_slice(self.headers());
        let payload = if self.is_v6 {
            self.write_v6(out, total, inner)
        } else {
            self.write_v4(out, total as u16, inner.traffic_class)
        };
        if self.is_vxlan {
            write_vxlan(payload, inner);
        }
        true
    }

    #[inline]
    fn write_v4<'a>(&self, out: &'a mut [u8], total: u16, class: u8) -> &'a mut [u8] {
        let (ip, rest) = out.split_at_mut(ipv4::MIN_HEADER_LEN);
        ip[1] = class;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        let field = checksum::finish(u64::from(self.sum + u32::from(class) + u32::from(total)));
        ip[10..12].copy_from_slice(&field.to_be_bytes());
        rest
    }

    #[inline]
    fn write_v6<'a>(&self, out: &'a mut [u8], total: usize, inner: Inner) -> &'a mut [u8] {
        let (ip, rest) = out.split_at_mut(ipv6::HEADER_LEN);
        // RFC 6438 3: the flow label of a tunnel carries the inner flow's entropy.
        let label = inner.hash & 0xf_ffff;
        let word = 6 << 28 | u32::from(inner.traffic_class) << 20 | label;
        ip[..4].copy_from_slice(&word.to_be_bytes());
        ip[4..6].copy_from_slice(&((total - ipv6::HEADER_LEN) as u16).to_be_bytes());
        rest
    }

    /// The checksum field of the UDP header at [`Encap::udp_to_sum`]. `sum` is that of all bytes
    /// from this header on, the field itself being 0; `headers` are those that were written.
    pub fn udp_checksum(&self, headers: &[u8], sum: u64) -> u16 {
        let Some(view) = ipv6::View::new(headers) else { return 0 };
        let length = view.payload_len();
        let pseudo = checksum::pseudo_v6(view.src(), view.dst(), protocol::UDP, length);
        udp::nonzero(checksum::finish(sum + pseudo))
    }
}

/// Source port, length and inner EtherType. `rest` begins with the UDP header.
#[inline]
fn write_vxlan(rest: &mut [u8], inner: Inner) {
    let ethertype = if inner.is_v6 { ethernet::IPV6 } else { ethernet::IPV4 };
    rest[..2].copy_from_slice(&source_port(inner.hash).to_be_bytes());
    rest[4..6].copy_from_slice(&((VXLAN_LEN + inner.len) as u16).to_be_bytes());
    rest[VXLAN_LEN - 2..VXLAN_LEN].copy_from_slice(&ethertype.to_be_bytes());
}

/// The source port that carries a flow's entropy: [`FIRST_PORT`] to 65535.
#[inline]
pub fn source_port(hash: u32) -> u16 {
    FIRST_PORT | (hash ^ hash >> 16) as u16
}

#[cfg(test)]
mod tests;
