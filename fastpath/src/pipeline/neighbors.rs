//! Next hops whose link address is not known yet.

use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::forward::{self, Step};
use crate::icmp::IcmpError;
use crate::limit::Cause;
use crate::neighbor::{Hold, Neighbor};
use crate::packet::Packet;
use crate::tables::AdjacencyId;

impl Pipeline {
    /// The next hop's link address is not known. A TTL that ends here is told at once.
    #[cold]
    pub(super) fn wait_for(&mut self, view: View<'_>, packet: Packet, to: AdjacencyId, step: Step) {
        if forward::ends_here(&packet, step) {
            return self.error(view, packet, DropReason::TtlExceeded, IcmpError::TtlExceeded);
        }
        let Some(adjacency) = view.tables.adjacency(to) else {
            return self.drop(view, packet, DropReason::PortDown);
        };
        let neighbor = Neighbor { port: adjacency.port, address: adjacency.neighbor };
        self.hold(view, packet, neighbor);
    }

    #[cold]
    pub(super) fn hold(&mut self, view: View<'_>, packet: Packet, neighbor: Neighbor) {
        let (port, now_ns) = (packet.in_port, view.now_ns);
        let may_ask = || self.punts.allow(port, Cause::Resolve, now_ns);
        match self.hold.hold(neighbor, packet, now_ns, may_ask) {
            Hold::Kept => {}
            Hold::Ask => self.requests.push(neighbor),
            Hold::Full(packet) => self.drop(view, packet, DropReason::NeighborQueueFull),
            Hold::Unasked(packet) => self.drop(view, packet, DropReason::PuntUnresolved),
        }
    }

    /// Routes what waited for a neighbour anew, or refuses it when the neighbour has failed.
    pub fn neighbor_result(&mut self, view: View<'_>, neighbor: &Neighbor, resolved: bool) {
        for packet in self.hold.take(neighbor) {
            if resolved {
                self.route_again(view, packet);
            } else {
                self.neighbor_failed(view, packet);
            }
        }
        self.route_made(view);
    }

    /// Work that depends on time: packets that have waited too long. Call a few times a second.
    pub fn tick(&mut self, view: View<'_>) {
        for packet in self.hold.expire(view.now_ns) {
            self.neighbor_failed(view, packet);
        }
        self.tick_flows(view);
        self.tick_fragments(view);
        self.route_made(view);
    }

    /// Packets that wait now: for link addresses, and fragments for others.
    pub fn held(&self) -> usize {
        self.hold.len() + self.reassembly.waiting() + self.fragments_waiting()
    }

    pub(super) fn neighbor_failed(&mut self, view: View<'_>, packet: Packet) {
        self.error(view, packet, DropReason::NeighborFailed, IcmpError::HostUnreachable);
    }
}
