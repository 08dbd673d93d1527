//! Finishing what a sender left undone: checksums (RFC 9293 3.1, RFC 768) and segmentation.
//!
//! Senders on this host hand over packets as to a NIC with offloads: the transport checksum field
//! holds the pseudo-header sum only, and TCP or UDP super-packets of up to 64 KiB wait to be cut
//! into `gso_size` parts. Ports that take them so get them so; for the others this file does what
//! the NIC would do. Everything is derived from the packet itself and checked against its length:
//! a wrong super-packet is an error, never a panic.

mod partial;

pub use partial::{detect_partial, finish_checksum};
pub(crate) use partial::{may_go_whole, pseudo_header, sum_from};

use crate::drop_reason::DropReason;
use crate::packet::{Gso, Offload, Packet, Segments};
use crate::port::PortId;
use crate::sys::memory::{FramePool, HEADROOM, LINK_SPACE, SMALL_CHUNK};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};

/// Most parts of one super-packet: 64 KiB at 48 bytes, the smallest segment that Linux sends.
pub const MAX_PARTS: usize = 1366;

/// Longest headers (link to transport, options included) that are repeated before each part.
const MAX_HEADERS: usize = 1024;

/// Why a packet could not be finished or cut. Its frames are back in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The headers, lengths or offsets do not describe a packet that can be finished or cut.
    #[error("the packet's headers, lengths and offload state do not fit together")]
    Malformed,
    /// No free frame for a part.
    #[error("no free frame")]
    NoFrame,
}

impl SegmentError {
    /// The counter for the lost packet.
    pub fn drop_reason(self) -> DropReason {
        match self {
            SegmentError::Malformed => DropReason::BadSegmentation,
            SegmentError::NoFrame => DropReason::NoFrame,
        }
    }
}

/// What to do with the checksums of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Compute them.
    Finish,
    /// Leave the pseudo-header sum and `needs_csum`, for a port that computes them.
    Leave,
}

/// Bytes of the largest IP packet that comes of this one: of a super-packet its longest part,
/// else the packet itself. To be compared with an MTU. `l3` must be set.
#[inline]
pub fn largest_ip_len(packet: &Packet) -> usize {
    let whole = packet.len().saturating_sub(usize::from(packet.l3));
    if packet.is_single() {
        return whole;
    }
    largest_part_len(packet, whole)
}

#[inline(never)]
fn largest_part_len(packet: &Packet, whole: usize) -> usize {
    let l4 = usize::from(packet.l4);
    let headers = transport_len(packet).map_or(0, |length| l4 + length);
    whole.min((headers + usize::from(packet.offload().gso_size)).saturating_sub(packet.l3.into()))
}

/// Length of the transport header of a super-packet, if it is all there.
fn transport_len(packet: &Packet) -> Option<usize> {
    let segment = packet.head().get(usize::from(packet.l4)..)?;
    let length = match packet.offload().gso {
        Gso::Udp => udp::HEADER_LEN,
        _ => tcp::View::new(segment)?.header_len(),
    };
    (length <= segment.len() && length >= udp::HEADER_LEN).then_some(length)
}

/// Cuts a super-packet into parts of `gso_size` payload bytes, appended to `out` in order; an
/// ordinary packet goes through as it is. All or nothing: on an error `out` is as before and all
/// frames are back in the pool. `l3` and `l4` must be set.
pub fn segment(
    mut packet: Packet,
    pool: &mut FramePool,
    out: &mut Vec<Packet>,
    checksums: Checksums,
) -> Result<(), SegmentError> {
    let before = out.len();
    let done = if packet.offload().gso == Gso::None {
        Ok(true)
    } else {
        Plan::of(&packet).and_then(|plan| match plan.count() {
            0 | 1 => Ok(true),
            _ => plan.cut(&packet, pool, out, checksums).map(|()| false),
        })
    };
    let whole = done.and_then(|whole| {
        if whole {
            packet.set_offload(Offload { gso: Gso::None, gso_size: 0, ..packet.offload() });
            if checksums == Checksums::Finish {
                finish_checksum(&mut packet)?;
            }
        }
        Ok(whole)
    });
    match whole {
        Ok(true) => out.push(packet),
        Ok(false) => packet.free(pool),
        Err(_) => {
            out.drain(before..).for_each(|part| part.free(pool));
            packet.free(pool);
        }
    }
    whole.map(|_| ())
}

/// The same packet in small frames, which AF_XDP can send; gives it back when no frame is free.
pub fn into_small(packet: Packet, pool: &mut FramePool) -> Result<Packet, Packet> {
    let Some(copy) = copy(&packet, pool) else { return Err(packet) };
    packet.free(pool);
    Ok(copy)
}

/// A second packet like this one, in small frames; `None` when no frame is free.
pub fn copy(packet: &Packet, pool: &mut FramePool) -> Option<Packet> {
    let mut bytes = Bytes::after(packet, 0);
    let mut copy = build(pool, &[], &mut bytes, packet.len(), packet.in_port)?;
    (copy.l3, copy.l4) = (packet.l3, packet.l4);
    copy.set_offload(packet.offload());
    copy.set_from_tap(packet.is_from_tap());
    Some(copy)
}

/// How one super-packet is cut; all offsets from its first byte.
struct Plan {
    is_v6: bool,
    l3: usize,
    l4: usize,
    /// Where the payload begins.
    headers: usize,
    payload: usize,
    size: usize,
    /// Pseudo-header sum without the length; `None` for UDP without a checksum.
    base: Option<u64>,
}

impl Plan {
    fn of(packet: &Packet) -> Result<Plan, SegmentError> {
        Plan::checked(packet).ok_or(SegmentError::Malformed)
    }

    fn checked(packet: &Packet) -> Option<Plan> {
        let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
        let Offload { gso, gso_size, needs_csum, .. } = packet.offload();
        let headers = l4 + transport_len(packet)?;
        let (protocol, pseudo) = pseudo_header(packet.head(), l3, l4)?;
        let is_v6 = packet.head()[l3] >> 4 == 6;
        let wanted = match gso {
            Gso::Udp => protocol::UDP,
            _ => protocol::TCP,
        };
        let family = !matches!((gso, is_v6), (Gso::Tcp4, true) | (Gso::Tcp6, false));
        let shape = match gso {
            Gso::Udp => headers - l4 == udp::HEADER_LEN,
            _ => headers - l4 >= tcp::MIN_HEADER_LEN,
        };
        let sound = family && shape && protocol == wanted && ip_len_is_right(packet, is_v6);
        if !sound || gso_size == 0 || headers > MAX_HEADERS {
            return None;
        }
        let offset = l4 + if gso == Gso::Udp { udp::CHECKSUM_OFFSET } else { tcp::CHECKSUM_OFFSET };
        let field = u16::from_be_bytes([packet.head()[offset], packet.head()[offset + 1]]);
        let length = (packet.len() - l4) as u64;
        let base = match (gso, needs_csum, field) {
            (Gso::Udp, false, 0) => None,
            // The sender's own sum holds the final destination where a routing header hides it.
            (_, true, _) => Some(u64::from(field) + u64::from(!checksum::fold(length))),
            _ => Some(pseudo - length),
        };
        let (payload, size) = (packet.len() - headers, usize::from(gso_size));
        let plan = Plan { is_v6, l3, l4, headers, payload, size, base };
        (plan.count() <= MAX_PARTS).then_some(plan)
    }

    fn count(&self) -> usize {
        self.payload.div_ceil(self.size)
    }

    fn cut(
        &self,
        packet: &Packet,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
        checksums: Checksums,
    ) -> Result<(), SegmentError> {
        let header = &packet.head()[..self.headers];
        let mut bytes = Bytes::after(packet, self.headers);
        let count = self.count();
        for index in 0..count {
            let length = self.size.min(self.payload - index * self.size);
            let part = build(pool, header, &mut bytes, length, packet.in_port);
            let mut part = part.ok_or(SegmentError::NoFrame)?;
            (part.l3, part.l4) = (packet.l3, packet.l4);
            part.set_from_tap(packet.is_from_tap());
            self.write_ip(&mut part, index);
            match packet.offload().gso {
                Gso::Udp => self.write_udp(&mut part),
                _ => self.write_tcp(&mut part, index, index + 1 == count),
            }
            if checksums == Checksums::Finish {
                // The field lies in the headers, which are in the first frame.
                let _ = finish_checksum(&mut part);
            }
            out.push(part);
        }
        Ok(())
    }

    fn write_ip(&self, part: &mut Packet, index: usize) {
        let length = part.len() - self.l3;
        let ip = &mut part.head_mut()[self.l3..];
        if self.is_v6 {
            let length = (length - ipv6::HEADER_LEN) as u16;
            ip[4..6].copy_from_slice(&length.to_be_bytes());
        } else {
            let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
            let (id, flags) = (word(4).wrapping_add(index as u16), word(6));
            ipv4::set_fragment(ip, length as u16, id, flags);
        }
    }

    fn write_udp(&self, part: &mut Packet) {
        let length = (part.len() - self.l4) as u16;
        part.head_mut()[self.l4 + 4..self.l4 + 6].copy_from_slice(&length.to_be_bytes());
        self.write_partial(part, udp::CHECKSUM_OFFSET);
    }

    fn write_tcp(&self, part: &mut Packet, index: usize, last: bool) {
        let segment = &mut part.head_mut()[self.l4..];
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let sequence = sequence.wrapping_add((index * self.size) as u32);
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            segment[13] &= !(tcp::FIN | tcp::PSH);
        }
        if index > 0 {
            // RFC 3168 6.1.2: CWR is said once, on the first new data.
            segment[13] &= !tcp::CWR;
        }
        self.write_partial(part, tcp::CHECKSUM_OFFSET);
    }

    /// Writes the pseudo-header sum of the part and marks its checksum unfinished.
    fn write_partial(&self, part: &mut Packet, offset: usize) {
        let Some(base) = self.base else { return };
        let field = checksum::fold(base + (part.len() - self.l4) as u64);
        let at = self.l4 + offset;
        part.head_mut()[at..at + 2].copy_from_slice(&field.to_be_bytes());
        part.set_offload(Offload {
            needs_csum: true,
            csum_start: self.l4 as u16,
            csum_offset: offset as u16,
            ..part.offload()
        });
    }
}

/// True when the IP header's lengths and the place of the transport header are the packet's own.
fn ip_len_is_right(packet: &Packet, is_v6: bool) -> bool {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let ip = &packet.head()[l3..];
    if is_v6 {
        ipv6::View::new(ip).is_some_and(|view| {
            view.payload_len() + ipv6::HEADER_LEN == packet.len() - l3
                && view.transport().is_some_and(|transport| transport.offset == l4 - l3)
        })
    } else {
        ipv4::View::new(ip).is_some_and(|view| {
            view.total_len() == packet.len() - l3
                && view.header_len() >= ipv4::MIN_HEADER_LEN
                && view.header_len() == l4 - l3
        })
    }
}

/// Builds a packet of small frames: `header`, then `length` bytes read from `bytes`.
fn build(
    pool: &mut FramePool,
    header: &[u8],
    bytes: &mut Bytes<'_>,
    length: usize,
    in_port: PortId,
) -> Option<Packet> {
    let mut frame = pool.alloc()?;
    let first = length.min(SMALL_CHUNK - HEADROOM - header.len());
    let head = frame.bytes_mut(HEADROOM, header.len() + first);
    head[..header.len()].copy_from_slice(header);
    bytes.read(&mut head[header.len()..]);
    let mut packet = Packet::new(frame, HEADROOM, header.len() + first, in_port);
    let mut left = length - first;
    while left > 0 {
        let count = left.min(SMALL_CHUNK - LINK_SPACE);
        let Some(mut frame) = pool.alloc() else {
            packet.free(pool);
            return None;
        };
        bytes.read(frame.bytes_mut(LINK_SPACE, count));
        if let Err(frame) = packet.append(frame, LINK_SPACE, count) {
            pool.free(frame);
            packet.free(pool);
            return None;
        }
        left -= count;
    }
    Some(packet)
}

/// Reads the bytes of a packet in order, over the borders of its frames.
struct Bytes<'a> {
    at: &'a [u8],
    rest: Segments<'a>,
}

impl<'a> Bytes<'a> {
    /// Begins after the first `skip` bytes, which lie in the first frame.
    fn after(packet: &'a Packet, skip: usize) -> Bytes<'a> {
        let mut rest = packet.segments();
        let first = rest.next().unwrap_or_default();
        Bytes { at: &first[skip..], rest }
    }

    /// Fills `out`; the packet must have that many bytes left.
    fn read(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.at.is_empty() {
                let Some(next) = self.rest.next() else { return };
                self.at = next;
            }
            let count = self.at.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.at[..count]);
            (self.at, out) = (&self.at[count..], later);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
