//! The model: a plain list of flows, and the rules as prose has them.
//!
//! It does not choose ports: it takes the one that it is shown, and holds it to the rules.

use super::probe::{Probe, Shape};
use super::real::{Real, Shown};
use crate::drop_reason::DropReason;
use crate::flow::Direction::{self, Original, Reply};
use crate::flow::{Address, Signal, Tuple};
use crate::nat::tracker::Verdict;
use crate::nat::{Filtering, Rules};

mod fragments;
mod life;
mod ports;

pub(super) use fragments::Waiting;
pub(super) use life::Plain;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Leaves(Probe),
    Drop(DropReason),
    /// It depends on which ports are tried.
    DropEither(DropReason, DropReason),
    Waits,
}

/// Which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
    Through,
    /// None of translation's business.
    Past,
}

/// Why a flow is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Clash,
    TooMany,
    Full,
}

impl From<Refused> for DropReason {
    fn from(why: Refused) -> DropReason {
        match why {
            Refused::Clash => DropReason::FlowInvalid,
            Refused::TooMany => DropReason::FlowLimit,
            Refused::Full => DropReason::FlowTableFull,
        }
    }
}

impl From<Refused> for Outcome {
    fn from(why: Refused) -> Outcome {
        Outcome::Drop(why.into())
    }
}

pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) flows: Vec<Plain>,
    pub(super) waiting: Waiting,
    pub(super) now_s: u64,
    /// Flows that gave way to others.
    pub(super) gave_way: usize,
}

fn is_in(address: Address, prefixes: &[&str]) -> bool {
    let address: std::net::IpAddr = address.into();
    prefixes.iter().any(|prefix| prefix.parse::<ipnet::IpNet>().unwrap().contains(&address))
}

pub(super) fn is_pod(address: Address) -> bool {
    is_in(address, &["10.1.0.0/16", "2001:db8:1::/48"])
}

fn is_in_pool(address: Address) -> bool {
    is_pod(address) || is_in(address, &["10.2.0.0/16"])
}

impl Model {
    pub(super) fn new(rules: Rules) -> Model {
        Model { rules, flows: Vec::new(), waiting: Waiting::default(), now_s: 1, gave_way: 0 }
    }

    pub(super) fn is_outside(&self, address: Address) -> bool {
        self.rules.is_outside(address)
    }

    /// The outside address is the host's own as well.
    fn is_local(&self, address: Address) -> bool {
        is_in(address, &["172.16.0.1/32"])
    }

    fn way(&self, src: Address, dst: Address) -> Way {
        let leaves = |src, dst| is_pod(src) && !is_in_pool(dst) && !self.is_local(dst);
        match (is_pod(src), self.is_outside(dst)) {
            (true, true) => Way::Out,
            (false, true) => Way::In,
            _ if leaves(src, dst) => Way::Out,
            _ if leaves(dst, src) => Way::Through,
            _ => Way::Past,
        }
    }

    /// To the host's own address comes what is the host's, too.
    fn is_hosts(&self, probe: &Probe) -> bool {
        let Tuple { dst, dst_port, .. } = probe.tuple;
        let question = probe.signal == (Signal::Query { asks: true });
        let question = question && !matches!(probe.shape, Shape::Later(_));
        let range = &self.rules.ports;
        let is_nats = range.contains(dst_port) && !self.rules.taken.contains(&dst_port);
        self.is_local(dst) && (question || !is_nats)
    }

    /// What must become of a packet. `real` is how the flows are after it.
    pub(super) fn step(&mut self, probe: Probe, real: &Real<'_>) -> Outcome {
        let (way, outcome) = self.pass(probe, real);
        let Outcome::Leaves(next) = outcome else { return outcome };
        if way != Way::Out || !self.is_outside(next.ends().1) {
            return outcome;
        }
        // A hairpin.
        match self.pass(next, real) {
            (Way::Out, _) => Outcome::Drop(DropReason::FlowInvalid),
            (_, outcome) => outcome,
        }
    }

    fn pass(&mut self, probe: Probe, real: &Real<'_>) -> (Way, Outcome) {
        let (src, dst) = probe.ends();
        let way = match (self.way(src, dst), probe.shape) {
            (Way::Past, _) => Way::Past,
            (way, Shape::Error { .. }) => match self.way(probe.tuple.dst, probe.tuple.src) {
                Way::Past => way,
                of_quoted => of_quoted,
            },
            (way, _) => way,
        };
        if way == Way::Past {
            return (way, Outcome::Leaves(probe));
        }
        if !self.waiting.knows(&probe, self.now_s) {
            return (way, Outcome::Waits);
        }
        let is_error = matches!(probe.shape, Shape::Error { .. });
        if self.is_outside(dst) && !is_error && self.is_hosts(&probe) {
            return (Way::Past, Outcome::Leaves(probe));
        }
        let tuple = if is_error { probe.tuple.reversed() } else { probe.tuple };
        let known = self.flows.iter().enumerate().find_map(|(at, flow)| {
            let direction = [Original, Reply].into_iter().find(|way| flow.arriving(*way) == tuple);
            Some((at, direction?))
        });
        let begun = match known {
            Some((at, direction)) => {
                if !is_error {
                    let later = matches!(probe.shape, Shape::Later(_));
                    let signal = if later { Signal::Other } else { probe.signal };
                    self.flows[at].note(direction, signal, self.now_s);
                }
                Ok((at, direction))
            }
            None => self.begin(way, &probe, tuple, real),
        };
        let outcome = match begun {
            Ok((at, direction)) => {
                let leaving = self.flows[at].leaving(direction);
                Outcome::Leaves(translated(probe, way, (&tuple, &leaving)))
            }
            Err(outcome) => outcome,
        };
        (way, outcome)
    }

    fn begin(
        &mut self,
        way: Way,
        probe: &Probe,
        tuple: Tuple,
        real: &Real<'_>,
    ) -> Result<(usize, Direction), Outcome> {
        let stays = Outcome::Leaves(*probe);
        let may = life::begins(probe.signal)
            && !matches!(probe.shape, Shape::Later(_) | Shape::Error { .. });
        match way {
            Way::Out if !may => Err(Outcome::Drop(DropReason::FlowInvalid)),
            Way::Out => Ok((self.begin_out(probe, real)?, Original)),
            Way::In => {
                let nobodys = match self.is_local(probe.ends().1) {
                    true => stays,
                    false => Outcome::Drop(DropReason::NatUnsolicited),
                };
                if !may { Err(nobodys) } else { self.begin_in(probe, nobodys, real) }
            }
            _ if !may => Err(stays),
            _ => match self.insert((tuple, tuple), probe.signal, real) {
                Ok(at) => Ok((at, Original)),
                Err(Refused::Clash) => Err(stays),
                Err(why) => Err(why.into()),
            },
        }
    }

    /// A stranger's packet to a mapping.
    fn begin_in(
        &mut self,
        probe: &Probe,
        nobodys: Outcome,
        real: &Real<'_>,
    ) -> Result<(usize, Direction), Outcome> {
        let tuple = probe.tuple;
        let is_of_mapping = |flow: &&Plain| {
            let Tuple { src, src_port, protocol, .. } = flow.translated;
            flow.mapped && (src, src_port, protocol) == (tuple.dst, tuple.dst_port, tuple.protocol)
        };
        let mapping: Vec<&Plain> = self.flows.iter().filter(is_of_mapping).collect();
        let lets_in = match self.rules.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                mapping.iter().any(|flow| flow.original.dst == tuple.src)
            }
            Filtering::AddressAndPortDependent => false,
        };
        let Some(inside) = mapping.first().filter(|_| lets_in).map(|flow| flow.original) else {
            return Err(nobodys);
        };
        let original = Tuple { dst: tuple.src, dst_port: tuple.src_port, ..inside };
        match self.insert((original, tuple.reversed()), probe.signal, real) {
            Ok(at) => {
                self.flows[at].begun_outside();
                Ok((at, Reply))
            }
            Err(Refused::Clash) => Err(nobodys),
            Err(why) => Err(why.into()),
        }
    }

    fn clashes(&self, translated: &Tuple) -> bool {
        let reply = translated.reversed();
        self.flows.iter().any(|flow| [Original, Reply].map(|at| flow.arriving(at)).contains(&reply))
    }

    fn insert(
        &mut self,
        (original, translated): (Tuple, Tuple),
        signal: Signal,
        real: &Real<'_>,
    ) -> Result<usize, Refused> {
        let known = self.flows.iter().any(|flow| {
            [Original, Reply].map(|direction| flow.arriving(direction)).contains(&original)
        });
        if known || self.clashes(&translated) {
            return Err(Refused::Clash);
        }
        if self.is_at_limit(&original) {
            return Err(Refused::TooMany);
        }
        if self.flows.len() >= self.rules.limits.sessions {
            let gone = self.flows.iter().position(|flow| real.shown(&flow.original).is_none());
            let Some(gone) = gone else {
                assert!(self.flows.iter().any(|flow| flow.assured), "somebody could give way");
                return Err(Refused::Full);
            };
            let flow = self.flows.swap_remove(gone);
            assert!(!flow.assured, "an assured flow gave way: {flow:?}");
            self.gave_way += 1;
        }
        self.flows.push(Plain::new((original, translated), signal, self.now_s));
        Ok(self.flows.len() - 1)
    }

    /// Each worker counts its own flows of a source.
    fn is_at_limit(&self, original: &Tuple) -> bool {
        let limit = self.rules.limits.per_source as usize;
        let worker = |tuple: &Tuple| {
            self.owner(if is_pod(tuple.src) { tuple.src_port } else { tuple.dst_port })
        };
        let alike = |other: &Tuple| other.src == original.src && worker(other) == worker(original);
        let count = self.flows.iter().filter(|flow| alike(&flow.original)).count();
        limit > 0 && count >= limit
    }

    /// Seconds pass; flows that end are forgotten, and fragments that have waited long enough.
    pub(super) fn pass_time(&mut self, seconds: u64) {
        self.now_s += seconds;
        let now_s = self.now_s;
        self.flows.retain(|flow| flow.end_s() > now_s);
        self.waiting.expire(now_s);
    }

    /// Takes over what the model does not find out by itself.
    pub(super) fn follow(&mut self, real: &Real<'_>) {
        for flow in &mut self.flows {
            if let Some(Shown { assured, .. }) = real.shown(&flow.original) {
                flow.assured = assured;
            }
        }
    }

    /// Everything that can be compared is the same.
    pub(super) fn compare(&self, real: &Real<'_>) {
        assert_eq!(real.len(), self.flows.len());
        for flow in &self.flows {
            let shown = real.shown(&flow.original).unwrap_or_else(|| panic!("{flow:?} is gone"));
            assert_eq!((shown.translated, shown.mapped), (flow.translated, flow.mapped));
            assert_eq!((shown.state, shown.packets), (flow.state(), flow.packets), "{flow:?}");
            assert_eq!(u64::from(shown.last_seen_s), flow.last_s);
        }
        let mut mapped: Vec<(Address, u16, u8)> = self.mapped().collect();
        mapped.sort_unstable();
        mapped.dedup();
        assert_eq!(real.ports_used(), mapped.len(), "a port for each mapping, and no other");
        assert_eq!(real.waiting(), self.waiting.len());
    }

    fn mapped(&self) -> impl Iterator<Item = (Address, u16, u8)> + '_ {
        self.flows.iter().filter(|flow| flow.mapped).map(|flow| {
            let Tuple { src, src_port, protocol, .. } = flow.translated;
            (src, src_port, protocol)
        })
    }
}

/// A packet whose flow was found: as it leaves.
fn translated(probe: Probe, way: Way, (tuple, leaving): (&Tuple, &Tuple)) -> Probe {
    if tuple == leaving {
        return probe;
    }
    match probe.shape {
        Shape::Error { teller, told } => {
            let teller = if teller == tuple.src || way == Way::Out { leaving.src } else { teller };
            let told = if told == tuple.dst { leaving.dst } else { told };
            let shape = Shape::Error { teller, told };
            Probe { tuple: leaving.reversed(), shape, ..probe }
        }
        _ => Probe { tuple: *leaving, ..probe },
    }
}

/// Whether this is what the tracker did.
pub(super) fn agrees(outcome: &Outcome, verdict: Verdict, bytes: &[u8]) -> bool {
    match (outcome, verdict) {
        (Outcome::Leaves(probe), Verdict::Go | Verdict::Rewritten) => probe.bytes() == bytes,
        (Outcome::Drop(reason), Verdict::Drop(other)) => *reason == other,
        (Outcome::DropEither(one, other), Verdict::Drop(reason)) => {
            [*one, *other].contains(&reason)
        }
        (Outcome::Waits, Verdict::Wait) => true,
        _ => false,
    }
}
