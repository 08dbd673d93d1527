//! rtnetlink messages as updates of the mirror. What has no meaning for it becomes nothing.

use super::{BGP_ROUTE_PROTOCOL, Link, Neighbor, NextHop, Route, RouteKind, Table};
use ipnet::IpNet;
use margay_tunnels::wire::ethernet::Mac;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use std::net::IpAddr;

/// One change that the kernel reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A device is there, in this state.
    Link(Link),
    /// A device is gone.
    LinkGone(u32),
    /// A device has an address, with the prefix length of its link.
    Address(u32, IpNet),
    /// It has it no longer.
    AddressGone(u32, IpNet),
    /// A route is there; `replaces` when it took the place of another of its prefix and metric.
    Route(Route, Replaces),
    /// A route is gone.
    RouteGone(Route),
    /// State of a neighbour.
    Neighbor(u32, IpAddr, Neighbor),
    /// The kernel forgot a neighbour.
    NeighborGone(u32, IpAddr),
}

/// What a new route does to one that has its prefix and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaces {
    /// It is the only one, as in a dump.
    Nothing,
    /// It takes its place.
    Same,
    /// It stands beside it.
    Beside,
}

/// The update that a message carries, if any.
pub fn decode(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Update> {
    let flags = message.header.flags;
    let NetlinkPayload::InnerMessage(inner) = message.payload else { return None };
    let replaces = match flags {
        flags if flags & NLM_F_REPLACE != 0 => Replaces::Same,
        flags if flags & NLM_F_APPEND != 0 => Replaces::Beside,
        _ => Replaces::Nothing,
    };
    match inner {
        RouteNetlinkMessage::NewLink(link) => self::link(&link).map(Update::Link),
        RouteNetlinkMessage::DelLink(link) if !is_bridge(&link) => {
            Some(Update::LinkGone(link.header.index))
        }
        RouteNetlinkMessage::NewAddress(message) => {
            address(&message).map(|net| Update::Address(message.header.index, net))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            address(&message).map(|net| Update::AddressGone(message.header.index, net))
        }
        RouteNetlinkMessage::NewRoute(message) => {
            told(&message).map(|route| Update::Route(route, replaces))
        }
        RouteNetlinkMessage::DelRoute(message) => told(&message).map(Update::RouteGone),
        RouteNetlinkMessage::NewNeighbour(message) => {
            let (device, ip, state) = neighbor(&message)?;
            Some(Update::Neighbor(device, ip, state))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            let (device, ip, _) = neighbor(&message)?;
            Some(Update::NeighborGone(device, ip))
        }
        _ => None,
    }
}

/// Bridges tell of their members with messages of the same type.
fn is_bridge(message: &LinkMessage) -> bool {
    u8::from(message.header.interface_family) == libc::AF_BRIDGE as u8
}

/// A device, from a message about it.
pub fn link(message: &LinkMessage) -> Option<Link> {
    if is_bridge(message) {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::LinkInfo(parts) => {
                let kind = parts.iter().find_map(|part| match part {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                link.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(bytes).ok().map(Mac)
}

/// An address with its prefix length. On point-to-point links it is the own one, not the peer's.
pub fn address(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            _ => {}
        }
    }
    IpNet::new(local.or(other)?, message.header.prefix_len).ok()
}

/// A route that counts: those of BGP peers are many, and known to who writes them.
pub(super) fn told(message: &RouteMessage) -> Option<Route> {
    let is_learned = u8::from(message.header.protocol) == BGP_ROUTE_PROTOCOL;
    if is_learned { None } else { route(message) }
}

/// A route of the main or local table.
pub fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) || header.tos != 0 {
        return None;
    }
    let unspecified = match u8::from(header.address_family) {
        family if family == libc::AF_INET as u8 => IpAddr::from([0u8; 4]),
        family if family == libc::AF_INET6 as u8 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            RouteKind::Local
        }
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let (mut destination, mut metric, mut next_hops) = (unspecified, 0, Vec::new());
    let mut single = Way::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => destination = self::ip(ip)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(ways) => next_hops = ways.iter().filter_map(way).collect(),
            other => single.take(other),
        }
    }
    let table = match table {
        254 => Table::Main,
        255 => Table::Local,
        _ => return None,
    };
    if let (true, Some(device)) = (next_hops.is_empty(), single.device) {
        next_hops.push(NextHop { device, gateway: single.gateway, weight: 1 });
    }
    if kind != RouteKind::Unicast {
        next_hops.truncate(usize::from(kind == RouteKind::Local));
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let protocol = u8::from(header.protocol);
    Some(Route { table, prefix, kind, protocol, metric, next_hops })
}

#[derive(Default)]
struct Way {
    device: Option<u32>,
    gateway: Option<IpAddr>,
}

impl Way {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(device) => self.device = Some(*device),
            RouteAttribute::Gateway(gateway) => self.gateway = ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => self.gateway = Some((*gateway).into()),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => self.gateway = Some((*gateway).into()),
            _ => {}
        }
    }
}

fn way(hop: &RouteNextHop) -> Option<NextHop> {
    if hop.flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown) {
        return None;
    }
    let mut way = Way::default();
    hop.attributes.iter().for_each(|attribute| way.take(attribute));
    let weight = u16::from(hop.hops) + 1;
    Some(NextHop { device: hop.interface_index, gateway: way.gateway, weight })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A neighbour: device, address, state.
pub fn neighbor(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbor)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut ip, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some((*v6).into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => address = mac(bytes),
            _ => {}
        }
    }
    let state = match (header.state, address) {
        (NeighbourState::Noarp, _) => return None,
        (NeighbourState::Failed, _) => Neighbor::Failed,
        (NeighbourState::Incomplete | NeighbourState::None, _) | (_, None) => Neighbor::Pending,
        (NeighbourState::Permanent, Some(mac)) => Neighbor::Permanent(mac),
        (_, Some(mac)) => Neighbor::Resolved(mac),
    };
    Some((header.ifindex, ip?, state))
}
