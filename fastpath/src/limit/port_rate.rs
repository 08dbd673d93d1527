//! The rate that a port may have, where what is behind it carries less than the device takes.

use super::bucket::{Bucket, Lease, Rate};

/// The burst, as a part of a second of the rate: twice the longest sleep of a worker for which
/// packets wait for their time.
const BURST_PARTS: u64 = 500;

/// A port's rate as its workers share it.
#[derive(Debug)]
pub struct PortRate {
    generation: u64,
    bits: Bucket,
}

impl PortRate {
    /// So many bits a second for so many workers. The generation is another one than those of all
    /// rates that the same port had before.
    pub fn new(bits_per_s: u64, generation: u64, workers: usize) -> PortRate {
        let rate = Rate { per_second: bits_per_s, burst: bits_per_s / BURST_PARTS };
        PortRate { generation, bits: Bucket::new(rate, workers) }
    }

    /// Which rate this is.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bits a second.
    pub fn bits_per_s(&self) -> u64 {
        self.bits.rate().per_second
    }

    /// Books a packet of so many bytes: when it may go, in nanoseconds.
    pub fn book(&self, lease: &mut Lease, now_ns: u64, bytes: u32) -> u64 {
        let bits = bytes.saturating_mul(8);
        self.bits.book(lease, now_ns, bits, u64::MAX).unwrap_or(now_ns)
    }
}
