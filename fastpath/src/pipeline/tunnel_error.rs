//! ICMP errors about outer packets: what the underlay says of a tunnel (RFC 2003 4, RFC 2473 8).
//!
//! A path's MTU is remembered, so that the next packet that is too big is refused to its sender.
//! Where the error quotes enough of the inner packet, its sender is told at once: too big as such,
//! everything else as host unreachable, since the sender knows nothing of the tunnel's hops.

use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::forward;
use crate::icmp::IcmpError;
use crate::packet::Packet;
use crate::segment;
use crate::tunnel::path_mtu::{LEAST_V4, LEAST_V6};
use crate::tunnel::{TunnelEnd, TunnelId, TunnelKind};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, udp, vxlan};
use std::net::IpAddr;

const LINK: usize = ethernet::HEADER_LEN;
const ICMP_HEADER_LEN: usize = 8;
/// Bytes behind the inner IP header that an error to its sender must quote (RFC 792).
const LEAST_QUOTE: usize = 8;

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Report {
    tunnel: TunnelId,
    /// The largest packet that passes, if that is what it is about.
    mtu: Option<u16>,
    /// Offset of the inner IP header in the packet.
    inner: usize,
}

impl Pipeline {
    pub(super) fn is_tunnel_error(&self, view: View<'_>, packet: &Packet) -> bool {
        read(&view.tables.tunnel_end, packet).is_some()
    }

    /// Takes in what the underlay said, and tells the sender of the inner packet.
    #[cold]
    pub(super) fn tunnel_error(&mut self, view: View<'_>, mut packet: Packet) {
        let report = read(&view.tables.tunnel_end, &packet);
        let Some(report) = report.filter(|_| is_right(&packet)) else {
            return self.drop(view, packet, DropReason::BadChecksum);
        };
        let tunnel = view.tables.tunnel(report.tunnel);
        if let Some(mtu) = report.mtu {
            let before = self.path_mtus.get(report.tunnel, view.now_ns);
            self.path_mtus.learn(report.tunnel, mtu, view.now_ns);
            if self.path_mtus.get(report.tunnel, view.now_ns) != before {
                self.recall_offload();
            }
        }
        let overhead = tunnel.map_or(0, |tunnel| tunnel.encap.overhead() as u16);
        let kind = match report.mtu {
            Some(mtu) => IcmpError::TooBig { mtu: mtu.saturating_sub(overhead) },
            None => IcmpError::HostUnreachable,
        };
        let is_inner = tunnel.is_some() && become_inner(&mut packet, report.inner);
        // Without DF, the next packet is simply cut.
        let may_be_cut = report.mtu.is_some() && is_inner && forward::may_fragment(&packet);
        if !is_inner || may_be_cut {
            return self.drop(view, packet, DropReason::TunnelError);
        }
        self.error(view, packet, DropReason::TunnelError, kind);
    }
}

/// `None` unless it is an error about an outer packet that went out by a tunnel of ours.
fn read(end: &TunnelEnd, packet: &Packet) -> Option<Report> {
    let head = packet.head();
    let l4 = usize::from(packet.l4);
    let icmp = head.get(l4..)?;
    let header = icmp.first_chunk::<ICMP_HEADER_LEN>()?;
    let quoted = &icmp[ICMP_HEADER_LEN..];
    let at = l4 + ICMP_HEADER_LEN;
    match head.get(LINK)? >> 4 {
        4 => {
            let outer = ipv4::View::new(head.get(LINK..)?)?;
            let is_error = outer.protocol() == protocol::ICMP && matches!(header[0], 3 | 11);
            let about = ipv4::View::new(quoted).filter(|view| is_error && view.src() == end.v4)?;
            let begin = about.header_len();
            let key = (about.protocol(), about.dst().into());
            let (tunnel, len) = find(end, key, quoted.get(begin..)?)?;
            let too_big = header[..2] == [3, 4];
            let mtu = too_big.then(|| u16::from_be_bytes([header[6], header[7]]).max(LEAST_V4));
            Some(Report { tunnel, mtu, inner: at + begin + len })
        }
        _ => {
            let outer = ipv6::View::new(head.get(LINK..)?)?;
            let kind = outer.transport()?.protocol;
            let is_error = kind == protocol::ICMPV6 && matches!(header[0], 1..=4);
            let about = ipv6::View::new(quoted).filter(|view| is_error && view.src() == end.v6)?;
            let begin = ipv6::HEADER_LEN;
            let key = (about.next_header(), about.dst().into());
            let (tunnel, len) = find(end, key, quoted.get(begin..)?)?;
            let named = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let mtu = u16::try_from(named).unwrap_or(u16::MAX).max(LEAST_V6);
            let mtu = (header[0] == 2).then_some(mtu);
            Some(Report { tunnel, mtu, inner: at + begin + len })
        }
    }
}

/// The tunnel of a quoted outer packet, and the length of its headers behind the IP header.
fn find(end: &TunnelEnd, (kind, dst): (u8, IpAddr), payload: &[u8]) -> Option<(TunnelId, usize)> {
    let (kind, len) = match kind {
        protocol::IPIP => (TunnelKind::Ipip, 0),
        protocol::UDP => {
            let port = udp::View::new(payload)?.dst_port();
            (port == end.vxlan_port).then_some(())?;
            (TunnelKind::Vxlan, udp::HEADER_LEN + vxlan::HEADER_LEN + LINK)
        }
        _ => return None,
    };
    end.sources.get(&(kind, dst)).map(|id| (*id, len))
}

/// The ICMP checksum is right.
fn is_right(packet: &Packet) -> bool {
    let (head, l4) = (packet.head(), usize::from(packet.l4));
    let pseudo = match head[LINK] >> 4 {
        4 => 0,
        _ => {
            let Some(view) = ipv6::View::new(&head[LINK..]) else { return false };
            let length = packet.len() - l4;
            checksum::pseudo_v6(view.src(), view.dst(), protocol::ICMPV6, length)
        }
    };
    checksum::fold(segment::sum_from(packet, l4) + pseudo) == 0xffff
}

/// Cuts the packet to the quoted inner one; false when too little of that is there.
fn become_inner(packet: &mut Packet, at: usize) -> bool {
    let Some(ip) = packet.head().get(at..) else { return false };
    let (header_len, ethertype) = match ip.first().map(|byte| byte >> 4) {
        Some(4) => {
            let found = ipv4::View::new(ip).map(|view| view.header_len());
            (found.filter(|length| *length >= ipv4::MIN_HEADER_LEN), ethernet::IPV4)
        }
        Some(6) => {
            let found = ipv6::View::new(ip).and_then(|view| view.transport());
            (found.map(|transport| transport.offset), ethernet::IPV6)
        }
        _ => return false,
    };
    let Some(header_len) = header_len.filter(|length| length + LEAST_QUOTE <= ip.len()) else {
        return false;
    };
    let _ = packet.pull_front(at - LINK);
    let link = ethernet::header(Mac::default(), Mac::default(), ethertype);
    packet.head_mut()[..LINK].copy_from_slice(&link);
    (packet.l3, packet.l4) = (LINK as u16, (LINK + header_len) as u16);
    true
}
