//! One rule of policy as rules of the kernel: one for each IP version, and for each way in which
//! its ports can be met.

use super::sets::Sets;
use crate::kernel::nft::{Act, Match, Rule, Side};
use margay_acl::model::{self, AddressSet, Entity, Family, Icmp, Port};
use margay_acl::packet::protocol;

/// Protocols with ports, for rules with ports that name none.
const WITH_PORTS: [u8; 5] =
    [protocol::TCP, protocol::UDP, protocol::DCCP, protocol::SCTP, protocol::UDP_LITE];

/// Conditions, of which all in one list must hold, of any list.
type Ways = Vec<Vec<Match>>;

/// The rules that do `acts` with the packets that a rule matches.
pub(super) fn render(rule: &model::Rule, acts: &[Act], sets: &mut Sets<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in [Family::V4, Family::V6] {
        for protocol in protocols(rule, family) {
            let ways = ways(rule, (family, protocol), sets);
            let ways = ways.into_iter().map(|matches| Rule { matches, acts: acts.to_vec() });
            rules.extend(ways);
        }
    }
    rules
}

/// The protocol that a rule is for, `None` for all; several where only some can match.
fn protocols(rule: &model::Rule, family: Family) -> Vec<Option<u8>> {
    let has_ports = |entity: &Entity| !entity.ports.is_empty() || !entity.not_ports.is_empty();
    let is_icmp = rule.icmp.is_some() || rule.not_icmp.is_some();
    let with_ports = has_ports(&rule.source) || has_ports(&rule.destination);
    match rule.protocol {
        Some(number) if with_ports && !protocol::has_ports(number) => Vec::new(),
        Some(number) if is_icmp && !protocol::is_icmp(number) => Vec::new(),
        Some(number) => vec![Some(number)],
        None if is_icmp && family == Family::V4 => vec![Some(protocol::ICMP)],
        None if is_icmp => vec![Some(protocol::ICMP6)],
        None if with_ports => WITH_PORTS.map(Some).to_vec(),
        None => vec![None],
    }
}

fn ways(rule: &model::Rule, (family, protocol): (Family, Option<u8>), sets: &mut Sets<'_>) -> Ways {
    if rule.family.is_some_and(|wanted| wanted != family) {
        return Vec::new();
    }
    let mut matches = vec![Match::Family(family)];
    matches.extend(protocol.map(|number| Match::Protocol { number, not: false }));
    matches.extend(rule.not_protocol.map(|number| Match::Protocol { number, not: true }));
    let icmp = |Icmp { kind, code }: Icmp, not| Match::Icmp { kind, code, not };
    matches.extend(rule.icmp.map(|one| icmp(one, false)));
    matches.extend(rule.not_icmp.map(|one| icmp(one, true)));
    let mut ways = vec![matches];
    for (side, entity) in [(Side::Source, &rule.source), (Side::Destination, &rule.destination)] {
        let place = Place { side, family, protocol: rule.protocol };
        let Some(own) = place.ways(entity, sets) else { return Vec::new() };
        let both = |before: &Vec<Match>| {
            own.iter().map(|own| [&before[..], own].concat()).collect::<Vec<_>>()
        };
        ways = ways.iter().flat_map(both).collect();
    }
    ways
}

#[derive(Clone, Copy)]
struct Place {
    side: Side,
    family: Family,
    /// The one that the rule names.
    protocol: Option<u8>,
}

impl Place {
    fn address(self, set: String, not: bool) -> Match {
        Match::Address { side: self.side, family: self.family, set, not }
    }

    fn socket(self, set: String, not: bool) -> Match {
        Match::Socket { side: self.side, family: self.family, set, not }
    }

    /// `None` when nothing can match.
    fn ways(self, entity: &Entity, sets: &mut Sets<'_>) -> Option<Ways> {
        let mut matches = Vec::new();
        if !entity.nets.is_empty() {
            matches.push(self.address(sets.ranges(&entity.nets, self.family)?, false));
        }
        if !entity.not_nets.is_empty() {
            matches.push(self.address(sets.ranges(&entity.not_nets, self.family)?, true));
        }
        if let Some(selector) = &entity.selector {
            matches.push(self.address(sets.picked(selector, self.family)?, false));
        }
        if let Some(selector) = &entity.not_selector {
            let unwanted = sets.picked(selector, self.family);
            matches.extend(unwanted.map(|set| self.address(set, true)));
        }
        if let Some(name) = &entity.set {
            matches.push(self.told(name, sets)?);
        }
        for port in &entity.not_ports {
            matches.extend(self.port(port, entity, true, sets));
        }
        if entity.ports.is_empty() {
            return Some(vec![matches]);
        }
        let ports = entity.ports.iter().filter_map(|port| self.port(port, entity, false, sets));
        Some(ports.map(|port| [&matches[..], &[port]].concat()).collect())
    }

    fn told(self, name: &str, sets: &mut Sets<'_>) -> Option<Match> {
        let told = sets.model().address_sets.get(name)?;
        match &**told {
            AddressSet::Nets(nets) => Some(self.address(sets.ranges(nets, self.family)?, false)),
            AddressSet::Ports(all) => Some(self.socket(sets.sockets(all, self.family)?, false)),
        }
    }

    /// `None` for the port of a name that nobody has.
    fn port(self, port: &Port, entity: &Entity, not: bool, sets: &mut Sets<'_>) -> Option<Match> {
        match port {
            Port::Range(first, last) => {
                Some(Match::Port { side: self.side, range: (*first, *last), not })
            }
            Port::Named(name) => {
                let (name, selector) = ((&**name, self.protocol), entity.selector.as_ref());
                let set = sets.named_port(name, selector, self.family)?;
                Some(self.socket(set, not))
            }
        }
    }
}
