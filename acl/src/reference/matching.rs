//! Whether one rule matches one packet, field by field.

use crate::model::{AddressSet, Entity, Family, Icmp, Model, NamedPort, Port, Rule};
use crate::packet::Packet;
use crate::selector::Selector;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// A set or range by which a rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// `source` or `destination`.
    pub side: &'static str,
    /// The range, the selector, or the set's name.
    pub set: String,
    /// The endpoint or network set in it; empty when the set has no such members.
    pub member: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.side, self.set)?;
        match self.member.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.member),
        }
    }
}

/// One side of a packet.
struct Side {
    name: &'static str,
    address: IpAddr,
    port: Option<u16>,
    protocol: u8,
}

/// The reasons when a rule matches.
pub(super) fn matches(model: &Model, rule: &Rule, packet: &Packet) -> Option<Vec<Reason>> {
    let Packet { source, destination, protocol, .. } = *packet;
    let ports = packet.ports();
    let family = |family: Family| (family == Family::V4) == source.is_ipv4();
    let is_icmp = |icmp: Icmp| {
        packet
            .icmp()
            .map(|(kind, code)| icmp.kind == kind && icmp.code.is_none_or(|wanted| wanted == code))
    };
    let header = rule.family.is_none_or(family)
        && rule.protocol.is_none_or(|wanted| wanted == protocol)
        && rule.not_protocol.is_none_or(|unwanted| unwanted != protocol)
        && rule.icmp.is_none_or(|icmp| is_icmp(icmp) == Some(true))
        && rule.not_icmp.is_none_or(|icmp| is_icmp(icmp) == Some(false));
    if !header {
        return None;
    }
    let port = ports.map(|(port, _)| port);
    let from = Side { name: "source", address: source, port, protocol };
    let port = ports.map(|(_, port)| port);
    let to = Side { name: "destination", address: destination, port, protocol };
    let mut reasons = from.is_in(model, &rule.source, rule.protocol)?;
    reasons.extend(to.is_in(model, &rule.destination, rule.protocol)?);
    Some(reasons)
}

impl Side {
    fn is_in(&self, model: &Model, entity: &Entity, protocol: Option<u8>) -> Option<Vec<Reason>> {
        let mut reasons = Vec::new();
        if !entity.nets.is_empty() {
            let net = entity.nets.iter().find(|net| net.contains(&self.address))?;
            reasons.push(self.reason(net.to_string(), ""));
        }
        if !entity.not_nets.is_empty() {
            let same = |net: &&IpNet| net.addr().is_ipv4() == self.address.is_ipv4();
            entity.not_nets.iter().find(same)?;
            if entity.not_nets.iter().any(|net| net.contains(&self.address)) {
                return None;
            }
        }
        if let Some(selector) = &entity.selector {
            let member = self.member(model, selector, |_| true)?;
            reasons.push(self.reason(selector.to_string(), &member));
        }
        if let Some(selector) = &entity.not_selector
            && self.member(model, selector, |_| true).is_some()
        {
            return None;
        }
        if let Some(name) = &entity.set {
            self.is_in_set(model, name).then_some(())?;
            reasons.push(self.reason(name.clone(), ""));
        }
        let has = |ports: &[Port]| {
            let mut ports = ports.iter();
            ports.any(|port| self.has_port(model, entity, protocol, port))
        };
        let constrained = !entity.ports.is_empty() || !entity.not_ports.is_empty();
        let fits = !constrained
            || self.port.is_some()
                && (entity.ports.is_empty() || has(&entity.ports))
                && !has(&entity.not_ports);
        fits.then_some(reasons)
    }

    fn reason(&self, set: String, member: &str) -> Reason {
        Reason { side: self.name, set, member: member.to_owned() }
    }

    /// The first endpoint or network set that a selector picks, that has this address, and, for
    /// endpoints, a port that will do.
    fn member(
        &self,
        model: &Model,
        selector: &Selector,
        port: impl Fn(&[NamedPort]) -> bool,
    ) -> Option<String> {
        let picked = |labels: &crate::model::Labels, profiles: &[String]| {
            let labels = model.labels(labels, profiles);
            selector.matches(|name| labels.get(name).map(String::as_str))
        };
        let endpoint = model.endpoints.iter().find(|(_, endpoint)| {
            endpoint.addresses.contains(&self.address)
                && port(&endpoint.ports)
                && picked(&endpoint.labels, &endpoint.profiles)
        });
        let set = model.network_sets.iter().find(|(_, set)| {
            set.nets.iter().any(|net| net.contains(&self.address))
                && port(&[])
                && picked(&set.labels, &set.profiles)
        });
        endpoint.map(|(name, _)| name).or(set.map(|(name, _)| name)).cloned()
    }

    fn is_in_set(&self, model: &Model, name: &str) -> bool {
        match model.address_sets.get(name).map(|set| &**set) {
            None => false,
            Some(AddressSet::Nets(nets)) => nets.iter().any(|net| net.contains(&self.address)),
            Some(AddressSet::Ports(members)) => {
                self.port.is_some_and(|port| members.contains(&(self.address, self.protocol, port)))
            }
        }
    }

    fn has_port(
        &self,
        model: &Model,
        entity: &Entity,
        protocol: Option<u8>,
        wanted: &Port,
    ) -> bool {
        let Some(port) = self.port else { return false };
        match wanted {
            Port::Range(first, last) => (*first..=*last).contains(&port),
            Port::Named(name) => {
                let all = Selector::all();
                let selector = entity.selector.as_ref().unwrap_or(&all);
                let is_it = |named: &NamedPort| {
                    named.name == *name
                        && Some(named.protocol) == protocol
                        && (named.protocol, named.port) == (self.protocol, port)
                };
                self.member(model, selector, |ports| ports.iter().any(is_it)).is_some()
            }
        }
    }
}
