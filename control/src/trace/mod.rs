//! Why a packet goes or falls, stage by stage: `margay trace`.
//!
//! The same resources, rules and routes that the packet path has, asked for one made-up first
//! packet of a flow. Policy is asked at both ends wherever they are, since the verdict is that of
//! the whole way; the route is that of one node. What only a node's kernel knows (a default route,
//! further devices) is missing offline, and said to be assumed.

mod answer;
mod hosts;
pub(crate) mod live;
mod names;
mod route;
mod service;
#[cfg(test)]
mod tests;
mod walk;

pub use answer::{Answer, EncapAnswer, Rewrite, RuleAnswer, StageAnswer, Staged};

use crate::config::Config;
use crate::model::Model;
use crate::offline::{self, OfflineError};
use crate::policy::Policies;
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::reference;
use margay_acl::{Direction, Stage};
use names::{Names, Place};
use route::Network;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use walk::Node;

/// Port of the sender where none is said.
const USUAL_PORT: u16 = 40_000;

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Question {
    /// `namespace/pod`, an endpoint's name, a host endpoint's name, or an address.
    pub from: String,
    /// The same.
    pub to: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number; not said is TCP.
    pub proto: Option<Protocol>,
    /// Port of the sender.
    pub sport: Option<u16>,
    /// Port of the receiver; the type of an ICMP message.
    pub port: Option<u16>,
    /// The port that it comes in by, if not that of the sender.
    #[serde(rename = "in")]
    pub in_port: Option<String>,
}

/// A protocol's name or number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Protocol {
    /// The number.
    Number(u8),
    /// The name.
    Name(String),
}

impl Protocol {
    fn number(&self) -> Result<u8, String> {
        let name = match self {
            Protocol::Number(number) => return Ok(*number),
            Protocol::Name(name) => name.to_ascii_lowercase(),
        };
        Ok(match name.as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "sctp" => protocol::SCTP,
            "icmp" => protocol::ICMP,
            "icmpv6" | "icmp6" => protocol::ICMP6,
            "udplite" => protocol::UDP_LITE,
            other => other.parse().map_err(|_| {
                format!("protocol '{other}': tcp, udp, sctp, icmp, icmpv6, udplite or a number")
            })?,
        })
    }
}

/// A store, ready for questions.
#[derive(Debug)]
pub struct Tracer {
    model: Model,
    policies: Policies,
    names: Names,
    /// The node that is asked; `None` for that of the sender.
    node: Option<String>,
    networks: RefCell<BTreeMap<String, Arc<Network>>>,
}

/// The question, understood.
struct Case {
    from: Place,
    to: Place,
    packet: Packet,
    /// The node whose routes count.
    node: String,
    /// The port that it comes in by, if it was named.
    in_port: Option<String>,
    /// The source is an address of the node's own.
    from_host: bool,
}

impl Tracer {
    /// Reads a directory of resources. Without a node, each question is that of its sender's.
    pub fn new(store: &Path, node: Option<&str>) -> Result<Tracer, OfflineError> {
        let (model, events) = offline::read(store)?;
        if let Some(node) = node {
            offline::check_node(&model, node)?;
        }
        let mut policies = Policies::new(None, Config::default().policy.settings());
        events.iter().for_each(|event| policies.apply(event));
        policies.commit();
        if let Some(fault) = policies.faults().into_iter().next() {
            return Err(OfflineError::Store(fault));
        }
        Ok(Tracer {
            names: Names::of(&model),
            model,
            policies,
            node: node.map(str::to_owned),
            networks: RefCell::default(),
        })
    }

    /// Answers a question; an error says what of it is not understood.
    pub fn trace(&self, question: &Question) -> Result<Answer, String> {
        let case = self.understand(question)?;
        let mut answer = Answer::default();
        let outcome = self.walk(case, &mut answer);
        answer.end(outcome);
        Ok(answer)
    }

    /// What staged policies would do with a question, beside what those in force do.
    pub fn staged(&self, question: &Question) -> Result<Vec<Staged>, String> {
        let case = self.understand(question)?;
        let sides = [(&case.from, Direction::Egress), (&case.to, Direction::Ingress)];
        let staged = sides.into_iter().filter_map(|(place, direction)| {
            let endpoint = place.endpoint.as_ref()?;
            let model = self.policies.model();
            let (stage, packet) = (Stage::Normal, &case.packet);
            let why = reference::evaluate(model, &endpoint.name, stage, direction, packet);
            let (verdict, origin) = why.staged?;
            let (endpoint, verdict) = (endpoint.name.clone(), answer::word(verdict).to_owned());
            Some(Staged { endpoint, verdict, rule: RuleAnswer::of(&origin, Vec::new()) })
        });
        Ok(staged.collect())
    }

    fn understand(&self, question: &Question) -> Result<Case, String> {
        let from = self.names.find("from", &question.from)?;
        let to = self.names.find("to", &question.to)?;
        let packet = packet(question, &from, &to)?;
        let node = self.node_of(&from, &to, question.in_port.as_deref())?;
        let in_port = question.in_port.clone();
        Ok(Case { packet, from, to, node, in_port, from_host: false })
    }

    /// The node whose routes count: the one named, that of the interface, the sender's, the
    /// receiver's, or the only one.
    fn node_of(&self, from: &Place, to: &Place, in_port: Option<&str>) -> Result<String, String> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        let on_port = in_port.and_then(|port| {
            let mut endpoints = self.model.endpoints().iter();
            endpoints.find(|(_, at)| at.interface == port).map(|(_, found)| &found.node)
        });
        let of = |place: &'_ Place| place.endpoint.as_ref().map(|endpoint| endpoint.node.clone());
        let first = || self.model.nodes.keys().next().cloned();
        let found = on_port.cloned().or_else(|| of(from)).or_else(|| of(to)).or_else(first);
        found
            .ok_or_else(|| "no node: neither end is an endpoint, and the store has none".to_owned())
    }

    fn network(&self, node: &str) -> Arc<Network> {
        let mut networks = self.networks.borrow_mut();
        let made = || Arc::new(Network::of(&self.model, node));
        networks.entry(node.to_owned()).or_insert_with(made).clone()
    }

    /// Takes the packet through all stages; an error is the reason why it falls.
    fn walk(&self, case: Case, answer: &mut Answer) -> Result<&'static str, &'static str> {
        let network = self.network(&case.node);
        let node = Node {
            policies: &self.policies,
            names: &self.names,
            plan: &network.plan,
            services: network.services.as_ref().map(|services| (services, &network.clients)),
            guards: &network.guards,
            closed_to_pods: false,
        };
        let (from_host, back) = network.way_back(case.packet.source);
        let entered = node.enter(Case { from_host, ..case }, back, answer)?;
        let delivered = network.route(&entered.case, answer)?;
        node.go_on(&entered, delivered, answer)?;
        if !delivered {
            network.translate_source(&self.model, &entered.case, answer);
        }
        Ok(if delivered { "deliver" } else { "forward" })
    }
}

/// The first packet of the flow that is asked about.
fn packet(question: &Question, from: &Place, to: &Place) -> Result<Packet, String> {
    let (source, destination) = names::addresses(from, to)?;
    let protocol = match &question.proto {
        Some(protocol) => protocol.number()?,
        None => protocol::TCP,
    };
    let transport = if protocol::is_icmp(protocol) {
        let echo = if protocol == protocol::ICMP { 8 } else { 128 };
        let kind = u8::try_from(question.port.unwrap_or(echo));
        let kind = kind.map_err(|_| "port: the type of an ICMP message is 0 to 255")?;
        Transport::Icmp { kind, code: 0 }
    } else if protocol::has_ports(protocol) {
        let destination = question.port.ok_or("port: this protocol needs one")?;
        Transport::Ports { source: question.sport.unwrap_or(USUAL_PORT), destination }
    } else {
        Transport::Absent
    };
    Ok(Packet { source, destination, protocol, transport })
}

/// The way back: the answer's question.
pub fn reversed(question: &Question) -> Question {
    Question {
        from: question.to.clone(),
        to: question.from.clone(),
        proto: question.proto.clone(),
        sport: question.port,
        port: Some(question.sport.unwrap_or(USUAL_PORT)),
        in_port: None,
    }
}
