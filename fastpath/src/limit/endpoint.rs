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
use super::gates::{Gates, Row, layout};
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

/// Who takes from an endpoint's limits: so many workers, and with flow offload the XDP program.
#[derive(Debug, Clone)]
pub struct Takers {
    /// How many workers.
    pub workers: usize,
    /// What they share with the program.
    pub program: Option<Arc<Gates>>,
}

impl From<usize> for Takers {
    fn from(workers: usize) -> Takers {
        Takers { workers, program: None }
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
    row: Option<Arc<Row>>,
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
    fn new(wanted: WayLimits, takers: &Takers) -> Way {
        Way::default().changed(wanted, takers, 0)
    }

    fn changed(&self, wanted: WayLimits, takers: &Takers, now_ns: u64) -> Way {
        let is_limited = wanted.rates != Rates::default();
        let program = takers.program.as_ref().filter(|_| is_limited);
        let row = program.and_then(|gates| gates.open(wanted));
        let (policed, shaped) = split(wanted);
        let workers = takers.workers;
        let shaper = |old: &Option<Shaper>, rate: Option<Rate>, at: usize| {
            let place = row.as_ref().map(|row| row.place(at));
            match (old, rate) {
                (Some(old), Some(rate)) => Some(old.changed_at(rate, workers, now_ns, place)),
                (_, rate) => rate.map(|rate| Shaper::at(rate, workers, place)),
            }
        };
        Way {
            is_limited,
            policer: self.policer.changed_at(policed, (workers, row.as_ref()), now_ns),
            bits: shaper(&self.bits, shaped.bits, layout::BITS),
            peak: shaper(&self.peak, shaped.peak, layout::PEAK),
            account: self.account.clone(),
            row,
        }
    }

    /// What it shares with the XDP program; without that what is limited is the workers' alone.
    #[inline]
    pub(crate) fn row(&self) -> Option<&Arc<Row>> {
        self.row.as_ref()
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
    /// Untouched limits for those who take from them. The generation is another one than those of
    /// all limits that the same port had before.
    pub fn new(wanted: Wanted, generation: u64, takers: impl Into<Takers>) -> EndpointLimits {
        let takers = takers.into();
        let ways = wanted.ways.map(|way| Way::new(way, &takers));
        EndpointLimits { generation, wanted, ways }
    }

    /// Other limits for the same endpoint, which remember what has passed by now.
    #[must_use]
    pub fn changed(
        &self,
        wanted: Wanted,
        generation: u64,
        takers: impl Into<Takers>,
        now_ns: u64,
    ) -> Self {
        let takers = takers.into();
        let way = |at: usize| self.ways[at].changed(wanted.ways[at], &takers, now_ns);
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
