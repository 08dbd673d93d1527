//! Margay's routes in the kernel's main table.
//!
//! They carry [`ROUTE_PROTOCOL`] and [`ROUTE_METRIC`], so that foreign routes to the same prefix
//! stand beside them. A new route is created exclusively, and one that changes is replaced only
//! where the mirror shows it as margay's: a foreign route is never written over. Routes of a
//! predecessor that was killed are in the mirror like others, and stay if they are still right.

use super::message::{Replaces, Update};
use super::mirror::Mirror;
use super::{KernelError, NextHop, ROUTE_METRIC, ROUTE_PROTOCOL, Route, RouteKind, Table};
use futures::{StreamExt, stream};
use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteScope,
    RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Requests under way at once.
const IN_FLIGHT: usize = 32;

/// A route as margay wants it in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Unicast or one that ends packets.
    pub kind: RouteKind,
    /// Ways of a unicast route, sorted.
    pub next_hops: Vec<NextHop>,
}

/// One step towards the wanted routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create(Route),
    Replace(Route),
    Remove(Route),
}

/// Makes margay's routes equal to `wanted`; the mirror learns what was done. Returns what the
/// kernel refused.
pub async fn reconcile(
    handle: &Handle,
    wanted: &BTreeMap<IpNet, Wanted>,
    mirror: &mut Mirror,
) -> Vec<KernelError> {
    let (writes, removals) = steps(wanted, mirror);
    let mut errors = Vec::new();
    for steps in [writes, removals] {
        let work = steps.into_iter().map(|step| execute(handle, step));
        let mut done = stream::iter(work).buffer_unordered(IN_FLIGHT);
        while let Some(outcome) = done.next().await {
            match outcome {
                Ok(update) => {
                    mirror.apply(update);
                }
                Err(error) => errors.push(error),
            }
        }
    }
    errors
}

/// Removes every route of margay.
pub async fn remove_all(handle: &Handle) -> Vec<KernelError> {
    match super::watch::dump(handle).await {
        Ok(mut mirror) => reconcile(handle, &BTreeMap::new(), &mut mirror).await,
        Err(error) => vec![error],
    }
}

fn steps(wanted: &BTreeMap<IpNet, Wanted>, mirror: &Mirror) -> (Vec<Step>, Vec<Step>) {
    let (mut writes, mut removals) = (Vec::new(), Vec::new());
    let mut known: BTreeMap<IpNet, &Route> = BTreeMap::new();
    for route in mirror.own_routes() {
        let right = route.metric == ROUTE_METRIC && wanted.contains_key(&route.prefix);
        if !right || known.insert(route.prefix, route).is_some() {
            removals.push(Step::Remove(route.clone()));
        }
    }
    for (prefix, want) in wanted {
        let route = Route {
            table: Table::Main,
            prefix: *prefix,
            kind: want.kind,
            protocol: ROUTE_PROTOCOL,
            metric: ROUTE_METRIC,
            next_hops: want.next_hops.clone(),
        };
        match known.get(prefix) {
            Some(known) if same(known, &route) => {}
            Some(_) => writes.push(Step::Replace(route)),
            None => writes.push(Step::Create(route)),
        }
    }
    (writes, removals)
}

fn same(known: &Route, wanted: &Route) -> bool {
    let sorted = |route: &Route| {
        let mut hops = route.next_hops.clone();
        hops.sort();
        hops
    };
    // IPv6 puts routes that end packets on the loopback device.
    known.kind == wanted.kind
        && (known.kind != RouteKind::Unicast || sorted(known) == sorted(wanted))
}

pub(super) async fn execute(handle: &Handle, step: Step) -> Result<Update, KernelError> {
    let request = handle.route();
    match step {
        Step::Create(route) => {
            let result = request.add(message(&route)).execute().await;
            let what = format!("route {}", route.prefix);
            result.map_err(|error| KernelError::new(what, &error))?;
            Ok(Update::Route(route, Replaces::Nothing))
        }
        Step::Replace(route) => {
            let result = request.add(message(&route)).replace().execute().await;
            let what = format!("change of route {}", route.prefix);
            result.map_err(|error| KernelError::new(what, &error))?;
            Ok(Update::Route(route, Replaces::Same))
        }
        Step::Remove(route) => {
            match request.del(message(&route)).execute().await {
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.raw_code() == -libc::ESRCH || error.raw_code() == -libc::ENODEV => {}
                Err(error) => {
                    let what = format!("removal of route {}", route.prefix);
                    return Err(KernelError::new(what, &error));
                }
                Ok(()) => {}
            }
            Ok(Update::RouteGone(route))
        }
    }
}

fn message(route: &Route) -> RouteMessage {
    let destination = (route.prefix.addr(), route.prefix.prefix_len());
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .table_id(254)
        .protocol(route.protocol.into())
        .priority(route.metric)
        .kind(match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Local => RouteType::Local,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Prohibit => RouteType::Prohibit,
        });
    let on_link =
        route.kind == RouteKind::Unicast && route.next_hops.iter().all(|hop| hop.gateway.is_none());
    if on_link && route.prefix.addr().is_ipv4() {
        builder = builder.scope(RouteScope::Link);
    }
    let mut message = builder.build();
    message.header.address_family = match route.prefix {
        IpNet::V4(_) => (libc::AF_INET as u8).into(),
        IpNet::V6(_) => (libc::AF_INET6 as u8).into(),
    };
    message.header.destination_prefix_length = destination.1;
    message.attributes.push(RouteAttribute::Destination(destination.0.into()));
    if route.kind != RouteKind::Unicast {
        return message;
    }
    match route.next_hops.as_slice() {
        [hop] => message.attributes.extend(single(hop)),
        hops => message.attributes.push(RouteAttribute::MultiPath(hops.iter().map(way).collect())),
    }
    message
}

fn single(hop: &NextHop) -> Vec<RouteAttribute> {
    let device = RouteAttribute::Oif(hop.device);
    std::iter::once(device).chain(gateway(hop)).collect()
}

fn gateway(hop: &NextHop) -> Option<RouteAttribute> {
    hop.gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::from(gateway)))
}

fn way(hop: &NextHop) -> RouteNextHop {
    let mut way = RouteNextHop::default();
    way.interface_index = hop.device;
    way.hops = hop.weight.clamp(1, 256).saturating_sub(1) as u8;
    way.flags = RouteNextHopFlags::empty();
    way.attributes.extend(gateway(hop));
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(prefix: &str, kind: RouteKind, metric: u32, device: u32) -> Route {
        let next_hops = match kind {
            RouteKind::Unicast => vec![NextHop { device, gateway: None, weight: 1 }],
            _ => Vec::new(),
        };
        let prefix = prefix.parse().unwrap();
        Route { table: Table::Main, prefix, kind, protocol: ROUTE_PROTOCOL, metric, next_hops }
    }

    fn wanted(route: &Route) -> (IpNet, Wanted) {
        (route.prefix, Wanted { kind: route.kind, next_hops: route.next_hops.clone() })
    }

    #[test]
    fn only_differences_are_written() {
        let kept = own("10.0.0.1/32", RouteKind::Unicast, ROUTE_METRIC, 3);
        let moved = own("10.0.0.2/32", RouteKind::Unicast, ROUTE_METRIC, 3);
        let gone = own("10.0.0.3/32", RouteKind::Unicast, ROUTE_METRIC, 3);
        let old_metric = own("10.0.0.0/26", RouteKind::Blackhole, 7, 0);
        let mut foreign = own("10.0.0.4/32", RouteKind::Unicast, 0, 3);
        foreign.protocol = 4;
        let mut mirror = Mirror::default();
        for route in [&kept, &moved, &gone, &old_metric, &foreign] {
            mirror.apply(Update::Route(route.clone(), Replaces::Nothing));
        }
        let moved_to = own("10.0.0.2/32", RouteKind::Unicast, ROUTE_METRIC, 9);
        let block = own("10.0.0.0/26", RouteKind::Blackhole, ROUTE_METRIC, 0);
        let beside = own("10.0.0.4/32", RouteKind::Unicast, ROUTE_METRIC, 3);
        let all = [&kept, &moved_to, &block, &beside].map(wanted).into_iter().collect();
        let (writes, removals) = steps(&all, &mirror);
        let expected = [Step::Create(block), Step::Replace(moved_to), Step::Create(beside)];
        assert_eq!(writes, expected);
        assert_eq!(removals, [Step::Remove(old_metric), Step::Remove(gone)]);
    }
}
