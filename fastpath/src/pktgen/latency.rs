//! How long packets took, in buckets that are at most an eighth of their values wide.
//!
//! The kernel's program finds the bucket of a time, user space says what is in it: below 16 ns a
//! bucket each, above eight between a power of two and the next.

/// Buckets that there are: times below 2^41 ns; longer ones are in the last.
pub(super) const BUCKETS: usize = 312;
/// Log2 of the buckets between a power of two and the next.
pub(super) const STEPS_LOG2: u32 = 3;
/// Times below have a bucket each.
pub(super) const EXACT: u64 = 1 << (STEPS_LOG2 + 1);

/// The bucket of a time in nanoseconds, as the program in the kernel should find it.
#[cfg(test)]
pub(super) fn bucket(time_ns: u64) -> usize {
    if time_ns < EXACT {
        return time_ns as usize;
    }
    let log2 = time_ns.ilog2();
    let within = (time_ns >> (log2 - STEPS_LOG2)) as usize & 7;
    let number = (((log2 - STEPS_LOG2) as usize + 1) << STEPS_LOG2) + within;
    number.min(BUCKETS - 1)
}

/// The longest time of a bucket, in nanoseconds.
fn longest(bucket: usize) -> u64 {
    if (bucket as u64) < EXACT {
        return bucket as u64;
    }
    let log2 = (bucket >> STEPS_LOG2) as u32 - 1 + STEPS_LOG2;
    let within = bucket as u64 & 7;
    ((8 + within + 1) << (log2 - STEPS_LOG2)) - 1
}

/// Times of many packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency(Vec<u64>);

impl Latency {
    /// From the packets in each bucket; buckets that are not given are empty.
    pub(super) fn new(mut counts: Vec<u64>) -> Latency {
        counts.resize(BUCKETS, 0);
        Latency(counts)
    }

    /// The packets that have come since `before` was read.
    pub fn since(&self, before: &Latency) -> Latency {
        let counts = self.0.iter().zip(&before.0);
        Latency(counts.map(|(now, before)| now.saturating_sub(*before)).collect())
    }

    /// The buckets that are not empty: the longest time of each in nanoseconds, and its packets.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let all = self.0.iter().enumerate();
        all.filter(|(_, count)| **count > 0).map(|(at, count)| (longest(at), *count))
    }

    /// Packets with a time.
    pub fn packets(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time, in nanoseconds, that so many of a million packets do not exceed; up to an eighth
    /// too long. `None` without packets.
    pub fn within(&self, of_a_million: u32) -> Option<u64> {
        let all = u128::from(self.packets());
        let rank = (all * u128::from(of_a_million.min(1_000_000))).div_ceil(1_000_000).max(1);
        let mut seen = 0u128;
        let bucket = self.0.iter().position(|count| {
            seen += u128::from(*count);
            seen >= rank
        })?;
        Some(longest(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_times_and_is_narrow(
            time_ns in prop_oneof![0u64..100, 0u64..1 << 42],
        ) {
            let number = bucket(time_ns);
            prop_assert!(number < BUCKETS);
            if time_ns < 1 << 41 {
                let end = longest(number);
                prop_assert!(time_ns <= end && end - time_ns <= time_ns / 8, "{time_ns} {end}");
                prop_assert_eq!(bucket(end), number);
                prop_assert_eq!(bucket(end + 1).min(BUCKETS - 1), (number + 1).min(BUCKETS - 1));
            }
        }
    }

    #[test]
    fn percentiles_are_of_all_packets() {
        let mut counts = vec![0; BUCKETS];
        counts[bucket(1000)] = 989;
        counts[bucket(50_000)] = 10;
        counts[bucket(9_000_000)] = 1;
        let latency = Latency::new(counts);
        let near = |of_a_million, time: u64| {
            let got = latency.within(of_a_million).unwrap();
            assert!(got >= time && got <= time + time / 8, "{of_a_million}: {got}");
        };
        near(500_000, 1000);
        near(990_000, 50_000);
        near(999_000, 50_000);
        near(1_000_000, 9_000_000);
        assert_eq!(Latency::new(Vec::new()).within(500_000), None);
        let mut more = latency.clone();
        more.0[bucket(50_000)] += 4;
        let since: Vec<(u64, u64)> = more.since(&latency).buckets().collect();
        assert_eq!(since, [(longest(bucket(50_000)), 4)]);
    }
}
