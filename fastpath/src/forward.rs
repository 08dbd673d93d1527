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

/// TTL or hop limit of a parsed packet.
#[inline]
pub fn ttl(packet: &Packet) -> u8 {
    let at = if is_v4(packet) { 8 } else { 7 };
    ip(packet).get(at).copied().unwrap_or(0)
}

/// True for IPv4 without DF: the only packets that a router may fragment.
pub fn may_fragment(packet: &Packet) -> bool {
    is_v4(packet) && ipv4::View::new(ip(packet)).is_some_and(|view| !view.dont_fragment())
}

/// Writes the link header and takes one from the TTL where the step asks for it.
#[inline]
pub fn rewrite(packet: &mut Packet, dst: Mac, src: Mac, step: Step) {
    let l3 = usize::from(packet.l3);
    let head = packet.head_mut();
    head[..6].copy_from_slice(&dst.0);
    head[6..ethernet::HEADER_LEN - 2].copy_from_slice(&src.0);
    if step != Step::Forward {
        return;
    }
    let ip = &mut head[l3..];
    if ip[0] >> 4 == 4 {
        ipv4::decrement_ttl(ip);
    } else {
        ip[7] -= 1;
    }
}
