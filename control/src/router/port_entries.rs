//! What the packet path must know of each open port.

use super::policy::behind_pods;
use crate::config::{Config, SourceSpoofing};
use crate::kernel::Link;
use crate::kernel::mirror::Mirror;
use crate::model::Model;
use crate::ports::{Open, Ports};
use crate::publish::PublishedPort;
use crate::resolve::Route;
use crate::resolve::ports::PortKind;
use crate::resource::workload_endpoint::WorkloadEndpoint;
use ipnet::IpNet;
use margay_fastpath::sources::Sources;
use margay_fastpath::tables::PortEntry;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// MTU of a TAP that does not say otherwise, in bytes.
const TAP_MTU: u16 = 1500;

/// All open ports as the tables show them, by name.
pub(super) fn build(
    config: &Config,
    model: &Model,
    mirror: &Mirror,
    ports: &Ports,
    routes: &BTreeMap<IpNet, Route>,
) -> BTreeMap<Arc<str>, PublishedPort> {
    let mut behind: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
    behind_pods(routes).for_each(|(prefix, port)| behind.entry(port).or_default().push(*prefix));
    let node = node_addresses(config, model, mirror);
    let endpoints: BTreeMap<&str, _> = model
        .local_endpoints(&config.node_name)
        .map(|(_, endpoint)| (endpoint.interface.as_str(), endpoint))
        .collect();
    let published = ports.open().map(|(name, kind, open)| {
        let link = mirror.link_by_name(name).filter(|_| kind.is_device());
        let endpoint = endpoints.get(&**name);
        let sources = endpoint.filter(|_| kind.is_workload()).map(|endpoint| {
            let behind = behind.get(&**name).map(Vec::as_slice).unwrap_or_default();
            sources(config, endpoint, behind)
        });
        let entry = entry(name, kind, open, link, addresses_of(mirror, link, node));
        let entry = PortEntry { sources, ..entry };
        let resource_mac = endpoint.and_then(|endpoint| endpoint.mac);
        let station = match kind {
            PortKind::Tap { .. } => open.station.or(resource_mac),
            _ => open.station,
        };
        let device = open.device.map(|(index, _)| index);
        (name.clone(), PublishedPort { id: open.id, entry, station, device })
    });
    published.collect()
}

fn entry(
    name: &str,
    kind: &PortKind,
    open: &Open,
    link: Option<&Link>,
    (icmp_source_v4, icmp_source_v6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
) -> PortEntry {
    // By tc and TAPs packets come with their state.
    let is_xdp = matches!(kind, PortKind::Uplink | PortKind::Veth);
    let device_mtu = link.map(|link| u16::try_from(link.mtu).unwrap_or(u16::MAX));
    PortEntry {
        name: name.to_owned(),
        mac: link.and_then(|link| link.mac).unwrap_or(open.mac),
        mtu: device_mtu.or(open.mtu).unwrap_or(TAP_MTU),
        worker: open.worker as u16,
        implicit_partial_csum: is_xdp && link.is_some_and(|link| link.kind == "veth"),
        workload: kind.is_workload(),
        answers_neighbors: !kind.is_device(),
        icmp_source_v4,
        icmp_source_v6,
        up: !kind.is_device() || link.is_some_and(|link| link.running),
        sources: None,
        queue: open.queue.clone(),
    }
}

/// What packets of an endpoint may have as their source: its addresses, what is routed to it, and
/// what its resource allows beside, if that counts.
fn sources(config: &Config, endpoint: &WorkloadEndpoint, behind: &[IpNet]) -> Sources {
    let own = endpoint.addresses.iter().map(|own| IpNet::from(*own));
    let allowed = match config.policy.workload_source_spoofing {
        SourceSpoofing::Any => &*endpoint.policed.spoofed_sources,
        SourceSpoofing::Disabled => &[],
    };
    Sources::new(own.chain(behind.iter().copied()).chain(allowed.iter().copied()))
}

type Pair = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// The addresses of a port, and the node's where it has none (RFC 1812 4.3.2.4).
fn addresses_of(mirror: &Mirror, link: Option<&Link>, node: Pair) -> Pair {
    let own = link.map(|link| first(mirror.addresses_of(link.index))).unwrap_or_default();
    (own.0.or(node.0), own.1.or(node.1))
}

/// The node's own addresses: as configured, as its Node resource has them, or the first on an
/// uplink, then on any device.
fn node_addresses(config: &Config, model: &Model, mirror: &Mirror) -> Pair {
    let resource = model.nodes.get(&config.node_name).cloned().unwrap_or_default();
    let uplinks = config.uplinks.iter().filter_map(|name| mirror.link_by_name(name));
    let on_uplink = first(uplinks.flat_map(|link| mirror.addresses_of(link.index)));
    let anywhere = first(mirror.addresses().map(|(_, net)| net));
    let v4 = match config.ip {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => resource.ipv4.map(|net| net.addr()),
    };
    let v6 = match config.ip6 {
        Some(IpAddr::V6(ip)) => Some(ip),
        _ => resource.ipv6.map(|net| net.addr()),
    };
    (v4.or(on_uplink.0).or(anywhere.0), v6.or(on_uplink.1).or(anywhere.1))
}

/// The first addresses that others may see.
fn first(addresses: impl Iterator<Item = IpNet>) -> Pair {
    let mut found = (None, None);
    for net in addresses {
        match net {
            IpNet::V4(net) if !net.addr().is_loopback() => {
                found.0 = found.0.or(Some(net.addr()));
            }
            IpNet::V6(net) if !net.addr().is_loopback() && !net.addr().is_unicast_link_local() => {
                found.1 = found.1.or(Some(net.addr()));
            }
            _ => {}
        }
    }
    found
}
