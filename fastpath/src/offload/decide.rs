//! From a flow's key to what happens to its packets, by the tables that the pipeline goes by.
//!
//! `None` is for all that only the pipeline can do: host, tunnels, refusals, endpoints and ports
//! with limits, next hops without a link address, flows whose packets still change the state of
//! their session.

use super::{Decision, FlowMap, Key};
use crate::flow::{Address, Direction, SessionId, Tuple};
use crate::flow_hash;
use crate::nat::{Rules, Tracker};
use crate::pipeline::View;
use crate::tables::{AdjacencyId, Target};
use std::net::IpAddr;

/// The session that a flow belongs to, and which way it goes.
pub(super) type Tracked = (SessionId, Direction);

/// What is to happen to the packets of a flow.
pub(super) fn decide(
    view: View<'_>,
    map: &FlowMap,
    tracker: Option<&Tracker>,
    key: &Key,
) -> Option<(Decision, Option<Tracked>)> {
    let tables = view.tables;
    let ingress = tables.port(key.port).filter(|_| map.is_ingress(key.port))?;
    let (leaving, tracked) = match &tables.nat {
        Some(rules) if concerns(rules, &key.tuple) || tables.policy.is_some() => {
            tracker?.offload_of(rules, key.port, &key.tuple)?
        }
        None if tables.policy.is_some() => return None,
        _ => (key.tuple, None),
    };
    let adjacency = tables.adjacency(next_hop(view, &leaving)?)?;
    let egress = tables.port(adjacency.port).filter(|port| port.up)?;
    let is_limited = |port| tables.limits_of(port).is_some();
    if adjacency.tunnel.is_some()
        || !map.is_egress(adjacency.port)
        || is_limited(key.port)
        || is_limited(adjacency.port)
        || tables.rate_of(adjacency.port).is_some()
    {
        return None;
    }
    let decision = Decision {
        egress: adjacency.port,
        next_hop: adjacency.mac?,
        source: egress.mac,
        station: ingress.mac,
        max_len: egress.mtu,
        maybe_partial: ingress.implicit_partial_csum,
        leaving,
    };
    Some((decision, tracked))
}

/// Whether translation may have to do with it; the pipeline asks the same.
fn concerns(rules: &Rules, tuple: &Tuple) -> bool {
    match tuple.src.is_v4() {
        true => rules.ranges.may_concern_v4(tuple.src.v4_bits(), tuple.dst.v4_bits()),
        false => rules.ranges.may_concern_v6(),
    }
}

fn next_hop(view: View<'_>, leaving: &Tuple) -> Option<AdjacencyId> {
    let target = match address(leaving.dst) {
        IpAddr::V4(dst) => view.fib.lookup_v4(dst),
        IpAddr::V6(dst) => view.fib.lookup_v6(dst),
    };
    match view.tables.target(target) {
        Target::Forward(adjacency) => Some(adjacency),
        Target::Ecmp(group) => {
            let group = view.tables.ecmp_groups.get(group as usize)?;
            Some(group.select(flow_hash::of_tuple(leaving)))
        }
        _ => None,
    }
}

fn address(address: Address) -> IpAddr {
    address.into()
}
