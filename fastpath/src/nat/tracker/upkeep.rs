//! What is done to flows between bursts: they expire, are listed, are ended by hand, and follow new
//! rules.

use super::Tracker;
use crate::flow::{Address, Counters, Session, SessionId, Tuple};
use crate::nat::ports::PortUse;
use crate::nat::rules::Rules;
use crate::nat::subject::{Part, subject};
use crate::packet::Packet;
use crate::service::{Endpoint, Services};

/// Sessions that one tick looks at.
pub(super) const EXPIRE_BUDGET: usize = 4096;

/// What of the rules the flows depend on that there are. Rules change often; looking at all flows
/// is for the few changes that concern them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MadeFor {
    /// Outside addresses and their ports.
    outside: u64,
    /// Endpoints of services that take datagrams.
    datagrams: u64,
}

impl MadeFor {
    pub(super) fn of(rules: &Rules) -> MadeFor {
        let addresses = rules.outside_v4.iter().map(|address| Address::from(*address));
        let addresses = addresses.chain(rules.outside_v6.iter().map(|address| (*address).into()));
        let addresses: Vec<_> =
            addresses.map(|address| (address, rules.ranges.class(address))).collect();
        let ports = (rules.ports.first, rules.ports.last, &rules.taken, rules.workers);
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        MadeFor {
            outside: hasher.hash_one((addresses, ports)),
            datagrams: rules.services.as_ref().map_or(0, Services::datagram_endpoints),
        }
    }
}

/// A flow of datagrams to an endpoint of a service that is none any more.
fn is_left_alone(rules: &Rules, session: &Session) -> bool {
    let Tuple { dst, dst_port, protocol, .. } = session.translated();
    let endpoint = Endpoint { address: dst, port: dst_port, protocol };
    let is_datagrams = protocol == margay_tunnels::wire::protocol::UDP;
    let is_service = session.original().dst != dst || session.original().dst_port != dst_port;
    let is_endpoint = |services: &Services| services.is_endpoint(&endpoint);
    is_datagrams && is_service && !rules.services.as_ref().is_some_and(is_endpoint)
}

/// What a worker says of its translation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatReport {
    /// Sessions now.
    pub sessions: usize,
    /// Sessions at most.
    pub sessions_max: usize,
    /// Bytes of memory.
    pub bytes: usize,
    /// What has happened.
    pub counters: Counters,
    /// Flows refused because no port was left.
    pub exhausted: u64,
    /// Fragments that wait.
    pub fragments: usize,
    /// Ports by outside address and protocol.
    pub ports: Vec<PortUse>,
}

impl Tracker {
    /// Ends what has expired. Call a few times a second; false when some flows are left over.
    pub fn tick(&mut self, now_ns: u64) -> bool {
        self.tick_carried(now_ns, |_, _| None)
    }

    /// Lets a fragment wait for its first one; gives it back when there is no room.
    pub fn wait(&mut self, packet: Packet, now_ns: u64) -> Result<(), Packet> {
        match subject(&packet).map(|subject| (subject.tuple, subject.part)) {
            // It came in the meantime, in the same burst.
            Some((tuple, Part::Later(id))) if self.fragments.knows(&tuple, id) => {
                self.released.push(packet);
                Ok(())
            }
            Some((tuple, Part::Later(id))) => {
                self.fragments.wait((&tuple, id), packet, now_ns, &mut self.expired)
            }
            _ => Err(packet),
        }
    }

    /// Fragments that wait now.
    pub fn fragments_waiting(&self) -> usize {
        self.fragments.waiting()
    }

    /// Gives up all fragments, into [`Tracker::expired`], for the end of the worker.
    pub fn clear(&mut self) {
        self.fragments.clear(&mut self.expired);
        self.expired.append(&mut self.released);
    }

    /// Follows new rules. Flows that look like an address that is no outside address any more have
    /// lost their answers, and end; so do flows of datagrams to endpoints that are no more, which
    /// would never find another one. Others go on as they began (as Linux's do).
    pub(super) fn adopt(&mut self, rules: &Rules) {
        self.generation = rules.generation;
        self.table.set_timeouts(rules.timeouts.clone());
        self.fragments.set_time(rules.timeouts.fragment_s());
        let (before, now) = (self.made_for, MadeFor::of(rules));
        self.made_for = now;
        if before.datagrams != now.datagrams {
            self.end_all(|session| is_left_alone(rules, session));
        }
        if before.outside == now.outside {
            return;
        }
        self.end_all(|session| {
            let (was, is) = (session.original().src, session.translated().src);
            was != is && !rules.is_outside(is)
        });
        // Sets are made anew with the new range; what mappings have is taken in them.
        self.ports.clear();
        let mapped: Vec<_> = self
            .table
            .iter()
            .filter(|(_, session)| session.has_mapping())
            .map(|(_, session)| session.translated())
            .collect();
        for tuple in mapped {
            self.port_set(rules, tuple.src, tuple.protocol).take(tuple.src_port);
        }
    }

    fn end_all(&mut self, which: impl Fn(&Session) -> bool) {
        let flows = self.table.iter().filter(|(_, session)| which(session));
        let ended: Vec<SessionId> = flows.map(|(id, _)| id).collect();
        ended.into_iter().for_each(|id| self.end(id));
    }

    /// Ends a flow if its number is still this one's.
    pub fn end_if(&mut self, id: SessionId, original: &Tuple) -> bool {
        let same = self.table.get(id).is_some_and(|session| session.original() == *original);
        if same {
            self.end(id);
        }
        same
    }

    /// Ends a flow.
    pub fn end(&mut self, id: SessionId) {
        if let Some(removed) = self.table.remove(id) {
            self.forget(&removed);
        }
    }

    /// Some of the flows: those in the slots from `from` on, at most `count` slots; with each the
    /// seconds that it lives on. The slot to go on from, or `None` at the end.
    pub fn list(
        &self,
        from: u32,
        count: u32,
        mut take: impl FnMut(SessionId, &Session, u32),
    ) -> Option<u32> {
        let end = from.saturating_add(count);
        for id in (from..end.min(self.table.slots())).map(SessionId) {
            if let Some(session) = self.table.get(id) {
                take(id, session, self.table.lives_on_s(session, self.now_s));
            }
        }
        (end < self.table.slots()).then_some(end)
    }

    /// How it is.
    pub fn report(&self) -> NatReport {
        let mut ports: Vec<PortUse> = self
            .ports
            .iter()
            .map(|((address, protocol), set)| {
                let (used, ports) = set.used();
                PortUse { address: *address, protocol: *protocol, used, ports }
            })
            .collect();
        ports.sort_by_key(|ports| (ports.address, ports.protocol));
        NatReport {
            sessions: self.table.len(),
            sessions_max: self.table.limits().sessions,
            bytes: self.table.bytes(),
            counters: self.table.counters(),
            exhausted: self.exhausted,
            fragments: self.fragments.waiting(),
            ports,
        }
    }
}
