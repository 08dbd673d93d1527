//! Packets that need more of a worker than to be forwarded, as far as their ports may have that:
//! for the host's stack, for ARP and neighbour discovery, and what is told to senders.

use super::{MAX_MADE, Pipeline, View};
use crate::drop_reason::DropReason;
use crate::forward::{self, Step};
use crate::hand_over;
use crate::limit::Cause;
use crate::packet::Packet;
use crate::port::PortId;
use crate::proxy_neighbor::{self, Outcome};
use crate::tables::PortEntry;
use margay_tunnels::wire::ethernet::Mac;

/// What the host is told of a packet's way.
fn told(view: View<'_>, packet: &Packet) -> Mac {
    let is_own = packet.is_judged() || packet.in_port == PortId::NONE;
    match view.tables.port(packet.in_port).filter(|_| !is_own) {
        Some(port) if port.workload => hand_over::JUDGED,
        Some(_) if packet.is_from_tunnel() => hand_over::address(None, packet.is_asked()),
        Some(port) => hand_over::address(Some(&port.name), packet.is_asked()),
        None if is_own => hand_over::JUDGED,
        // Its port has just gone.
        None => hand_over::address(Some(""), packet.is_asked()),
    }
}

impl Pipeline {
    /// To the host's own stack, as it came.
    #[cold]
    pub(super) fn deliver(&mut self, view: View<'_>, mut packet: Packet) {
        let host = view.tables.host.and_then(|id| view.tables.adjacency(id));
        let Some((adjacency, mac)) = host.and_then(|host| Some((host, host.mac?))) else {
            return self.drop(view, packet, DropReason::NoHost);
        };
        if view.tables.port(adjacency.port).is_none() {
            return self.drop(view, packet, DropReason::NoHost);
        }
        let cause = Cause::of_local(&packet);
        if !self.punts.allow(packet.in_port, cause, view.now_ns) {
            return self.drop(view, packet, cause.drop_reason());
        }
        let addresses = forward::link_addresses(mac, told(view, &packet));
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
