//! The limits of one endpoint, as control makes them and all workers share them.
//!
//! Ingress is towards the endpoint and egress is from it, as Calico has it. What is beyond the
//! bandwidth is dropped, or waits where the endpoint is shaped; what is beyond the packet rate is
//! always dropped. A change makes limits anew that remember what has passed under the old ones.

use super::account::Account;
use super::bucket::{Lease, Rate};
use super::cost::Cost;
use super::dscp::Dscp;
use super::excess::Excess;
use super::policer::{Leases, Policer, Rates};
use super::shaper::{Booking, Shaper};
use margay_acl::Direction;
use std::sync::Arc;

/// What is wanted of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct WayLimits {
    /// Rates; without one there is no limit.
    pub rates: Rates,
    /// What is beyond the bandwidth waits, for a while.
    pub shaped: bool,
}

/// What is wanted of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// By [`Direction`].
    pub ways: [WayLimits; 2],
    /// Mark of packets from it to what is outside of the cluster.
    pub dscp: Option<Dscp>,
}

impl Wanted {
    /// True when nothing is limited or marked.
    pub fn is_empty(&self) -> bool {
        self.dscp.is_none() && self.ways.iter().all(|way| way.rates == Rates::default())
    }
}

/// When a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// At once.
    Now,
    /// At this time, in nanoseconds, and not before those that wait already.
    At(u64),
}

/// One direction.
#[derive(Debug, Default)]
pub struct Way {
    is_limited: bool,
    policer: Policer,
    bits: Option<Shaper>,
    peak: Option<Shaper>,
    /// What happened.
    pub account: Arc<Account>,
}

/// What a worker has of a direction.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct OwnWay {
    leases: Leases,
    bits: Lease,
    peak: Lease,
}

impl Way {
    fn new(wanted: WayLimits, workers: usize) -> Way {
        let (policed, shaped) = split(wanted);
        let shaper = |rate: Option<Rate>| rate.map(|rate| Shaper::new(rate, workers));
        Way {
            is_limited: wanted.rates != Rates::default(),
            policer: Policer::new(policed, workers),
            bits: shaper(shaped.bits),
            peak: shaper(shaped.peak),
            account: Arc::default(),
        }
    }

    fn changed(&self, wanted: WayLimits, workers: usize, now_ns: u64) -> Way {
        let (policed, shaped) = split(wanted);
        let shaper = |old: &Option<Shaper>, rate: Option<Rate>| match (old, rate) {
            (Some(old), Some(rate)) => Some(old.changed(rate, workers, now_ns)),
            (_, rate) => rate.map(|rate| Shaper::new(rate, workers)),
        };
        Way {
            is_limited: wanted.rates != Rates::default(),
            policer: self.policer.changed(policed, workers, now_ns),
            bits: shaper(&self.bits, shaped.bits),
            peak: shaper(&self.peak, shaped.peak),
            account: self.account.clone(),
        }
    }

    /// True when it has a rate.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Lets a packet pass, now or (if it may wait) later, or says what it is beyond.
    #[inline]
    pub fn admit(
        &self,
        own: &mut OwnWay,
        now_ns: u64,
        cost: Cost,
        may_wait: bool,
    ) -> Result<Departure, Excess> {
        self.policer.pass(&mut own.leases, now_ns, cost)?;
        if self.bits.is_none() {
            return Ok(Departure::Now);
        }
        let book = |shaper: &Option<Shaper>, lease: &mut Lease| {
            let Some(shaper) = shaper else { return Ok(now_ns) };
            match shaper.book(lease, now_ns, cost.bits(), may_wait) {
                Booking::Now => Ok(now_ns),
                Booking::At(at_ns) => Ok(at_ns),
                Booking::Drop => Err(Excess::Queue),
            }
        };
        let bits = book(&self.bits, &mut own.bits)?;
        let peak = book(&self.peak, &mut own.peak)?;
        Ok(match bits.max(peak) {
            at_ns if at_ns <= now_ns => Departure::Now,
            at_ns => Departure::At(at_ns),
        })
    }
}

/// What is policed, and what is shaped.
fn split(wanted: WayLimits) -> (Rates, Rates) {
    let Rates { packets, .. } = wanted.rates;
    match wanted.shaped && wanted.rates.bits.is_some() {
        true => (Rates { packets, ..Rates::default() }, Rates { packets: None, ..wanted.rates }),
        false => (wanted.rates, Rates::default()),
    }
}

/// The limits of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointLimits {
    generation: u64,
    wanted: Wanted,
    ways: [Way; 2],
}

impl EndpointLimits {
    /// Untouched limits for so many workers. The generation is another one than those of all limits
    /// that the same port had before.
    pub fn new(wanted: Wanted, generation: u64, workers: usize) -> EndpointLimits {
        let ways = wanted.ways.map(|way| Way::new(way, workers));
        EndpointLimits { generation, wanted, ways }
    }

    /// Other limits for the same endpoint, which remember what has passed by now.
    #[must_use]
    pub fn changed(&self, wanted: Wanted, generation: u64, workers: usize, now_ns: u64) -> Self {
        let way = |at: usize| self.ways[at].changed(wanted.ways[at], workers, now_ns);
        EndpointLimits { generation, wanted, ways: [way(0), way(1)] }
    }

    /// Which limits these are.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What they were made for.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// One direction.
    #[inline]
    pub fn way(&self, direction: Direction) -> &Way {
        &self.ways[direction as usize]
    }

    /// Mark of packets that leave the cluster.
    #[inline]
    pub fn dscp(&self) -> Option<Dscp> {
        self.wanted.dscp
    }
}
