//! What the parse stage found in a burst, laid out for a batch lookup of each family.

use crate::drop_reason::DropReason;
use crate::fib::Fib;
use crate::nat::Ranges;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::port::{BURST, PortId};
use crate::tables::TargetId;
use margay_tunnels::wire::ethernet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// No target: for packets that are not routed.
pub(super) const NOWHERE: TargetId = TargetId(u32::MAX);

/// What one packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// IPv4, to be routed.
    V4,
    /// IPv6, to be routed.
    V6,
    /// ARP or neighbour discovery.
    Neighbor,
    /// An ICMP error about a tunnel's outer packet.
    TunnelError,
    /// A fragment of what may be a tunnel's outer packet.
    OuterFragment,
    /// To be dropped.
    Bad(DropReason),
    /// Another worker has its flow.
    HandOver(u16),
    /// It waits for its first fragment.
    Waits,
    /// It waits for its time.
    Delayed,
    /// A super-packet that may not pass whole.
    Cut,
}

/// One burst. Kept between bursts, so that it is not cleared each time: only the entries up to the
/// counts are of this burst.
#[derive(Debug)]
pub(super) struct Burst {
    pub(super) kinds: [Kind; BURST],
    dst_v4: [Ipv4Addr; BURST],
    dst_v6: [Ipv6Addr; BURST],
    count_v4: usize,
    count_v6: usize,
    targets_v4: [TargetId; BURST],
    targets_v6: [TargetId; BURST],
    /// Where each packet goes that needs nothing but a rewrite; [`PortId::NONE`] for the others.
    pub(super) egress: [PortId; BURST],
}

impl Default for Burst {
    fn default() -> Burst {
        Burst {
            kinds: [Kind::Neighbor; BURST],
            dst_v4: [Ipv4Addr::UNSPECIFIED; BURST],
            dst_v6: [Ipv6Addr::UNSPECIFIED; BURST],
            count_v4: 0,
            count_v6: 0,
            targets_v4: [TargetId(0); BURST],
            targets_v6: [TargetId(0); BURST],
            egress: [PortId::NONE; BURST],
        }
    }
}

impl Burst {
    /// Begins a new burst.
    #[inline]
    pub(super) fn clear(&mut self) {
        (self.count_v4, self.count_v6) = (0, 0);
    }

    /// Notes that packet number `at` of the burst is IPv4 to `dst`; to be called in their order.
    #[inline]
    pub(super) fn note_v4(&mut self, at: usize, dst: Ipv4Addr) {
        self.kinds[at] = Kind::V4;
        self.dst_v4[self.count_v4] = dst;
        self.count_v4 += 1;
    }

    /// Notes what packet number `at` of the burst is; to be called in their order.
    pub(super) fn note(&mut self, at: usize, outcome: Result<Parsed, DropReason>) {
        self.kinds[at] = match outcome {
            Ok(Parsed::V4(dst)) => return self.note_v4(at, dst),
            Ok(Parsed::V6(dst)) => {
                self.dst_v6[self.count_v6] = dst;
                self.count_v6 += 1;
                Kind::V6
            }
            Ok(Parsed::Neighbor) => Kind::Neighbor,
            Err(reason) => Kind::Bad(reason),
        };
    }

    /// True when the packet is to be routed.
    #[inline]
    pub(super) fn is_routed(&self, at: usize) -> bool {
        matches!(self.kinds[at], Kind::V4 | Kind::V6)
    }

    /// False when surely no packet of the burst has to do with translation: most bursts are done
    /// with it here.
    #[inline]
    pub(super) fn may_concern(&self, ranges: &Ranges, burst: &[Packet]) -> bool {
        const ADDRESSES: usize = ethernet::HEADER_LEN + 12;
        let of_v4 = |packet: &Packet| {
            let bytes = packet.head().get(ADDRESSES..).and_then(|rest| rest.first_chunk::<8>());
            let both = bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes));
            ranges.may_concern_v4((both >> 32) as u32, both as u32)
        };
        burst.iter().zip(&self.kinds).any(|(packet, kind)| match kind {
            Kind::V4 => of_v4(packet),
            Kind::V6 => ranges.may_concern_v6(),
            _ => false,
        })
    }

    /// Looks all destinations up, each family as one batch, and puts the targets in the order of
    /// the packets. Those that are not to be routed get [`NOWHERE`].
    #[inline]
    pub(super) fn look_up(&mut self, fib: &Fib, count: usize) {
        let (v4, v6) = (self.count_v4, self.count_v6);
        fib.lookup_v4_batch(&self.dst_v4[..v4], &mut self.targets_v4[..v4]);
        if v4 == count {
            return;
        }
        fib.lookup_v6_batch(&self.dst_v6[..v6], &mut self.targets_v6[..v6]);
        let (mut next_v4, mut next_v6) = (v4, v6);
        // From the end: the IPv4 targets move up into their places, never onto one still needed.
        for at in (0..count).rev() {
            self.targets_v4[at] = match self.kinds[at] {
                Kind::V4 => {
                    next_v4 -= 1;
                    self.targets_v4[next_v4]
                }
                Kind::V6 => {
                    next_v6 -= 1;
                    self.targets_v6[next_v6]
                }
                _ => NOWHERE,
            };
        }
    }

    /// True when all packets are IPv4, to be routed.
    #[inline]
    pub(super) fn is_v4(&self, count: usize) -> bool {
        self.count_v4 == count
    }

    /// As [`Burst::look_up`] where [`Burst::is_v4`], without packets whose targets take a second
    /// look: a bit for each, for [`Burst::look_deeper`].
    #[inline]
    pub(super) fn look_up_v4(&mut self, fib: &Fib) -> u64 {
        let count = self.count_v4;
        fib.begin_v4_batch(&self.dst_v4[..count], &mut self.targets_v4[..count])
    }

    /// The target of a packet that took a second look.
    #[inline]
    pub(super) fn look_deeper(&mut self, fib: &Fib, at: usize) -> TargetId {
        self.targets_v4[at] = fib.lookup_v4(self.dst_v4[at]);
        self.targets_v4[at]
    }

    /// The target of each packet, after [`Burst::look_up`], and the places for its port.
    #[inline]
    pub(super) fn targets_and_egress(&mut self) -> (&[TargetId; BURST], &mut [PortId; BURST]) {
        (&self.targets_v4, &mut self.egress)
    }

    /// The target of each packet, after [`Burst::look_up`].
    #[inline]
    pub(super) fn targets(&self) -> &[TargetId; BURST] {
        &self.targets_v4
    }
}
