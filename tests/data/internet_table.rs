//! A routing table shaped like the Internet's, made from a seed: for tests and benches that must
//! run without the real one.
//!
//! What is kept of the real table: how many prefixes there are of each length (counted in a full
//! table of 901,899 IPv4 and 160,147 IPv6 prefixes), that many lie inside shorter ones, and that
//! neighbours often come in runs, one block after the other. Duplicates are left out, so a table
//! may come out slightly smaller than asked for.

use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// 128 bits.
    pub fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    /// Puts a list in random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// (length, prefixes of that length in the real table)
type Lengths = &'static [(u8, u32)];

const V4: Lengths = &[
    (8, 16),
    (9, 13),
    (10, 38),
    (11, 103),
    (12, 299),
    (13, 581),
    (14, 1203),
    (15, 2100),
    (16, 13490),
    (17, 8235),
    (18, 13798),
    (19, 24870),
    (20, 42611),
    (21, 50750),
    (22, 108623),
    (23, 96510),
    (24, 537698),
    (25, 20),
    (26, 3),
    (27, 11),
    (28, 18),
    (29, 17),
    (30, 3),
    (31, 3),
    (32, 886),
];

const V6: Lengths = &[
    (16, 1),
    (19, 1),
    (20, 16),
    (22, 7),
    (24, 30),
    (26, 15),
    (28, 193),
    (29, 4371),
    (30, 650),
    (31, 284),
    (32, 22548),
    (33, 2926),
    (34, 2603),
    (35, 1043),
    (36, 5996),
    (37, 880),
    (38, 1617),
    (39, 1377),
    (40, 13418),
    (41, 903),
    (42, 2301),
    (43, 1001),
    (44, 14365),
    (45, 1553),
    (46, 3039),
    (47, 3153),
    (48, 75488),
    (49, 11),
    (56, 24),
    (58, 20),
    (64, 184),
    (112, 2),
    (122, 1),
    (124, 4),
    (125, 9),
    (126, 19),
    (127, 42),
    (128, 6),
];

/// Blocks that registries give addresses out of.
const V6_BLOCKS: [(u128, u8); 6] = [
    (0x2001 << 112, 16),
    (0x2400 << 112, 12),
    (0x2600 << 112, 12),
    (0x2800 << 112, 12),
    (0x2a00 << 112, 12),
    (0x2c00 << 112, 12),
];

/// About `count` prefixes of IPv4, in random order.
pub fn internet_v4(count: usize, seed: u64) -> Vec<Ipv4Net> {
    let fresh = |random: &mut Random| {
        let first = 1 + random.below(222) as u128;
        first << 120 | random.wide() >> 8
    };
    let nets = grow(V4, count, seed, fresh);
    let net = |(key, len)| Ipv4Net::new_assert(Ipv4Addr::from_bits((key >> 96) as u32), len);
    nets.into_iter().map(net).map(|net| net.trunc()).collect()
}

/// About `count` prefixes of IPv6, in random order.
pub fn internet_v6(count: usize, seed: u64) -> Vec<Ipv6Net> {
    let fresh = |random: &mut Random| {
        let (block, len) = V6_BLOCKS[random.below(6) as usize];
        block | random.wide() >> len
    };
    let nets = grow(V6, count, seed, fresh);
    let net = |(key, len)| Ipv6Net::new_assert(Ipv6Addr::from_bits(key), len);
    nets.into_iter().map(net).collect()
}

/// Prefixes as left-aligned keys: from short to long, each in a run, inside a shorter one, or new.
fn grow(
    lengths: Lengths,
    count: usize,
    seed: u64,
    fresh: impl Fn(&mut Random) -> u128,
) -> Vec<(u128, u8)> {
    let mut random = Random(seed);
    let total: u64 = lengths.iter().map(|(_, count)| u64::from(*count)).sum();
    let mut nets: Vec<(u128, u8)> = Vec::with_capacity(count + lengths.len());
    let mut seen = HashSet::new();
    for &(len, share) in lengths {
        let wanted = (u64::from(share) * count as u64).div_ceil(total);
        let mut last = 0u128;
        for _ in 0..wanted {
            let key = match random.below(10) {
                0..5 if last != 0 => last.wrapping_add(1 << (128 - len)),
                5..8 if !nets.is_empty() => {
                    let (above, at) = nets[random.below(nets.len() as u64) as usize];
                    above | random.wide().checked_shr(at.into()).unwrap_or(0)
                }
                _ => fresh(&mut random),
            };
            last = key & u128::MAX << (128 - len);
            if seen.insert((last, len)) {
                nets.push((last, len));
            }
        }
    }
    random.shuffle(&mut nets);
    nets
}
