//! The common case of forwarding, done to a whole burst without moving a packet.

use super::burst::{Burst, NOWHERE};
use super::{Pipeline, View};
use crate::counters::Stage;
use crate::forward::{self, Step};
use crate::packet::Packet;
use crate::port::PortId;
use crate::segment;
use crate::tables::Hop;

/// Where the packets of a burst go that need nothing but a rewrite.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// All by one port.
    One(PortId),
    /// All of them are such.
    All,
    /// Some are.
    Some,
}

impl Pipeline {
    /// Looks destinations up. Packets that need nothing but a rewrite get it where they are, and
    /// their port is noted in `found.egress`.
    pub(super) fn forward_in_place(
        &mut self,
        view: View<'_>,
        found: &mut Burst,
        burst: &mut [Packet],
    ) -> Way {
        let is_v4 = found.is_v4(burst.len());
        let mut later = 0;
        if is_v4 {
            later = found.look_up_v4(view.fib);
        } else {
            found.look_up(view.fib, burst.len());
        }
        self.end_lap(Stage::Lookup, burst.len());
        let mut seen = forward_all(view, found, burst, later);
        while later != 0 {
            let at = later.trailing_zeros() as usize;
            let target = found.look_deeper(view.fib, at);
            found.egress[at] = forward_one(&view.tables.hop(target), &mut burst[at]);
            seen.note(found.egress[at]);
            later &= later - 1;
        }
        seen.way()
    }
}

/// The ports of packets so far: the bits that some have, those that all have, and whether one has
/// none.
#[derive(Debug)]
struct Seen {
    some: u16,
    all: u16,
    others: bool,
}

impl Seen {
    #[inline(always)]
    fn note(&mut self, port: PortId) {
        self.others |= port == PortId::NONE;
        self.some |= port.0;
        self.all &= port.0;
    }

    fn way(&self) -> Way {
        match self.some == self.all {
            _ if self.others => Way::Some,
            true => Way::One(PortId(self.all)),
            false => Way::All,
        }
    }
}

/// The port of a packet that has got its rewrite; none, and nothing changed, if it needs more.
#[inline(always)]
fn forward_one(hop: &Hop, packet: &mut Packet) -> PortId {
    let goes = hop.egress != PortId::NONE
        && segment::largest_ip_len(packet) <= usize::from(hop.mtu)
        && forward::rewrite(packet, &hop.addresses, Step::Forward);
    if goes { hop.egress } else { PortId::NONE }
}

/// All packets but those that are to go `later`. Packets behind each other mostly share a next hop,
/// so the last one is kept.
fn forward_all(view: View<'_>, found: &mut Burst, burst: &mut [Packet], later: u64) -> Seen {
    let (mut known, mut hop) = (NOWHERE, Hop::NONE);
    let (targets, egress) = found.targets_and_egress();
    let mut seen = Seen { some: 0, all: u16::MAX, others: false };
    let all = burst.iter_mut().zip(targets).zip(egress).enumerate();
    for (at, ((packet, target), noted)) in all {
        if later >> at & 1 == 1 {
            continue;
        }
        if *target != known {
            known = *target;
            hop = view.tables.hop(known);
        }
        *noted = forward_one(&hop, packet);
        seen.note(*noted);
    }
    seen
}
