//! The common case of forwarding, done to a whole burst without moving a packet.

use super::View;
use super::burst::{Burst, NOWHERE};
use crate::forward::{self, Step};
use crate::packet::Packet;
use crate::port::{BURST, PortId};
use crate::segment;
use crate::tables::{Tables, Target, TargetId};

/// A resolved next hop, ready for a rewrite.
struct Hop {
    egress: PortId,
    mtu: usize,
    addresses: forward::LinkAddresses,
}

impl Hop {
    /// `None` unless the target is one next hop that is resolved, behind a port that is up, and
    /// takes packets as they are.
    fn of(tables: &Tables, target: TargetId) -> Option<Hop> {
        let Target::Forward(to) = tables.target(target) else { return None };
        let adjacency = tables.adjacency(to).filter(|it| it.tunnel.is_none())?;
        let port = tables.port(adjacency.port).filter(|port| port.up)?;
        let addresses = forward::link_addresses(adjacency.mac?, port.mac);
        Some(Hop { egress: adjacency.port, mtu: usize::from(port.mtu), addresses })
    }
}

/// Packets that need nothing but a rewrite get it where they are, and their port is noted in
/// `found.egress`. If that is all of them, and one port, the port. Packets behind each other
/// mostly share a next hop, so the last one is kept.
pub(super) fn forward_in_place(
    view: View<'_>,
    found: &mut Burst,
    burst: &mut [Packet],
) -> Option<PortId> {
    let mut known = NOWHERE;
    let mut hop = None;
    let (targets, egress) = found.targets_and_egress();
    for ((packet, target), noted) in burst.iter_mut().zip(targets).zip(&mut *egress) {
        if *target != known {
            known = *target;
            hop = Hop::of(view.tables, known);
        }
        *noted = match &hop {
            Some(hop)
                if segment::largest_ip_len(packet) <= hop.mtu
                    && forward::rewrite(packet, &hop.addresses, Step::Forward) =>
            {
                hop.egress
            }
            _ => PortId::NONE,
        };
    }
    let (first, rest) = egress[..burst.len().min(BURST)].split_first()?;
    (*first != PortId::NONE && rest.iter().all(|noted| noted == first)).then_some(*first)
}
