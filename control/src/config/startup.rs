//! What a node writes to the datastore when it starts, in calico-node's words.
//!
//! The variables are those of calico-node's manifest: `IP`, `IP_AUTODETECTION_METHOD`, `AS`,
//! `CALICO_IPV4POOL_*` and the like. A directory is what people write, so nothing is written there
//! unless `startup.enabled` says so.

use super::{Config, ConfigError, Environment, environment};
use crate::resource::field::as_number;
use crate::resource::ip_pool::EncapMode;
use crate::startup::autodetect::Method;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the node's name is kept for CNI plugins, and from one start to the next.
pub const NODENAME_FILE: &str = "/var/lib/calico/nodename";

/// Settings of the node's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct StartupSettings {
    /// Whether the node writes its resources; without it, where the store is a shared one.
    pub enabled: Option<bool>,
    /// Where the node's IPv4 address comes from (`IP`).
    pub ip: OwnAddress,
    /// Where its IPv6 address comes from (`IP6`).
    pub ip6: OwnAddress,
    /// How the IPv4 address is found (`IP_AUTODETECTION_METHOD`).
    pub ip_autodetection_method: Method,
    /// How the IPv6 address is found (`IP6_AUTODETECTION_METHOD`).
    pub ip6_autodetection_method: Method,
    /// Seconds between two looks, 1 to 86400 (`AUTODETECT_POLL_INTERVAL`).
    pub autodetect_poll_interval_seconds: u32,
    /// The node's AS (`AS`); without it the cluster's.
    pub as_number: Option<u32>,
    /// Name of the node in Kubernetes (`CALICO_K8S_NODE_REF`).
    pub kubernetes_node: Option<String>,
    /// Take an address that another Node has (`DISABLE_NODE_IP_CHECK`).
    pub disable_node_ip_check: bool,
    /// Create pools where there are none (not `NO_DEFAULT_POOLS`).
    pub default_pools: bool,
    /// The IPv4 pool (`CALICO_IPV4POOL_*`).
    pub ipv4_pool: DefaultPool,
    /// The IPv6 pool (`CALICO_IPV6POOL_*`).
    pub ipv6_pool: DefaultPool,
    /// Words that ClusterInformation says of the cluster, by commas (`CLUSTER_TYPE`).
    pub cluster_type: String,
    /// Where the node's name is kept, if the folder is there (`CALICO_NODENAME_FILE`).
    pub nodename_file: PathBuf,
}

/// Where an address of the node comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OwnAddress {
    /// What the Node resource has stays; without one IPv4 is looked for, and IPv6 left out.
    #[default]
    Stored,
    /// It is looked for, again and again.
    Autodetect,
    /// There is none.
    None,
    /// This one; a single address has the prefix length of the device that it is on.
    Given(IpNet, /* with a prefix length of its own */ bool),
}

/// A pool that is created where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DefaultPool {
    /// Leave it out (`CALICO_IPV4POOL_CIDR=none`).
    pub disabled: bool,
    /// Its range; 192.168.0.0/16 where that is no network of the host, or a random ULA /48.
    pub cidr: Option<IpNet>,
    /// Prefix length of its blocks.
    pub block_size: Option<u8>,
    /// IPIP.
    pub ipip_mode: EncapMode,
    /// VXLAN.
    pub vxlan_mode: EncapMode,
    /// Masquerade what leaves the pools; yes for IPv4, no for IPv6.
    pub nat_outgoing: Option<bool>,
    /// Nodes that it is for; all of them without it.
    pub node_selector: Option<String>,
    /// Do not tell its routes to BGP peers.
    #[serde(rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
}

impl Default for StartupSettings {
    fn default() -> StartupSettings {
        StartupSettings {
            enabled: None,
            ip: OwnAddress::default(),
            ip6: OwnAddress::default(),
            ip_autodetection_method: Method::default(),
            ip6_autodetection_method: Method::default(),
            autodetect_poll_interval_seconds: 60,
            as_number: None,
            kubernetes_node: None,
            disable_node_ip_check: false,
            default_pools: true,
            ipv4_pool: DefaultPool::default(),
            ipv6_pool: DefaultPool::default(),
            cluster_type: String::new(),
            nodename_file: NODENAME_FILE.into(),
        }
    }
}

impl FromStr for OwnAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<OwnAddress, String> {
        match text {
            "" => Ok(OwnAddress::Stored),
            "autodetect" => Ok(OwnAddress::Autodetect),
            "none" => Ok(OwnAddress::None),
            _ => {
                let single = text.parse::<IpAddr>().map(|ip| OwnAddress::Given(ip.into(), false));
                let net = || text.parse().map(|net| OwnAddress::Given(net, true));
                single.or_else(|_| net()).map_err(|_| format!("'{text}' is no address"))
            }
        }
    }
}

impl TryFrom<String> for OwnAddress {
    type Error = String;

    fn try_from(text: String) -> Result<OwnAddress, String> {
        text.parse()
    }
}

impl From<OwnAddress> for String {
    fn from(own: OwnAddress) -> String {
        match own {
            OwnAddress::Stored => String::new(),
            OwnAddress::Autodetect => "autodetect".to_owned(),
            OwnAddress::None => "none".to_owned(),
            OwnAddress::Given(net, true) => net.to_string(),
            OwnAddress::Given(net, false) => net.addr().to_string(),
        }
    }
}

impl StartupSettings {
    /// Checks what single fields cannot say.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (place, own, v4) in [("startup.ip", self.ip, true), ("startup.ip6", self.ip6, false)] {
            if let OwnAddress::Given(net, _) = own
                && net.addr().is_ipv4() != v4
            {
                let what = format!("{net} is of the other family");
                return Err(ConfigError::new(place, what, "IPv4 in ip, IPv6 in ip6"));
            }
        }
        if !(1..=86_400).contains(&self.autodetect_poll_interval_seconds) {
            let what = format!("{} seconds", self.autodetect_poll_interval_seconds);
            let place = "startup.autodetectPollIntervalSeconds";
            return Err(ConfigError::new(place, what, "1 to 86400"));
        }
        self.ipv4_pool.check("startup.ipv4Pool", true)?;
        self.ipv6_pool.check("startup.ipv6Pool", false)
    }
}

impl DefaultPool {
    fn check(&self, place: &str, v4: bool) -> Result<(), ConfigError> {
        if let Some(cidr) = self.cidr.filter(|cidr| cidr.addr().is_ipv4() != v4) {
            let what = format!("{cidr} is of the other family");
            return Err(ConfigError::new(format!("{place}.cidr"), what, "a range of its family"));
        }
        let sizes = if v4 { 20..=32 } else { 116..=128 };
        if let Some(size) = self.block_size.filter(|size| !sizes.contains(size)) {
            let hint = format!("{} to {}", sizes.start(), sizes.end());
            let what = format!("/{size} is no size of blocks");
            return Err(ConfigError::new(format!("{place}.blockSize"), what, hint));
        }
        let both = self.ipip_mode != EncapMode::Never && self.vxlan_mode != EncapMode::Never;
        if both || !v4 && self.ipip_mode != EncapMode::Never {
            let what = "IPIP is for IPv4 only, and not together with VXLAN";
            return Err(ConfigError::new(format!("{place}.ipipMode"), what, "Never"));
        }
        Ok(())
    }
}

/// calico-node's variables.
pub(super) fn apply(config: &mut Config, environment: Environment) -> Result<(), ConfigError> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty());
    let startup = &mut config.startup;
    for (name, own) in [("IP", &mut startup.ip), ("IP6", &mut startup.ip6)] {
        if let Some(value) = text(name) {
            let hint = "an address such as 10.0.0.7/24, 'autodetect' or 'none'";
            *own = value.parse().map_err(|what: String| ConfigError::new(name, what, hint))?;
        }
    }
    for (name, method) in [
        ("IP_AUTODETECTION_METHOD", &mut startup.ip_autodetection_method),
        ("IP6_AUTODETECTION_METHOD", &mut startup.ip6_autodetection_method),
    ] {
        if let Some(value) = text(name) {
            let hint = "first-found, can-reach=HOST, interface=REGEX, skip-interface=REGEX, \
                        cidr=RANGE or kubernetes-internal-ip";
            *method = value.parse().map_err(|what: String| ConfigError::new(name, what, hint))?;
        }
    }
    if let Some(value) = text("AUTODETECT_POLL_INTERVAL") {
        let field = "AUTODETECT_POLL_INTERVAL";
        let bad = || ConfigError::new(field, format!("'{value}' is no duration"), "such as 60s");
        let plain = value.parse().ok();
        let seconds = plain.or_else(|| crate::resource::field::seconds(field, &value).ok());
        startup.autodetect_poll_interval_seconds = seconds.ok_or_else(bad)?;
    }
    if let Some(value) = text("AS") {
        let hint = "0 to 4294967295, or dotted such as 1.10";
        let bad = || ConfigError::new("AS", format!("'{value}' is no AS number"), hint);
        startup.as_number = Some(as_number(&value).ok_or_else(bad)?);
    }
    startup.kubernetes_node = text("CALICO_K8S_NODE_REF").or(startup.kubernetes_node.take());
    if let Some(words) = text("CLUSTER_TYPE") {
        startup.cluster_type = words;
    }
    if let Some(file) = text("CALICO_NODENAME_FILE") {
        startup.nodename_file = file.into();
    }
    if let Some(off) = environment::boolean(environment, "DISABLE_NODE_IP_CHECK")? {
        startup.disable_node_ip_check = off;
    }
    if let Some(off) = environment::boolean(environment, "NO_DEFAULT_POOLS")? {
        startup.default_pools = !off;
    }
    pool(&mut startup.ipv4_pool, "CALICO_IPV4POOL", environment)?;
    pool(&mut startup.ipv6_pool, "CALICO_IPV6POOL", environment)
}

fn pool(pool: &mut DefaultPool, prefix: &str, variables: Environment) -> Result<(), ConfigError> {
    let name = |field: &str| format!("{prefix}_{field}");
    let text = |field: &str| variables(&name(field)).filter(|value| !value.is_empty());
    match text("CIDR").as_deref() {
        None => {}
        Some("none") => pool.disabled = true,
        Some(cidr) => {
            let what = format!("'{cidr}' is no range");
            let bad = |_| ConfigError::new(name("CIDR"), what, "such as 10.244.0.0/16, or 'none'");
            pool.cidr = Some(cidr.parse::<IpNet>().map_err(bad)?.trunc());
        }
    }
    for (field, mode) in [("IPIP", &mut pool.ipip_mode), ("VXLAN", &mut pool.vxlan_mode)] {
        let Some(value) = text(field) else { continue };
        *mode = match value.to_lowercase().as_str() {
            "never" | "off" => EncapMode::Never,
            "always" => EncapMode::Always,
            "crosssubnet" | "cross-subnet" => EncapMode::CrossSubnet,
            _ => {
                let what = format!("'{value}' is unknown");
                return Err(ConfigError::new(name(field), what, "Never, Always or CrossSubnet"));
            }
        };
    }
    if let Some(size) = text("BLOCK_SIZE") {
        let bad = |_| ConfigError::new(name("BLOCK_SIZE"), format!("'{size}' is no size"), "26");
        pool.block_size = Some(size.parse().map_err(bad)?);
    }
    if let Some(nat) = environment::boolean(variables, &name("NAT_OUTGOING"))? {
        pool.nat_outgoing = Some(nat);
    }
    pool.node_selector = text("NODE_SELECTOR").or(pool.node_selector.take());
    if let Some(off) = environment::boolean(variables, &name("DISABLE_BGP_EXPORT"))? {
        pool.disable_bgp_export = off;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let find = |name: &str| {
            let pair = variables.iter().find(|(known, _)| *known == name);
            pair.map(|(_, value)| (*value).to_owned())
        };
        let mut config = Config::default();
        apply(&mut config, &find)?;
        config.startup.check().map(|()| config)
    }

    #[test]
    fn calico_node_s_variables_count() {
        let startup = of(&[
            ("IP", "10.0.0.7/24"),
            ("IP6", "autodetect"),
            ("IP6_AUTODETECTION_METHOD", "interface=eth.*,ens3"),
            ("AUTODETECT_POLL_INTERVAL", "90s"),
            ("AS", "1.10"),
            ("NO_DEFAULT_POOLS", "true"),
            ("DISABLE_NODE_IP_CHECK", "true"),
            ("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"),
            ("CALICO_IPV4POOL_IPIP", "Cross-Subnet"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "24"),
            ("CALICO_IPV6POOL_CIDR", "none"),
        ])
        .unwrap()
        .startup;
        assert_eq!(startup.ip, OwnAddress::Given("10.0.0.7/24".parse().unwrap(), true));
        assert_eq!(startup.ip6, OwnAddress::Autodetect);
        assert_eq!(startup.ip6_autodetection_method.to_string(), "interface=eth.*,ens3");
        assert_eq!(startup.autodetect_poll_interval_seconds, 90);
        assert_eq!(startup.as_number, Some(65546));
        assert!(startup.disable_node_ip_check && !startup.default_pools);
        assert_eq!(startup.ipv4_pool.cidr, Some("10.244.0.0/16".parse().unwrap()));
        assert_eq!(startup.ipv4_pool.ipip_mode, EncapMode::CrossSubnet);
        assert_eq!(startup.ipv4_pool.block_size, Some(24));
        assert!(startup.ipv6_pool.disabled);
    }

    #[test]
    fn wrong_variables_are_named() {
        for (name, value) in [
            ("IP", "ten"),
            ("IP_AUTODETECTION_METHOD", "guess"),
            ("IP_AUTODETECTION_METHOD", "interface=("),
            ("AUTODETECT_POLL_INTERVAL", "often"),
            ("AS", "x"),
            ("NO_DEFAULT_POOLS", "perhaps"),
            ("CALICO_IPV4POOL_CIDR", "10.0.0.0/33"),
            ("CALICO_IPV4POOL_IPIP", "Sometimes"),
        ] {
            let error = of(&[(name, value)]).unwrap_err();
            assert_eq!(error.place, name, "{error}");
        }
        let error = of(&[("IP", "2001:db8::1")]).unwrap_err();
        assert_eq!(error.place, "startup.ip");
        let both = [("CALICO_IPV4POOL_IPIP", "Always"), ("CALICO_IPV4POOL_VXLAN", "Always")];
        assert_eq!(of(&both).unwrap_err().place, "startup.ipv4Pool.ipipMode");
    }
}
