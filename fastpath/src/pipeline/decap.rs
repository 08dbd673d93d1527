//! Packets at the end of a tunnel: the outer headers off, and the inner packet looked at once more.
//!
//! Tunnels are taken apart only when they end at this node's own address, come from a node that is
//! known (or from an outside host that the configuration names), and came in from a network: what
//! a pod sends is never taken apart, and by default not sent on either (Calico's rule). Outer
//! fragments from there are put together first. UDP's checksum over IPv4 is not verified,
//! which RFC 7348 5 leaves open, for the inner packet has its own; over IPv6 it must be there and
//! right, except behind a veth, where senders may leave it undone.

use super::encap::clamp_mss;
use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::parse::{Parsed, parse_any, plain_v4};
use crate::segment;
use crate::tables::PortEntry;
use crate::tunnel::{TunnelEnd, TunnelId, TunnelKind};
use margay_tunnels::decap::{self, DecapError};
use margay_tunnels::ecn;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, udp};
use std::net::IpAddr;

const LINK: usize = ethernet::HEADER_LEN;

/// What a packet is, once tunnels have been seen to.
pub(super) enum Arrival {
    /// To be routed, or dropped.
    Packet(Result<Parsed, DropReason>),
    /// An ICMP error about an outer packet of ours.
    TunnelError,
    /// A fragment of what may be an outer packet from a known node.
    OuterFragment,
}

/// The outer IP header of a packet that is no later fragment.
#[derive(Clone, Copy)]
struct Outer {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    traffic_class: u8,
    is_fragment: bool,
}

impl Outer {
    fn of(packet: &Packet) -> Option<Outer> {
        let ip = packet.head().get(LINK..)?;
        match ip.first()? >> 4 {
            4 => ipv4::View::new(ip).map(|view| Outer {
                src: view.src().into(),
                dst: view.dst().into(),
                protocol: view.protocol(),
                traffic_class: view.traffic_class(),
                is_fragment: view.is_fragment(),
            }),
            _ => {
                let view = ipv6::View::new(ip)?;
                let transport = view.transport()?;
                Some(Outer {
                    src: view.src().into(),
                    dst: view.dst().into(),
                    protocol: transport.protocol,
                    traffic_class: view.traffic_class(),
                    is_fragment: transport.fragment.is_some(),
                })
            }
        }
    }

    fn is_to(&self, end: &TunnelEnd) -> bool {
        match self.dst {
            IpAddr::V4(dst) => dst == end.v4 && !dst.is_unspecified(),
            IpAddr::V6(dst) => dst == end.v6 && !dst.is_unspecified(),
        }
    }

    /// The kind of tunnel that the packet would be of.
    fn kind(&self, packet: &Packet, end: &TunnelEnd) -> Option<TunnelKind> {
        match self.protocol {
            protocol::IPIP => Some(TunnelKind::Ipip),
            protocol::UDP => {
                let header = packet.head().get(usize::from(packet.l4)..)?;
                let port = udp::View::new(header)?.dst_port();
                (port == end.vxlan_port).then_some(TunnelKind::Vxlan)
            }
            _ => None,
        }
    }
}

impl Pipeline {
    /// Looks at a parsed packet for a tunnel's outer headers, and takes them off.
    #[inline(never)]
    pub(super) fn inspect(
        &mut self,
        view: View<'_>,
        port: &PortEntry,
        packet: &mut Packet,
        parsed: Parsed,
    ) -> Arrival {
        let end = &view.tables.tunnel_end;
        let outer = if parsed == Parsed::Neighbor { None } else { Outer::of(packet) };
        let Some(outer) = outer else { return Arrival::Packet(Ok(parsed)) };
        let kind = outer.kind(packet, end);
        if port.workload {
            let guarded = match kind {
                Some(TunnelKind::Ipip) => end.guards_ipip,
                Some(TunnelKind::Vxlan) => end.guards_vxlan,
                None => false,
            };
            let refused = guarded.then_some(DropReason::TunnelFromWorkload);
            return Arrival::Packet(refused.map_or(Ok(parsed), Err));
        }
        if !outer.is_to(end) {
            return Arrival::Packet(Ok(parsed));
        }
        if outer.is_fragment && may_be_tunnels(end, outer) {
            return Arrival::OuterFragment;
        }
        match kind {
            Some(kind) if ends(end, kind, outer.dst) => {
                Arrival::Packet(self.decapsulate(view, port, packet, (outer, kind)))
            }
            None if self.is_tunnel_error(view, packet) => Arrival::TunnelError,
            _ => Arrival::Packet(Ok(parsed)),
        }
    }

    fn decapsulate(
        &mut self,
        view: View<'_>,
        port: &PortEntry,
        packet: &mut Packet,
        (outer, kind): (Outer, TunnelKind),
    ) -> Result<Parsed, DropReason> {
        let end = &view.tables.tunnel_end;
        let from = end.source(kind, outer.src).map_err(|_| DropReason::TunnelSource)?;
        let len = packet.len();
        let done = take_off(end, port, packet, (outer, kind))
            .and_then(|mac| self.parse_inner(view, port, packet, mac));
        if let Some(id) = from {
            match done {
                Ok(_) => {
                    self.count_tunnel(id, |counter| &counter.rx_packets, 1);
                    let bytes = packet.len().min(len) - LINK;
                    self.count_tunnel(id, |counter| &counter.rx_bytes, bytes as u64);
                    self.clamp_from(view, port, packet, id);
                }
                Err(_) => self.count_tunnel(id, |counter| &counter.rx_drops, 1),
            }
        }
        done
    }

    fn parse_inner(
        &mut self,
        view: View<'_>,
        port: &PortEntry,
        packet: &mut Packet,
        mac: Mac,
    ) -> Result<Parsed, DropReason> {
        let parsed = match plain_v4(packet, mac.word(), &mut self.pool) {
            Some(dst) => Parsed::V4(dst),
            None => parse_any(packet, mac, &mut self.pool)?,
        };
        if parsed == Parsed::Neighbor {
            return Err(DropReason::NeighborMessage);
        }
        let end = &view.tables.tunnel_end;
        let inner = Outer::of(packet).ok_or(DropReason::BadHeader)?;
        if inner.is_to(end) && inner.kind(packet, end).is_some() {
            return Err(DropReason::TunnelNested);
        }
        if port.implicit_partial_csum {
            segment::detect_partial(packet);
        }
        Ok(parsed)
    }

    fn clamp_from(&self, view: View<'_>, port: &PortEntry, packet: &mut Packet, id: TunnelId) {
        let Some(tunnel) = view.tables.tunnel(id).filter(|tunnel| tunnel.mss_mtu != 0) else {
            return;
        };
        debug_assert!(!port.workload);
        clamp_mss(packet, tunnel.mss_mtu);
    }
}

/// Whether tunnels of this kind, over this family, end here.
fn ends(end: &TunnelEnd, kind: TunnelKind, dst: IpAddr) -> bool {
    match kind {
        TunnelKind::Ipip => end.ipip && dst.is_ipv4(),
        TunnelKind::Vxlan => end.vxlan[usize::from(dst.is_ipv6())].is_some(),
    }
}

/// Whether the fragment may be of a tunnel's packet; only the first one would tell.
fn may_be_tunnels(end: &TunnelEnd, outer: Outer) -> bool {
    let kind = match outer.protocol {
        protocol::IPIP => TunnelKind::Ipip,
        protocol::UDP => TunnelKind::Vxlan,
        _ => return false,
    };
    ends(end, kind, outer.dst) && end.source(kind, outer.src).is_ok()
}

/// Takes the outer headers off, so that the packet begins with a link header again; the link
/// address that this must be to.
fn take_off(
    end: &TunnelEnd,
    port: &PortEntry,
    packet: &mut Packet,
    (outer, kind): (Outer, TunnelKind),
) -> Result<Mac, DropReason> {
    if outer.is_fragment {
        return Err(DropReason::TunnelFragment);
    }
    if !packet.is_finished() {
        // A sender on this host that left the outer checksum, or the cutting, to others.
        return Err(DropReason::BadSegmentation);
    }
    let l4 = usize::from(packet.l4);
    let payload = packet.head().get(l4..).ok_or(DropReason::Truncated)?;
    let (begin, mac) = match kind {
        TunnelKind::Ipip => {
            decap::ipip(payload).map_err(reason)?;
            (l4 - LINK, port.mac)
        }
        TunnelKind::Vxlan => {
            let vxlan = end.vxlan[usize::from(outer.dst.is_ipv6())];
            let vxlan = vxlan.ok_or(DropReason::TunnelHeader)?;
            let len = packet.len() - l4;
            let frame = decap::vxlan(payload, len, vxlan.vni).map_err(reason)?;
            if !checksum_is_right(port, packet, outer) {
                return Err(DropReason::BadChecksum);
            }
            (l4 + frame, vxlan.mac)
        }
    };
    let head = packet.head_mut();
    if !ecn::carry_over(outer.traffic_class, &mut head[begin + LINK..]) {
        return Err(DropReason::TunnelEcn);
    }
    if kind == TunnelKind::Ipip {
        let link = ethernet::header(port.mac, Mac::default(), ethernet::IPV4);
        head[begin..begin + LINK].copy_from_slice(&link);
    }
    // Inside the first frame: the headers have been read there.
    let _ = packet.pull_front(begin);
    packet.set_from_tunnel();
    Ok(mac)
}

fn reason(error: DecapError) -> DropReason {
    match error {
        DecapError::Header => DropReason::TunnelHeader,
        DecapError::Vni(_) => DropReason::TunnelVni,
    }
}

/// RFC 8200 8.1: UDP over IPv6 has a checksum. RFC 6935's exception is not used by Calico.
fn checksum_is_right(port: &PortEntry, packet: &Packet, outer: Outer) -> bool {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (outer.src, outer.dst) else { return true };
    let l4 = usize::from(packet.l4);
    let Some(view) = udp::View::new(&packet.head()[l4..]) else { return false };
    if view.checksum() == 0 {
        return false;
    }
    if port.implicit_partial_csum {
        return true;
    }
    let pseudo = checksum::pseudo_v6(src, dst, protocol::UDP, view.len());
    // Padding behind the datagram has been cut off with the IP packet's.
    checksum::fold(segment::sum_from(packet, l4) + pseudo) == 0xffff
}
