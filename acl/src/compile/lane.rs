//! From a rule to lanes: matches that are each one bit of a program.
//!
//! Most rules are one lane. A rule with sets of services or names of ports is one for each
//! protocol and port that they stand for. A negated name is a lane before them that skips the
//! rule, because "not this port at this address" is no conjunction of single values.

use super::classes::{Atom, V4, V6};
use super::sets::{CodeId, Hold, Sets};
use crate::model::{Action, AddressSet, Entity, Family, Icmp, Port, Rule};
use crate::selector::Selector;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most lanes of one rule.
pub const LANES_PER_RULE_MAX: usize = 4096;

/// Values from the first to the last, both included; in order and apart.
pub(super) type Ranges = Vec<(u16, u16)>;

/// A conjunction of demands, and what follows when they are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) source: Where,
    pub(super) destination: Where,
    /// `None` also for packets without ports.
    pub(super) source_ports: Option<Ranges>,
    pub(super) protocol: Option<u8>,
    pub(super) not_protocol: Option<u8>,
    pub(super) value: Value,
    pub(super) step: LaneStep,
    /// The rule's place in its policy and direction.
    pub(super) index: usize,
}

/// Demands on an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Where {
    /// Sorted.
    pub(super) all: Vec<Atom>,
    /// Sorted.
    pub(super) none: Vec<Atom>,
}

/// Demands on what follows the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Any,
    /// Destination ports.
    Ports(Ranges),
    /// ICMP type times 256 plus code.
    Icmp(Ranges),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneStep {
    Rule(Action),
    /// Goes on behind the rule.
    Skip,
}

/// Where the lanes of rules get their sets.
pub(super) struct Maker<'a> {
    pub(super) sets: &'a mut Sets,
    pub(super) told: &'a BTreeMap<String, Arc<AddressSet>>,
    pub(super) code: CodeId,
    pub(super) holds: Vec<Hold>,
}

/// One way to meet a side's demands.
#[derive(Clone)]
struct Way {
    atoms: Vec<Atom>,
    protocol: Option<u8>,
    ports: Option<Ranges>,
}

/// A side of a rule: what always holds, and the ways to meet the rest.
struct Side {
    place: Where,
    ways: Vec<Way>,
    /// Protocol, port and addresses that must not be.
    barred: Vec<(u8, u16, Atom)>,
}

impl Maker<'_> {
    /// The lanes of a rule; an error is their number when there are too many.
    pub(super) fn lanes(&mut self, rule: &Rule, index: usize) -> Result<Vec<Lane>, usize> {
        let mut source = self.side(&rule.source, rule.protocol);
        let destination = self.side(&rule.destination, rule.protocol);
        source.place.all.extend(rule.family.map(atom_of));
        let Some(icmp) = icmp_values(rule.icmp, rule.not_icmp) else { return Ok(Vec::new()) };
        let barred = source.barred.len() + destination.barred.len();
        let count = barred + source.ways.len() * destination.ways.len();
        if count > LANES_PER_RULE_MAX {
            return Err(count);
        }
        let mut lanes: Vec<Lane> = Vec::with_capacity(count);
        lanes.extend(source.barred.iter().map(|barred| barrier(*barred, true, index)));
        lanes.extend(destination.barred.iter().map(|barred| barrier(*barred, false, index)));
        for from in &source.ways {
            for to in &destination.ways {
                let protocol = same_protocol([rule.protocol, from.protocol, to.protocol]);
                let Some(protocol) = protocol else { continue };
                let value = match (&to.ports, &icmp) {
                    (Some(_), Value::Icmp(_)) => continue,
                    (Some(ports), _) => Value::Ports(ports.clone()),
                    (None, icmp) => icmp.clone(),
                };
                let lane = Lane {
                    source: source.place.with(&from.atoms),
                    destination: destination.place.with(&to.atoms),
                    source_ports: from.ports.clone(),
                    protocol,
                    not_protocol: rule.not_protocol,
                    value,
                    step: LaneStep::Rule(rule.action),
                    index,
                };
                lanes.extend(Some(lane).filter(Lane::can_match));
            }
        }
        Ok(lanes)
    }

    fn side(&mut self, entity: &Entity, protocol: Option<u8>) -> Side {
        let mut place = Where::default();
        if !entity.nets.is_empty() {
            let (atom, hold) = self.sets.ranges(&entity.nets);
            place.all.push(atom);
            self.holds.push(hold);
        }
        if !entity.not_nets.is_empty() {
            let (atom, hold) = self.sets.ranges(&entity.not_nets);
            place.none.push(atom);
            place.all.extend(only_family(&entity.not_nets).map(atom_of));
            self.holds.push(hold);
        }
        if let Some(selector) = &entity.selector {
            let (atom, hold) = self.sets.select(selector);
            place.all.push(atom);
            self.holds.push(hold);
        }
        if let Some(selector) = &entity.not_selector {
            let (atom, hold) = self.sets.select(selector);
            place.none.push(atom);
            self.holds.push(hold);
        }
        let ways = self.ways(entity, protocol);
        let barred = self.named(&entity.not_ports, entity, protocol);
        Side { place, ways: self.through_set(ways, entity), barred }
    }

    /// The ways through a side's ports.
    fn ways(&mut self, entity: &Entity, protocol: Option<u8>) -> Vec<Way> {
        let unwanted = numbers(&entity.not_ports);
        if entity.ports.is_empty() {
            let ports =
                (!entity.not_ports.is_empty()).then(|| without(&[(0, u16::MAX)], &unwanted));
            return vec![Way { atoms: Vec::new(), protocol: None, ports }];
        }
        let mut ways = Vec::new();
        let wanted = without(&numbers(&entity.ports), &unwanted);
        if !wanted.is_empty() {
            ways.push(Way { atoms: Vec::new(), protocol: None, ports: Some(wanted) });
        }
        for (protocol, port, atom) in self.named(&entity.ports, entity, protocol) {
            let ports = without(&[(port, port)], &unwanted);
            if !ports.is_empty() {
                let (atoms, protocol) = (vec![atom], Some(protocol));
                ways.push(Way { atoms, protocol, ports: Some(ports) });
            }
        }
        ways
    }

    /// The same ways, once for each service of the side's set.
    fn through_set(&mut self, ways: Vec<Way>, entity: &Entity) -> Vec<Way> {
        let Some(name) = &entity.set else { return ways };
        let hold = self.sets.told(name, self.told.get(name), self.code);
        let services = self.sets.services(&hold);
        self.holds.push(hold);
        let all = [(0, u16::MAX)];
        let mut through = Vec::new();
        for (service, atom) in services {
            for way in &ways {
                let mut way = way.clone();
                way.atoms.push(atom);
                if let Some((protocol, port)) = service {
                    let Some(one) = same_protocol([way.protocol, Some(protocol), None]) else {
                        continue;
                    };
                    way.protocol = one;
                    let ports = way.ports.as_deref().unwrap_or(&all);
                    way.ports = Some(common(ports, &[(port, port)]));
                }
                through.push(way);
            }
        }
        through
    }

    /// What the names among ports stand for.
    fn named(
        &mut self,
        ports: &[Port],
        entity: &Entity,
        protocol: Option<u8>,
    ) -> Vec<(u8, u16, Atom)> {
        let all = Selector::all();
        let selector = entity.selector.as_ref().unwrap_or(&all);
        let mut found = Vec::new();
        for port in ports {
            let (Port::Named(name), Some(protocol)) = (port, protocol) else { continue };
            let hold = self.sets.named(selector, name, protocol, self.code);
            let services = self.sets.services(&hold);
            let pairs = services.into_iter().filter_map(|(service, atom)| Some((service?, atom)));
            found.extend(pairs.map(|((protocol, port), atom)| (protocol, port, atom)));
            self.holds.push(hold);
        }
        found
    }
}

fn barrier((protocol, port, atom): (u8, u16, Atom), is_source: bool, index: usize) -> Lane {
    let place = Where::default().with(&[atom]);
    let ports = vec![(port, port)];
    let (source, destination, source_ports, value) = match is_source {
        true => (place, Where::default(), Some(ports), Value::Any),
        false => (Where::default(), place, None, Value::Ports(ports)),
    };
    Lane {
        source,
        destination,
        source_ports,
        protocol: Some(protocol),
        not_protocol: None,
        value,
        step: LaneStep::Skip,
        index,
    }
}

impl Where {
    fn with(&self, atoms: &[Atom]) -> Where {
        let mut place = self.clone();
        place.all.extend(atoms);
        place.all.sort_unstable();
        place.all.dedup();
        place.none.sort_unstable();
        place
    }
}

impl Lane {
    /// A lane for every packet.
    pub(super) fn any(action: Action) -> Lane {
        Lane {
            source: Where::default(),
            destination: Where::default(),
            source_ports: None,
            protocol: None,
            not_protocol: None,
            value: Value::Any,
            step: LaneStep::Rule(action),
            index: 0,
        }
    }

    fn can_match(&self) -> bool {
        let values = match &self.value {
            Value::Any => true,
            Value::Ports(ranges) | Value::Icmp(ranges) => !ranges.is_empty(),
        };
        let places = [&self.source, &self.destination];
        let possible = |place: &Where| !(place.all.contains(&V4) && place.all.contains(&V6));
        values
            && self.source_ports.as_ref().is_none_or(|ports| !ports.is_empty())
            && places.into_iter().all(possible)
            && (self.protocol.is_none() || self.protocol != self.not_protocol)
    }
}

fn atom_of(family: Family) -> Atom {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

/// The family of ranges that are all of one.
fn only_family(nets: &[IpNet]) -> Option<Family> {
    let first = Family::of(nets.first()?);
    nets.iter().all(|net| Family::of(net) == first).then_some(first)
}

/// The protocol that all agree on, if they agree; `Some(None)` when none names one.
fn same_protocol(protocols: [Option<u8>; 3]) -> Option<Option<u8>> {
    let mut named = protocols.into_iter().flatten();
    let first = named.next();
    named.all(|other| Some(other) == first).then_some(first)
}

/// What ICMP demands, and nothing when no packet can meet them.
fn icmp_values(wanted: Option<Icmp>, unwanted: Option<Icmp>) -> Option<Value> {
    let ranges = |icmp: Icmp| match icmp.code {
        Some(code) => {
            let value = u16::from_be_bytes([icmp.kind, code]);
            vec![(value, value)]
        }
        None => vec![(u16::from_be_bytes([icmp.kind, 0]), u16::from_be_bytes([icmp.kind, 255]))],
    };
    if wanted.is_none() && unwanted.is_none() {
        return Some(Value::Any);
    }
    let wanted = wanted.map_or_else(|| vec![(0, u16::MAX)], ranges);
    let values = without(&wanted, &unwanted.map_or_else(Vec::new, ranges));
    (!values.is_empty()).then_some(Value::Icmp(values))
}

/// The numbers among ports, in order and apart.
fn numbers(ports: &[Port]) -> Ranges {
    let mut ranges: Ranges = ports
        .iter()
        .filter_map(|port| match port {
            Port::Range(first, last) if first <= last => Some((*first, *last)),
            _ => None,
        })
        .collect();
    ranges.sort_unstable();
    let mut apart: Ranges = Vec::new();
    for (first, last) in ranges {
        match apart.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => {
                before.1 = before.1.max(last);
            }
            _ => apart.push((first, last)),
        }
    }
    apart
}

/// What is in both.
fn common(a: &[(u16, u16)], b: &[(u16, u16)]) -> Ranges {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(first, last)| first <= last).collect()
}

/// What is in the first and not in the second, both in order and apart.
fn without(wanted: &[(u16, u16)], unwanted: &[(u16, u16)]) -> Ranges {
    let mut left = Vec::new();
    let mut from = Some(0u16);
    for (first, last) in unwanted {
        if let (Some(start), Some(end)) = (from, first.checked_sub(1))
            && start <= end
        {
            left.push((start, end));
        }
        from = last.checked_add(1);
    }
    left.extend(from.map(|start| (start, u16::MAX)));
    common(wanted, &left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_joined_and_taken_away() {
        let ports = [(5, 9), (1, 2), (3, 3), (8, 12), (65535, 65535), (20, 10)];
        let ports: Vec<Port> = ports.map(|(first, last)| Port::Range(first, last)).into();
        assert_eq!(numbers(&ports), [(1, 3), (5, 12), (65535, 65535)]);
        let all = [(0, u16::MAX)];
        assert_eq!(without(&all, &[]), all);
        assert_eq!(without(&all, &all), []);
        assert_eq!(without(&all, &[(0, 0), (5, 9)]), [(1, 4), (10, u16::MAX)]);
        assert_eq!(without(&[(1, 3), (8, 9)], &[(2, 8)]), [(1, 1), (9, 9)]);
    }

    #[test]
    fn icmp_demands_are_ranges_of_types_and_codes() {
        let icmp = |kind, code| Some(Icmp { kind, code });
        let ranges = |ranges: &[(u16, u16)]| Some(Value::Icmp(ranges.to_vec()));
        assert_eq!(icmp_values(None, None), Some(Value::Any));
        assert_eq!(icmp_values(icmp(8, None), None), ranges(&[(0x800, 0x8ff)]));
        assert_eq!(icmp_values(icmp(8, Some(1)), None), ranges(&[(0x801, 0x801)]));
        let unwanted = icmp_values(None, icmp(0, Some(0)));
        assert_eq!(unwanted, ranges(&[(1, u16::MAX)]));
        assert_eq!(icmp_values(icmp(8, Some(1)), icmp(8, None)), None);
    }
}
