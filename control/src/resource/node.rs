//! Node: where a node is reached.

use super::{Invalid, Object};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `spec.bgp.ipv4Address`, its own prefix length included: CrossSubnet compares with it.
    pub ipv4: Option<Ipv4Net>,
    /// `spec.bgp.ipv6Address`.
    pub ipv6: Option<Ipv6Net>,
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    bgp: Option<Bgp>,
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Bgp {
    #[serde(rename = "ipv4Address")]
    ipv4_address: Option<String>,
    #[serde(rename = "ipv6Address")]
    ipv6_address: Option<String>,
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
        let spec = object.spec.unwrap_or_default();
        let bgp = spec.bgp.unwrap_or_default();
        let addresses = spec.addresses.unwrap_or_default();
        let mend = "an address with its prefix length, such as 10.0.0.7/24";
        let bad = |field, text: &str| Invalid::new(field, format!("'{text}' is no address"), mend);
        let ipv4 = match bgp.ipv4_address.filter(|text| !text.is_empty()) {
            Some(text) => Some(ipv4_net(&text).ok_or_else(|| bad("spec.bgp.ipv4Address", &text))?),
            None => stand_in(&addresses, ipv4_net),
        };
        let ipv6 = match bgp.ipv6_address.filter(|text| !text.is_empty()) {
            Some(text) => Some(ipv6_net(&text).ok_or_else(|| bad("spec.bgp.ipv6Address", &text))?),
            None => stand_in(&addresses, ipv6_net),
        };
        Ok(Node { ipv4, ipv6 })
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
