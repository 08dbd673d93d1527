//! `show routes [PREFIX]`.

use super::tunnels;
use crate::resolve::{Hop, Origin, Route, Target};
use crate::router::bgp;
use crate::status::{Snapshot, Status};
use ipnet::IpNet;
use margay_fastpath::port::PortId;
use margay_fastpath::tables::Tables;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Learned routes that are read at once.
const PAGE: usize = 4096;

/// A route of the packet path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAnswer {
    /// Destination.
    pub prefix: IpNet,
    /// Who wants it.
    pub origin: Origin,
    /// `forward`, `link`, `local`, `blackhole`, `unreachable` or `prohibit`.
    pub target: String,
    /// Where packets go next; several share the traffic.
    pub next_hops: Vec<NextHopAnswer>,
}

/// One way of a route.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextHopAnswer {
    /// Name of the port.
    pub port: String,
    /// Address that is asked for there; none for a link as a whole.
    pub address: Option<IpAddr>,
    /// Its link address, once it is resolved.
    pub mac: Option<String>,
    /// Kind and far end of the tunnel whose packets go there, such as `vxlan 10.0.0.2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
}

pub(crate) fn answer(status: &Status) -> Vec<RouteAnswer> {
    let snapshot = status.snapshot();
    let tables = status.dataplane().tables();
    let mut routes: Vec<(IpNet, Route)> = Vec::new();
    for (prefix, route) in snapshot.routes.iter() {
        let winner = find(&snapshot, prefix).unwrap_or_else(|| route.clone());
        routes.push((*prefix, winner));
    }
    routes.extend(learned(&snapshot));
    routes.sort_by_key(|(prefix, _)| *prefix);
    routes.iter().map(|(prefix, route)| of_route(&snapshot, &tables, *prefix, route)).collect()
}

/// Routes of BGP peers to prefixes that nobody else has. Whoever writes waits for a page only.
fn learned(snapshot: &Snapshot) -> Vec<(IpNet, Route)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let routes = bgp::read(&snapshot.learned);
        let page = routes.page(after, PAGE);
        for (prefix, _) in &page {
            let alone = !snapshot.routes.contains_key(prefix);
            found.extend(routes.route(prefix).filter(|_| alone).map(|route| (*prefix, route)));
        }
        let Some((last, _)) = page.last() else { return found };
        after = Some(*last);
    }
}

/// What the packet path has for exactly this prefix.
fn find(snapshot: &Snapshot, prefix: &IpNet) -> Option<Route> {
    let learned = bgp::read(&snapshot.learned).route(prefix);
    match (snapshot.routes.get(prefix), learned) {
        (Some(own), Some(learned)) if learned.metric < own.metric => Some(learned),
        (Some(own), _) => Some(own.clone()),
        (None, learned) => learned,
    }
}

/// The route of exactly this prefix, or the longest match of an address; several never.
pub(crate) fn lookup(status: &Status, text: &str) -> Result<Vec<RouteAnswer>, String> {
    let snapshot = status.snapshot();
    let found = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => longest(&snapshot, address),
        (_, Ok(prefix)) => Some(prefix.trunc()),
        _ => return Err(format!("'{text}' is neither an address nor a prefix")),
    };
    let tables = status.dataplane().tables();
    let found = found.and_then(|prefix| Some((prefix, find(&snapshot, &prefix)?)));
    Ok(found
        .into_iter()
        .map(|(prefix, route)| of_route(&snapshot, &tables, prefix, &route))
        .collect())
}

/// The route that a packet to an address takes.
pub(crate) fn longest_route(snapshot: &Snapshot, address: IpAddr) -> Option<Route> {
    find(snapshot, &longest(snapshot, address)?)
}

fn longest(snapshot: &Snapshot, address: IpAddr) -> Option<IpNet> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (0..=bits)
        .rev()
        .filter_map(|length| Some(IpNet::new(address, length).ok()?.trunc()))
        .find(|prefix| find(snapshot, prefix).is_some())
}

fn of_route(snapshot: &Snapshot, tables: &Tables, prefix: IpNet, route: &Route) -> RouteAnswer {
    let (target, next_hops) = match &route.target {
        Target::Local => ("local", Vec::new()),
        Target::Blackhole => ("blackhole", Vec::new()),
        Target::Unreachable => ("unreachable", Vec::new()),
        Target::Prohibit => ("prohibit", Vec::new()),
        Target::OnLink(port) => {
            let next_hop =
                NextHopAnswer { port: port.to_string(), address: None, mac: None, tunnel: None };
            ("link", vec![next_hop])
        }
        Target::Via(hops) => {
            let mut hops = hops.clone();
            hops.dedup();
            ("forward", hops.iter().map(|hop| next_hop(snapshot, tables, hop)).collect())
        }
    };
    RouteAnswer { prefix, origin: route.origin, target: target.to_owned(), next_hops }
}

fn next_hop(snapshot: &Snapshot, tables: &Tables, hop: &Hop) -> NextHopAnswer {
    let port = snapshot.ports.get(&hop.port).and_then(|port| port.open.as_ref());
    let mac = port.and_then(|(id, _)| link_address(tables, *id, hop.address));
    let tunnel = hop.tunnel.as_ref();
    let tunnel = tunnel.map(|tunnel| format!("{} {}", tunnels::kind(tunnel.kind()), tunnel.remote));
    NextHopAnswer { port: hop.port.to_string(), address: Some(hop.address), mac, tunnel }
}

fn link_address(tables: &Tables, port: PortId, address: IpAddr) -> Option<String> {
    let mut adjacencies = tables.adjacencies.iter();
    let found = adjacencies.find(|next| next.port == port && next.neighbor == address)?;
    found.mac.map(|mac| mac.to_string())
}
