//! From a flow's key to what happens to its packets, by the tables that the pipeline goes by.
//!
//! `None` is for all that only the pipeline can do: host, tunnels over IPv6, refusals, ports with a
//! rate, endpoints whose packets are marked or whose limits the program cannot keep, next hops
//! without a link address, flows whose packets still change the state of their session.

use super::outer::Outer;
use super::{Decision, FlowMap, Key, Wrap};
use crate::flow::{Address, Direction, SessionId, Tuple};
use crate::flow_hash;
use crate::limit::Account;
use crate::limit::gates::Row;
use crate::nat::{Rules, Tracker};
use crate::pipeline::View;
use crate::port::PortId;
use crate::tables::{AdjacencyId, Target};
use crate::tunnel::{PathMtus, TunnelId};
use margay_acl::Direction as Way;
use margay_tunnels::encap;
use std::net::IpAddr;
use std::sync::Arc;

/// The session that a flow belongs to, and which way it goes.
pub(super) type Tracked = (SessionId, Direction);

/// What a flow takes from in one direction of an endpoint, and where that is counted.
#[derive(Debug, Clone)]
pub(super) struct Limited {
    pub(super) row: Arc<Row>,
    pub(super) account: Arc<Account>,
}

/// What is to happen to the packets of a flow, and whom it concerns.
pub(super) struct Decided {
    pub(super) decision: Decision,
    pub(super) tracked: Option<Tracked>,
    /// Of the endpoints that it comes from and goes to.
    pub(super) limits: [Option<Limited>; 2],
    /// Of the tunnel that it leaves through.
    pub(super) outer: Option<Arc<Outer>>,
}

/// What is to happen to the packets of a flow.
pub(super) fn decide(
    view: View<'_>,
    (map, paths): (&FlowMap, &PathMtus),
    tracker: Option<&Tracker>,
    key: &Key,
) -> Option<Decided> {
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
    let (wrap, outer) = match adjacency.tunnel {
        Some(id) => wrap(view, map, id, &leaving).map(|(wrap, outer)| (Some(wrap), Some(outer)))?,
        None => (None, None),
    };
    let (by_tc, to_tc) = (map.is_by_tc(key.port), map.is_by_tc(adjacency.port));
    let goes = match by_tc {
        true => map.is_target(adjacency.port) && wrap.is_none(),
        false => map.is_egress(adjacency.port),
    };
    if !goes || tables.rate_of(adjacency.port).is_some() {
        return None;
    }
    let limits =
        [limits(view, key.port, Way::Egress)?, limits(view, adjacency.port, Way::Ingress)?];
    let decision = Decision {
        egress: adjacency.port,
        next_hop: adjacency.mac?,
        source: egress.mac,
        station: ingress.mac,
        max_len: wrap.map_or(egress.mtu, |wrap| {
            let path = paths.get(wrap.tunnel, view.now_ns).unwrap_or(u16::MAX);
            path.min(egress.mtu).saturating_sub(wrap.overhead)
        }),
        maybe_partial: ingress.implicit_partial_csum && !by_tc,
        limits: limits.each_ref().map(|one| one.as_ref().map_or(0, |one| one.row.number())),
        wrap,
        on_wire: by_tc && !to_tc,
        leaving,
    };
    Some(Decided { decision, tracked, limits, outer })
}

/// The way through a tunnel, if the program can put packets there.
fn wrap(
    view: View<'_>,
    map: &FlowMap,
    id: TunnelId,
    leaving: &Tuple,
) -> Option<(Wrap, Arc<Outer>)> {
    let tunnel = view.tables.tunnel(id)?;
    let outer =
        map.outers().open(&tunnel.encap).filter(|_| tunnel.encap.carries(!leaving.src.is_v4()))?;
    let wrap = Wrap {
        tunnel: id,
        kind: tunnel.kind,
        outer: outer.number(),
        overhead: tunnel.encap.overhead() as u16,
        source_port: encap::source_port(flow_hash::of_tuple(leaving)),
    };
    Some((wrap, outer))
}

/// What limits the endpoint behind a port in one direction; `None` when only a worker can tell.
fn limits(view: View<'_>, port: PortId, direction: Way) -> Option<Option<Limited>> {
    let Some(limits) = view.tables.limits_of(port) else { return Some(None) };
    let way = limits.way(direction);
    if direction == Way::Egress && limits.dscp().is_some() {
        return None;
    }
    if !way.is_limited() {
        return Some(None);
    }
    let row = way.row()?.clone();
    Some(Some(Limited { row, account: way.account.clone() }))
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
