//! Packets that need more of a worker than to be forwarded, as far as their ports may have that:
//! for the host's stack, for ARP and neighbour discovery, and what is told to senders.

use super::{MAX_MADE, Pipeline, View};
use crate::drop_reason::DropReason;
use crate::forward::{self, Step};
use crate::limit::Cause;
use crate::packet::Packet;
use crate::proxy_neighbor::{self, Outcome};
use crate::tables::PortEntry;

impl Pipeline {
    /// To the host's own stack, as it came.
    #[cold]
    pub(super) fn deliver(&mut self, view: View<'_>, mut packet: Packet) {
        let host = view.tables.host.and_then(|id| view.tables.adjacency(id));
        let Some((adjacency, mac)) = host.and_then(|host| Some((host, host.mac?))) else {
            return self.drop(view, packet, DropReason::NoHost);
        };
        let Some(port) = view.tables.port(adjacency.port) else {
            return self.drop(view, packet, DropReason::NoHost);
        };
        let cause = Cause::of_local(&packet);
        if !self.punts.allow(packet.in_port, cause, view.now_ns) {
            return self.drop(view, packet, cause.drop_reason());
        }
        let addresses = forward::link_addresses(mac, port.mac);
        let _ = forward::rewrite(&mut packet, &addresses, Step::Deliver);
        self.counters.punted.add(1);
        self.egress.push(adjacency.port, packet);
    }

    /// True when one more answer may be made to what came in by the packet's port; counts one that
    /// may not.
    pub(super) fn may_answer(&mut self, view: View<'_>, packet: &Packet, cause: Cause) -> bool {
        let is_allowed =
            self.made.len() < MAX_MADE && self.punts.allow(packet.in_port, cause, view.now_ns);
        if !is_allowed {
            self.counters.count_drop(cause.drop_reason());
        }
        is_allowed
    }

    /// What neighbours ask on the link.
    #[cold]
    pub(super) fn neighbor_message(
        &mut self,
        view: View<'_>,
        port: &PortEntry,
        mut packet: Packet,
    ) {
        if !port.answers_neighbors {
            return self.drop(view, packet, DropReason::NeighborMessage);
        }
        if !self.punts.allow(packet.in_port, Cause::Neighbor, view.now_ns) {
            return self.drop(view, packet, DropReason::PuntNeighbor);
        }
        match proxy_neighbor::answer(&mut packet, port.mac, &mut self.pool) {
            Outcome::Answer => {
                let back = packet.in_port;
                self.egress.push(back, packet);
            }
            Outcome::Ignored => self.drop(view, packet, DropReason::NeighborMessage),
        }
    }
}
