//! What the configuration says of translation, in Felix's words where it has them.

use super::{Config, ConfigError, Environment};
use ipnet::IpNet;
use margay_fastpath::flow::Timeouts;
use margay_fastpath::nat::{Filtering, PortRange};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most flows that a worker can have.
pub(super) const FLOWS_MAX: usize = 1 << 26;
/// Ports for translation where nothing else is said: those above the range that the kernel gives to
/// its own sockets by default.
pub const DEFAULT_PORTS: PortRange = PortRange { first: 61_000, last: 65_535 };

/// Settings of NAT-outgoing and of flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct NatSettings {
    /// What pods look like outside (Felix's `natOutgoingAddress`); not said is the node's address.
    pub outgoing_addresses: Vec<IpAddr>,
    /// Ports of the node's own addresses that are for translation (`natPortRange`). The kernel must
    /// not use them: those in `net.ipv4.ip_local_port_range` are left out unless they are in
    /// `net.ipv4.ip_local_reserved_ports`.
    pub port_range: Ports,
    /// What is not translated, beside traffic to pools (`natOutgoingExclusions`).
    pub outgoing_exclusions: Exclusions,
    /// Which packets from outside a mapping lets in.
    pub filtering: Filter,
    /// Flows of each worker at most.
    pub flows: usize,
    /// Flows that one source address may have in the table of each worker; 0 is no limit. Ports
    /// decide which worker has a flow, so with N workers a source may have up to N times as many.
    pub flows_per_source: u32,
    /// Serve the addresses of Services; else they are left to the kernel (kube-proxy).
    pub services: bool,
    /// Networks of the host's addresses that NodePorts are served at; none said is all addresses.
    pub node_port_addresses: Vec<IpNet>,
    /// Idle times in seconds, by the names of Linux's sysctls (`nf_conntrack_udp_timeout`, ...) and
    /// `ipfrag_time`. Those of translated flows are never below what RFC 4787, 5382 and 5508 ask.
    pub timeouts: BTreeMap<String, u32>,
}

impl Default for NatSettings {
    fn default() -> NatSettings {
        NatSettings {
            outgoing_addresses: Vec::new(),
            port_range: Ports(DEFAULT_PORTS),
            outgoing_exclusions: Exclusions::default(),
            filtering: Filter::default(),
            flows: 1 << 18,
            flows_per_source: 0,
            services: true,
            node_port_addresses: Vec::new(),
            timeouts: BTreeMap::new(),
        }
    }
}

/// Destinations that are not translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Exclusions {
    /// Pools.
    #[default]
    IPPoolsOnly,
    /// Pools, and all nodes' addresses.
    IPPoolsAndHostIPs,
}

/// RFC 4787's words for what is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Filter {
    /// Anybody.
    EndpointIndependent,
    /// Addresses that the inside has sent to.
    AddressDependent,
    /// Answers only.
    #[default]
    AddressAndPortDependent,
}

impl From<Filter> for Filtering {
    fn from(filter: Filter) -> Filtering {
        match filter {
            Filter::EndpointIndependent => Filtering::EndpointIndependent,
            Filter::AddressDependent => Filtering::AddressDependent,
            Filter::AddressAndPortDependent => Filtering::AddressAndPortDependent,
        }
    }
}

/// A range of ports, written `61000-65535` or, as Felix has it, `61000:65535`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports(pub PortRange);

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let bad = || format!("'{text}' is no range of ports");
        let (first, last) = text.split_once([':', '-']).unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
        let range = PortRange { first: port(first)?, last: port(last)? };
        if range.first == 0 || range.first > range.last { Err(bad()) } else { Ok(Ports(range)) }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ports, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.0.first, self.0.last))
    }
}

impl NatSettings {
    /// The idle times that the settings give.
    pub fn timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        for (name, seconds) in &self.timeouts {
            timeouts.set(name, *seconds);
        }
        timeouts
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=FLOWS_MAX).contains(&self.flows) {
            let what = format!("{} flows", self.flows);
            return Err(ConfigError::new("nat.flows", what, format!("1 to {FLOWS_MAX}")));
        }
        for (name, seconds) in &self.timeouts {
            let place = format!("nat.timeouts.{name}");
            if *seconds == 0 {
                return Err(ConfigError::new(place, "no time at all", "1 second or more"));
            }
            if !Timeouts::default().set(name, *seconds) {
                let hint = "the name of a sysctl such as nf_conntrack_tcp_timeout_established";
                return Err(ConfigError::new(place, "not a timeout of Linux's conntrack", hint));
            }
        }
        Ok(())
    }
}

/// Felix's variables.
pub(super) fn apply(config: &mut Config, environment: Environment) -> Result<(), ConfigError> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(address) = text("FELIX_NATOUTGOINGADDRESS") {
        let what = format!("'{address}' is no address");
        let bad = |_| ConfigError::new("FELIX_NATOUTGOINGADDRESS", what, "such as 192.0.2.1");
        config.nat.outgoing_addresses = vec![address.trim().parse().map_err(bad)?];
    }
    if let Some(range) = text("FELIX_NATPORTRANGE") {
        let bad = |what| ConfigError::new("FELIX_NATPORTRANGE", what, "such as 61000:65535");
        config.nat.port_range = range.parse().map_err(bad)?;
    }
    match text("FELIX_NATOUTGOINGEXCLUSIONS").as_deref() {
        None => {}
        Some("IPPoolsOnly") => config.nat.outgoing_exclusions = Exclusions::IPPoolsOnly,
        Some("IPPoolsAndHostIPs") => {
            config.nat.outgoing_exclusions = Exclusions::IPPoolsAndHostIPs;
        }
        Some(other) => {
            let (name, what) = ("FELIX_NATOUTGOINGEXCLUSIONS", format!("'{other}' is unknown"));
            return Err(ConfigError::new(name, what, "IPPoolsOnly or IPPoolsAndHostIPs"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_wrong_ones_are_named() {
        let text = "nat: {outgoingAddresses: [192.0.2.1], portRange: 1024-2047, \
                    outgoingExclusions: IPPoolsAndHostIPs, filtering: AddressDependent, \
                    flows: 5000, flowsPerSource: 9, timeouts: {nf_conntrack_udp_timeout: 77}}";
        let config = Config::parse(text, "margay.yaml").unwrap();
        config.check().unwrap();
        assert_eq!(config.nat.port_range.0, PortRange { first: 1024, last: 2047 });
        assert_eq!((config.nat.flows, config.nat.flows_per_source), (5000, 9));
        let udp = config.nat.timeouts().of(margay_fastpath::flow::State::Udp, false);
        assert_eq!(udp, 77);
        for (text, place) in [
            ("nat: {flows: 0}", "nat.flows"),
            ("nat: {timeouts: {tcp: 5}}", "nat.timeouts.tcp"),
            ("nat: {timeouts: {nf_conntrack_udp_timeout: 0}}", "nf_conntrack_udp_timeout"),
        ] {
            let error = Config::parse(text, "f").unwrap().check().unwrap_err();
            assert!(error.place.contains(place), "{error}");
        }
        for text in ["nat: {portRange: 9-1}", "nat: {portRange: 0-5}", "nat: {portRange: x}"] {
            assert!(Config::parse(text, "f").is_err(), "{text}");
        }
    }

    #[test]
    fn felix_variables_count() {
        let mut config = Config::default();
        let variables = |name: &str| {
            let value = match name {
                "FELIX_NATOUTGOINGADDRESS" => "192.0.2.9",
                "FELIX_NATPORTRANGE" => "40000:50000",
                "FELIX_NATOUTGOINGEXCLUSIONS" => "IPPoolsAndHostIPs",
                _ => return None,
            };
            Some(value.to_owned())
        };
        apply(&mut config, &variables).unwrap();
        assert_eq!(config.nat.outgoing_addresses, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.nat.port_range.0, PortRange { first: 40_000, last: 50_000 });
        assert_eq!(config.nat.outgoing_exclusions, Exclusions::IPPoolsAndHostIPs);
        let wrong = |name: &str| (name == "FELIX_NATPORTRANGE").then(|| "many".to_owned());
        assert_eq!(apply(&mut config, &wrong).unwrap_err().place, "FELIX_NATPORTRANGE");
    }
}
