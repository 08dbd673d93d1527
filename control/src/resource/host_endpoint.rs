//! HostEndpoint: an interface of a node, or all of them, as policy sees it.

use super::policy::places::{self, PortSpec};
use super::{Invalid, Object};
use margay_acl::model::{Endpoint, Labels, NamedPort, Place};
use serde::Deserialize;
use std::net::IpAddr;

/// An interface of a node, or `*` for all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Its node.
    pub node: String,
    /// Its device, or `*`; empty when its addresses tell it.
    pub interface: String,
    /// Addresses that it has.
    pub expected_ips: Vec<IpAddr>,
    /// Its own labels.
    pub labels: Labels,
    /// Its profiles, in order.
    pub profiles: Vec<String>,
    /// Ports that rules can name.
    pub ports: Vec<NamedPort>,
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    node: String,
    interface_name: String,
    #[serde(rename = "expectedIPs")]
    expected_ips: Option<Vec<String>>,
    profiles: Option<Vec<String>>,
    ports: Option<Vec<PortSpec>>,
}

impl TryFrom<Object<Spec>> for HostEndpoint {
    type Error = Invalid;

    fn try_from(object: Object<Spec>) -> Result<HostEndpoint, Invalid> {
        super::check_name(&object.metadata.name)?;
        let Spec { node, interface_name, expected_ips, profiles, ports } = object.spec;
        let expected_ips = expected_ips.unwrap_or_default();
        if node.is_empty() {
            return Err(Invalid::new("spec.node", "it is missing", "the name of a node"));
        }
        if interface_name.is_empty() && expected_ips.is_empty() {
            let mend = "interfaceName: a device or '*', or expectedIPs";
            return Err(Invalid::new("spec", "neither interfaceName nor expectedIPs", mend));
        }
        Ok(HostEndpoint {
            node,
            interface: interface_name,
            expected_ips: places::addresses("spec.expectedIPs", &expected_ips)?,
            labels: object.metadata.labels.unwrap_or_default(),
            profiles: profiles.unwrap_or_default(),
            ports: places::ports(&ports.unwrap_or_default())?,
        })
    }
}

impl HostEndpoint {
    /// As policy on a node sees it.
    pub fn member(&self, node: &str) -> Endpoint {
        Endpoint {
            labels: self.labels.clone(),
            addresses: self.expected_ips.clone(),
            ports: self.ports.clone(),
            profiles: self.profiles.clone(),
            place: match self.node == node {
                true => Place::Host { every_interface: self.interface == "*" },
                false => Place::Elsewhere,
            },
        }
    }
}
