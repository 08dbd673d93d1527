//! The tables of a router with nothing but ports and a next hop behind each.

use margay_fastpath::port::PortId;
use margay_fastpath::tables::{Adjacency, AdjacencyId, PortEntry, Tables, Target};
use margay_tunnels::wire::ethernet::Mac;
use std::net::Ipv4Addr;

/// So many ports in, numbered from 0, and as many out behind them; a target for each of the latter,
/// from 1 on. The link addresses are that of all ports and that of all next hops.
pub(crate) fn tables(ports: u16, [router, next_hop]: [Mac; 2]) -> Tables {
    let entries = (0..2 * ports).map(|at| {
        let name = format!("port{at}");
        Some(PortEntry::network(&name, router, 1500))
    });
    let forward = (0..u32::from(ports)).map(|at| Target::Forward(AdjacencyId(at)));
    let hop = |at: u16| Adjacency {
        port: PortId(ports + at),
        neighbor: Ipv4Addr::from(0xc0a8_0001 + u32::from(at)).into(),
        mac: Some(next_hop),
        tunnel: None,
    };
    Tables {
        ports: entries.collect(),
        targets: [Target::NoRoute].into_iter().chain(forward).collect(),
        adjacencies: (0..ports).map(hop).collect(),
        ..Tables::default()
    }
}
