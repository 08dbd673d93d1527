//! IPPool: the ranges that pods' addresses come from.
//!
//! Routing needs the range, and BGP its export and encapsulation; the other fields are checked so
//! that a pool that Calico would refuse is refused here too. Overlap between pools is a matter of
//! the whole set and not checked.

use super::{Invalid, Object};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A pool of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpPool {
    /// The range, strictly masked.
    pub cidr: IpNet,
    /// Prefix length of its blocks: 20 to 32 (default 26), IPv6 116 to 128 (default 122).
    pub block_size: u8,
    /// IPIP encapsulation; IPv4 only, and not together with VXLAN.
    pub ipip_mode: EncapMode,
    /// VXLAN encapsulation.
    pub vxlan_mode: EncapMode,
    /// Masquerade traffic that leaves the pools.
    pub nat_outgoing: bool,
    /// No new allocations.
    pub disabled: bool,
    /// Its routes are not told to BGP peers.
    pub disable_bgp_export: bool,
    /// Its addresses are those of load balancers, not of pods.
    pub load_balancer_only: bool,
}

#[cfg(test)]
impl IpPool {
    /// One with its defaults but for the encapsulation.
    pub(crate) fn encapsulated(cidr: &str, ipip_mode: EncapMode, vxlan_mode: EncapMode) -> IpPool {
        IpPool {
            cidr: cidr.parse().unwrap(),
            block_size: 26,
            ipip_mode,
            vxlan_mode,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            load_balancer_only: false,
        }
    }
}

/// When packets between nodes are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EncapMode {
    /// Never.
    #[default]
    Never,
    /// Always.
    Always,
    /// Between subnets only.
    CrossSubnet,
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    cidr: String,
    block_size: Option<u8>,
    ipip_mode: Option<EncapMode>,
    vxlan_mode: Option<EncapMode>,
    nat_outgoing: bool,
    disabled: bool,
    #[serde(rename = "disableBGPExport")]
    disable_bgp_export: bool,
    node_selector: Option<String>,
    namespace_selector: Option<String>,
    allowed_uses: Vec<String>,
}

/// Most characters of a selector.
pub const SELECTOR_MAX: usize = 1024;

impl TryFrom<Object<Spec>> for IpPool {
    type Error = Invalid;

    fn try_from(object: Object<Spec>) -> Result<IpPool, Invalid> {
        super::check_name(&object.metadata.name)?;
        let spec = object.spec;
        let cidr = range(&spec.cidr)?;
        let pool = IpPool {
            cidr,
            block_size: block_size(cidr, spec.block_size)?,
            ipip_mode: spec.ipip_mode.unwrap_or_default(),
            vxlan_mode: spec.vxlan_mode.unwrap_or_default(),
            nat_outgoing: spec.nat_outgoing,
            disabled: spec.disabled,
            disable_bgp_export: spec.disable_bgp_export,
            load_balancer_only: !spec.allowed_uses.is_empty()
                && spec.allowed_uses.iter().all(|allowed| allowed == "LoadBalancer"),
        };
        if pool.ipip_mode != EncapMode::Never {
            if pool.vxlan_mode != EncapMode::Never {
                let mend = "set one of ipipMode and vxlanMode to Never";
                return Err(Invalid::new("spec.vxlanMode", "ipipMode is set too", mend));
            }
            if matches!(cidr, IpNet::V6(_)) {
                let mend = "Never, or vxlanMode";
                return Err(Invalid::new("spec.ipipMode", "IPIP carries IPv4 only", mend));
            }
        }
        let long = |selector: &Option<String>| {
            selector.as_ref().is_some_and(|selector| selector.chars().count() > SELECTOR_MAX)
        };
        match (long(&spec.node_selector), long(&spec.namespace_selector)) {
            (true, _) => Err(Invalid::new("spec.nodeSelector", "too long", "1024 characters")),
            (_, true) => Err(Invalid::new("spec.namespaceSelector", "too long", "1024 characters")),
            _ => Ok(pool),
        }
    }
}

fn range(text: &str) -> Result<IpNet, Invalid> {
    let mend = "a range such as 192.168.0.0/16";
    let bad = |what: String| Invalid::new("spec.cidr", what, mend);
    let cidr: IpNet = text.parse().map_err(|_| bad(format!("'{text}' is no range")))?;
    if cidr != cidr.trunc() {
        return Err(bad(format!("{cidr} has bits behind its mask, {} has not", cidr.trunc())));
    }
    let link_local = match cidr {
        IpNet::V4(net) => net.network().is_link_local(),
        IpNet::V6(net) => net.network().is_unicast_link_local(),
    };
    match link_local {
        true => Err(bad(format!("{cidr} is link-local"))),
        false => Ok(cidr),
    }
}

fn block_size(cidr: IpNet, given: Option<u8>) -> Result<u8, Invalid> {
    let (default, range) = match cidr {
        IpNet::V4(_) => (26, 20..=32),
        IpNet::V6(_) => (122, 116..=128),
    };
    let size = given.unwrap_or(default);
    let mend = "20 to 32 for IPv4, 116 to 128 for IPv6, and no shorter than the pool's prefix";
    if !range.contains(&size) || size < cidr.prefix_len() {
        let what = format!("/{size} does not fit the pool {cidr}");
        return Err(Invalid::new("spec.blockSize", what, mend));
    }
    Ok(size)
}
