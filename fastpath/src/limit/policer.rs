//! What is beyond an endpoint's rates in one direction is dropped.
//!
//! Up to three rates: bits, bits at the peak, packets. A packet passes if all of them let it, and
//! otherwise counts for none. Workers share the [`Policer`]; each has its own [`Leases`].

use super::bucket::{Bucket, Lease, Rate};
use super::cost::Cost;
use super::excess::Excess;
use super::gates::{Row, layout};
use std::sync::Arc;

/// The rates of one endpoint in one direction: one line of the cache where bits alone are limited,
/// as they mostly are.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Policer {
    /// Bits on the wire.
    bits: Option<Bucket>,
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Policer>() == 64);

/// Further rates.
#[derive(Debug)]
struct More {
    /// Bits, with a burst that is small: how fast a burst may be.
    peak: Option<Bucket>,
    packets: Option<Bucket>,
}

/// What a worker has of a policer's rates, that of bits first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leases([Lease; 3]);

/// The rates of a policer; without one there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rates {
    /// Bits.
    pub bits: Option<Rate>,
    /// Bits at the peak.
    pub peak: Option<Rate>,
    /// Packets.
    pub packets: Option<Rate>,
}

impl Policer {
    /// A policer whose bursts are untouched, for so many workers.
    pub fn new(rates: Rates, workers: usize) -> Policer {
        Policer::default().changed(rates, workers, 0)
    }

    /// A policer of other rates that remembers what has passed by now. Leases of the old one are
    /// no good for it.
    pub fn changed(&self, rates: Rates, workers: usize, now_ns: u64) -> Policer {
        self.changed_at(rates, (workers, None), now_ns)
    }

    /// The same, in a row that is shared with the XDP program.
    pub(super) fn changed_at(
        &self,
        rates: Rates,
        (workers, row): (usize, Option<&Arc<Row>>),
        now_ns: u64,
    ) -> Policer {
        let bucket = |old: Option<&Bucket>, rate: Option<Rate>, at: usize| {
            let place = row.map(|row| row.place(at));
            match (old, rate) {
                (Some(old), Some(rate)) => Some(old.changed_at(rate, workers, now_ns, place)),
                (_, rate) => rate.map(|rate| Bucket::at(rate, workers, place)),
            }
        };
        let [bits, peak, packets] = self.buckets();
        let peak = bucket(peak, rates.peak, layout::PEAK);
        let packets = bucket(packets, rates.packets, layout::PACKETS);
        let has_more = peak.is_some() || packets.is_some();
        let bits = bucket(bits, rates.bits, layout::BITS);
        Policer { bits, more: has_more.then(|| Box::new(More { peak, packets })) }
    }

    fn buckets(&self) -> [Option<&Bucket>; 3] {
        let more = self.more.as_deref();
        let peak = more.and_then(|more| more.peak.as_ref());
        [self.bits.as_ref(), peak, more.and_then(|more| more.packets.as_ref())]
    }

    /// The rates.
    pub fn rates(&self) -> Rates {
        let [bits, peak, packets] = self.buckets().map(|one| one.map(Bucket::rate));
        Rates { bits, peak, packets }
    }

    /// Lets a packet of this cost pass, or says what it is beyond.
    #[inline]
    pub fn pass(&self, leases: &mut Leases, now_ns: u64, cost: Cost) -> Result<(), Excess> {
        if let Some(more) = &self.more {
            return self.pass_all(more, leases, now_ns, cost);
        }
        let Some(bits) = &self.bits else { return Ok(()) };
        match bits.pass(&mut leases.0[0], now_ns, cost.bits()) {
            true => Ok(()),
            false => Err(Excess::Bandwidth),
        }
    }

    /// None of the rates counts a packet that another one refuses.
    fn pass_all(
        &self,
        more: &More,
        Leases([of_bits, of_peak, of_packets]): &mut Leases,
        now_ns: u64,
        cost: Cost,
    ) -> Result<(), Excess> {
        let bits = cost.bits();
        let packets = spend(&more.packets, of_packets, now_ns, cost.packets);
        let packets = packets.ok_or(Excess::PacketRate)?;
        let peak = spend(&more.peak, of_peak, now_ns, bits).ok_or(Excess::Bandwidth)?;
        let all = spend(&self.bits, of_bits, now_ns, bits).ok_or(Excess::Bandwidth)?;
        keep(&self.bits, of_bits, all);
        keep(&more.peak, of_peak, peak);
        keep(&more.packets, of_packets, packets);
        Ok(())
    }
}

fn spend(bucket: &Option<Bucket>, lease: &mut Lease, now_ns: u64, cost: u32) -> Option<Lease> {
    match bucket {
        None => Some(*lease),
        Some(bucket) => bucket.spend(lease, now_ns, cost),
    }
}

fn keep(bucket: &Option<Bucket>, lease: &mut Lease, spent: Lease) {
    if let Some(bucket) = bucket {
        bucket.keep(lease, spent);
    }
}
