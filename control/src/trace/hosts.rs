//! Host endpoints on a traced packet's way: which one guards the device, or the tunnel, by which it
//! comes to a node or leaves it.
//!
//! A store does not say which devices a node has. Offline its uplink is the device of the host
//! endpoint that has the node's address, or of the only one that names a device.

use super::names::End;
use crate::host_policy::{Assigned, Device, assign};
use crate::model::Model;
use crate::offline::UPLINK;
use crate::resolve::{Hop, Target};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A way to a node, or out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// By the device of this name.
    Device(String),
    /// Inside of a tunnel.
    Tunnel,
}

impl Way {
    /// Where a route leads.
    pub(super) fn of(target: Option<&Target>) -> Option<Way> {
        let device = |name: &str| Some(Way::Device(name.to_owned()));
        match target? {
            Target::OnLink(port) => device(port),
            Target::Via(hops) => match hops.first()? {
                Hop { tunnel: Some(_), .. } => Some(Way::Tunnel),
                hop => device(&hop.port),
            },
            _ => None,
        }
    }
}

/// Host endpoints of a node.
#[derive(Debug, Default)]
pub(super) struct Guards {
    assigned: Vec<Assigned>,
    /// Devices of pods, which no host endpoint guards.
    pods: BTreeSet<String>,
    /// The device that is meant by [`UPLINK`].
    uplink: Option<String>,
}

impl Guards {
    /// Those of a running node.
    pub(super) fn live(assigned: Vec<Assigned>, pods: BTreeSet<String>) -> Guards {
        Guards { assigned, pods, uplink: None }
    }

    /// Those that a store says.
    pub(super) fn of(model: &Model, node: &str) -> Guards {
        let own = || model.host_endpoints.iter().filter(|(_, one)| one.node == node);
        let addresses: Vec<(String, IpAddr)> =
            addresses(model, node).into_iter().map(|own| (UPLINK.to_owned(), own)).collect();
        let named = || own().filter(|(_, one)| !matches!(one.interface.as_str(), "" | "*"));
        let has_address = || {
            let mut named = named();
            named.find(|(_, one)| addresses.iter().any(|(_, ip)| one.expected_ips.contains(ip)))
        };
        let assigned = assign(own(), &addresses);
        let by_address = Device::Named(UPLINK.to_owned());
        let only = || named().next().filter(|_| named().count() == 1);
        let uplink = match assigned.iter().any(|one| one.device == by_address) {
            true => None,
            false => has_address().or_else(only).map(|(_, one)| one.interface.clone()),
        };
        let pods = model.local_endpoints(node).map(|(_, pod)| pod.interface.clone()).collect();
        Guards { assigned, pods, uplink }
    }

    /// The name of the endpoint that guards a way.
    pub(super) fn on(&self, way: &Way) -> Option<&str> {
        let named = |name: &str| {
            let wanted = Device::Named(name.to_owned());
            self.assigned.iter().find(|one| one.device == wanted)
        };
        let every_other = || self.assigned.iter().find(|one| one.device == Device::EveryOther);
        let found = match way {
            Way::Device(device) if self.pods.contains(device) => None,
            Way::Device(device) => {
                let uplink = self.uplink.as_deref().filter(|_| device == UPLINK);
                named(uplink.unwrap_or(device)).or_else(every_other)
            }
            Way::Tunnel => every_other(),
        };
        found.map(|one| one.endpoint.as_str())
    }

    /// A device of a host endpoint.
    pub(super) fn device_of(&self, end: &End) -> Option<Way> {
        self.assigned.iter().filter(|one| one.endpoint == end.name).find_map(|one| {
            match &one.device {
                Device::Named(name) => Some(Way::Device(name.clone())),
                Device::EveryOther => None,
            }
        })
    }
}

/// What a Node resource says of its node's own addresses.
pub(super) fn addresses(model: &Model, node: &str) -> Vec<IpAddr> {
    let Some(own) = model.nodes.get(node) else { return Vec::new() };
    let v4 = own.ipv4.map(|net| IpAddr::V4(net.addr()));
    v4.into_iter().chain(own.ipv6.map(|net| IpAddr::V6(net.addr()))).collect()
}
