//! The kernel's own routes, seen from the packet path.

use super::table::{Entry, Table};
use super::{Hop, Inputs, Origin, Target, host_prefix, is_never_forwarded};
use crate::kernel::{NextHop, ROUTE_PROTOCOL, Route, RouteKind, Table as KernelTable};
use std::sync::Arc;

/// Most buckets that a way's weight may fill.
const WEIGHT_MAX: u16 = 16;

/// Connected routes, gateways, multipath, and routes that end packets, from the main table. Of
/// several to one prefix the mirror gives the one with the lowest metric first.
pub(super) fn add_unicast(inputs: Inputs, table: &mut Table) {
    let main = inputs.mirror.routes().filter(|route| route.table == KernelTable::Main);
    for route in main.filter(|route| route.protocol != ROUTE_PROTOCOL) {
        if is_never_forwarded(&route.prefix) {
            continue;
        }
        let target = match route.kind {
            RouteKind::Unicast => unicast(inputs, route),
            RouteKind::Local => Target::Local,
            RouteKind::Blackhole => Target::Blackhole,
            RouteKind::Unreachable => Target::Unreachable,
            RouteKind::Prohibit => Target::Prohibit,
        };
        let mut entry = Entry::new(Origin::Kernel, target);
        entry.route.metric = route.metric;
        if route.kind == RouteKind::Unicast {
            entry.ways.clone_from(&route.next_hops);
        }
        table.insert(route.prefix, entry);
    }
}

/// The host's addresses, over all other routes to the same prefix.
pub(super) fn add_local(inputs: Inputs, table: &mut Table) {
    for route in inputs.mirror.routes() {
        let local = route.table == KernelTable::Local && route.kind == RouteKind::Local;
        if local && !is_never_forwarded(&route.prefix) {
            table.force(route.prefix, Entry::new(Origin::Kernel, Target::Local));
        }
    }
    // An address can be in use before its route is seen.
    for (_, net) in inputs.mirror.addresses() {
        let prefix = host_prefix(net.addr());
        if !is_never_forwarded(&prefix) {
            table.force(prefix, Entry::new(Origin::Kernel, Target::Local));
        }
    }
}

fn unicast(inputs: Inputs, route: &Route) -> Target {
    let mut hops = Vec::new();
    for way in &route.next_hops {
        let Some(port) = port(inputs, way) else { continue };
        let Some(address) = way.gateway else { return Target::OnLink(port) };
        let hop = Hop::plain(port, address);
        let share = if route.next_hops.len() == 1 { 1 } else { way.weight.min(WEIGHT_MAX) };
        hops.extend((0..share).map(|_| hop.clone()));
    }
    let through_host = route.next_hops.iter().any(|way| !is_host_device(inputs, way));
    match (hops.is_empty(), through_host) {
        (false, _) => {
            hops.sort();
            Target::Via(hops)
        }
        (true, true) => Target::Local,
        // A route back through the TAP that packets come to the host by would turn in circles.
        (true, false) => Target::Unreachable,
    }
}

fn is_host_device(inputs: Inputs, way: &NextHop) -> bool {
    let link = inputs.mirror.link_by_index(way.device);
    link.is_some_and(|link| link.name == inputs.host_device)
}

/// The port on a way's device, if margay has one there.
fn port(inputs: Inputs, way: &NextHop) -> Option<Arc<str>> {
    let link = inputs.mirror.link_by_index(way.device)?;
    if link.name == inputs.host_device {
        return None;
    }
    inputs.attached.get(link.name.as_str()).cloned()
}
