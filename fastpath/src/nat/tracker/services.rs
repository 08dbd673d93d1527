//! Flows to services: which packets they are, and the first one's endpoint.
//!
//! A flow to a frontend is translated to its endpoint, and keeps it for as long as it lives, also
//! when the endpoint gets no new flows any more. The client looks like the node where the answers
//! would not come back by here otherwise: a client that is no pod of this node, unless the service
//! has local endpoints only, and an endpoint that asks its own service.

use super::begin::{Begun, refused};
use super::{Asked, Tracker, Verdict, Way};
use crate::drop_reason::DropReason;
use crate::flow::{Direction, Refused, Tuple};
use crate::nat::rules::{Class, Rules};
use crate::service::{Asker, Choice, Endpoint};

/// Whether a packet between addresses of these classes may have to do with a service.
#[inline]
pub(super) fn may_be(src: Class, dst: Class) -> bool {
    dst.has(Class::FRONTEND) || src.has(Class::BACKEND)
}

/// The way of a packet to a service or perhaps from one; `None` for others.
#[inline]
pub(super) fn way_of(rules: &Rules, tuple: &Tuple) -> Option<Way> {
    let services = rules.services.as_ref()?;
    if services.is_frontend(tuple) {
        return Some(Way::Service);
    }
    let may_have_flow = services.is_from_backend(tuple) || services.is_gone_frontend(tuple);
    may_have_flow.then_some(Way::Back)
}

/// The worker of a packet to a service, or to or from an endpoint: the client's port tells.
#[inline]
pub(super) fn owner(rules: &Rules, tuple: &Tuple) -> Option<u16> {
    let services = rules.services.as_ref().filter(|_| rules.workers > 1)?;
    if services.is_from_backend(tuple) {
        return Some(rules.owner(tuple.dst_port));
    }
    let is_question = services.is_frontend(tuple)
        || services.is_gone_frontend(tuple)
        || services.is_from_backend(&tuple.reversed());
    is_question.then(|| rules.owner(tuple.src_port))
}

impl Tracker {
    /// A new flow to a service.
    pub(super) fn begin_service(&mut self, rules: &Rules, asked: &Asked) -> Begun {
        let tuple = asked.tuple;
        let src = rules.ranges.class(tuple.src);
        let asker = Asker {
            is_pod: src.has(Class::POOL) && !src.has(Class::LOCAL),
            clients: &self.clients,
            now_s: self.now_s,
        };
        let choice = rules.services.as_ref().and_then(|services| services.choose(&tuple, asker));
        let (endpoint, masquerade) = match choice {
            Some(Choice::Endpoint { endpoint, masquerade }) => (endpoint, masquerade),
            Some(Choice::NoEndpoint) => {
                return Err(Verdict::Drop(DropReason::ServiceNoEndpoint));
            }
            None => return Err(Verdict::Go),
        };
        if asked.signal.begins().is_none() {
            return Err(Verdict::Drop(DropReason::FlowInvalid));
        }
        let Endpoint { address, port, .. } = endpoint;
        let towards = Tuple { dst: address, dst_port: port, ..tuple };
        self.admit(asked, towards)?;
        let dst = rules.ranges.class(address);
        let hides = masquerade && !src.has(Class::HERE)
            || address == tuple.src
            || rules.is_translated(src, dst);
        let outside = rules.outside_of(tuple.src).filter(|_| hides);
        let made = match outside {
            Some(outside) => self.begin_reusing(rules, asked, (towards, outside))?,
            None => self.insert((tuple, towards), asked).map_err(|why| match why {
                Refused::Clash => Verdict::Drop(DropReason::NatPortsExhausted),
                why => refused(why),
            })?,
        };
        Ok((made, Direction::Original))
    }
}
