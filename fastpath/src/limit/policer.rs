//! What is beyond an endpoint's rates in one direction is dropped.
//!
//! Up to three rates: bits, bits at the peak, packets. A packet passes if all of them let it, and
//! otherwise counts for none. Workers share the [`Policer`]; each has its own [`Leases`].

use super::bucket::{Bucket, Lease, Rate};

/// The rates of one endpoint in one direction.
#[derive(Debug, Default)]
pub struct Policer {
    /// Bits, each packet from its network header on.
    bits: Option<Bucket>,
    /// Bits, with a burst that is small: how fast a burst may be.
    peak: Option<Bucket>,
    packets: Option<Bucket>,
}

/// What a worker has of a policer's rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leases([Lease; 3]);

/// Which rate a packet was beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Excess {
    /// Bits, or bits at the peak.
    Bits,
    /// Packets.
    Packets,
}

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
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, workers));
        let [bits, peak, packets] = [rates.bits, rates.peak, rates.packets].map(bucket);
        Policer { bits, peak, packets }
    }

    /// A policer of other rates that remembers what has passed by now. Leases of the old one are
    /// no good for it.
    pub fn changed(&self, rates: Rates, workers: usize, now_ns: u64) -> Policer {
        let bucket = |old: &Option<Bucket>, rate: Option<Rate>| match (old, rate) {
            (Some(old), Some(rate)) => Some(old.changed(rate, workers, now_ns)),
            (None, rate) => rate.map(|rate| Bucket::new(rate, workers)),
            (_, None) => None,
        };
        Policer {
            bits: bucket(&self.bits, rates.bits),
            peak: bucket(&self.peak, rates.peak),
            packets: bucket(&self.packets, rates.packets),
        }
    }

    /// The rates.
    pub fn rates(&self) -> Rates {
        let [bits, peak, packets] =
            [&self.bits, &self.peak, &self.packets].map(|one| one.as_ref().map(Bucket::rate));
        Rates { bits, peak, packets }
    }

    /// Lets a packet of so many bits pass, or says what it is beyond.
    #[inline]
    pub fn pass(&self, leases: &mut Leases, now_ns: u64, bits: u32) -> Result<(), Excess> {
        let [of_bits, of_peak, of_packets] = &mut leases.0;
        let packets = spend(&self.packets, of_packets, now_ns, 1).ok_or(Excess::Packets)?;
        let peak = spend(&self.peak, of_peak, now_ns, bits).ok_or(Excess::Bits)?;
        let all = spend(&self.bits, of_bits, now_ns, bits).ok_or(Excess::Bits)?;
        *leases = Leases([all, peak, packets]);
        Ok(())
    }
}

#[inline]
fn spend(bucket: &Option<Bucket>, lease: &mut Lease, now_ns: u64, cost: u32) -> Option<Lease> {
    match bucket {
        None => Some(*lease),
        Some(bucket) => bucket.spend(lease, now_ns, cost),
    }
}
