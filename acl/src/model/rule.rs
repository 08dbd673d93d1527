//! One rule: what it matches and what it does.
//!
//! All fields that are set must match. A rule with ranges, wanted or unwanted, of one address
//! family only never matches a packet of the other (Felix filters rules by family this way).

use crate::selector::Selector;
use ipnet::IpNet;

/// What a rule does with a packet that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Accepts the packet.
    Allow,
    /// Drops it.
    Deny,
    /// Leaves the tier: the next one is asked, and after the last the profiles.
    Pass,
    /// Makes a note; the next rule is asked.
    Log,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// ICMP type, and a code or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code; `None` for all codes of the type.
    pub code: Option<u8>,
}

/// A rule of a policy or profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Only packets of this IP version.
    pub family: Option<Family>,
    /// Only this protocol.
    pub protocol: Option<u8>,
    /// Not this protocol.
    pub not_protocol: Option<u8>,
    /// Only this kind of ICMP.
    pub icmp: Option<Icmp>,
    /// ICMP, but not this kind.
    pub not_icmp: Option<Icmp>,
    /// What it wants of the source.
    pub source: Entity,
    /// What it wants of the destination.
    pub destination: Entity,
}

/// One side of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entity {
    /// In one of these ranges; empty for everywhere.
    pub nets: Vec<IpNet>,
    /// In none of these.
    pub not_nets: Vec<IpNet>,
    /// An address of an endpoint or network set that this picks.
    pub selector: Option<Selector>,
    /// No address of one that this picks.
    pub not_selector: Option<Selector>,
    /// In this set of [`Model::address_sets`](super::Model::address_sets). A set with ports
    /// compares protocol and this side's port too. One that is missing is empty.
    pub set: Option<String>,
    /// One of these ports; empty for all.
    pub ports: Vec<Port>,
    /// None of these ports.
    pub not_ports: Vec<Port>,
}

/// Ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Port {
    /// From the first to the last, both included.
    Range(u16, u16),
    /// Whatever port has this name, with the rule's protocol, at the endpoint that the address
    /// belongs to; that endpoint is one that the rule's selector picks, if there is one.
    Named(String),
}

impl Rule {
    /// A rule for every packet.
    pub fn new(action: Action) -> Rule {
        Rule {
            action,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Entity::default(),
            destination: Entity::default(),
        }
    }
}

impl Family {
    /// The family of a range.
    pub fn of(net: &IpNet) -> Family {
        match net {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }
}
