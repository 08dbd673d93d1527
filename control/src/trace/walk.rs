//! A traced packet's way through one node: who is asked, and in which order.
//!
//! What comes from a network passes the stages of the host endpoint that it comes by: untracked
//! rules, those before DNAT, then the normal ones if the host itself gets it, or else the forward
//! ones. What the host sends passes the normal rules of the one that it leaves by, and what is
//! forwarded the forward rules there. What one of the first two stages accepts is not asked about
//! again at the same host endpoint.

use super::answer::{self, Answer, RuleAnswer, StageAnswer};
use super::hosts::{Guards, Way};
use super::names::{Names, Place};
use super::{Case, service};
use crate::policy::Policies;
use crate::resolve::tunnels::TunnelPlan;
use margay_acl::origin::Origin;
use margay_acl::packet::{Packet, protocol};
use margay_acl::{Direction, Stage, Verdict, reference};
use margay_fastpath::service::{Clients, Services};

/// One node, as a packet meets it.
pub(super) struct Node<'a> {
    pub(super) policies: &'a Policies,
    pub(super) names: &'a Names,
    pub(super) plan: &'a TunnelPlan,
    pub(super) services: Option<(&'a Services, &'a Clients)>,
    pub(super) guards: &'a Guards,
    /// Pods may send nothing to the host.
    pub(super) closed_to_pods: bool,
}

/// Who hands a packet to the node.
enum Sender {
    Pod,
    Host,
    Network(Way),
}

impl Node<'_> {
    /// From the sender to the route; `back` is where the route to the packet's source leads.
    pub(super) fn enter(
        &self,
        case: Case,
        back: Option<Way>,
        answer: &mut Answer,
    ) -> Result<Entered, &'static str> {
        leave(&case, self.plan, answer)?;
        let sender = self.sender(&case, back);
        let mut accepted = false;
        if let Sender::Network(way) = &sender
            && let Some(guard) = self.guards.on(way)
        {
            for stage in [Stage::Untracked, Stage::PreDnat] {
                let place = (guard, &*case.node, stage, Direction::Ingress);
                accepted = accepted || ask(self.policies, place, &case.packet, answer)?;
            }
        }
        let case = match self.services {
            Some(services) => service::translate(services, self.names, case, answer)?,
            None => case,
        };
        let is_host = matches!(sender, Sender::Host);
        if !is_host {
            police(self.policies, &case.from, Direction::Egress, &case, answer)?;
        }
        Ok(Entered { case, sender, accepted })
    }

    /// The host and its pods are known by the port; others come by `--in-port`, by the device of
    /// the host endpoint that they want to, or the way that leads back to them.
    fn sender(&self, case: &Case, back: Option<Way>) -> Sender {
        let from = case.from.endpoint.as_ref().filter(|from| from.node == case.node);
        match from {
            Some(from) if !from.is_host => return Sender::Pod,
            Some(_) => return Sender::Host,
            None if case.from_host => return Sender::Host,
            None => {}
        }
        let to = case.to.endpoint.as_ref().filter(|to| to.is_host && to.node == case.node);
        let named = case.in_port.clone().map(Way::Device);
        let wanted = || to.and_then(|to| self.guards.device_of(to));
        let unknown = || Way::Device(crate::offline::UPLINK.to_owned());
        Sender::Network(named.or_else(wanted).or(back).unwrap_or_else(unknown))
    }

    /// From the route to the receiver. `delivered`: the host itself is that.
    pub(super) fn go_on(
        &self,
        entered: &Entered,
        delivered: bool,
        answer: &mut Answer,
    ) -> Result<(), &'static str> {
        let Entered { case, sender, accepted } = entered;
        let out = match &answer.encap {
            Some(_) => Some(Way::Tunnel),
            None => answer.egress_port.clone().map(Way::Device),
        };
        let out = out.as_ref().filter(|_| !delivered).and_then(|way| self.guards.on(way));
        let node = &*case.node;
        match sender {
            Sender::Network(way) => {
                let stage = if delivered { Stage::Normal } else { Stage::Forward };
                if let Some(guard) = self.guards.on(way).filter(|_| !accepted) {
                    let place = (guard, node, stage, Direction::Ingress);
                    ask(self.policies, place, &case.packet, answer)?;
                }
            }
            Sender::Host => self.ask_out(out, &[Stage::Untracked, Stage::Normal], case, answer)?,
            Sender::Pod if delivered && self.closed_to_pods => {
                let detail = "defaultEndpointToHostAction is Drop".to_owned();
                answer.stages.push(StageAnswer::plain("to-host", "drop", detail));
                return Err("endpoint-to-host");
            }
            Sender::Pod => {}
        }
        if delivered {
            return Ok(());
        }
        let is_host = matches!(sender, Sender::Host);
        match case.to.endpoint.as_ref().filter(|to| is_host && !to.is_host && to.node == node) {
            Some(to) => {
                let detail = format!("{}: its own host may reach it", to.name);
                answer.stages.push(StageAnswer::plain("policy-ingress", "allow", detail));
            }
            None => police(self.policies, &case.to, Direction::Ingress, case, answer)?,
        }
        if is_host {
            return Ok(());
        }
        self.ask_out(out, &[Stage::Forward], case, answer)
    }

    /// Asks the host endpoint that a packet leaves by, until a stage accepts it.
    fn ask_out(
        &self,
        guard: Option<&str>,
        stages: &[Stage],
        case: &Case,
        answer: &mut Answer,
    ) -> Result<(), &'static str> {
        let Some(guard) = guard else { return Ok(()) };
        for stage in stages {
            let place = (guard, &*case.node, *stage, Direction::Egress);
            if ask(self.policies, place, &case.packet, answer)? {
                break;
            }
        }
        Ok(())
    }
}

/// A packet at the route.
pub(super) struct Entered {
    pub(super) case: Case,
    sender: Sender,
    /// The host endpoint that it came by has nothing more to say.
    accepted: bool,
}

/// What is checked of a pod's packet before policy.
fn leave(case: &Case, plan: &TunnelPlan, answer: &mut Answer) -> Result<(), &'static str> {
    let Some(endpoint) = case.from.endpoint.as_ref().filter(|from| !from.is_host) else {
        return Ok(());
    };
    let own = endpoint.addresses.contains(&case.packet.source);
    let spoofed = !own && !endpoint.spoofed.iter().any(|net| net.contains(&case.packet.source));
    let port = case.packet.ports().map(|(_, port)| port);
    let is_vxlan = plan.end.guards_vxlan
        && case.packet.protocol == protocol::UDP
        && port == Some(plan.end.vxlan_port);
    let is_ipip = plan.end.guards_ipip && case.packet.protocol == protocol::IPIP;
    let (outcome, reason) = match (spoofed, is_vxlan || is_ipip) {
        (true, _) => ("drop", Some("source-spoofed")),
        (_, true) => ("drop", Some("tunnel-from-workload")),
        _ => ("pass", None),
    };
    let detail = format!("{} at {}", endpoint.name, endpoint.interface);
    answer.stages.push(StageAnswer::plain("anti-spoof", outcome, detail));
    reason.map_or(Ok(()), Err)
}

/// Asks the policy of one end.
fn police(
    policies: &Policies,
    place: &Place,
    direction: Direction,
    case: &Case,
    answer: &mut Answer,
) -> Result<(), &'static str> {
    let Some(endpoint) = &place.endpoint else { return Ok(()) };
    let name = &*endpoint.name;
    let stages: &[Stage] = match endpoint.is_host {
        true => &[Stage::Untracked, Stage::PreDnat, Stage::Normal],
        false => &[Stage::Normal],
    };
    if policies.is_elsewhere(name) {
        let detail = format!("{name}: its own node asks");
        let stage = stage_name(Stage::Normal, direction);
        answer.stages.push(StageAnswer::plain(stage, "elsewhere", detail));
        return Ok(());
    }
    for stage in stages {
        if ask(policies, (name, &endpoint.node, *stage, direction), &case.packet, answer)? {
            break;
        }
    }
    Ok(())
}

/// Asks a stage of an endpoint on a node; true when it accepts, and nothing is told of one that has
/// nothing to say.
fn ask(
    policies: &Policies,
    (name, node, stage, direction): (&str, &str, Stage, Direction),
    packet: &Packet,
    answer: &mut Answer,
) -> Result<bool, &'static str> {
    let Some(handle) = policies.handle(name) else {
        let detail = format!("{name}: policy does not know it");
        let stage = stage_name(stage, direction);
        answer.stages.push(StageAnswer::plain(stage, "drop", detail));
        return Err("endpoint-unknown");
    };
    let classifier = policies.classifier();
    let outcome = classifier.classify(handle, stage, direction, packet);
    let origin = classifier.origin(&outcome);
    if stage != Stage::Normal && *origin == Origin::EndOfStage {
        return Ok(false);
    }
    let reasons = reference::reasons(policies.model(), origin, direction, packet);
    let sets = reasons.iter().map(ToString::to_string).collect();
    answer.stages.push(StageAnswer {
        stage: stage_name(stage, direction).to_owned(),
        outcome: answer::word(outcome.verdict).to_owned(),
        detail: format!("{name}: {origin}"),
        rule: RuleAnswer::of(origin, sets),
        node: node.to_owned(),
    });
    match outcome.verdict {
        Verdict::Deny => Err(stage_name(Stage::Normal, direction)),
        Verdict::Allow => Ok(true),
        Verdict::Continue => Ok(false),
    }
}

/// How a stage is called; that of the normal one is the reason of drops too.
fn stage_name(stage: Stage, direction: Direction) -> &'static str {
    match (stage, direction) {
        (Stage::Untracked, _) => "untracked",
        (Stage::PreDnat, _) => "pre-dnat",
        (Stage::Forward, Direction::Ingress) => "forward-ingress",
        (Stage::Forward, Direction::Egress) => "forward-egress",
        (Stage::Normal, Direction::Ingress) => "policy-ingress",
        (Stage::Normal, Direction::Egress) => "policy-egress",
    }
}
