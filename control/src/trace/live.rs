//! A question about the running node: its own rules and routes, as they are now.
//!
//! Endpoints of other nodes are asked about there. Translation of sources is not told: `show flows`
//! has it.

use super::answer::Answer;
use super::hosts::{Guards, Way};
use super::names::Names;
use super::walk::Node;
use super::{Case, Question, packet, route};
use crate::api::routes;
use crate::resolve::Target;
use crate::router::policy::lock;
use crate::status::Status;
use margay_fastpath::service::Clients;

/// Answers a question; an error says what of it is not understood.
pub(crate) fn trace(status: &Status, question: &Question) -> Result<Answer, String> {
    let snapshot = status.snapshot();
    let hosts = &snapshot.host_endpoints;
    let policies = lock(status.policies());
    let names = Names::live(policies.model(), (&snapshot.endpoints, hosts), &snapshot.node);
    let from = names.find("from", &question.from)?;
    let to = names.find("to", &question.to)?;
    let packet = packet(question, &from, &to)?;
    let found = |address| routes::longest_route(&snapshot, address).map(|route| route.target);
    let back = found(packet.source);
    let case = Case {
        packet,
        from,
        to,
        node: snapshot.node.clone(),
        in_port: question.in_port.clone(),
        from_host: back == Some(Target::Local),
    };
    let mut answer = Answer::default();
    let tables = status.dataplane().tables();
    let services = tables.nat.as_ref().and_then(|rules| rules.services.as_ref());
    let clients = Clients::default();
    let pods = snapshot.endpoints.values().map(|pod| pod.interface.clone()).collect();
    let guards = Guards::live(hosts.assigned.clone(), pods);
    let node = Node {
        policies: &policies,
        names: &names,
        plan: &snapshot.tunnels,
        services: services.map(|services| (services, &clients)),
        guards: &guards,
        closed_to_pods: snapshot.closed_to_pods,
    };
    let walk = |case: Case, answer: &mut Answer| {
        let entered = node.enter(case, Way::of(back.as_ref()), answer)?;
        let target = found(entered.case.packet.destination);
        let delivered = route::follow(&snapshot.node, target.as_ref(), &entered.case, answer)?;
        node.go_on(&entered, delivered, answer)?;
        Ok(if delivered { "deliver" } else { "forward" })
    };
    let outcome = walk(case, &mut answer);
    answer.end(outcome);
    Ok(answer)
}
