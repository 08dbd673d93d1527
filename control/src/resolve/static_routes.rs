//! Routes of the configuration. Those that name a gateway without a device find it through the
//! kernel's routes; one that nothing leads to is unreachable until something does.

use super::table::{Entry, Table};
use super::{Hop, Inputs, Origin, Target, Wanted};
use crate::config::{StaticRoute, StaticRouteKind};
use crate::kernel::routes::Wanted as KernelRoute;
use crate::kernel::{NextHop, RouteKind};
use ipnet::IpNet;
use std::collections::BTreeMap;

pub(super) fn add(inputs: Inputs, base: &Table, table: &mut Table, wanted: &mut Wanted) {
    let mut by_prefix: BTreeMap<IpNet, Vec<&StaticRoute>> = BTreeMap::new();
    for route in inputs.static_routes {
        by_prefix.entry(route.prefix.trunc()).or_default().push(route);
    }
    for (prefix, routes) in by_prefix {
        let kind = routes.iter().find_map(|route| route.kind);
        let (target, kernel) = match kind {
            Some(kind) => ends(kind),
            None => forwards(inputs, base, &routes),
        };
        let mut entry = Entry::new(Origin::Static, target);
        if let Some(kernel) = kernel {
            entry.ways.clone_from(&kernel.next_hops);
            wanted.kernel_routes.insert(prefix, kernel);
        }
        table.insert(prefix, entry);
    }
}

fn ends(kind: StaticRouteKind) -> (Target, Option<KernelRoute>) {
    let (target, kind) = match kind {
        StaticRouteKind::Blackhole => (Target::Blackhole, RouteKind::Blackhole),
        StaticRouteKind::Unreachable => (Target::Unreachable, RouteKind::Unreachable),
        StaticRouteKind::Prohibit => (Target::Prohibit, RouteKind::Prohibit),
    };
    (target, Some(KernelRoute { kind, next_hops: Vec::new() }))
}

fn forwards(
    inputs: Inputs,
    base: &Table,
    routes: &[&StaticRoute],
) -> (Target, Option<KernelRoute>) {
    let (mut hops, mut ways, mut on_link) = (Vec::new(), Vec::new(), None);
    for route in routes {
        let found = match (&route.device, route.via) {
            (Some(device), via) => way(inputs, device, via),
            (None, Some(via)) => base.next_hop(via),
            (None, None) => None,
        };
        let Some((target, found)) = found else { continue };
        match target {
            Target::Via(found) => hops.extend(found),
            Target::OnLink(port) => on_link = on_link.or(Some(port)),
            _ => {}
        }
        ways.extend(found);
    }
    hops.sort();
    hops.dedup();
    ways.sort();
    ways.dedup();
    let target = match (on_link, hops.is_empty(), ways.is_empty()) {
        (Some(port), _, _) => Target::OnLink(port),
        (None, false, _) => Target::Via(hops),
        (None, true, false) => Target::Local,
        (None, true, true) => Target::Unreachable,
    };
    let kernel = KernelRoute { kind: RouteKind::Unicast, next_hops: ways };
    (target, (!kernel.next_hops.is_empty()).then_some(kernel))
}

/// The way over a named device.
fn way(
    inputs: Inputs,
    device: &str,
    via: Option<std::net::IpAddr>,
) -> Option<(Target, Vec<NextHop>)> {
    let link = inputs.mirror.link_by_name(device)?;
    let way = NextHop { device: link.index, gateway: via, weight: 1 };
    let target = match (inputs.attached.get(device), via) {
        (Some(port), Some(address)) => Target::Via(vec![Hop::plain(port.clone(), address)]),
        (Some(port), None) => Target::OnLink(port.clone()),
        (None, _) => Target::Local,
    };
    Some((target, vec![way]))
}
