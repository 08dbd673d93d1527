//! Fragments of tunnels' outer packets, put together (RFC 791 3.2, RFC 8200 4.5).
//!
//! Senders of tunnels should avoid them and margay does, but Linux's own devices cut what is too
//! large for the path. The frames of the fragments become one chain, so nothing is copied.
//! Fragments that overlap end their packet (RFC 5722); one that comes twice does not count. All is
//! bounded: packets, fragments and bytes that wait, and for how long.

use crate::packet::Packet;
use ahash::AHashMap;
use margay_tunnels::wire::{ethernet, ipv4, ipv6};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Packets that are put together at once.
pub(crate) const MAX_PACKETS: usize = 256;
/// Fragments of one packet: 64 kB in pieces of 1,400 bytes, and some.
pub(crate) const MAX_FRAGMENTS: usize = 60;
/// Fragments that wait in all.
pub(crate) const MAX_WAITING: usize = 1024;
/// How long a packet is waited for, in nanoseconds: Linux's `ipfrag_time`.
pub(crate) const TIME_NS: u64 = 30_000_000_000;

const LINK: usize = ethernet::HEADER_LEN;
const IPV6_FRAGMENT_LEN: usize = 8;
/// Longest IP packet, in bytes.
const MAX_LEN: usize = 65_535;

/// All fragments of a packet have this in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: Key,
    /// In bytes, from the end of the IP header.
    begin: usize,
    end: usize,
    /// It is not the last one.
    more: bool,
    /// Where its payload begins in the packet.
    payload: usize,
}

impl Place {
    /// `None` when it is no fragment that can be put together.
    fn of(packet: &Packet) -> Option<Place> {
        let ip = packet.head().get(LINK..)?;
        let (key, word, payload) = match ip.first()? >> 4 {
            4 => {
                let view = ipv4::View::new(ip)?;
                let (src, dst) = (view.src().into(), view.dst().into());
                let key = Key { src, dst, protocol: view.protocol(), id: view.id().into() };
                let more = view.flags_fragment() & ipv4::MORE_FRAGMENTS != 0;
                (key, (view.fragment_offset(), more), view.header_len())
            }
            _ => {
                let view = ipv6::View::new(ip)?;
                // Other headers before it are not what tunnels send.
                let header = view.extensions().next().filter(|it| it.offset == ipv6::HEADER_LEN)?;
                let word = header.fragment?;
                let id = ip.get(header.offset + 4..)?.first_chunk::<4>()?;
                let (src, dst) = (view.src().into(), view.dst().into());
                let key = Key { src, dst, protocol: header.next, id: u32::from_be_bytes(*id) };
                let offset = usize::from(word & 0xfff8);
                (key, (offset, word & 1 != 0), ipv6::HEADER_LEN + IPV6_FRAGMENT_LEN)
            }
        };
        let (begin, more) = word;
        let end = begin + packet.len().checked_sub(LINK + payload)?;
        let is_good = end > begin && end + payload <= MAX_LEN && (!more || end % 8 == 0);
        is_good.then_some(Place { key, begin, end, more, payload: LINK + payload })
    }
}

#[derive(Debug)]
struct Part {
    begin: usize,
    end: usize,
    payload: usize,
    packet: Packet,
}

#[derive(Debug, Default)]
struct Entry {
    parts: Vec<Part>,
    /// Bytes of the whole, once the last fragment has come.
    total: Option<usize>,
    have: usize,
}

/// What becomes of a fragment.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// It waits for others.
    Waits,
    /// The whole packet, without a sign of having been cut; to be parsed again.
    Whole(Packet),
    /// It is of no use, or there is no room.
    Refused(Packet),
}

/// The packets of one worker that are put together.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    entries: AHashMap<Key, Entry>,
    order: VecDeque<(u64, Key)>,
    waiting: usize,
    /// Fragments whose packet has ended without being whole: to be dropped.
    pub(crate) expired: Vec<Packet>,
}

impl Reassembly {
    /// Fragments that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a fragment in.
    pub(crate) fn gather(&mut self, packet: Packet, now_ns: u64) -> Gathered {
        let Some(place) = Place::of(&packet) else { return Gathered::Refused(packet) };
        let is_known = self.entries.contains_key(&place.key);
        if self.waiting >= MAX_WAITING || packet.is_large() || packet.segment_count() > 1 {
            return Gathered::Refused(packet);
        }
        if !is_known {
            self.make_room();
            self.order.push_back((now_ns + TIME_NS, place.key));
        }
        let entry = self.entries.entry(place.key).or_default();
        if entry.parts.iter().any(|part| (part.begin, part.end) == (place.begin, place.end)) {
            return Gathered::Refused(packet);
        }
        if entry.is_contradicted(&place) {
            self.forget(&place.key);
            return Gathered::Refused(packet);
        }
        let Place { key, begin, end, more, payload } = place;
        entry.total = if more { entry.total } else { Some(end) };
        entry.have += end - begin;
        entry.parts.push(Part { begin, end, payload, packet });
        self.waiting += 1;
        if entry.total != Some(entry.have) {
            return Gathered::Waits;
        }
        let Some(entry) = self.entries.remove(&key) else { return Gathered::Waits };
        self.waiting -= entry.parts.len();
        entry.whole().map_or(Gathered::Waits, Gathered::Whole)
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.waiting -= entry.parts.len();
        self.expired.extend(entry.parts.into_iter().map(|part| part.packet));
    }

    fn make_room(&mut self) {
        // Packets that are whole have left their place in the order.
        if self.order.len() >= 2 * MAX_PACKETS {
            self.order.retain(|(_, key)| self.entries.contains_key(key));
        }
        while self.entries.len() >= MAX_PACKETS
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.forget(&oldest);
        }
    }

    /// Gives up packets whose time is over, into [`Reassembly::expired`].
    pub(crate) fn expire(&mut self, now_ns: u64) {
        while let Some((end_ns, key)) = self.order.front().copied()
            && end_ns <= now_ns
        {
            self.order.pop_front();
            self.forget(&key);
        }
    }
}

impl Entry {
    /// It overlaps another one, goes beyond the end, or there are too many.
    fn is_contradicted(&self, place: &Place) -> bool {
        let overlaps = |part: &Part| place.begin < part.end && part.begin < place.end;
        let last = self.parts.iter().map(|part| part.end).max().unwrap_or(0);
        let beyond = self.total.is_some_and(|total| place.end > total || !place.more);
        self.parts.len() >= MAX_FRAGMENTS
            || self.parts.iter().any(overlaps)
            || beyond
            || !place.more && place.end < last
    }

    /// All fragments in one chain; the first one's headers say that there is nothing more.
    fn whole(mut self) -> Option<Packet> {
        self.parts.sort_unstable_by_key(|part| part.begin);
        let mut parts = self.parts.into_iter();
        let first = parts.next()?;
        let mut whole = first.packet;
        parts.for_each(|part| whole.absorb(part.packet, part.payload));
        let total = (whole.len() - LINK) as u16;
        let head = whole.head_mut();
        if head[LINK] >> 4 == 4 {
            ipv4::set_fragment(&mut head[LINK..], total, 0, 0);
            return Some(whole);
        }
        // The fragment header goes: what is before it moves up.
        let next = head[LINK + ipv6::HEADER_LEN];
        head.copy_within(..LINK + ipv6::HEADER_LEN, IPV6_FRAGMENT_LEN);
        let ip = LINK + IPV6_FRAGMENT_LEN;
        let payload = total - (ipv6::HEADER_LEN + IPV6_FRAGMENT_LEN) as u16;
        head[ip + 4..ip + 6].copy_from_slice(&payload.to_be_bytes());
        head[ip + 6] = next;
        let _ = whole.pull_front(IPV6_FRAGMENT_LEN);
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortId;
    use crate::sys::memory::{Arena, FramePool, HEADROOM};
    use proptest::prelude::*;

    fn fragment(pool: &mut FramePool, id: u16, (begin, end, more): (usize, usize, bool)) -> Packet {
        let mut bytes = vec![0; LINK + 20];
        bytes[LINK] = 0x45;
        bytes[LINK + 9] = 17;
        bytes.extend((begin..end).map(|at| at as u8));
        let word = (begin / 8) as u16 | if more { ipv4::MORE_FRAGMENTS } else { 0 };
        ipv4::set_fragment(&mut bytes[LINK..], (20 + end - begin) as u16, id, word);
        let mut frame = pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(&bytes);
        Packet::new(frame, HEADROOM, bytes.len(), PortId(0))
    }

    fn end(pool: &mut FramePool, gathered: Gathered) -> Option<Vec<u8>> {
        match gathered {
            Gathered::Waits => None,
            Gathered::Refused(packet) => {
                packet.free(pool);
                None
            }
            Gathered::Whole(packet) => {
                let bytes = packet.segments().flatten().copied().collect();
                packet.free(pool);
                Some(bytes)
            }
        }
    }

    fn clear(reassembly: &mut Reassembly, pool: &mut FramePool) -> usize {
        reassembly.expire(u64::MAX);
        let expired = std::mem::take(&mut reassembly.expired);
        let count = expired.len();
        expired.into_iter().for_each(|packet| packet.free(pool));
        assert_eq!((reassembly.waiting, reassembly.entries.len()), (0, 0));
        count
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_and_some_twice_become_the_packet(
            cuts in proptest::collection::btree_set(1usize..100, 0..12),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let mut pool = FramePool::new(Arena::new(512, 0).unwrap());
            let mut reassembly = Reassembly::default();
            let edges: Vec<usize> =
                [0].into_iter().chain(cuts.iter().map(|at| at * 8)).chain([803]).collect();
            let mut left: Vec<(usize, usize, bool)> =
                edges.windows(2).map(|pair| (pair[0], pair[1], pair[1] != 803)).collect();
            let mut sent = Vec::new();
            let mut whole = None;
            for index in order.iter().cycle() {
                if left.is_empty() {
                    break;
                }
                if sent.len() % 3 == 2 {
                    let again = fragment(&mut pool, 7, *index.get(&sent));
                    let gathered = reassembly.gather(again, 0);
                    prop_assert!(end(&mut pool, gathered).is_none());
                }
                let piece = left.remove(index.index(left.len()));
                sent.push(piece);
                let gathered = reassembly.gather(fragment(&mut pool, 7, piece), 0);
                whole = end(&mut pool, gathered);
                prop_assert_eq!(whole.is_some(), left.is_empty());
            }
            let whole = whole.unwrap();
            let view = ipv4::View::new(&whole[LINK..]).unwrap();
            prop_assert!(!view.is_fragment() && view.checksum_ok() && view.total_len() == 823);
            prop_assert!(whole[LINK + 20..].iter().enumerate().all(|(at, byte)| *byte == at as u8));
            prop_assert_eq!(clear(&mut reassembly, &mut pool), 0);
        }
    }

    #[test]
    fn rfc_5722_fragments_that_overlap_end_their_packet() {
        let mut pool = FramePool::new(Arena::new(64, 0).unwrap());
        for (first, second) in [
            ((0, 16, true), (8, 24, true)),
            ((8, 24, true), (0, 16, false)),
            ((8, 16, false), (16, 24, true)),
            ((8, 16, false), (8, 24, false)),
        ] {
            let mut reassembly = Reassembly::default();
            for piece in [first, second] {
                let gathered = reassembly.gather(fragment(&mut pool, 1, piece), 0);
                assert!(end(&mut pool, gathered).is_none());
            }
            assert!(reassembly.entries.is_empty(), "{first:?} {second:?}");
            assert_eq!(clear(&mut reassembly, &mut pool), 1);
        }
    }

    #[test]
    fn a_flood_of_fragments_is_bounded_in_number_and_time() {
        let mut pool = FramePool::new(Arena::new(4096, 0).unwrap());
        let mut reassembly = Reassembly::default();
        for id in 0..3000u16 {
            let piece = (usize::from(id % 100) * 8, usize::from(id % 100) * 8 + 8, true);
            let gathered = reassembly.gather(fragment(&mut pool, id / 100, piece), 0);
            end(&mut pool, gathered);
            assert!(reassembly.waiting <= MAX_WAITING);
            assert!(reassembly.entries.values().all(|entry| entry.parts.len() <= MAX_FRAGMENTS));
        }
        clear(&mut reassembly, &mut pool);
        for id in 0..2 * MAX_PACKETS as u16 {
            let gathered = reassembly.gather(fragment(&mut pool, id, (0, 8, true)), 5);
            end(&mut pool, gathered);
        }
        assert_eq!((reassembly.entries.len(), reassembly.waiting), (MAX_PACKETS, MAX_PACKETS));
        reassembly.expire(4 + TIME_NS);
        assert_eq!(reassembly.entries.len(), MAX_PACKETS);
        reassembly.expire(5 + TIME_NS);
        assert_eq!(clear(&mut reassembly, &mut pool), 2 * MAX_PACKETS);
    }
}
