//! Node: where a node is reached, and its part in BGP.
//!
//! What `spec.bgp` leaves out may stand in the annotations that Calico keeps on Kubernetes' nodes.

use super::field::{AsNumber, as_number};
use super::{Invalid, Object};
use ipnet::{Ipv4Net, Ipv6Net};
use margay_tunnels::wire::ethernet::Mac;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `spec.bgp.ipv4Address`, its own prefix length included: CrossSubnet compares with it.
    pub ipv4: Option<Ipv4Net>,
    /// `spec.bgp.ipv6Address`.
    pub ipv6: Option<Ipv6Net>,
    /// Its AS, if it has one of its own.
    pub as_number: Option<u32>,
    /// Cluster id of a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Labels, which selectors see.
    pub labels: BTreeMap<String, String>,
    /// Addresses of its Wireguard devices, IPv4 and IPv6.
    pub wireguard: [Option<IpAddr>; 2],
    /// What it has for tunnels.
    pub tunnels: TunnelAddresses,
}

/// The addresses that a node has inside of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TunnelAddresses {
    /// `spec.bgp.ipv4IPIPTunnelAddr`.
    pub ipip: Option<Ipv4Addr>,
    /// `spec.ipv4VXLANTunnelAddr` and `spec.ipv6VXLANTunnelAddr`.
    pub vxlan: [Option<IpAddr>; 2],
    /// `spec.vxlanTunnelMACAddr` and `spec.vxlanTunnelMACAddrV6`.
    pub vxlan_macs: [Option<Mac>; 2],
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    bgp: Option<Bgp>,
    wireguard: Option<Wireguard>,
    addresses: Option<Vec<Address>>,
    #[serde(rename = "ipv4VXLANTunnelAddr")]
    vxlan_v4: Option<String>,
    #[serde(rename = "ipv6VXLANTunnelAddr")]
    vxlan_v6: Option<String>,
    #[serde(rename = "vxlanTunnelMACAddr")]
    vxlan_mac_v4: Option<String>,
    #[serde(rename = "vxlanTunnelMACAddrV6")]
    vxlan_mac_v6: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Bgp {
    #[serde(rename = "ipv4Address")]
    ipv4_address: Option<String>,
    #[serde(rename = "ipv6Address")]
    ipv6_address: Option<String>,
    #[serde(rename = "asNumber")]
    as_number: Option<AsNumber>,
    #[serde(rename = "routeReflectorClusterID")]
    cluster_id: Option<String>,
    #[serde(rename = "ipv4IPIPTunnelAddr")]
    ipip: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Wireguard {
    #[serde(rename = "interfaceIPv4Address")]
    ipv4: Option<String>,
    #[serde(rename = "interfaceIPv6Address")]
    ipv6: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    address: String,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Types of `spec.addresses`, best first, that stand in where `spec.bgp` has no address.
const STAND_INS: [&str; 3] = ["CalicoNodeIP", "InternalIP", "ExternalIP"];

impl TryFrom<Object<Option<Spec>>> for Node {
    type Error = Invalid;

    fn try_from(object: Object<Option<Spec>>) -> Result<Node, Invalid> {
        super::check_name(&object.metadata.name)?;
        let metadata = object.metadata;
        let spec = object.spec.unwrap_or_default();
        let bgp = spec.bgp.unwrap_or_default();
        let addresses = spec.addresses.unwrap_or_default();
        let wireguard = spec.wireguard.unwrap_or_default();
        let or_noted = |own: Option<String>, name: &str| {
            own.or_else(|| metadata.annotation(name).map(str::to_owned))
                .filter(|text| !text.is_empty())
        };
        let mend = "an address with its prefix length, such as 10.0.0.7/24";
        let bad = |field, text: &str| Invalid::new(field, format!("'{text}' is no address"), mend);
        let ipv4 = match or_noted(bgp.ipv4_address, "projectcalico.org/IPv4Address") {
            Some(text) => Some(ipv4_net(&text).ok_or_else(|| bad("spec.bgp.ipv4Address", &text))?),
            None => stand_in(&addresses, ipv4_net),
        };
        let ipv6 = match or_noted(bgp.ipv6_address, "projectcalico.org/IPv6Address") {
            Some(text) => Some(ipv6_net(&text).ok_or_else(|| bad("spec.bgp.ipv6Address", &text))?),
            None => stand_in(&addresses, ipv6_net),
        };
        let tunnels = TunnelAddresses {
            ipip: tunnel_field(or_noted(bgp.ipip, "projectcalico.org/IPv4IPIPTunnelAddr"))?,
            vxlan: [
                tunnel_field(or_noted(spec.vxlan_v4, "projectcalico.org/IPv4VXLANTunnelAddr"))?,
                tunnel_field(or_noted(spec.vxlan_v6, "projectcalico.org/IPv6VXLANTunnelAddr"))?,
            ],
            vxlan_macs: [
                tunnel_mac(or_noted(spec.vxlan_mac_v4, "projectcalico.org/VXLANTunnelMACAddr"))?,
                tunnel_mac(or_noted(spec.vxlan_mac_v6, "projectcalico.org/VXLANTunnelMACAddrV6"))?,
            ],
        };
        let noted_as = or_noted(None, "projectcalico.org/ASNumber");
        let cluster_id = or_noted(bgp.cluster_id, "projectcalico.org/RouteReflectorClusterID");
        Ok(Node {
            ipv4,
            ipv6,
            as_number: match (bgp.as_number, noted_as) {
                (Some(AsNumber(number)), _) => Some(number),
                (None, Some(text)) => Some(as_number(&text).ok_or_else(|| {
                    let what = format!("'{text}' is no AS number");
                    Invalid::new("projectcalico.org/ASNumber", what, "0 to 4294967295")
                })?),
                (None, None) => None,
            },
            cluster_id: match cluster_id {
                Some(text) => Some(text.parse().map_err(|_| {
                    let what = format!("'{text}' is no cluster id");
                    Invalid::new("spec.bgp.routeReflectorClusterID", what, "such as 1.0.0.1")
                })?),
                None => None,
            },
            wireguard: [wireguard.ipv4, wireguard.ipv6]
                .map(|text| text.and_then(|text| text.parse().ok())),
            tunnels,
            labels: metadata.labels.unwrap_or_default(),
        })
    }
}

/// An address inside of a tunnel, without a prefix length.
fn tunnel_field<T: FromStr>(text: Option<String>) -> Result<Option<T>, Invalid> {
    let bad = |text: &str| {
        let what = format!("'{text}' is no address of a tunnel");
        Invalid::new("spec", what, "an address such as 192.168.4.1")
    };
    text.map(|text| text.parse().map_err(|_| bad(&text))).transpose()
}

/// A link address; Windows writes it with hyphens.
fn tunnel_mac(text: Option<String>) -> Result<Option<Mac>, Invalid> {
    let bad = |text: &str| {
        let what = format!("'{text}' is no link address");
        Invalid::new("spec.vxlanTunnelMACAddr", what, "such as 66:2d:bd:b0:8a:c1")
    };
    text.map(|text| text.replace('-', ":").parse().map_err(|()| bad(&text))).transpose()
}

fn stand_in<T>(addresses: &[Address], parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    STAND_INS.iter().find_map(|kind| {
        let of_kind = addresses.iter().filter(|address| address.kind.as_deref() == Some(*kind));
        of_kind.into_iter().find_map(|address| parse(&address.address))
    })
}

fn ipv4_net(text: &str) -> Option<Ipv4Net> {
    Ipv4Net::from_str(text).ok().or_else(|| Ipv4Addr::from_str(text).ok().map(Ipv4Net::from))
}

fn ipv6_net(text: &str) -> Option<Ipv6Net> {
    Ipv6Net::from_str(text).ok().or_else(|| Ipv6Addr::from_str(text).ok().map(Ipv6Net::from))
}
