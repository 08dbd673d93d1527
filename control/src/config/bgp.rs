//! What the configuration says of BGP. Everything else is the datastore's: BGPConfiguration,
//! BGPPeer, BGPFilter.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// Settings of BGP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BgpSettings {
    /// Whether BGP runs.
    pub enabled: Switch,
    /// Router id, where it is not the node's IPv4 address.
    pub router_id: Option<RouterId>,
    /// Ranges of cluster IPs to advertise, beside those of the BGPConfiguration.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpNet>,
    /// Namespace of the Secrets with passwords; else those of Calico are looked through.
    pub secret_namespace: Option<String>,
    /// Most routes of peers in the kernel; not said is all of them, 0 is none.
    pub kernel_routes: Option<usize>,
    /// Most next hops that share the traffic of a prefix.
    pub max_paths: usize,
    /// Directory of the control sockets of BIRD, `bird.ctl` and `bird6.ctl`, that Calico's tools
    /// ask; not said is /var/run/calico if that is there.
    pub bird_sockets: Option<PathBuf>,
}

impl Default for BgpSettings {
    fn default() -> BgpSettings {
        BgpSettings {
            enabled: Switch::Auto,
            router_id: None,
            cluster_ips: Vec::new(),
            secret_namespace: None,
            kernel_routes: None,
            max_paths: 16,
            bird_sockets: None,
        }
    }
}

/// Whether something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// When the datastore has something for it to do.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SwitchText {
    Bool(bool),
    Word(String),
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Switch, D::Error> {
        match SwitchText::deserialize(deserializer)? {
            SwitchText::Bool(true) => Ok(Switch::On),
            SwitchText::Bool(false) => Ok(Switch::Off),
            SwitchText::Word(word) if word == "auto" => Ok(Switch::Auto),
            SwitchText::Word(word) => {
                Err(serde::de::Error::custom(format!("'{word}' is not true, false or auto")))
            }
        }
    }
}

impl Serialize for Switch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match self {
            Switch::Auto => SwitchText::Word("auto".to_owned()),
            Switch::On => SwitchText::Bool(true),
            Switch::Off => SwitchText::Bool(false),
        };
        text.serialize(serializer)
    }
}

/// A router id, or how it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterId {
    /// This one.
    Address(Ipv4Addr),
    /// From the node's name, as Calico does it.
    Hash,
}

impl RouterId {
    /// The id of a node.
    pub fn of(self, node: &str) -> Ipv4Addr {
        match self {
            RouterId::Address(address) => address,
            RouterId::Hash => {
                let digest = Sha256::digest(node.as_bytes());
                let [first, second, third, fourth] = [digest[0], digest[1], digest[2], digest[3]];
                // Kept out of 224.0.0.0/3, where no router id may be.
                let first = if first > 223 { first - 32 } else { first };
                Ipv4Addr::new(first, second, third, fourth)
            }
        }
    }
}

impl FromStr for RouterId {
    type Err = String;

    fn from_str(text: &str) -> Result<RouterId, String> {
        if text == "hash" {
            return Ok(RouterId::Hash);
        }
        text.parse().map(RouterId::Address).map_err(|_| format!("'{text}' is no router id"))
    }
}

impl<'de> Deserialize<'de> for RouterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RouterId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for RouterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RouterId::Address(address) => serializer.collect_str(address),
            RouterId::Hash => serializer.serialize_str("hash"),
        }
    }
}
