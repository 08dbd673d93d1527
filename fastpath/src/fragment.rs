//! IPv4 fragmentation (RFC 791 3.2, RFC 1812 5.2.6).
//!
//! Fragments are new packets: payload is copied, so that one frame never has two owners. The first
//! fragment keeps all options, later ones only those whose "copied" flag is set.

use crate::packet::Packet;
use crate::sys::memory::{FramePool, HEADROOM, SMALL_CHUNK};
use margay_tunnels::wire::ipv4;

const COPIED_FLAG: u8 = 0x80;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;

/// Cuts a parsed IPv4 packet without DF, all of whose checksums are complete, into fragments of at
/// most `mtu` bytes, appended to `out`. False, with nothing appended, when no frame is free or the
/// MTU leaves no room for payload; the packet is not consumed.
pub fn fragment(packet: &Packet, mtu: usize, pool: &mut FramePool, out: &mut Vec<Packet>) -> bool {
    let l3 = usize::from(packet.l3);
    let Some(view) = ipv4::View::new(&packet.head()[l3..]) else { return false };
    let header_len = view.header_len();
    let first_header = packet.head()[l3..l3 + header_len].to_vec();
    let later_header = header_of_later_fragments(&first_header);
    let (id, word) = (view.id(), view.flags_fragment());
    let more_after = word & ipv4::MORE_FRAGMENTS != 0;
    let base = word & ipv4::OFFSET_MASK;
    let payload = packet.len() - l3 - header_len;
    let before = out.len();
    let mut done = 0;
    while done < payload {
        let header = if done == 0 { &first_header } else { &later_header };
        let room = mtu.saturating_sub(header.len()) & !7;
        if room == 0 {
            return undo(out, before, pool);
        }
        let length = (payload - done).min(room);
        let last = done + length == payload && !more_after;
        let flags = if last { 0 } else { ipv4::MORE_FRAGMENTS };
        let Some(mut piece) = with_header(packet, header, pool) else {
            return undo(out, before, pool);
        };
        let at = base + (done / 8) as u16;
        let total = (header.len() + length) as u16;
        ipv4::set_fragment(&mut piece.head_mut()[l3..], total, id, at | flags);
        if !piece.copy_in(packet, l3 + header_len + done, length, pool) {
            piece.free(pool);
            return undo(out, before, pool);
        }
        out.push(piece);
        done += length;
    }
    true
}

fn undo(out: &mut Vec<Packet>, keep: usize, pool: &mut FramePool) -> bool {
    out.drain(keep..).for_each(|packet| packet.free(pool));
    false
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
