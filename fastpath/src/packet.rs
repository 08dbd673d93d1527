//! A packet: a chain of frames, where its headers are, and what its sender left undone.
//!
//! Offsets count from the first byte of the first frame's packet bytes (the Ethernet header). The
//! headers always lie in the first frame; payload may go on in linked ones. [`Offload`] is the
//! state that virtio's header carries too: an unfinished checksum, and the size in which a
//! super-packet is to be cut when a port can't take it whole.

mod history;

use crate::port::PortId;
use crate::sys::memory::{Frame, FramePool, LINK_SPACE};
use history::HISTORY;

/// Most segments that one packet may have.
pub const MAX_SEGMENTS: usize = 64;

/// How a super-packet is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either family, each part a datagram of its own (USO, UDP_SEGMENT).
    Udp,
}

/// What the sender left for later hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum holds the pseudo-header sum only, and is to be finished over the
    /// bytes from `csum_start` on (virtio's NEEDS_CSUM, the kernel's CHECKSUM_PARTIAL).
    pub needs_csum: bool,
    /// Super-packet or not.
    pub gso: Gso,
    /// Payload bytes of each part of a super-packet.
    pub gso_size: u16,
    /// Offset of the transport header from the packet's first byte; set with `needs_csum`.
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
}

/// One packet on its way. Not `Clone`: it owns its frames. Give it to [`Packet::free`] in the end.
#[derive(Debug)]
pub struct Packet {
    head: Frame,
    offset: u32,
    head_len: u32,
    total_len: u32,
    segments: u32,
    /// The port it came in by.
    pub in_port: PortId,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header; equals the packet's length when there is none to see.
    pub l4: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    /// [`NEEDS_CSUM`], the number of a [`Gso`], and [`HISTORY`].
    unfinished: u32,
}

const NEEDS_CSUM: u32 = 1 << 7;

// Without an enum, a bool or padding in it: with those the compiler moves a packet in pieces that
// overlap, and each move waits for the stores of the one before (12 cycles a packet).
const _: () = assert!(size_of::<Packet>() == 40);

impl Packet {
    /// A packet of one frame, its bytes at `offset..offset + len` of the chunk. Panics when they
    /// are not inside it.
    #[inline]
    pub fn new(head: Frame, offset: usize, len: usize, in_port: PortId) -> Packet {
        let _ = head.bytes(offset, len);
        Packet {
            head,
            offset: offset as u32,
            head_len: len as u32,
            total_len: len as u32,
            segments: 1,
            in_port,
            l3: 0,
            l4: 0,
            gso_size: 0,
            csum_start: 0,
            csum_offset: 0,
            unfinished: 0,
        }
    }

    /// What its sender left undone.
    #[inline]
    pub fn offload(&self) -> Offload {
        let gso = match self.unfinished & !(NEEDS_CSUM | HISTORY) {
            1 => Gso::Tcp4,
            2 => Gso::Tcp6,
            3 => Gso::Udp,
            _ => Gso::None,
        };
        Offload {
            needs_csum: self.unfinished & NEEDS_CSUM != 0,
            gso,
            gso_size: self.gso_size,
            csum_start: self.csum_start,
            csum_offset: self.csum_offset,
        }
    }

    /// Says what is left undone.
    #[inline]
    pub fn set_offload(&mut self, offload: Offload) {
        let gso = match offload.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 2,
            Gso::Udp => 3,
        };
        let csum = if offload.needs_csum { NEEDS_CSUM } else { 0 };
        self.unfinished = self.unfinished & HISTORY | gso | csum;
        self.gso_size = offload.gso_size;
        self.csum_start = offload.csum_start;
        self.csum_offset = offload.csum_offset;
    }

    /// True when nothing is left undone: an ordinary packet with all its checksums.
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.unfinished & !HISTORY == 0
    }

    /// True for an ordinary packet: nobody has to cut it.
    #[inline]
    pub fn is_single(&self) -> bool {
        self.unfinished & !(NEEDS_CSUM | HISTORY) == 0
    }

    /// The bytes of the first frame.
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.head.bytes(self.offset as usize, self.head_len as usize)
    }

    /// The bytes of the first frame, to write.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        self.head.bytes_mut(self.offset as usize, self.head_len as usize)
    }

    /// The first `N` bytes; `None` when the first frame has fewer, and where it holds them far
    /// behind its begin.
    #[inline(always)]
    pub fn start<const N: usize>(&self) -> Option<&[u8; N]> {
        if (self.head_len as usize) < N { None } else { self.head.array(self.offset as usize) }
    }

    /// As [`Packet::start`], to write.
    #[inline(always)]
    pub fn start_mut<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        if (self.head_len as usize) < N { None } else { self.head.array_mut(self.offset as usize) }
    }

    /// Bytes in all frames, the Ethernet header included.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.total_len as usize
    }

    /// True when the first frame is a large one. The others are always small.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.head.is_large()
    }

    /// Frames in the chain.
    #[inline]
    pub fn segment_count(&self) -> usize {
        self.segments as usize
    }

    /// Free bytes before the packet's first.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize - LINK_SPACE
    }

    /// Moves the start of the packet `count` bytes back and gives the new bytes to be written;
    /// `None` when there is not that much room. Stored offsets are not moved.
    #[inline]
    pub fn push_front(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.headroom() {
            return None;
        }
        self.offset -= count as u32;
        self.head_len += count as u32;
        self.total_len += count as u32;
        Some(self.head.bytes_mut(self.offset as usize, count))
    }

    /// Moves the start of the packet `count` bytes on; false when the first frame is shorter.
    #[inline]
    pub fn pull_front(&mut self, count: usize) -> bool {
        if count > self.head_len as usize {
            return false;
        }
        self.offset += count as u32;
        self.head_len -= count as u32;
        self.total_len -= count as u32;
        true
    }

    /// Adds a frame at the end of the chain, its bytes at `offset..offset + len`. Gives the frame
    /// back when the chain has [`MAX_SEGMENTS`] already.
    pub fn append(&mut self, mut frame: Frame, offset: usize, len: usize) -> Result<(), Frame> {
        if self.segment_count() == MAX_SEGMENTS {
            return Err(frame);
        }
        let _ = frame.bytes(offset, len);
        frame.link(None, offset as u32, len as u32);
        self.link_last(frame);
        self.segments += 1;
        self.total_len += len as u32;
        Ok(())
    }

    /// Adds all frames of `other` at the end of the chain, without its first `skip` bytes, which
    /// end inside its first frame. The caller keeps to [`MAX_SEGMENTS`].
    pub(crate) fn absorb(&mut self, other: Packet, skip: usize) {
        let Packet { mut head, offset, head_len, total_len, segments, .. } = other;
        let skip = head_len.min(skip as u32);
        let next = if segments > 1 { head.take_next() } else { None };
        head.link(next, offset + skip, head_len - skip);
        self.link_last(head);
        self.segments += segments;
        self.total_len += total_len - skip;
    }

    fn link_last(&mut self, frame: Frame) {
        if self.segments == 1 {
            return self.head.link(Some(frame), 0, 0);
        }
        let mut last = self.head.peek_next();
        for _ in 2..self.segments {
            last = last.and_then(|frame| frame.peek_next());
        }
        if let Some(mut last) = last {
            let link = last.read_link();
            last.link(Some(frame), link.offset, link.len);
        }
    }

    /// Cuts the packet to `len` bytes, for padding behind the IP packet. Longer is no change.
    #[inline]
    pub fn truncate(&mut self, len: usize, pool: &mut FramePool) {
        if len >= self.len() {
            return;
        }
        if self.segments > 1 {
            return self.truncate_chain(len, pool);
        }
        self.head_len = len as u32;
        self.total_len = len as u32;
    }

    #[cold]
    fn truncate_chain(&mut self, len: usize, pool: &mut FramePool) {
        let mut parts = self.take_rest();
        self.head_len = self.head_len.min(len as u32);
        self.total_len = self.head_len;
        for (frame, offset, part) in parts.drain(..) {
            let part = part.min(len - self.len());
            if part == 0 {
                pool.free(frame);
            } else if let Err(frame) = self.append(frame, offset, part) {
                pool.free(frame);
            }
        }
    }

    /// The bytes of each frame in turn.
    pub fn segments(&self) -> Segments<'_> {
        Segments { packet: self, next: 0, at: None }
    }

    /// Copies the bytes from `from` on into `out`; the number copied.
    pub fn copy_out(&self, from: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut done) = (from, 0);
        for part in self.segments() {
            let skipped = skip.min(part.len());
            skip -= skipped;
            let part = &part[skipped..];
            let count = part.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
        done
    }

    /// Fills the room behind the bytes of a packet of one frame from `from`, beginning at `at`;
    /// the number of bytes copied, at most `length`.
    pub(crate) fn fill_tail(&mut self, from: &Packet, at: usize, length: usize) -> usize {
        if self.segments != 1 {
            return 0;
        }
        let end = (self.offset + self.head_len) as usize;
        let count = length.min(self.head.capacity() - end);
        from.copy_out(at, self.head.bytes_mut(end, count));
        self.head_len += count as u32;
        self.total_len += count as u32;
        count
    }

    /// Takes the packet apart: each frame with the offset and length of its bytes, in order.
    pub fn into_segments(mut self) -> impl Iterator<Item = (Frame, usize, usize)> {
        let rest = if self.segments > 1 { self.take_rest() } else { Vec::new() };
        let first = (self.head, self.offset as usize, self.head_len as usize);
        std::iter::once(first).chain(rest)
    }

    /// Takes a packet of one frame apart without walking; gives it back when it has more.
    #[inline]
    pub fn into_single(self) -> Result<(Frame, usize, usize), Packet> {
        if self.segments == 1 {
            Ok((self.head, self.offset as usize, self.head_len as usize))
        } else {
            Err(self)
        }
    }

    /// Returns all frames to the pool.
    #[inline(always)]
    pub fn free(self, pool: &mut FramePool) {
        if self.segments > 1 {
            return self.free_chain(pool);
        }
        pool.free(self.head);
    }

    #[cold]
    fn free_chain(mut self, pool: &mut FramePool) {
        self.take_rest().into_iter().for_each(|(frame, _, _)| pool.free(frame));
        pool.free(self.head);
    }

    fn take_rest(&mut self) -> Vec<(Frame, usize, usize)> {
        let mut rest = Vec::with_capacity(self.segment_count() - 1);
        let mut next = self.head.take_next();
        for _ in 1..self.segments {
            let Some(mut frame) = next else { break };
            let link = frame.read_link();
            next = frame.take_next();
            rest.push((frame, link.offset as usize, link.len as usize));
        }
        self.segments = 1;
        self.total_len = self.head_len;
        rest
    }
}

/// The bytes of each frame of a packet in turn.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a Packet,
    next: u32,
    at: Option<std::mem::ManuallyDrop<Frame>>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.next == self.packet.segments {
            return None;
        }
        self.next += 1;
        if self.next == 1 {
            return Some(self.packet.head());
        }
        let following = match &self.at {
            None => self.packet.head.peek_next(),
            Some(frame) => frame.peek_next(),
        }?;
        let link = following.read_link();
        let bytes = crate::sys::memory::linked_bytes(self.packet, &following, link);
        self.at = Some(following);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests;
