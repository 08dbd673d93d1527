//! A full Internet table as one peer sends it, made from a seed: attribute sets with the prefixes
//! that share them. Shaped like a session recorded in 2015: half of the sets have one prefix, the
//! mean is 6.4 and the largest have thousands; LOCAL_PREF, MED and communities on all, an
//! aggregator on every eighth; prefix lengths as in the table of 2024.

use ipnet::{Ipv4Net, Ipv6Net};
use margay_bgp::wire::as_path::AsPath;
use margay_bgp::wire::attribute::{Aggregator, Attributes, NextHop, Origin};
use margay_bgp::wire::community::Community;
use margay_bgp::wire::nlri::Nlri;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Prefix lengths and how many of a thousand prefixes have them.
const LENGTHS: [(u8, u64); 9] =
    [(24, 596), (22, 120), (23, 107), (21, 56), (20, 50), (19, 31), (18, 16), (17, 9), (16, 15)];

/// Most prefixes of one set.
const LARGEST_SET: u64 = 2_600;

/// The sets of a table, one after the other; no prefix comes twice.
pub(crate) struct Feed {
    state: u64,
    left: usize,
    next_address: u32,
}

/// A set, and the prefixes that have it.
pub(crate) struct Shared {
    /// The next hop is IPv4.
    pub(crate) attributes: Attributes,
    /// In the order of their addresses.
    pub(crate) prefixes: Vec<Nlri<Ipv4Net>>,
}

impl Feed {
    /// A table of `prefixes` prefixes, up to a million. Equal seeds make equal tables.
    pub(crate) fn new(seed: u64, prefixes: usize) -> Feed {
        Feed { state: seed, left: prefixes, next_address: 0x0100_0000 }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random() % limit
    }

    fn prefix(&mut self) -> Nlri<Ipv4Net> {
        let mut rank = self.below(1000);
        let found = LENGTHS.iter().find(|(_, share)| {
            let is_it = rank < *share;
            rank = rank.saturating_sub(*share);
            is_it
        });
        let bits = found.map_or(24, |(bits, _)| *bits);
        let size = 1u32 << (32 - bits);
        let address = self.next_address.next_multiple_of(size);
        assert!(address < 0xdf00_0000, "no more unicast addresses");
        self.next_address = address + size;
        Nlri::new(Ipv4Net::new(Ipv4Addr::from_bits(address), bits).expect("up to 24 bits"))
    }

    /// One in half of the cases, then fewer and fewer of more and more.
    fn set_size(&mut self) -> usize {
        let mut size = 1;
        while size < LARGEST_SET && self.below(100) < if size == 1 { 50 } else { 51 } {
            size *= 2;
        }
        if size == 1 { 1 } else { (size / 2 + 1 + self.below(size)).min(LARGEST_SET) as usize }
    }

    fn attributes(&mut self) -> Attributes {
        // Few neighbors, some hundred large transit ASes, many small ones.
        let mut asns = vec![64_496 + self.below(4) as u32, 3_000 + self.below(300) as u32];
        for _ in 0..self.below(4) {
            asns.push(10_000 + self.below(50_000) as u32);
        }
        let origin = 200_000 + self.below(80_000) as u32;
        let prepended = if self.below(10) == 0 { 1 + self.below(4) } else { 1 };
        asns.extend(std::iter::repeat_n(origin, prepended as usize));
        let aggregated = self.below(8) == 0;
        let router_id = Ipv4Addr::from_bits(0x0a00_0000 + origin);
        Attributes {
            origin: if self.below(10) == 0 { Origin::Incomplete } else { Origin::Igp },
            as_path: AsPath::from_sequence(&asns),
            next_hop: Some(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1 + self.below(4) as u8))),
            med: Some(self.below(20) as u32 * 10),
            local_pref: Some(100 + self.below(3) as u32 * 50),
            atomic_aggregate: aggregated,
            aggregator: aggregated.then_some(Aggregator { asn: origin, router_id }),
            communities: (0..1 + self.below(4))
                .map(|_| Community::new(64_500, self.below(64) as u16))
                .collect(),
            ..Attributes::default()
        }
    }
}

impl Iterator for Feed {
    type Item = Shared;

    fn next(&mut self) -> Option<Shared> {
        let size = self.set_size().min(self.left);
        if size == 0 {
            return None;
        }
        self.left -= size;
        let attributes = self.attributes();
        Some(Shared { attributes, prefixes: (0..size).map(|_| self.prefix()).collect() })
    }
}

impl Shared {
    /// The same prefixes moved into IPv6: a /24 becomes a /48.
    pub(crate) fn prefixes_v6(&self) -> impl Iterator<Item = Nlri<Ipv6Net>> + '_ {
        self.prefixes.iter().map(|nlri| {
            let address = u128::from(nlri.prefix.network().to_bits()) << 72 | 0x20 << 120;
            let address = Ipv6Addr::from_bits(address);
            let prefix = Ipv6Net::new(address, nlri.prefix.prefix_len() + 24);
            Nlri { path_id: nlri.path_id, prefix: prefix.expect("up to 48 bits") }
        })
    }
}
