//! Packets that do not go on as they are: refusals that their senders hear of, and fragments.

use super::encap::Way;
use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::forward::{self, Step};
use crate::icmp::{self, IcmpError};
use crate::neighbor::Neighbor;
use crate::packet::Packet;
use crate::segment::{self, Checksums};
use crate::tables::{AdjacencyId, Target};
use std::net::IpAddr;

impl Pipeline {
    #[cold]
    pub(super) fn refuse(&mut self, view: View<'_>, packet: Packet, target: Target) {
        match target {
            Target::Glean(port) => {
                let Some(address) = forward::dst(&packet) else {
                    return self.drop(view, packet, DropReason::BadHeader);
                };
                self.hold(view, packet, Neighbor { port, address });
            }
            Target::Blackhole => self.drop(view, packet, DropReason::Blackhole),
            Target::Unreachable => {
                self.error(view, packet, DropReason::Unreachable, IcmpError::HostUnreachable);
            }
            Target::Prohibit => {
                self.error(view, packet, DropReason::Prohibit, IcmpError::Prohibited);
            }
            _ => self.error(view, packet, DropReason::NoRoute, IcmpError::NetUnreachable),
        }
    }

    /// Larger than the egress port takes: fragments where that is allowed, an error where not.
    #[cold]
    pub(super) fn too_big(&mut self, view: View<'_>, packet: Packet, to: AdjacencyId, step: Step) {
        let Some(mtu) = self.mtu_of(view, to) else {
            return self.drop(view, packet, DropReason::PortDown);
        };
        if forward::ends_here(&packet, step) {
            return self.error(view, packet, DropReason::TtlExceeded, IcmpError::TtlExceeded);
        }
        if !forward::may_fragment(&packet) {
            return self.error(view, packet, DropReason::TooBig, IcmpError::TooBig { mtu });
        }
        let mut parts = Vec::new();
        if let Err(reason) = segment::segment(packet, &mut self.pool, &mut parts, Checksums::Finish)
        {
            return self.counters.count_drop(reason.drop_reason());
        }
        for part in parts {
            let mut pieces = Vec::new();
            let cut = crate::fragment::fragment(&part, mtu.into(), &mut self.pool, &mut pieces);
            if let Err(reason) = cut {
                self.drop(view, part, reason);
                continue;
            }
            part.free(&mut self.pool);
            self.counters.made.add(pieces.len() as u64 - 1);
            for piece in pieces {
                self.forward(view, piece, to, step);
            }
        }
    }

    /// The largest packet that a next hop takes, in bytes.
    fn mtu_of(&self, view: View<'_>, to: AdjacencyId) -> Option<u16> {
        if let Some(way) = Way::of(view.tables, to) {
            return Some(way.inner_mtu(&self.path_mtus, view.now_ns));
        }
        view.tables.port(view.tables.adjacency(to)?.port).map(|egress| egress.mtu)
    }

    /// Drops a packet and tells its sender why, if that may be told.
    #[cold]
    pub(super) fn error(
        &mut self,
        view: View<'_>,
        mut packet: Packet,
        reason: DropReason,
        kind: IcmpError,
    ) {
        let source =
            view.tables.port(packet.in_port).and_then(|port| match forward::dst(&packet)? {
                IpAddr::V4(_) => port.icmp_source_v4.map(IpAddr::V4),
                IpAddr::V6(_) => port.icmp_source_v6.map(IpAddr::V6),
            });
        if let Some(source) = source
            && self.may_answer(view, &packet, kind.cause())
        {
            let _ = segment::finish_checksum(&mut packet);
            if let Some(error) = icmp::error(&packet, kind, source, &mut self.pool) {
                self.counters.icmp_errors.add(1);
                self.made.push(error);
            }
        }
        self.drop(view, packet, reason);
    }
}
