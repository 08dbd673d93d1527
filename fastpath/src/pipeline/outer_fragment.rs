//! Fragments of what may be tunnels' outer packets: put together, and then looked at as a whole.
//!
//! Only those from known nodes to where tunnels end come here. A whole packet that is none of a
//! tunnel's goes on as it is.

use super::decap::Arrival;
use super::{Pipeline, View};
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::parse::{Parsed, parse_any};
use crate::tables::PortEntry;
use crate::tunnel::reassembly::Gathered;

impl Pipeline {
    #[cold]
    pub(super) fn outer_fragment(&mut self, view: View<'_>, port: &PortEntry, packet: Packet) {
        let gathered = self.reassembly.gather(packet, view.now_ns);
        self.drop_fragments(view);
        let mut whole = match gathered {
            Gathered::Waits => return,
            Gathered::Refused(packet) => {
                return self.drop(view, packet, DropReason::TunnelFragment);
            }
            Gathered::Whole(packet) => packet,
        };
        let parsed = match parse_any(&mut whole, port.mac, &mut self.pool) {
            Ok(parsed) => self.inspect(view, port, &mut whole, parsed),
            Err(reason) => Arrival::Packet(Err(reason)),
        };
        match parsed {
            Arrival::Packet(Ok(Parsed::V4(_) | Parsed::V6(_))) => self.made.push(whole),
            Arrival::Packet(Err(reason)) => self.drop(view, whole, reason),
            Arrival::TunnelError => self.tunnel_error(view, whole),
            Arrival::Packet(Ok(Parsed::Neighbor)) | Arrival::OuterFragment => {
                self.drop(view, whole, DropReason::TunnelFragment);
            }
        }
    }

    fn drop_fragments(&mut self, view: View<'_>) {
        for packet in std::mem::take(&mut self.reassembly.expired) {
            self.drop(view, packet, DropReason::FragmentTimeout);
        }
    }

    /// Gives up fragments that have waited too long.
    pub(super) fn tick_fragments(&mut self, view: View<'_>) {
        self.reassembly.expire(view.now_ns);
        self.drop_fragments(view);
    }

    /// Frees what waits, for the end of the worker.
    pub(super) fn clear_fragments(&mut self) {
        self.reassembly.expire(u64::MAX);
        self.reassembly.expired.drain(..).for_each(|packet| packet.free(&mut self.pool));
    }
}
