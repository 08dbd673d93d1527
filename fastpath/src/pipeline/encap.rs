//! Packets whose next hop is reached through a tunnel: outer headers in their headroom.
//!
//! The TTL of the inner packet falls as on any other link (RFC 2003 3.1), and its MTU is the path's
//! without the outer headers: what is larger is cut before it goes in, or refused to its sender.

use super::{Pipeline, View};
use crate::counters::Counter;
use crate::drop_reason::DropReason;
use crate::forward::{self, LinkAddresses, Step};
use crate::icmp::IcmpError;
use crate::packet::{Gso, Offload, Packet};
use crate::port::PortId;
use crate::segment::{self, Checksums};
use crate::tables::{AdjacencyId, Tables};
use crate::tunnel::{PathMtus, Tunnel, TunnelCounter, TunnelId};
use margay_tunnels::encap::Inner;
use margay_tunnels::mss;
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol, udp};

const LINK: usize = ethernet::HEADER_LEN;

/// A next hop behind a tunnel, with the underlay's next hop resolved.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    id: TunnelId,
    tunnel: &'a Tunnel,
    egress: PortId,
    mtu: u16,
    addresses: LinkAddresses,
}

impl<'a> Way<'a> {
    /// `None` unless the next hop has a tunnel that is there, and can be sent to now.
    pub(super) fn of(tables: &'a Tables, to: AdjacencyId) -> Option<Way<'a>> {
        let adjacency = tables.adjacency(to)?;
        let id = adjacency.tunnel?;
        let port = tables.port(adjacency.port).filter(|port| port.up)?;
        Some(Way {
            id,
            tunnel: tables.tunnel(id)?,
            egress: adjacency.port,
            mtu: port.mtu,
            addresses: forward::link_addresses(adjacency.mac?, port.mac),
        })
    }

    /// Largest inner packet, in bytes.
    pub(super) fn inner_mtu(&self, paths: &PathMtus, now_ns: u64) -> u16 {
        let path = paths.get(self.id, now_ns).unwrap_or(u16::MAX).min(self.mtu);
        path.saturating_sub(self.tunnel.encap.overhead() as u16)
    }
}

impl Pipeline {
    /// Through the tunnel of a next hop. Super-packets are cut here, for no port can do it behind
    /// the outer headers.
    #[inline(never)]
    pub(super) fn encapsulate(
        &mut self,
        view: View<'_>,
        packet: Packet,
        to: AdjacencyId,
        step: Step,
    ) {
        let Some(way) = Way::of(view.tables, to) else {
            return self.drop(view, packet, DropReason::PortDown);
        };
        let room = usize::from(way.inner_mtu(&self.path_mtus, view.now_ns));
        if segment::largest_ip_len(&packet) > room {
            let lost = u64::from(!forward::may_fragment(&packet));
            self.count_tunnel(way.id, |counter| &counter.tx_drops, lost);
            return self.too_big(view, packet, to, step);
        }
        if forward::ends_here(&packet, step) {
            return self.error(view, packet, DropReason::TtlExceeded, IcmpError::TtlExceeded);
        }
        if packet.is_finished() {
            return self.wrap(view, way, packet, step);
        }
        let super_packet = packet.offload().gso != Gso::None;
        let mut parts = std::mem::take(&mut self.parts);
        match segment::segment(packet, &mut self.pool, &mut parts, Checksums::Finish) {
            Ok(()) if super_packet => self.counters.made.add(parts.len() as u64 - 1),
            Ok(()) => {}
            Err(error) => {
                self.count_tunnel(way.id, |counter| &counter.tx_drops, 1);
                self.counters.count_drop(error.drop_reason());
            }
        }
        for part in parts.drain(..) {
            self.wrap(view, way, part, step);
        }
        self.parts = parts;
    }

    fn wrap(&mut self, view: View<'_>, way: Way<'_>, mut packet: Packet, step: Step) {
        if way.tunnel.mss_mtu != 0 {
            clamp_mss(&mut packet, way.tunnel.mss_mtu);
        }
        let overhead = way.tunnel.encap.overhead();
        if packet.headroom() < overhead {
            packet = match segment::into_small(packet, &mut self.pool) {
                Ok(copy) => copy,
                Err(packet) => return self.unwrapped(view, way, packet, DropReason::NoFrame),
            };
        }
        let hash = crate::flow_hash::flow_hash(&packet);
        let len = packet.len() - LINK;
        let inner = Inner::of(&packet.head()[LINK..], len, hash);
        // The link header is the outer packet's, or the inner frame's, later on.
        let lives = forward::rewrite(&mut packet, &way.addresses, step);
        let (Some(inner), true) = (inner, lives) else {
            return self.unwrapped(view, way, packet, DropReason::TunnelHeader);
        };
        if packet.push_front(overhead).is_none() || !put_headers(&mut packet, way, inner) {
            return self.unwrapped(view, way, packet, DropReason::TunnelHeader);
        }
        if let Some(counter) = self.counters.tunnels.of(way.id) {
            counter.tx_packets.add(1);
            counter.tx_bytes.add(len as u64);
        }
        self.counters.forwarded.add(1);
        self.egress.push(way.egress, packet);
    }

    #[cold]
    fn unwrapped(&mut self, view: View<'_>, way: Way<'_>, packet: Packet, reason: DropReason) {
        self.count_tunnel(way.id, |counter| &counter.tx_drops, 1);
        self.drop(view, packet, reason);
    }

    #[inline]
    pub(super) fn count_tunnel(
        &self,
        id: TunnelId,
        which: fn(&TunnelCounter) -> &Counter,
        count: u64,
    ) {
        if let Some(counter) = self.counters.tunnels.of(id) {
            which(counter).add(count);
        }
    }
}

/// Link and outer headers into the room that was made for them.
fn put_headers(packet: &mut Packet, way: Way<'_>, inner: Inner) -> bool {
    let encap = &way.tunnel.encap;
    let Some((front, _)) = packet.head_mut().split_at_mut_checked(LINK + encap.overhead()) else {
        return false;
    };
    let (link, outer) = front.split_at_mut(LINK);
    if !encap.write(outer, inner) {
        return false;
    }
    let (ethertype, ip_len) = match encap.is_v6() {
        true => (ethernet::IPV6, ipv6::HEADER_LEN),
        false => (ethernet::IPV4, ipv4::MIN_HEADER_LEN),
    };
    way.addresses.write(link);
    link[12..].copy_from_slice(&ethertype.to_be_bytes());
    (packet.l3, packet.l4) = (LINK as u16, (LINK + ip_len) as u16);
    packet.set_offload(Offload::default());
    packet.set_from_tap(false);
    if let Some(at) = encap.udp_to_sum() {
        let sum = segment::sum_from(packet, LINK + at);
        let field = encap.udp_checksum(&packet.head()[LINK..], sum);
        let at = LINK + at + udp::CHECKSUM_OFFSET;
        packet.head_mut()[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
    true
}

/// Lowers the segment size that TCP's ends tell each other to what packets of `mtu` bytes hold.
pub(super) fn clamp_mss(packet: &mut Packet, mtu: u16) {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let unfinished = packet.offload().needs_csum;
    let head = packet.head_mut();
    let Some((is_v6, kind)) = transport(&head[l3.min(head.len())..]) else { return };
    if kind == protocol::TCP
        && let Some(segment) = head.get_mut(l4..)
    {
        mss::clamp(segment, mss::fitting(mtu, is_v6), unfinished);
    }
}

/// Family and transport protocol of a packet that holds the transport header.
fn transport(ip: &[u8]) -> Option<(bool, u8)> {
    match ip.first()? >> 4 {
        4 => {
            let view = ipv4::View::new(ip).filter(|view| view.fragment_offset() == 0)?;
            Some((false, view.protocol()))
        }
        6 => {
            let found = ipv6::View::new(ip)?.transport()?;
            (!found.is_later_fragment()).then_some((true, found.protocol))
        }
        _ => None,
    }
}
