//! What is translated: a snapshot of ranges of addresses, outside addresses and ports.
//!
//! Each range of addresses has a [`Class`], a set of bits. Ranges are disjoint and sorted, so the
//! class of an address is a binary search over few numbers; for IPv4 a table of all /16 knows most
//! of them at once, and a set of bits, one for each /16, tells packets that are nobody's here.

use crate::flow::{Address, Limits, Timeouts};
use crate::service::Services;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is to translation: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Class(pub u16);

impl Class {
    /// In a pool.
    pub const POOL: Class = Class(1);
    /// In a pool with `natOutgoing`.
    pub const INSIDE: Class = Class(2);
    /// An address of a node of the cluster.
    pub const NODE: Class = Class(4);
    /// One that packets are translated to.
    pub const OUTSIDE: Class = Class(8);
    /// The host's own.
    pub const LOCAL: Class = Class(16);
    /// That of a service.
    pub const FRONTEND: Class = Class(32);
    /// That of a service's endpoint.
    pub const BACKEND: Class = Class(64);
    /// That of a pod of this node.
    pub const HERE: Class = Class(128);

    /// Packets between addresses without any of these are not translated, nor are their answers.
    const ASKED: Class =
        Class(Class::INSIDE.0 | Class::OUTSIDE.0 | Class::FRONTEND.0 | Class::BACKEND.0);

    /// Inside, and not the host's own (as the addresses of its tunnels are).
    #[inline]
    pub fn is_pod(self) -> bool {
        self.has(Class::INSIDE) && !self.has(Class::LOCAL)
    }

    /// True when one of the other's bits is set.
    #[inline]
    pub fn has(self, other: Class) -> bool {
        self.0 & other.0 != 0
    }
}

/// Bits of a class.
const BITS: usize = 16;
/// In [`Ranges::v4_top`]: addresses of the /16 have several classes.
const SEVERAL: Class = Class(1 << (BITS - 1));

/// The class of every address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    v4: Vec<(u32, Class)>,
    v6: Vec<(u128, Class)>,
    /// By the upper half of an IPv4 address; empty without IPv4.
    v4_top: Box<[Class]>,
    /// A bit for each /16 in which an address has one of [`Class::ASKED`]; empty without IPv4.
    v4_asked: Box<[u64]>,
    /// The same for all of IPv6.
    v6_asked: bool,
}

impl Ranges {
    /// From prefixes; where they overlap an address has the bits of all.
    pub fn new(prefixes: &[(IpNet, Class)]) -> Ranges {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, class) in prefixes {
            match prefix {
                IpNet::V4(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    v4.push((u128::from(first), u128::from(last), *class));
                }
                IpNet::V6(net) => {
                    v6.push((net.network().to_bits(), net.broadcast().to_bits(), *class));
                }
            }
        }
        let v4 =
            sweep(&v4).into_iter().filter_map(|(at, class)| Some((at.try_into().ok()?, class)));
        let v4: Vec<(u32, Class)> = v4.collect();
        let v6 = sweep(&v6);
        Ranges {
            v4_top: top(&v4),
            v4_asked: asked(&v4),
            v6_asked: v6.iter().any(|(_, class)| class.has(Class::ASKED)),
            v4,
            v6,
        }
    }

    /// False for most IPv4 packets that are neither translated nor an answer to one that is.
    #[inline]
    pub(crate) fn may_concern_v4(&self, src: u32, dst: u32) -> bool {
        let bit = |address: u32| {
            let word = self.v4_asked.get((address >> 22) as usize);
            word.map_or(0, |word| word >> (address >> 16 & 63) & 1)
        };
        bit(src) | bit(dst) != 0
    }

    /// False when no IPv6 packet is translated.
    #[inline]
    pub(crate) fn may_concern_v6(&self) -> bool {
        self.v6_asked
    }

    /// True when some address has one of these bits.
    pub fn has_any(&self, class: Class) -> bool {
        let v6 = self.v6.iter().map(|(_, of)| of);
        self.v4.iter().map(|(_, of)| of).chain(v6).any(|of| of.has(class))
    }

    /// The class of an address.
    #[inline]
    pub fn class(&self, address: Address) -> Class {
        if !address.is_v4() {
            return at(&self.v6, address.bits());
        }
        let bits = address.v4_bits();
        match self.v4_top.get((bits >> 16) as usize) {
            Some(class) if *class != SEVERAL => *class,
            _ => at(&self.v4, bits),
        }
    }
}

#[inline]
fn at<N: Ord + Copy>(ranges: &[(N, Class)], address: N) -> Class {
    match ranges.partition_point(|(first, _)| *first <= address) {
        0 => Class::default(),
        after => ranges[after - 1].1,
    }
}

fn asked(ranges: &[(u32, Class)]) -> Box<[u64]> {
    if ranges.is_empty() {
        return Box::default();
    }
    let mut bits = vec![0u64; 1 << 10].into_boxed_slice();
    for (at, (first, _)) in ranges.iter().enumerate().filter(|(_, (_, of))| of.has(Class::ASKED)) {
        let last = ranges.get(at + 1).map_or(u32::MAX, |(next, _)| next - 1);
        (first >> 16..=last >> 16).for_each(|top| bits[top as usize / 64] |= 1 << (top % 64));
    }
    bits
}

/// The class of each /16, or [`SEVERAL`].
fn top(ranges: &[(u32, Class)]) -> Box<[Class]> {
    if ranges.is_empty() {
        return Box::default();
    }
    let mut top = vec![Class::default(); 1 << 16].into_boxed_slice();
    for (at, (first, class)) in ranges.iter().enumerate() {
        let last = ranges.get(at + 1).map_or(u32::MAX, |(next, _)| next - 1);
        let (begin, end) = ((first >> 16) as usize, (last >> 16) as usize);
        top[begin..=end].fill(*class);
        // Those at both ends may be shared; a range that begins there says so, too.
        for (edge, is_whole) in [(begin, first & 0xffff == 0), (end, last & 0xffff == 0xffff)] {
            if !is_whole {
                top[edge] = SEVERAL;
            }
        }
    }
    top
}

/// Where the class changes, and to what: a sweep over the ends of all ranges, counting each bit.
fn sweep(ranges: &[(u128, u128, Class)]) -> Vec<(u128, Class)> {
    let mut changes: BTreeMap<u128, [i32; BITS]> = BTreeMap::new();
    for (first, last, class) in ranges {
        for bit in (0..BITS).filter(|bit| class.0 >> bit & 1 == 1) {
            changes.entry(*first).or_default()[bit] += 1;
            if let Some(after) = last.checked_add(1) {
                changes.entry(after).or_default()[bit] -= 1;
            }
        }
    }
    let mut counts = [0; BITS];
    let mut swept: Vec<(u128, Class)> = Vec::new();
    for (at, change) in changes {
        counts.iter_mut().zip(change).for_each(|(count, by)| *count += by);
        let bits = (0..BITS).filter(|bit| counts[*bit] > 0).fold(0, |bits, bit| bits | 1 << bit);
        if swept.last().map(|(_, class)| *class) != Some(Class(bits)) {
            swept.push((at, Class(bits)));
        }
    }
    swept
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// True when `port` is in the range.
    #[inline]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Which packets from outside a mapping lets in (RFC 4787 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filtering {
    /// Those of anybody.
    EndpointIndependent,
    /// Those of addresses that the inside has sent to.
    AddressDependent,
    /// Answers only, as Linux has it.
    #[default]
    AddressAndPortDependent,
}

/// The snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Grows with every change.
    pub generation: u64,
    /// What addresses are.
    pub ranges: Ranges,
    /// IPv4 addresses that the inside looks like; without one IPv4 is not translated.
    pub outside_v4: Vec<Ipv4Addr>,
    /// The same for IPv6.
    pub outside_v6: Vec<Ipv6Addr>,
    /// Ports and ICMP identifiers of outside addresses that are the host's own too. The host
    /// itself must not use them.
    pub ports: PortRange,
    /// Ports of that range that the host uses all the same.
    pub taken: Vec<u16>,
    /// Traffic to nodes of the cluster is not translated.
    pub exclude_nodes: bool,
    /// What is let in.
    pub filtering: Filtering,
    /// Size of each worker's table.
    pub limits: Limits,
    /// Idle times.
    pub timeouts: Timeouts,
    /// Workers that share the work.
    pub workers: u16,
    /// Services; `None` where they are left to others.
    pub services: Option<Services>,
}

/// Ports of outside addresses that nobody else uses (RFC 4787 REQ-3: well-known ones stay apart).
pub const OWN_RANGE: PortRange = PortRange { first: 1024, last: u16::MAX };

impl Rules {
    /// Flows with policy are tracked by these, and nothing is translated.
    pub fn tracking(limits: Limits, timeouts: Timeouts, workers: u16) -> Rules {
        Rules {
            generation: 0,
            ranges: Ranges::default(),
            outside_v4: Vec::new(),
            outside_v6: Vec::new(),
            ports: OWN_RANGE,
            taken: Vec::new(),
            exclude_nodes: false,
            filtering: Filtering::default(),
            limits,
            timeouts,
            workers,
            services: None,
        }
    }

    /// True when nothing is translated.
    #[inline]
    pub fn only_tracks(&self) -> bool {
        self.outside_v4.is_empty() && self.outside_v6.is_empty() && self.services.is_none()
    }

    /// The outside address of an inside one: always the same, so that all its sessions are paired
    /// (RFC 4787 REQ-2).
    pub fn outside_of(&self, inside: Address) -> Option<Address> {
        let bits = inside.bits();
        let spread = (bits as u64 ^ (bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let pick = |count: usize| (count > 0).then(|| spread as usize % count);
        if inside.is_v4() {
            return pick(self.outside_v4.len()).map(|at| self.outside_v4[at].into());
        }
        pick(self.outside_v6.len()).map(|at| self.outside_v6[at].into())
    }

    /// True while packets may be translated to this address.
    pub fn is_outside(&self, address: Address) -> bool {
        match IpAddr::from(address) {
            IpAddr::V4(address) => self.outside_v4.contains(&address),
            IpAddr::V6(address) => self.outside_v6.contains(&address),
        }
    }

    /// Ports that an outside address has for translation.
    pub fn ports_of(&self, outside: Address) -> PortRange {
        if self.ranges.class(outside).has(Class::LOCAL) { self.ports } else { OWN_RANGE }
    }

    /// Whether a port of an address of class [`Class::OUTSIDE`] is for translation.
    #[inline]
    pub fn is_for_nat(&self, class: Class, port: u16) -> bool {
        !class.has(Class::LOCAL) || self.ports.contains(port) && !self.taken.contains(&port)
    }

    /// Whether a packet from `src` to `dst` looks like an outside address when it leaves: Calico's
    /// rule. What the host itself receives is not translated.
    #[inline]
    pub fn is_translated(&self, src: Class, dst: Class) -> bool {
        const NEVER: Class = Class(Class::POOL.0 | Class::LOCAL.0);
        let is_excluded = dst.has(NEVER) || self.exclude_nodes && dst.has(Class::NODE);
        src.is_pod() && !is_excluded
    }

    /// The worker that an inside or outside port belongs to; without ports it is 0. Ports go in
    /// pairs, so that the parity can be kept (RFC 4787 REQ-4).
    #[inline]
    pub fn owner(&self, port: u16) -> u16 {
        (port >> 1) % self.workers.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_class_is_that_of_all_prefixes_around_an_address(
            prefixes in proptest::collection::vec((any::<u8>(), 24u8..=32, 0u16..256), 0..12),
            wide in any::<bool>(),
        ) {
            let net = |at: u8, length: u8| match wide {
                true => IpNet::new(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, at.into()]),
                    length + 96),
                false => IpNet::new(IpAddr::from([255, 255, 255, at]), length),
            };
            let prefixes: Vec<(IpNet, Class)> = prefixes.iter()
                .map(|(at, length, bits)| (net(*at, *length).unwrap().trunc(), Class(*bits)))
                .collect();
            let ranges = Ranges::new(&prefixes);
            for at in 0..=255 {
                let address = net(at, 32).unwrap().addr();
                let around = prefixes.iter().filter(|(prefix, _)| prefix.contains(&address));
                let expected = around.fold(0, |bits, (_, class)| bits | class.0);
                prop_assert_eq!(ranges.class(address.into()), Class(expected));
            }
        }
    }

    proptest! {
        /// The table of /16 says the same as the search.
        #[test]
        fn prefixes_around_the_steps_of_the_table_have_their_class(
            prefixes in proptest::collection::vec((0u32..8, 12u8..=20, 0u16..256), 0..8),
        ) {
            let base = |at: u32| Ipv4Addr::from_bits(0x0a00_0000 + at * 0x8000);
            let prefixes: Vec<(IpNet, Class)> = prefixes.iter()
                .map(|(at, length, bits)| {
                    let net = IpNet::new(base(*at).into(), *length).unwrap().trunc();
                    (net, Class(*bits))
                })
                .collect();
            let ranges = Ranges::new(&prefixes);
            for step in 0..40u32 {
                for address in [0x09ff_c000 + step * 0x2000, 0x09ff_c000 + step * 0x2000 - 1] {
                    let address = IpAddr::from(Ipv4Addr::from_bits(address));
                    let around = prefixes.iter().filter(|(net, _)| net.contains(&address));
                    let expected = around.fold(0, |bits, (_, class)| bits | class.0);
                    prop_assert_eq!(ranges.class(address.into()), Class(expected), "{}", address);
                    let IpAddr::V4(own) = address else { unreachable!() };
                    let asks = ranges.may_concern_v4(own.to_bits(), 0x0101_0101);
                    prop_assert_eq!(asks, ranges.may_concern_v4(0x0101_0101, own.to_bits()));
                    prop_assert!(asks || !Class(expected).has(Class::ASKED), "{}", address);
                }
            }
        }
    }

    #[test]
    fn both_ends_of_the_address_space_have_a_class() {
        let all = |text: &str| (text.parse::<IpNet>().unwrap(), Class::POOL);
        let ranges = Ranges::new(&[all("0.0.0.0/0"), all("::/0")]);
        for text in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ranges.class(address.into()), Class::POOL, "{text}");
        }
        assert_eq!(Ranges::default().class(Ipv4Addr::LOCALHOST.into()), Class::default());
    }
}
