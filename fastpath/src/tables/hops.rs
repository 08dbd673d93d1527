//! Next hops that are ready for a rewrite: what else is spread over a target, an adjacency and a
//! port, in half a line of the cache for each target.

use super::{PortId, Tables, Target, TargetId};
use crate::forward::{self, LinkAddresses};

/// A next hop that is resolved, behind a port that is up, and takes packets as they are.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Hop {
    /// The port; [`PortId::NONE`] where the target is no such hop.
    pub(crate) egress: PortId,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u16,
    pub(crate) addresses: LinkAddresses,
}

impl Hop {
    pub(crate) const NONE: Hop =
        Hop { egress: PortId::NONE, mtu: 0, addresses: LinkAddresses::NONE };

    fn of(tables: &Tables, id: TargetId) -> Option<Hop> {
        let Target::Forward(to) = tables.target(id) else { return None };
        let adjacency = tables.adjacency(to).filter(|it| it.tunnel.is_none())?;
        let port = tables.port(adjacency.port).filter(|port| port.up)?;
        let addresses = forward::link_addresses(adjacency.mac?, port.mac);
        Some(Hop { egress: adjacency.port, mtu: port.mtu, addresses })
    }
}

/// The hop of each target of tables that are published; none of others. Tables that say the same
/// are the same with it and without.
#[derive(Debug, Clone, Default)]
pub struct Hops(Box<[Hop]>);

impl PartialEq for Hops {
    fn eq(&self, _: &Hops) -> bool {
        true
    }
}

impl Eq for Hops {}

impl Tables {
    /// The same, as workers are to have it: not to be changed any more.
    #[must_use]
    pub fn ready(self) -> Tables {
        let ids = (0..self.targets.len() as u32).map(TargetId);
        let hops = Hops(ids.map(|id| Hop::of(&self, id).unwrap_or(Hop::NONE)).collect());
        Tables { hops, ..self }
    }

    /// The next hop that a target is.
    #[inline]
    pub(crate) fn hop(&self, id: TargetId) -> Hop {
        match self.hops.0.get(id.0 as usize) {
            Some(hop) => *hop,
            None => Hop::of(self, id).unwrap_or(Hop::NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Adjacency, AdjacencyId, PortEntry};
    use crate::tunnel::TunnelId;
    use margay_tunnels::wire::ethernet::Mac;

    #[test]
    fn a_hop_is_a_next_hop_that_needs_nothing_more() {
        let up = PortEntry::network("up", Mac([2, 0, 0, 0, 0, 1]), 1400);
        let down = PortEntry { up: false, ..up.clone() };
        let plain = Adjacency {
            port: PortId(0),
            neighbor: [10, 0, 0, 1].into(),
            mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            tunnel: None,
        };
        let adjacencies = vec![
            plain.clone(),
            Adjacency { mac: None, ..plain.clone() },
            Adjacency { tunnel: Some(TunnelId(0)), ..plain.clone() },
            Adjacency { port: PortId(1), ..plain.clone() },
            Adjacency { port: PortId(2), ..plain },
        ];
        let forward = (0..6).map(|at| Target::Forward(AdjacencyId(at)));
        let targets: Vec<Target> =
            [Target::Local, Target::Ecmp(0)].into_iter().chain(forward).collect();
        let tables = Tables {
            ports: vec![Some(up), Some(down), None],
            targets,
            adjacencies,
            ..Tables::default()
        };
        let ready = tables.clone().ready();
        assert_eq!(ready, tables);
        for id in (0..10).map(TargetId) {
            for hop in [tables.hop(id), ready.hop(id)] {
                let wanted = if id.0 == 2 { (PortId(0), 1400) } else { (PortId::NONE, 0) };
                assert_eq!((hop.egress, hop.mtu), wanted, "{id:?}");
            }
        }
    }
}
