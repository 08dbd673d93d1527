//! Calico's environment variables, as far as they mean something to margay today.
//!
//! Felix reads any of its settings from `FELIX_<NAME>`; those of metrics, health and interface
//! names are taken here. An empty variable counts as not set.

use super::{Config, ConfigError, Environment, Switch};
use std::net::IpAddr;
use std::str::FromStr;

/// Lets the variables override what the file says.
pub(super) fn apply(config: &mut Config, environment: Environment) -> Result<(), ConfigError> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty());
    config.store.apply(environment)?;
    if let Some(name) = text("NODENAME").or_else(|| text("FELIX_FELIXHOSTNAME")) {
        config.node_name = name;
    }
    if let Some(ip) = address(environment, "IP")? {
        config.ip = Some(ip);
    }
    if let Some(ip) = address(environment, "IP6")? {
        config.ip6 = Some(ip);
    }
    if let Some(prefixes) = text("FELIX_INTERFACEPREFIX") {
        config.interface_prefix = prefixes.split(',').next().unwrap_or("cali").trim().to_owned();
    }
    bgp(config, environment)?;
    tunnels(config, environment)?;
    super::nat::apply(config, environment)?;
    super::policy::apply(config, environment)?;
    super::startup::apply(config, environment)?;
    metrics_and_health(config, environment)
}

/// Calico's names for what BGP takes from the environment. `CALICO_NETWORKING_BACKEND` with
/// anything but `bird` is a network without BGP.
fn bgp(config: &mut Config, environment: Environment) -> Result<(), ConfigError> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty());
    match text("CALICO_NETWORKING_BACKEND").as_deref() {
        None | Some("bird") => {}
        Some("none" | "vxlan") => config.bgp.enabled = Switch::Off,
        Some(other) => {
            let what = format!("'{other}' is no networking backend");
            let name = "CALICO_NETWORKING_BACKEND";
            return Err(ConfigError::new(name, what, "'bird', 'vxlan' or 'none'"));
        }
    }
    if let Some(id) = text("CALICO_ROUTER_ID") {
        let bad = |what| {
            ConfigError::new("CALICO_ROUTER_ID", what, "an address such as 10.0.0.7, or 'hash'")
        };
        config.bgp.router_id = Some(id.parse().map_err(bad)?);
    }
    if let Some(list) = text("CALICO_ADVERTISE_CLUSTER_IPS") {
        let name = "CALICO_ADVERTISE_CLUSTER_IPS";
        let prefix = |word: &str| {
            let what = format!("'{word}' is no prefix");
            let bad = |_| ConfigError::new(name, what, "prefixes such as 10.96.0.0/12, by commas");
            word.parse::<ipnet::IpNet>().map(|net| net.trunc()).map_err(bad)
        };
        let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
        config.bgp.cluster_ips = words.map(prefix).collect::<Result<_, _>>()?;
    }
    Ok(())
}

/// Felix's names for tunnels.
fn tunnels(config: &mut Config, environment: Environment) -> Result<(), ConfigError> {
    let tunnels = &mut config.tunnels;
    for (name, setting) in [
        ("FELIX_VXLANPORT", &mut tunnels.vxlan_port),
        ("FELIX_IPINIPMTU", &mut tunnels.ipip_mtu),
        ("FELIX_VXLANMTU", &mut tunnels.vxlan_mtu),
        ("FELIX_VXLANMTUV6", &mut tunnels.vxlan_mtu_v6),
    ] {
        *setting = number(environment, name)?.unwrap_or(*setting);
    }
    for (name, setting) in [
        ("FELIX_ALLOWIPIPPACKETSFROMWORKLOADS", &mut tunnels.allow_ipip_from_workloads),
        ("FELIX_ALLOWVXLANPACKETSFROMWORKLOADS", &mut tunnels.allow_vxlan_from_workloads),
    ] {
        *setting = boolean(environment, name)?.unwrap_or(*setting);
    }
    if let Some(text) = environment("FELIX_VXLANVNI").filter(|text| !text.is_empty()) {
        let what = format!("'{text}' is no network");
        let bad = |_| ConfigError::new("FELIX_VXLANVNI", what, "0 to 16777215");
        tunnels.vxlan_vni = text.trim().parse().map_err(bad)?;
    }
    if let Some(list) = environment("FELIX_EXTERNALNODESLIST").filter(|list| !list.is_empty()) {
        let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
        tunnels.external_nodes_list = words.map(network).collect::<Result<_, _>>()?;
    }
    Ok(())
}

/// An address, or a network.
fn network(word: &str) -> Result<ipnet::IpNet, ConfigError> {
    let net = word.parse::<ipnet::IpNet>().map(|net| net.trunc());
    net.or_else(|_| word.parse::<IpAddr>().map(Into::into)).map_err(|_| {
        let what = format!("'{word}' is no network");
        ConfigError::new("FELIX_EXTERNALNODESLIST", what, "such as 10.0.0.7, 10.1.0.0/16")
    })
}

fn metrics_and_health(config: &mut Config, environment: Environment) -> Result<(), ConfigError> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(host) = text("FELIX_PROMETHEUSMETRICSHOST") {
        config.metrics.host = host;
    }
    if let Some(port) = number(environment, "FELIX_PROMETHEUSMETRICSPORT")? {
        config.metrics.port = port;
    }
    if boolean(environment, "FELIX_PROMETHEUSMETRICSENABLED")? == Some(false) {
        config.metrics.port = 0;
    }
    if let Some(host) = text("FELIX_HEALTHHOST") {
        config.health.host = host;
    }
    if let Some(port) = number(environment, "FELIX_HEALTHPORT")? {
        config.health.port = port;
    }
    if boolean(environment, "FELIX_HEALTHENABLED")? == Some(false) {
        config.health.port = 0;
    }
    Ok(())
}

/// The name of this node where no setting gives it, in Calico's order: the file that calico-node
/// wrote at its first start, `HOSTNAME` in lower case, the system's host name.
pub(super) fn node_name(environment: Environment) -> Result<String, ConfigError> {
    let file =
        environment("CALICO_NODENAME_FILE").unwrap_or_else(|| super::NODENAME_FILE.to_owned());
    let stored = std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned());
    let name = stored
        .filter(|name| !name.is_empty())
        .or_else(|| environment("HOSTNAME").map(|name| name.trim().to_lowercase()))
        .filter(|name| !name.is_empty())
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    name.ok_or_else(|| {
        let hint = "set nodeName in the file, NODENAME, or --node-name";
        ConfigError::new("nodeName", "the host has no name", hint)
    })
}

/// A literal address, with or without a prefix length; the words of autodetection give none.
fn address(environment: Environment, name: &str) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = environment(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text == "autodetect" || text == "none" {
        return Ok(None);
    }
    let literal = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
    match IpAddr::from_str(literal) {
        Ok(ip) if ip.is_ipv4() == (name == "IP") => Ok(Some(ip)),
        _ => {
            let hint = "an address such as 10.0.0.7 or 10.0.0.7/24, 'autodetect' or 'none'";
            Err(ConfigError::new(name, format!("'{text}' is no address for it"), hint))
        }
    }
}

fn number(environment: Environment, name: &str) -> Result<Option<u16>, ConfigError> {
    let Some(text) = environment(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = |_| ConfigError::new(name, format!("'{text}' is no number for it"), "up to 65535");
    text.trim().parse().map(Some).map_err(bad)
}

pub(super) fn boolean(environment: Environment, name: &str) -> Result<Option<bool>, ConfigError> {
    let Some(text) = environment(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.trim().to_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Ok(Some(true)),
        "false" | "0" | "no" | "n" | "f" => Ok(Some(false)),
        _ => Err(ConfigError::new(name, format!("'{text}' is no boolean"), "true or false")),
    }
}
