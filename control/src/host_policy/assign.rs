//! Which device each host endpoint of a node is (Calico's "Host endpoints").
//!
//! By its interfaceName; without one, every device that has one of its expectedIPs; `*` is all
//! other devices of the host. Of several for one device the first by name counts.

use crate::resource::host_endpoint::HostEndpoint;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A host endpoint with its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The endpoint's name.
    pub(crate) endpoint: String,
    /// Its device.
    pub(crate) device: Device,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    /// The one of this name.
    Named(String),
    /// All that have no endpoint of their own.
    EveryOther,
}

/// Host endpoints of a node with their devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostEndpoints {
    /// The endpoints, those of single devices first.
    pub(crate) assigned: Vec<Assigned>,
    /// Addresses of the node with their devices; none without endpoints.
    pub(crate) addresses: Vec<(String, IpAddr)>,
}

impl HostEndpoints {
    /// Addresses of the devices that an endpoint has.
    pub(crate) fn addresses_of(&self, endpoint: &str) -> Vec<IpAddr> {
        let own = self.assigned.iter().filter(|one| one.endpoint == endpoint);
        let devices: Vec<&Device> = own.map(|one| &one.device).collect();
        let is_its = |device: &String| {
            devices.iter().any(|one| match one {
                Device::Named(name) => name == device,
                Device::EveryOther => device != "lo",
            })
        };
        let of = self.addresses.iter().filter(|(device, _)| is_its(device));
        of.map(|(_, address)| *address).collect()
    }
}

/// The devices of a node's host endpoints, of which `addresses` are known.
pub(crate) fn assign<'a>(
    endpoints: impl Iterator<Item = (&'a String, &'a HostEndpoint)>,
    addresses: &[(String, IpAddr)],
) -> Vec<Assigned> {
    let mut devices: BTreeMap<Device, &String> = BTreeMap::new();
    for (name, endpoint) in endpoints {
        let own: Vec<Device> = match endpoint.interface.as_str() {
            "*" => vec![Device::EveryOther],
            "" => {
                let has =
                    |(_, address): &&(String, IpAddr)| endpoint.expected_ips.contains(address);
                let own = addresses.iter().filter(has);
                own.map(|(device, _)| Device::Named(device.clone())).collect()
            }
            device => vec![Device::Named(device.to_owned())],
        };
        for device in own {
            let first = devices.entry(device).or_insert(name);
            *first = (*first).min(name);
        }
    }
    let assigned = |(device, name): (Device, &String)| Assigned { endpoint: name.clone(), device };
    devices.into_iter().map(assigned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_acl::model::Labels;

    fn endpoint(interface: &str, expected: &[&str]) -> HostEndpoint {
        HostEndpoint {
            node: "node".to_owned(),
            interface: interface.to_owned(),
            expected_ips: expected.iter().map(|ip| ip.parse().unwrap()).collect(),
            labels: Labels::new(),
            profiles: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn names_count_then_addresses_and_the_first_of_several_has_the_device() {
        let endpoints: BTreeMap<String, HostEndpoint> = [
            ("b-eth0", endpoint("eth0", &[])),
            ("a-eth0", endpoint("eth0", &["192.0.2.9"])),
            ("by-ip", endpoint("", &["192.0.2.1", "2001:db8::1"])),
            ("gone", endpoint("", &["192.0.2.77"])),
            ("z-all", endpoint("*", &[])),
            ("all", endpoint("*", &[])),
        ]
        .map(|(name, endpoint)| (name.to_owned(), endpoint))
        .into();
        let addresses = [("eth1", "192.0.2.1"), ("eth2", "2001:db8::1"), ("eth3", "192.0.2.3")]
            .map(|(device, ip)| (device.to_owned(), ip.parse().unwrap()));
        let named = |device: &str| Device::Named(device.to_owned());
        let expected = [
            ("a-eth0", named("eth0")),
            ("by-ip", named("eth1")),
            ("by-ip", named("eth2")),
            ("all", Device::EveryOther),
        ];
        let expected =
            expected.map(|(endpoint, device)| Assigned { endpoint: endpoint.to_owned(), device });
        assert_eq!(assign(endpoints.iter(), &addresses), expected);
    }
}
