//! The small steps of forwarding: what a packet's header says, and the rewrite for the next hop.

use crate::packet::Packet;
use margay_tunnels::wire::{ethernet, ethernet::Mac, ipv4, ipv6};
use std::net::IpAddr;

/// In what role margay sends a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It passes through: the TTL falls by one.
    Forward,
    /// Margay made it: the TTL stays.
    Originate,
    /// It goes to the host's own stack: nothing but the link header changes.
    Deliver,
}

#[inline]
fn ip(packet: &Packet) -> &[u8] {
    let head = packet.head();
    &head[usize::from(packet.l3).min(head.len())..]
}

#[inline]
fn is_v4(packet: &Packet) -> bool {
    ip(packet).first().is_some_and(|byte| byte >> 4 == 4)
}

/// Destination of a parsed packet; `None` when it is not IP.
pub fn dst(packet: &Packet) -> Option<IpAddr> {
    let ip = ip(packet);
    match ip.first()? >> 4 {
        4 => ipv4::View::new(ip).map(|view| IpAddr::V4(view.dst())),
        6 => ipv6::View::new(ip).map(|view| IpAddr::V6(view.dst())),
        _ => None,
    }
}

/// True when a parsed packet's TTL or hop limit does not allow the step.
pub fn ends_here(packet: &Packet, step: Step) -> bool {
    let at = if is_v4(packet) { 8 } else { 7 };
    step == Step::Forward && ip(packet).get(at).is_none_or(|ttl| *ttl <= 1)
}

/// True for IPv4 without DF: the only packets that a router may fragment.
pub fn may_fragment(packet: &Packet) -> bool {
    is_v4(packet) && ipv4::View::new(ip(packet)).is_some_and(|view| !view.dont_fragment())
}

/// The destination and source of a link header, as they stand on the wire: in two words, since
/// twelve single bytes are written as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddresses {
    first: u64,
    last: u32,
}

impl LinkAddresses {
    /// All zeros.
    pub(crate) const NONE: LinkAddresses = LinkAddresses { first: 0, last: 0 };

    /// Writes them at the begin of a link header.
    #[inline]
    pub(crate) fn write(&self, link: &mut [u8]) {
        let Some((first, rest)) = link.split_first_chunk_mut() else { return };
        let Some(last) = rest.first_chunk_mut() else { return };
        (*first, *last) = (self.first.to_ne_bytes(), self.last.to_ne_bytes());
    }
}

/// The addresses for a next hop.
#[inline]
pub fn link_addresses(dst: Mac, src: Mac) -> LinkAddresses {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (dst.0, src.0);
    LinkAddresses {
        first: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        last: u32::from_ne_bytes([i, j, k, l]),
    }
}

/// Writes the link header and takes one from the TTL where the step asks for it. False, with
/// nothing written, when the TTL or hop limit ends here (RFC 1812 5.3.1, RFC 8200 3).
#[inline(always)]
#[must_use]
pub fn rewrite(packet: &mut Packet, addresses: &LinkAddresses, step: Step) -> bool {
    match packet.start_mut::<{ ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN }>() {
        Some(start) if start[ethernet::HEADER_LEN] >> 4 == 4 => {
            let (link, ip) = start.split_at_mut(ethernet::HEADER_LEN);
            if step == Step::Forward && !ipv4::decrement_ttl(ip) {
                return false;
            }
            addresses.write(link);
            true
        }
        _ => rewrite_any(packet, addresses, step),
    }
}

fn rewrite_any(packet: &mut Packet, addresses: &LinkAddresses, step: Step) -> bool {
    let Some((link, ip)) = packet.head_mut().split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()
    else {
        return false;
    };
    if step == Step::Forward {
        let lived = match ip.first().map(|byte| byte >> 4) {
            Some(4) => ipv4::decrement_ttl(ip),
            _ => ipv6::decrement_hop_limit(ip),
        };
        if !lived {
            return false;
        }
    }
    addresses.write(link);
    true
}
