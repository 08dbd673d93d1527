//! Settings of tunnels. Which pools have tunnels is the datastore's to say (IPPool); these are the
//! settings that Felix has for them, under its names.

use super::ConfigError;
use ipnet::IpNet;
use margay_tunnels::wire::vxlan::Vni;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Most networks in [`TunnelSettings::external_nodes_list`].
pub const EXTERNAL_NODES_MAX: usize = 256;
/// Where Calico's CNI plugin reads the MTU of pods.
pub const MTU_FILE: &str = "/var/lib/calico/mtu";

/// Settings of tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TunnelSettings {
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Network of VXLAN, 0 to 16777215.
    #[serde(rename = "vxlanVNI")]
    pub vxlan_vni: u32,
    /// MTU of pods where IPIP is on, in bytes; 0 is that of the uplinks less the outer header.
    #[serde(rename = "ipipMTU")]
    pub ipip_mtu: u16,
    /// The same for VXLAN over IPv4.
    #[serde(rename = "vxlanMTU")]
    pub vxlan_mtu: u16,
    /// The same for VXLAN over IPv6.
    #[serde(rename = "vxlanMTUV6")]
    pub vxlan_mtu_v6: u16,
    /// Lower the segment size that TCP's ends tell each other to what the tunnels carry.
    pub mss_clamp: bool,
    /// Hosts outside of the cluster that tunnels may come from; see [`EXTERNAL_NODES_MAX`].
    pub external_nodes_list: Vec<IpNet>,
    /// Pods may send IPIP packets of their own.
    #[serde(rename = "allowIPIPPacketsFromWorkloads")]
    pub allow_ipip_from_workloads: bool,
    /// Pods may send VXLAN packets of their own.
    #[serde(rename = "allowVXLANPacketsFromWorkloads")]
    pub allow_vxlan_from_workloads: bool,
    /// File that is told the MTU of pods; not said is [`MTU_FILE`] if its folder is there.
    pub mtu_file: Option<PathBuf>,
}

impl Default for TunnelSettings {
    fn default() -> TunnelSettings {
        TunnelSettings {
            vxlan_port: 4789,
            vxlan_vni: 4096,
            ipip_mtu: 0,
            vxlan_mtu: 0,
            vxlan_mtu_v6: 0,
            mss_clamp: false,
            external_nodes_list: Vec::new(),
            allow_ipip_from_workloads: false,
            allow_vxlan_from_workloads: false,
            mtu_file: None,
        }
    }
}

impl TunnelSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.vxlan_port == 0 {
            return Err(ConfigError::new("tunnels.vxlanPort", "0 is no port", "1 to 65535"));
        }
        if Vni::new(self.vxlan_vni).is_none() {
            let what = format!("{} has more than 24 bits", self.vxlan_vni);
            return Err(ConfigError::new("tunnels.vxlanVNI", what, "0 to 16777215"));
        }
        if self.external_nodes_list.len() > EXTERNAL_NODES_MAX {
            let what = format!("{} networks", self.external_nodes_list.len());
            let hint = format!("at most {EXTERNAL_NODES_MAX}");
            return Err(ConfigError::new("tunnels.externalNodesList", what, hint));
        }
        Ok(())
    }
}
