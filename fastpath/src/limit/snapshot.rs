//! The limits of all endpoints as a snapshot publishes them, and what one worker keeps of them.
//!
//! A port without limits costs one look at a table for each burst. What waits for its time is in
//! one wheel of the worker, at most [`WAITING_MAX`] packets; those of one direction of an endpoint
//! keep their order.

use super::cost::Cost;
use super::endpoint::{Departure, EndpointLimits, OwnWay};
use super::excess::Excess;
use super::gates::{Queued, Row};
use super::port_rate::PortRate;
use super::wheel::Wheel;
use crate::flow::Address;
use crate::nat::{Class, Ranges};
use crate::packet::Packet;
use crate::port::{BURST, PortId};
use margay_acl::Direction;
use std::sync::Arc;

/// Packets that wait in one worker at most: a quarter of the default number of frames.
pub const WAITING_MAX: usize = 8192;

/// The limits of this node's endpoints.
#[derive(Debug, Default, Clone)]
pub struct Limits {
    /// By port.
    ports: Vec<Option<Arc<EndpointLimits>>>,
    /// Shares of congested ports by the port that packets come in by; 1 beyond them.
    weights: Vec<u32>,
    /// Rates of ports themselves.
    rates: Vec<Option<Arc<PortRate>>>,
    marks: bool,
    /// Addresses of the cluster's pools, and the host's own: packets there are not marked.
    inside: Ranges,
}

/// Equal when every port has the very same limits.
impl PartialEq for Limits {
    fn eq(&self, other: &Limits) -> bool {
        let generations = |limits: &Limits| -> Vec<Option<u64>> {
            limits.ports.iter().map(|one| one.as_ref().map(|one| one.generation())).collect()
        };
        let rates = |limits: &Limits| -> Vec<Option<u64>> {
            limits.rates.iter().map(|one| one.as_ref().map(|one| one.generation())).collect()
        };
        generations(self) == generations(other)
            && rates(self) == rates(other)
            && self.weights == other.weights
            && self.inside == other.inside
    }
}

impl Eq for Limits {}

/// A place for each port up to the last that has something.
fn by_port<T: Clone>(of: impl Iterator<Item = (PortId, T)>, other: T) -> Vec<T> {
    let mut places = Vec::new();
    for (port, value) in of {
        let at = usize::from(port.0);
        places.resize(places.len().max(at + 1), other.clone());
        places[at] = value;
    }
    places
}

impl Limits {
    /// The limits of ports; packets to addresses with a class in `inside` are never marked.
    pub fn new(of: &[(PortId, Arc<EndpointLimits>)], inside: Ranges) -> Limits {
        let ports = by_port(of.iter().map(|(port, limits)| (*port, Some(limits.clone()))), None);
        let marks = of.iter().any(|(_, limits)| limits.dscp().is_some());
        Limits { ports, marks, inside, ..Limits::default() }
    }

    /// The weights of endpoints behind ports, 1 to [`super::WEIGHT_MAX`]; 1 for all others.
    #[must_use]
    pub fn with_weights(self, of: &[(PortId, u32)]) -> Limits {
        Limits { weights: by_port(of.iter().copied(), 1), ..self }
    }

    /// The rates of ports that may have less than their devices take.
    #[must_use]
    pub fn with_rates(self, of: &[(PortId, Arc<PortRate>)]) -> Limits {
        let rates = of.iter().map(|(port, rate)| (*port, Some(rate.clone())));
        Limits { rates: by_port(rates, None), ..self }
    }

    /// The weight of what comes in by a port.
    pub fn weight_of(&self, port: PortId) -> u32 {
        self.weights.get(usize::from(port.0)).copied().unwrap_or(1)
    }

    /// The rate of a port.
    #[inline]
    pub fn rate_of(&self, port: PortId) -> Option<&PortRate> {
        self.rates.get(usize::from(port.0))?.as_deref()
    }

    /// The limits of the endpoint behind a port.
    #[inline]
    pub fn of(&self, port: PortId) -> Option<&EndpointLimits> {
        self.ports.get(usize::from(port.0))?.as_deref()
    }

    /// True when some endpoint's packets are marked.
    #[inline]
    pub fn marks(&self) -> bool {
        self.marks
    }

    /// True for a destination that is marked: outside of all pools, and not this host.
    pub fn is_marked(&self, dst: Address) -> bool {
        self.inside.class(dst) == Class::default()
    }
}

/// A packet that waits.
#[derive(Debug)]
pub enum Waiting {
    /// From the endpoint behind its port: parsed, and nothing else.
    From(Packet),
    /// For the endpoint behind this port, ready to be sent.
    To(PortId, Packet),
}

impl Waiting {
    /// The port of the endpoint whose limits it waits for, and its direction there.
    pub fn place(&self) -> (PortId, Direction) {
        match self {
            Waiting::From(packet) => (packet.in_port, Direction::Egress),
            Waiting::To(port, _) => (*port, Direction::Ingress),
        }
    }
}

/// All that a limit of bits alone needs comes first, in one line of the cache.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Own {
    /// Of the limits that the leases are of.
    generation: u64,
    last_ns: u64,
    waiting: u32,
    way: OwnWay,
}

/// What one worker keeps.
#[derive(Debug, Default)]
pub struct OwnLimits {
    /// By port and direction.
    own: Vec<[Own; 2]>,
    wheel: Option<Wheel<Entry>>,
    /// Of packets whose time has come.
    released: Vec<Queued>,
}

/// A packet in the wheel; the XDP program knows that it waits.
type Entry = (Waiting, Option<Queued>);

impl OwnLimits {
    #[inline]
    fn own(&mut self, port: PortId, direction: Direction) -> &mut Own {
        let at = usize::from(port.0);
        if at >= self.own.len() {
            self.own.resize_with(at + 1, Default::default);
        }
        &mut self.own[at][direction as usize]
    }

    /// Asks an endpoint's limits about a packet.
    #[inline]
    pub fn admit(
        &mut self,
        (port, direction): (PortId, Direction),
        limits: &EndpointLimits,
        now_ns: u64,
        cost: Cost,
    ) -> Result<Departure, Excess> {
        let own = self.own(port, direction);
        if own.generation != limits.generation() {
            // Leases are of a bucket that is gone.
            *own = Own { generation: limits.generation(), way: OwnWay::default(), ..*own };
        }
        // An endpoint has as many places at most as are free, so that one leaves half of them and
        // others find some. Those of a burst take theirs after all of them were asked about.
        let free = WAITING_MAX.saturating_sub(self.wheel.as_ref().map_or(0, Wheel::len) + BURST);
        let own = self.own(port, direction);
        let may_wait = (own.waiting as usize) < free;
        match limits.way(direction).admit(&mut own.way, now_ns, cost, may_wait)? {
            Departure::Now if own.waiting == 0 => Ok(Departure::Now),
            _ if !may_wait => Err(Excess::Queue),
            Departure::Now => Ok(Departure::At(own.last_ns)),
            Departure::At(at_ns) => Ok(Departure::At(at_ns.max(own.last_ns))),
        }
    }

    /// Lets a packet wait; gives it back when too many wait already. `row` is what its limits share
    /// with the XDP program.
    pub(crate) fn wait(
        &mut self,
        (at_ns, now_ns): (u64, u64),
        packet: Waiting,
        row: Option<&Arc<Row>>,
    ) -> Result<(), Waiting> {
        let (port, direction) = packet.place();
        let wheel = self.wheel.get_or_insert_with(|| Wheel::new(WAITING_MAX, now_ns));
        if wheel.is_empty() {
            // Brings it up to the clock: nobody asks an empty one.
            wheel.pop(now_ns);
        }
        wheel.insert(at_ns, (packet, row.map(|row| row.queue()))).map_err(|(packet, _)| packet)?;
        let own = self.own(port, direction);
        own.waiting += 1;
        own.last_ns = at_ns;
        Ok(())
    }

    /// Packets that wait.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.wheel.as_ref().map_or(0, Wheel::len)
    }

    /// Takes the next packet whose time has come.
    pub fn release(&mut self, now_ns: u64) -> Option<Waiting> {
        let (packet, queued) = self.wheel.as_mut()?.pop(now_ns)?;
        self.released.extend(queued);
        let (port, direction) = packet.place();
        let own = self.own(port, direction);
        own.waiting = own.waiting.saturating_sub(1);
        Some(packet)
    }

    /// Of the packets that were released: to be dropped once they have left the worker.
    #[inline]
    pub fn released(&mut self) -> &mut Vec<Queued> {
        &mut self.released
    }

    /// Takes any packet that waits, for the end of the worker.
    pub fn take_any(&mut self) -> Option<Packet> {
        match self.wheel.as_mut()?.take_any()?.0 {
            Waiting::From(packet) | Waiting::To(_, packet) => Some(packet),
        }
    }
}
