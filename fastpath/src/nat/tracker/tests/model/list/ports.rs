//! Which port a flow may look like: what RFC 4787 4.2 asks of the one that was chosen.

use super::super::probe::Probe;
use super::super::real::{Real, Shown};
use super::{Model, Outcome, Refused};
use crate::drop_reason::DropReason;
use crate::flow::{Address, Direction, Tuple};

impl Model {
    /// The worker that has a port: they go in pairs.
    pub(super) fn owner(&self, port: u16) -> u16 {
        port / 2 % self.rules.workers
    }

    /// Ports of an outside address that this packet's worker has.
    fn ports(&self, outside: Address, tuple: &Tuple) -> Vec<u16> {
        let local = self.is_local(outside);
        let (first, last) = match local {
            true => (self.rules.ports.first, self.rules.ports.last),
            false => (1024, u16::MAX),
        };
        let is_free = |port: &u16| !local || !self.rules.taken.contains(port);
        let owner = self.owner(tuple.src_port);
        (first..=last).filter(is_free).filter(|port| self.owner(*port) == owner).collect()
    }

    pub(super) fn begin_out(&mut self, probe: &Probe, real: &Real<'_>) -> Result<usize, Outcome> {
        let tuple = probe.tuple;
        let shown = real.shown(&tuple);
        if ![6, 17, 1, 58].contains(&tuple.protocol) {
            return self.begin_without_ports(probe, real);
        }
        let inside = |flow: &Tuple| (flow.src, flow.src_port, flow.protocol);
        let mapping =
            self.flows.iter().find(|flow| flow.mapped && inside(&flow.original) == inside(&tuple));
        if let Some(Tuple { src, src_port, .. }) = mapping.map(|flow| flow.translated) {
            match self.insert((tuple, Tuple { src, src_port, ..tuple }), probe.signal, real) {
                Ok(at) => {
                    self.flows[at].mapped = true;
                    return Ok(at);
                }
                Err(Refused::Clash) => {}
                Err(why) => return Err(why.into()),
            }
            return self.begin_reusing(probe, shown, (src, true), real);
        }
        let Some(outside) = self.rules.outside_of(tuple.src) else {
            return Err(Outcome::Leaves(*probe));
        };
        match shown {
            Some(Shown { translated, mapped: true, .. }) => {
                self.check_new_mapping(&tuple, outside, &translated);
                let at = self.insert((tuple, translated), probe.signal, real)?;
                self.flows[at].mapped = true;
                Ok(at)
            }
            _ => self.begin_reusing(probe, shown, (outside, false), real),
        }
    }

    fn begin_without_ports(&mut self, probe: &Probe, real: &Real<'_>) -> Result<usize, Outcome> {
        let tuple = probe.tuple;
        let Some(src) = self.rules.outside_of(tuple.src) else {
            return Err(Outcome::Leaves(*probe));
        };
        if self.is_local(src) {
            return Err(Outcome::Drop(DropReason::NatProtocol));
        }
        self.insert((tuple, Tuple { src, ..tuple }), probe.signal, real).map_err(|why| match why {
            Refused::Clash => Outcome::Drop(DropReason::NatPortsExhausted),
            why => why.into(),
        })
    }

    /// Not taken, one's own worker's, the inside port itself if it can be, of its parity if one is.
    fn check_new_mapping(&self, tuple: &Tuple, outside: Address, translated: &Tuple) {
        let Tuple { src, src_port, .. } = *translated;
        assert_eq!(Tuple { src_port, ..*tuple }, Tuple { src: tuple.src, ..*translated });
        assert_eq!(src, outside);
        let used: Vec<u16> = self
            .mapped()
            .filter(|(address, _, protocol)| *address == outside && *protocol == tuple.protocol)
            .map(|(_, port, _)| port)
            .collect();
        let is_free = |port: &u16| !used.contains(port);
        let ports = self.ports(outside, tuple);
        assert!(ports.contains(&src_port) && is_free(&src_port), "{src_port} is not to be had");
        let clashing = self.clashing(outside, tuple);
        let clashes = |port| clashing.contains(&port);
        let own = tuple.src_port;
        if ports.contains(&own) && is_free(&own) && !clashes(own) {
            assert_eq!(src_port, own, "the port is kept when it can be");
        }
        // Four are tried, of which each may clash.
        let could = |port: &&u16| **port % 2 == own % 2 && is_free(port) && !clashes(**port);
        let kept = src_port % 2 == own % 2;
        assert!(kept || ports.iter().filter(could).count() < 4, "parity is kept");
    }

    /// No port is left for a mapping (or its own cannot be had towards this place), so one that is
    /// in use towards others has to do.
    fn begin_reusing(
        &mut self,
        probe: &Probe,
        shown: Option<Shown>,
        (outside, has_mapping): (Address, bool),
        real: &Real<'_>,
    ) -> Result<usize, Outcome> {
        let tuple = probe.tuple;
        let ports = self.ports(outside, &tuple);
        let clashing = self.clashing(outside, &tuple);
        let Some(Shown { translated, .. }) = shown else {
            let is_full = self.flows.len() >= self.rules.limits.sessions;
            let why = if self.is_at_limit(&tuple) { Refused::TooMany } else { Refused::Full };
            // Ports are tried at random, 64 times.
            return Err(match is_full || why == Refused::TooMany {
                true if clashing.is_empty() => why.into(),
                true => Outcome::DropEither(why.into(), DropReason::NatPortsExhausted),
                false => {
                    assert!(clashing.len() * 2 >= ports.len(), "{tuple:?} could have had a port");
                    Outcome::Drop(DropReason::NatPortsExhausted)
                }
            });
        };
        let of_mapping = |port| self.mapped().any(|known| known == (outside, port, tuple.protocol));
        let mut untaken = ports.iter().filter(|port| !of_mapping(**port)).peekable();
        let none_is_left = untaken.peek().is_none();
        assert!(
            has_mapping || none_is_left || untaken.any(|port| clashing.contains(port)),
            "a port without a mapping is left"
        );
        let Tuple { src_port, .. } = translated;
        assert_eq!(translated, Tuple { src: outside, src_port, ..tuple });
        assert!(ports.contains(&src_port));
        Ok(self.insert((tuple, translated), probe.signal, real)?)
    }

    /// Ports with which a packet would look like one of another flow.
    fn clashing(&self, outside: Address, tuple: &Tuple) -> Vec<u16> {
        let replies = self.flows.iter().flat_map(|flow| {
            [Direction::Original, Direction::Reply].map(|at| flow.arriving(at).reversed())
        });
        let like =
            |other: &Tuple| *other == Tuple { src: outside, src_port: other.src_port, ..*tuple };
        let mut ports: Vec<u16> = replies.filter(like).map(|other| other.src_port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}
