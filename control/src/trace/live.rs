//! A question about the running node: its own rules and routes, as they are now.
//!
//! Endpoints of other nodes are asked about there. Translation of sources is not told: `show flows`
//! has it.

use super::answer::Answer;
use super::names::Names;
use super::{Case, Question, leave, packet, police, route, service};
use crate::api::routes;
use crate::router::policy::lock;
use crate::status::Status;
use margay_acl::Direction;
use margay_fastpath::service::Clients;

/// Answers a question; an error says what of it is not understood.
pub(crate) fn trace(status: &Status, question: &Question) -> Result<Answer, String> {
    let snapshot = status.snapshot();
    let policies = lock(status.policies());
    let names = Names::live(policies.model(), &snapshot.endpoints, &snapshot.node);
    let from = names.find("from", &question.from)?;
    let to = names.find("to", &question.to)?;
    let packet = packet(question, &from, &to)?;
    let case = Case { packet, from, to, node: snapshot.node.clone() };
    let mut answer = Answer::default();
    let tables = status.dataplane().tables();
    let services = tables.nat.as_ref().and_then(|rules| rules.services.as_ref());
    let walk = |case: Case, answer: &mut Answer| {
        leave(&case, &snapshot.tunnels, answer)?;
        let case = match services {
            Some(services) => {
                service::translate((services, &Clients::default()), &names, case, answer)?
            }
            None => case,
        };
        police(&policies, &case.from, Direction::Egress, &case, answer)?;
        let found = routes::longest_route(&snapshot, case.packet.destination);
        let target = found.as_ref().map(|route| &route.target);
        let delivered = route::follow(&case.node, target, &case, answer)?;
        police(&policies, &case.to, Direction::Ingress, &case, answer)?;
        Ok(if delivered { "deliver" } else { "forward" })
    };
    let outcome = walk(case, &mut answer);
    answer.end(outcome);
    Ok(answer)
}
