//! Node: where a node is reached, and its part in BGP.
//!
//! What `spec.bgp` leaves out may stand in the annotations that Calico keeps on Kubernetes' nodes.

use super::field::{AsNumber, as_number};
use super::{Invalid, Object};
use ipnet::{Ipv4Net, Ipv6Net};
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
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    bgp: Option<Bgp>,
    wireguard: Option<Wireguard>,
    addresses: Option<Vec<Address>>,
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
            labels: metadata.labels.unwrap_or_default(),
        })
    }
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
