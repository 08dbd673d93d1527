//! Ports over capture files: replay, recording, and a sink that throws everything away.
//!
//! A replay holds the whole capture in memory, so that a bench reads no file while it measures,
//! and copies each packet into a frame as a NIC would. Reading and writing of the files
//! themselves is in `capture` (pcap and pcapng) and `writer` (pcapng).

mod capture;
mod writer;

use capture::Line;
pub use capture::{Capture, PcapError};
pub use writer::Writer;

use super::{BURST, Port, PortId, PortReport, RxState, TxOffloads};
use crate::packet::{MAX_SEGMENTS, Packet};
use crate::sys::memory::{Frame, FramePool, HEADROOM, LINK_SPACE, SMALL_CHUNK};
use std::io::Write;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Chunks begin at page borders; without this step all headers would compete for the same few
/// sets of the first-level cache.
const COLOURS: usize = 32;
const COLOUR_STEP: usize = 64;

/// Plays a capture as if it came in by a device; what is sent to it is thrown away.
#[derive(Debug)]
pub struct ReplayPort {
    capture: Arc<Capture>,
    /// The same, if all packets are short.
    lines: Option<(Vec<Line>, Vec<u8>)>,
    id: PortId,
    next: usize,
    endless: bool,
    received: u64,
    oversized: u64,
    sent: u64,
}

impl ReplayPort {
    /// Plays `capture` once, or again and again when `endless`.
    pub fn new(capture: Arc<Capture>, id: PortId, endless: bool) -> ReplayPort {
        let lines = capture.lines();
        ReplayPort { capture, lines, id, next: 0, endless, received: 0, oversized: 0, sent: 0 }
    }

    /// Packets still to come; of an endless replay those of this round.
    pub fn remaining(&self) -> usize {
        self.capture.len() - self.next
    }

    /// The next packet's index.
    #[inline]
    fn advance(&mut self) -> Option<usize> {
        if self.next == self.capture.len() {
            if !self.endless || self.next == 0 {
                return None;
            }
            self.next = 0;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Up to `budget` packets of a line each; how many.
    fn receive_lines(
        &mut self,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
        budget: usize,
    ) -> usize {
        let Some((lines, lens)) = &self.lines else { return 0 };
        let all = lines[self.next..].iter().zip(&lens[self.next..]).take(budget);
        let (id, before) = (self.id, out.len());
        let frames = pool.alloc_burst(all.len());
        out.extend(frames.zip(all).map(|(mut frame, (line, len))| {
            let offset = coloured(&frame);
            if let Some(place) = frame.array_mut(offset) {
                *place = line.0;
            }
            Packet::new(frame, offset, usize::from(*len), id)
        }));
        out.len() - before
    }

    /// A packet of any length; false when there is none, or no frame for it now.
    fn receive_any(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>) -> bool {
        let Some(index) = self.advance() else { return false };
        let (_, bytes) = self.capture.packet(index);
        if bytes.len() > MAX_SEGMENTS * (SMALL_CHUNK - HEADROOM) {
            self.oversized += 1;
            return true;
        }
        let Some(packet) = fill(pool, bytes, self.id) else {
            self.next = index;
            return false;
        };
        self.received += 1;
        out.push(packet);
        true
    }
}

impl Port for ReplayPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        let budget = budget.min(BURST);
        if self.lines.is_none() {
            for _ in 0..budget {
                if !self.receive_any(pool, out) {
                    break;
                }
            }
            return RxState::Up;
        }
        let mut left = budget;
        while left > 0 {
            if self.next == self.capture.len() && self.endless {
                self.next = 0;
            }
            let count = self.receive_lines(pool, out, left);
            if count == 0 {
                break;
            }
            self.next += count;
            self.received += count as u64;
            left -= count;
        }
        RxState::Up
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        self.sent += burst.len() as u64;
        pool.free_burst(burst);
    }

    fn service(&mut self, _pool: &mut FramePool) {}

    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    fn tx_offloads(&self) -> TxOffloads {
        TxOffloads::ALL
    }

    fn report(&self) -> PortReport {
        let mode = if self.endless { "replay, endless" } else { "replay" };
        PortReport {
            kind: "pcap",
            mode: format!("{mode}: {} packets in memory", self.capture.len()),
            frames_held: 0,
            kernel: vec![
                ("replayed", self.received),
                ("remaining", self.remaining() as u64),
                ("oversized", self.oversized),
                ("sunk", self.sent),
            ],
        }
    }

    fn close(self: Box<Self>, _pool: &mut FramePool) {}
}

/// Where a packet begins in this chunk.
#[inline]
fn coloured(frame: &Frame) -> usize {
    HEADROOM + frame.as_ptr().addr() / SMALL_CHUNK % COLOURS * COLOUR_STEP
}

/// A packet with a copy of `bytes`, in as many small frames as it takes.
#[inline]
fn fill(pool: &mut FramePool, bytes: &[u8], id: PortId) -> Option<Packet> {
    let mut frame = pool.alloc()?;
    let offset = coloured(&frame);
    let room = SMALL_CHUNK - HEADROOM - COLOUR_STEP * (COLOURS - 1);
    if bytes.len() <= room {
        frame.bytes_mut(offset, bytes.len()).copy_from_slice(bytes);
        return Some(Packet::new(frame, offset, bytes.len(), id));
    }
    let (head, rest) = bytes.split_at(bytes.len().min(SMALL_CHUNK - HEADROOM));
    frame.bytes_mut(HEADROOM, head.len()).copy_from_slice(head);
    let mut packet = Packet::new(frame, HEADROOM, head.len(), id);
    for part in rest.chunks(SMALL_CHUNK - LINK_SPACE) {
        let Some(mut frame) = pool.alloc() else {
            packet.free(pool);
            return None;
        };
        frame.bytes_mut(LINK_SPACE, part.len()).copy_from_slice(part);
        if let Err(frame) = packet.append(frame, LINK_SPACE, part.len()) {
            pool.free(frame);
        }
    }
    Some(packet)
}

/// Takes every packet and throws it away; nothing ever comes from it.
#[derive(Debug, Default)]
pub struct NullPort {
    packets: u64,
}

impl Port for NullPort {
    fn rx(&mut self, _pool: &mut FramePool, _out: &mut Vec<Packet>, _budget: usize) -> RxState {
        RxState::Up
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        self.packets += burst.len() as u64;
        pool.free_burst(burst);
    }

    fn service(&mut self, _pool: &mut FramePool) {}

    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    fn tx_offloads(&self) -> TxOffloads {
        TxOffloads::ALL
    }

    fn report(&self) -> PortReport {
        PortReport {
            kind: "pcap",
            mode: "sink: packets are thrown away".to_string(),
            frames_held: 0,
            kernel: vec![("sunk", self.packets)],
        }
    }

    fn close(self: Box<Self>, _pool: &mut FramePool) {}
}

/// Records every packet that is sent to it as one interface of a pcapng file, finished and cut
/// as on a wire; nothing ever comes from it.
#[derive(Debug)]
pub struct WriterPort<W> {
    writer: Arc<Mutex<Writer<W>>>,
    interface: u32,
    written: u64,
    failed: u64,
}

impl<W: Write + Send> WriterPort<W> {
    /// Records to the interface that [`Writer::interface`] gave. Ports may share a writer.
    pub fn new(writer: Arc<Mutex<Writer<W>>>, interface: u32) -> WriterPort<W> {
        WriterPort { writer, interface, written: 0, failed: 0 }
    }
}

impl<W: Write + Send> Port for WriterPort<W> {
    fn rx(&mut self, _pool: &mut FramePool, _out: &mut Vec<Packet>, _budget: usize) -> RxState {
        RxState::Up
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut writer = self.writer.lock().ok();
        for packet in burst.drain(..) {
            let done = writer
                .as_mut()
                .is_some_and(|writer| writer.packet(now_ns, self.interface, &packet, None).is_ok());
            *(if done { &mut self.written } else { &mut self.failed }) += 1;
            packet.free(pool);
        }
    }

    fn service(&mut self, _pool: &mut FramePool) {}

    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    fn tx_offloads(&self) -> TxOffloads {
        TxOffloads { large_frames: true, ..TxOffloads::default() }
    }

    fn report(&self) -> PortReport {
        PortReport {
            kind: "pcap",
            mode: "recording".to_string(),
            frames_held: 0,
            kernel: vec![("written", self.written), ("write_failed", self.failed)],
        }
    }

    fn close(self: Box<Self>, _pool: &mut FramePool) {
        if let Ok(mut writer) = self.writer.lock() {
            // Nobody is left to tell; the writer's owner sees the error at its own flush.
            let _ = writer.flush();
        }
    }
}

#[cfg(test)]
mod tests;
