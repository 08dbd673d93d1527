//! Free ports: one bit each, found in a bounded number of steps.

use super::rules::PortRange;
use crate::flow::Address;

const WORDS: usize = 1 << 10;
const EVEN: u64 = 0x5555_5555_5555_5555;

/// The ports of one outside address and protocol that one worker owns.
#[derive(Debug)]
pub(super) struct PortSet {
    free: Box<[u64; WORDS]>,
    owned: u32,
    free_count: u32,
}

/// How many ports are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortUse {
    /// The outside address.
    pub address: Address,
    /// Protocol number of IP.
    pub protocol: u8,
    /// Ports that mappings have.
    pub used: u32,
    /// Ports that there are.
    pub ports: u32,
}

impl PortSet {
    /// All ports of `range` that `owned` says are this worker's.
    pub(super) fn new(range: PortRange, owned: impl Fn(u16) -> bool) -> PortSet {
        let mut set = PortSet { free: Box::new([0; WORDS]), owned: 0, free_count: 0 };
        for port in (range.first..=range.last).filter(|port| owned(*port)) {
            set.free[usize::from(port) / 64] |= 1 << (port % 64);
            set.owned += 1;
        }
        set.free_count = set.owned;
        set
    }

    /// Ports in use, and all.
    pub(super) fn used(&self) -> (u32, u32) {
        (self.owned - self.free_count, self.owned)
    }

    /// Takes this port if it is free.
    pub(super) fn take(&mut self, port: u16) -> bool {
        let (word, bit) = (&mut self.free[usize::from(port) / 64], 1 << (port % 64));
        let is_free = *word & bit != 0;
        *word &= !bit;
        self.free_count -= u32::from(is_free);
        is_free
    }

    /// Takes a free port, searched from `start` on: of the same parity as `like` if one is there.
    pub(super) fn take_any(&mut self, start: u16, like: u16) -> Option<u16> {
        if self.free_count == 0 {
            return None;
        }
        let parity = if like.is_multiple_of(2) { EVEN } else { !EVEN };
        let port = self.search(start, parity).or_else(|| self.search(start, u64::MAX))?;
        self.take(port).then_some(port)
    }

    fn search(&self, start: u16, wanted: u64) -> Option<u16> {
        let (first, bit) = (usize::from(start) / 64, start % 64);
        let from_bit = u64::MAX << bit;
        (0..=WORDS).find_map(|step| {
            let at = (first + step) % WORDS;
            let mask = match step {
                0 => from_bit,
                WORDS => !from_bit,
                _ => u64::MAX,
            };
            let found = self.free[at] & wanted & mask;
            (found != 0).then(|| (at * 64) as u16 + found.trailing_zeros() as u16)
        })
    }

    /// Gives a port back that was taken.
    pub(super) fn give(&mut self, port: u16) {
        let (word, bit) = (&mut self.free[usize::from(port) / 64], 1 << (port % 64));
        self.free_count += u32::from(*word & bit == 0);
        *word |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_port_of_the_range_is_given_once_and_parity_is_kept_while_it_can_be(
            first in 0u16..60_000, count in 0u16..500, starts in any::<[u16; 8]>(),
        ) {
            let range = PortRange { first, last: first + count };
            let mut set = PortSet::new(range, |port| port % 5 != 0);
            let mut left: BTreeSet<u16> =
                (first..=first + count).filter(|port| port % 5 != 0).collect();
            prop_assert_eq!(set.used(), (0, left.len() as u32));
            for at in 0..left.len() {
                let (start, like) = (starts[at % 8], starts[(at / 8) % 8]);
                let port = set.take_any(start, like).unwrap();
                let could = left.iter().any(|port| port % 2 == like % 2);
                prop_assert!(left.remove(&port), "{} given twice", port);
                prop_assert!(port % 2 == like % 2 || !could);
            }
            prop_assert_eq!(set.take_any(first, first), None);
            prop_assert_eq!(set.used().0, set.used().1);
        }
    }

    #[test]
    fn a_port_given_back_can_be_taken_again() {
        let mut set = PortSet::new(PortRange { first: 100, last: 101 }, |_| true);
        assert!(set.take(100) && !set.take(100) && !set.take(99));
        assert_eq!(set.take_any(0, 0), Some(101));
        set.give(100);
        assert_eq!((set.used(), set.take_any(65_535, 1)), ((1, 2), Some(100)));
    }
}
