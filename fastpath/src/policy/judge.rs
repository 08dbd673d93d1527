//! The verdict on the first packet of a flow: who is asked, and in which order.
//!
//! While there are staged policies it is asked twice: by the rules in force, which decide, and by
//! those that would be.

use super::{Decision, Judgement, Policy, Question, Ruling, Seat, ToHost};
use crate::drop_reason::DropReason;
use crate::flow::Tuple;
use margay_acl::classifier::Classifier;
use margay_acl::origin::Origin;
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::{Direction, Stage, Verdict};

/// A packet, and the rules that are asked.
struct Hearing<'a> {
    policy: &'a Policy,
    classifier: &'a Classifier,
    staged: bool,
    packet: Packet,
    classes: margay_acl::classifier::Classes,
    decision: Decision,
}

impl Policy {
    /// Judges the first packet of a flow.
    pub fn judge(&self, question: &Question) -> Judgement {
        let staged = self.staged.as_ref();
        Judgement {
            real: self.hear(question, &self.classifier, false),
            staged: staged.map(|classifier| self.hear(question, classifier, true)),
        }
    }

    fn hear(&self, question: &Question, classifier: &Classifier, staged: bool) -> Decision {
        let packet = as_policy_sees(&question.tuple, question.icmp_code);
        let classes = classifier.classes(&packet);
        let decision = Decision::default();
        let mut hearing = Hearing { policy: self, classifier, staged, packet, classes, decision };
        hearing.decision.dropped = hearing.ask_both(question).err();
        hearing.decision
    }

    /// The rules with action Log that a packet has met, with the endpoint and its direction.
    pub fn logged(&self, question: &Question, decision: &Decision) -> Vec<(Ruling, Origin)> {
        let packet = as_policy_sees(&question.tuple, question.icmp_code);
        let mut logged = Vec::new();
        for ruling in decision.rulings.into_iter().flatten().filter(|one| one.outcome.logged) {
            let endpoint = self.endpoint(ruling.endpoint);
            let handle =
                endpoint.and_then(|one| if ruling.staged { one.staged } else { one.handle });
            let Some(handle) = handle else { continue };
            let classifier = self.classifier_of(&ruling);
            let (place, classes) =
                ((handle, ruling.stage, ruling.direction), classifier.classes(&packet));
            let note = |origin: &Origin| logged.push((ruling, origin.clone()));
            classifier.decide_and_log(place, &packet, classes, note);
        }
        logged
    }
}

impl Hearing<'_> {
    fn ask_both(&mut self, question: &Question) -> Result<(), DropReason> {
        let Question { from, tuple, .. } = *question;
        let policy = self.policy;
        if let Seat::Endpoint(at) = from {
            self.ask(at, Direction::Egress, DropReason::PolicyEgress)?;
            if policy.to_host == ToHost::Drop && policy.local.contains(&tuple.dst) {
                return Err(DropReason::EndpointToHost);
            }
        }
        let is_hosts = from == Seat::Host && policy.local.contains(&tuple.src);
        match policy.endpoint_of(tuple.dst).filter(|_| !is_hosts) {
            Some(at) => self.ask(at, Direction::Ingress, DropReason::PolicyIngress),
            None => Ok(()),
        }
    }

    fn ask(&mut self, at: u32, direction: Direction, denied: DropReason) -> Result<(), DropReason> {
        if self.policy.is_open(at) {
            return Ok(());
        }
        let endpoint = self.policy.endpoint(at);
        let handle = endpoint.and_then(|one| if self.staged { one.staged } else { one.handle });
        let handle = handle.ok_or(DropReason::UnknownEndpoint)?;
        let place = (handle, Stage::Normal, direction);
        let outcome = self.classifier.decide(place, &self.packet, self.classes);
        let (stage, staged) = (Stage::Normal, self.staged);
        let ruling = Ruling { endpoint: at, stage, direction, staged, outcome };
        self.decision.rulings[direction as usize] = Some(ruling);
        if outcome.verdict == Verdict::Allow { Ok(()) } else { Err(denied) }
    }
}

/// A flow's name in policy's words. The type of an ICMP question stands in the place of its port;
/// of other protocols than these the flow knows no ports.
pub(super) fn as_policy_sees(tuple: &Tuple, icmp_code: u8) -> Packet {
    let Tuple { src, dst, src_port, dst_port, protocol } = *tuple;
    let transport = if protocol::is_icmp(protocol) {
        Transport::Icmp { kind: dst_port as u8, code: icmp_code }
    } else if matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        Transport::Ports { source: src_port, destination: dst_port }
    } else {
        Transport::Absent
    };
    Packet { source: src.into(), destination: dst.into(), protocol, transport }
}
