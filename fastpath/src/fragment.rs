//! IPv4 fragmentation (RFC 791 3.2, RFC 1812 5.2.6).
//!
//! Fragments are new packets: payload is copied, so that one frame never has two owners. The first
//! fragment keeps all options, later ones only those whose "copied" flag is set.

use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::sys::memory::{FramePool, HEADROOM, SMALL_CHUNK};
use margay_tunnels::wire::ipv4;

const COPIED_FLAG: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;

/// Cuts a parsed IPv4 packet without DF, all of whose checksums are complete, into fragments of at
/// most `mtu` bytes, appended to `out`. An error, with nothing appended, when no frame is free, the
/// MTU leaves no room for payload, or the packet is itself a fragment that ends behind the last
/// byte of any datagram; the packet is not consumed.
pub fn fragment(
    packet: &Packet,
    mtu: usize,
    pool: &mut FramePool,
    out: &mut Vec<Packet>,
) -> Result<(), DropReason> {
    let before = out.len();
    let done = append_fragments(packet, mtu, pool, out);
    if done.is_err() {
        out.drain(before..).for_each(|piece| piece.free(pool));
    }
    done
}

fn append_fragments(
    packet: &Packet,
    mtu: usize,
    pool: &mut FramePool,
    out: &mut Vec<Packet>,
) -> Result<(), DropReason> {
    let l3 = usize::from(packet.l3);
    let view = ipv4::View::new(&packet.head()[l3..]).ok_or(DropReason::BadHeader)?;
    let header_len = view.header_len();
    let first_header = packet.head()[l3..l3 + header_len].to_vec();
    let later_header = header_of_later_fragments(&first_header);
    let (id, word) = (view.id(), view.flags_fragment());
    let more_after = word & ipv4::MORE_FRAGMENTS != 0;
    let base = word & ipv4::OFFSET_MASK;
    let payload = packet.len() - l3 - header_len;
    // The offsets of its parts would not fit into their field.
    if usize::from(base) + payload / 8 > usize::from(ipv4::OFFSET_MASK) {
        return Err(DropReason::BadHeader);
    }
    let mut done = 0;
    while done < payload {
        let header = if done == 0 { &first_header } else { &later_header };
        let room = mtu.saturating_sub(header.len()) & !7;
        if room == 0 {
            return Err(DropReason::TooBig);
        }
        let length = (payload - done).min(room);
        let last = done + length == payload && !more_after;
        let flags = if last { 0 } else { ipv4::MORE_FRAGMENTS };
        let mut piece = with_header(packet, header, pool).ok_or(DropReason::NoFrame)?;
        let at = base + (done / 8) as u16;
        let total = (header.len() + length) as u16;
        ipv4::set_fragment(&mut piece.head_mut()[l3..], total, id, at | flags);
        if !piece.copy_in(packet, l3 + header_len + done, length, pool) {
            piece.free(pool);
            return Err(DropReason::NoFrame);
        }
        out.push(piece);
        done += length;
    }
    Ok(())
}

/// A packet of link header and IP header, nothing behind it.
fn with_header(packet: &Packet, header: &[u8], pool: &mut FramePool) -> Option<Packet> {
    let l3 = usize::from(packet.l3);
    let frame = pool.alloc()?;
    let mut piece = Packet::new(frame, HEADROOM, l3 + header.len(), packet.in_port);
    let bytes = piece.head_mut();
    bytes[..l3].copy_from_slice(&packet.head()[..l3]);
    bytes[l3..].copy_from_slice(header);
    piece.l3 = packet.l3;
    piece.l4 = (l3 + header.len()) as u16;
    piece.set_from_tap(packet.is_from_tap());
    Some(piece)
}

/// RFC 791 3.1: options are copied on fragmentation when their first bit is set.
fn header_of_later_fragments(first: &[u8]) -> Vec<u8> {
    let mut header = first[..ipv4::MIN_HEADER_LEN].to_vec();
    let mut options = &first[ipv4::MIN_HEADER_LEN..];
    while let Some(&kind) = options.first() {
        let length = match kind {
            OPTION_END => break,
            OPTION_NOP => 1,
            _ => usize::from(*options.get(1).unwrap_or(&0)),
        };
        if length == 0 || length > options.len() {
            break;
        }
        if kind & COPIED_FLAG != 0 {
            header.extend_from_slice(&options[..length]);
        }
        options = &options[length..];
    }
    header.resize(header.len().next_multiple_of(4), OPTION_END);
    header[0] = 0x40 | (header.len() / 4) as u8;
    header
}

impl Packet {
    /// Appends a copy of `length` bytes of `from`, beginning at `at`, in the room behind the last
    /// byte and in new frames. False when frames run out: free the packet then.
    pub fn copy_in(
        &mut self,
        from: &Packet,
        at: usize,
        length: usize,
        pool: &mut FramePool,
    ) -> bool {
        let mut done = self.fill_tail(from, at, length);
        while done < length {
            let Some(mut frame) = pool.alloc() else { return false };
            let part = (length - done).min(SMALL_CHUNK - HEADROOM);
            from.copy_out(at + done, frame.bytes_mut(HEADROOM, part));
            if let Err(frame) = self.append(frame, HEADROOM, part) {
                pool.free(frame);
                return false;
            }
            done += part;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortId;
    use crate::sys::memory::Arena;
    use proptest::prelude::*;

    const FRAMES: usize = 256;

    fn packet(options: &[u8], payload: &[u8], word: u16, pool: &mut FramePool) -> Packet {
        let header_len = ipv4::MIN_HEADER_LEN + options.len();
        let mut bytes = vec![0; 14];
        bytes.extend(ipv4::header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 64, 0));
        bytes.extend(options);
        bytes.extend(payload);
        bytes[14] = 0x40 | (header_len / 4) as u8;
        ipv4::set_fragment(&mut bytes[14..], (header_len + payload.len()) as u16, 77, word);
        let split = bytes.len().min(SMALL_CHUNK - HEADROOM);
        let mut frame = pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, split).copy_from_slice(&bytes[..split]);
        let mut packet = Packet::new(frame, HEADROOM, split, PortId(0));
        for part in bytes[split..].chunks(SMALL_CHUNK - HEADROOM) {
            let mut frame = pool.alloc().unwrap();
            frame.bytes_mut(HEADROOM, part.len()).copy_from_slice(part);
            packet.append(frame, HEADROOM, part.len()).unwrap();
        }
        (packet.l3, packet.l4) = (14, (14 + header_len) as u16);
        packet
    }

    fn ip_bytes(packet: &Packet) -> Vec<u8> {
        packet.segments().flatten().copied().skip(14).collect()
    }

    proptest! {
        #[test]
        fn fragments_are_valid_and_join_to_the_whole(
            payload in proptest::collection::vec(any::<u8>(), 0..20_000), mtu in 68usize..9000,
            offset in 0u16..1000, more in any::<bool>(),
        ) {
            let pool = &mut FramePool::new(Arena::new(FRAMES * 3, 0).unwrap());
            let flags = if more { ipv4::MORE_FRAGMENTS } else { 0 };
            let whole = packet(&[], &payload, offset | flags, pool);
            let mut out = Vec::new();
            prop_assume!(payload.len() / ((mtu - 20) & !7) < FRAMES);
            prop_assert_eq!(fragment(&whole, mtu, pool, &mut out), Ok(()));
            let mut joined = Vec::new();
            for (at, piece) in out.iter().enumerate() {
                let bytes = ip_bytes(piece);
                let view = ipv4::View::new(&bytes).unwrap();
                prop_assert!(view.checksum_ok() && bytes.len() <= mtu && view.id() == 77);
                prop_assert_eq!(view.total_len(), bytes.len());
                prop_assert_eq!(view.fragment_offset(), usize::from(offset) * 8 + joined.len());
                let last = at + 1 == out.len();
                prop_assert_eq!(view.flags_fragment() & ipv4::MORE_FRAGMENTS != 0, !last || more);
                joined.extend_from_slice(&bytes[20..]);
            }
            prop_assert_eq!(joined, payload);
            out.into_iter().chain([whole]).for_each(|packet| packet.free(pool));
            prop_assert_eq!(pool.arena().free_small() + pool.cached(), FRAMES * 3);
        }
    }

    #[test]
    fn rfc_791_only_options_marked_for_it_are_copied() {
        let pool = &mut FramePool::new(Arena::new(FRAMES, 0).unwrap());
        // Loose source route (131, copied), no-op, timestamp (68, not copied).
        let options = [131, 7, 4, 10, 0, 0, 9, 1, 68, 4, 5, 0];
        let whole = packet(&options, &[5; 2000], 0, pool);
        let mut out = Vec::new();
        assert_eq!(fragment(&whole, 1000, pool, &mut out), Ok(()));
        assert_eq!(ip_bytes(&out[0])[20..32], options);
        let later = ip_bytes(&out[1]);
        assert_eq!((later[0], &later[20..28]), (0x47, &[131, 7, 4, 10, 0, 0, 9, 0][..]));
        out.into_iter().chain([whole]).for_each(|packet| packet.free(pool));
    }

    #[test]
    fn rfc_791_a_fragment_that_ends_behind_the_longest_datagram_is_not_cut_again() {
        let pool = &mut FramePool::new(Arena::new(FRAMES, 0).unwrap());
        let last = packet(&[], &[5; 1496], ipv4::OFFSET_MASK - 187, pool);
        let beyond = packet(&[], &[5; 1496], ipv4::OFFSET_MASK - 186, pool);
        let mut out = Vec::new();
        assert_eq!(fragment(&beyond, 576, pool, &mut out), Err(DropReason::BadHeader));
        assert!(out.is_empty());
        assert_eq!(fragment(&last, 576, pool, &mut out), Ok(()));
        let words = out.iter().map(|piece| {
            let bytes = ip_bytes(piece);
            let word = ipv4::View::new(&bytes).unwrap().flags_fragment();
            (word & ipv4::MORE_FRAGMENTS != 0, word & ipv4::OFFSET_MASK)
        });
        let base = ipv4::OFFSET_MASK - 187;
        assert_eq!(
            words.collect::<Vec<_>>(),
            [(true, base), (true, base + 69), (false, base + 138)]
        );
        out.into_iter().chain([last, beyond]).for_each(|packet| packet.free(pool));
    }

    #[test]
    fn without_frames_or_room_nothing_is_left_behind() {
        let pool = &mut FramePool::new(Arena::new(4, 0).unwrap());
        let whole = packet(&[], &[5; 3000], 0, pool);
        let mut out = Vec::new();
        assert_eq!(fragment(&whole, 576, pool, &mut out), Err(DropReason::NoFrame));
        assert_eq!(fragment(&whole, 27, pool, &mut out), Err(DropReason::TooBig));
        assert!(out.is_empty());
        whole.free(pool);
        assert_eq!(pool.arena().free_small() + pool.cached(), 4);
    }
}
