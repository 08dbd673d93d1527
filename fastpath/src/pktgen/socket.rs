//! Sends frames in turn out of a device by an AF_XDP socket: for devices that take no redirected
//! frames, and for network cards whose drivers read packet memory themselves (zero-copy).
//!
//! Needs no XDP program. On a device without zero-copy the kernel makes a packet of each frame, and
//! sends it past the queueing discipline; a veth whose peer is full then holds the sender back.

use super::frames::Frames;
use super::source::{Pace, Pacer, Sent, Source};
use super::stamp;
use crate::sys::clock::monotonic_ns;
use crate::sys::memory::{Arena, ArenaError, FramePool, HEADROOM};
use crate::sys::xdp::socket::Socket;
use crate::sys::xdp::umem::Umem;
use crate::sys::xdp::{RingSizes, SocketError, SocketSpec, open};
use std::io;
use std::time::{Duration, Instant};

/// Frames that are made before the kernel is asked to send.
const BURST: usize = 64;
const RINGS: RingSizes = RingSizes { rx: 64, tx: 1024, fill: 64, completion: 2048 };
/// Packet memory, in frames: what the rings hold, and what lies in the pool.
const FRAMES: usize = 4096;
/// Turns between two looks at whether sending is over.
const TURNS: u32 = 64;
/// How long the last frames may take to leave.
const DRAIN: Duration = Duration::from_secs(1);

/// Why there is no such sender.
#[derive(Debug, thiserror::Error)]
pub enum SocketSenderError {
    /// No packet memory.
    #[error(transparent)]
    Memory(#[from] ArenaError),
    /// No socket.
    #[error("AF_XDP socket: {0}")]
    Socket(#[from] SocketError),
}

/// Sends by AF_XDP.
#[derive(Debug)]
pub struct SocketSender {
    socket: Socket,
    pool: FramePool,
    frames: Frames,
    sequences: Vec<u32>,
    turn: usize,
}

impl SocketSender {
    /// Will send out of queue `queue` of the device `ifindex`, of the calling thread's network
    /// namespace. With zero-copy, packets that come in by that queue are lost meanwhile.
    pub fn new(
        frames: Frames,
        (ifindex, queue): (u32, u32),
        zero_copy: bool,
    ) -> Result<SocketSender, SocketSenderError> {
        let arena = Arena::new(FRAMES, 0)?;
        let umem = Umem::new(arena.clone());
        let spec =
            SocketSpec { ifindex, queue, rings: RINGS, zero_copy, jumbo: false, busy_poll: None };
        let socket = open(&umem, &spec)?.socket;
        let sequences = vec![0; frames.count()];
        Ok(SocketSender { socket, pool: FramePool::new(arena), frames, sequences, turn: 0 })
    }

    /// Whether the device reads packet memory itself.
    pub fn is_zero_copy(&self) -> bool {
        self.socket.is_zero_copy()
    }

    /// Puts the next frame into the ring; false when there is no room or no memory.
    fn put(&mut self, now_ns: u64) -> bool {
        let Some(mut chunk) = self.pool.alloc() else { return false };
        let frame = &self.frames.list[self.turn];
        let bytes = chunk.bytes_mut(HEADROOM, frame.len());
        bytes.copy_from_slice(frame);
        if let Some(at) = self.frames.stamp_at {
            stamp::write(bytes, at, (self.turn as u32, self.sequences[self.turn], now_ns));
        }
        if let Err(chunk) = self.socket.send(chunk, (HEADROOM, frame.len()), false) {
            self.pool.free(chunk);
            return false;
        }
        self.sequences[self.turn] = self.sequences[self.turn].wrapping_add(1);
        self.turn = (self.turn + 1) % self.frames.count();
        true
    }

    /// Sends what is due; how many frames.
    fn send_due(&mut self, pacer: &mut Pacer, now_ns: u64, left: u64) -> u64 {
        self.socket.reclaim(&mut self.pool);
        let room = self.socket.tx_room(BURST).min(left.min(BURST as u64) as usize);
        let due = pacer.take_due(now_ns, room);
        let put = (0..due).take_while(|_| self.put(now_ns)).count();
        self.socket.end_send();
        // A frame that the device throws away is one that the router has lost.
        self.socket.kick_tx(&mut 0);
        put as u64
    }
}

impl Source for SocketSender {
    fn send(
        &mut self,
        pace: Pace,
        time: Duration,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Sent> {
        let limit = pace.limit.unwrap_or(u64::MAX);
        let (begun, mut pacer) = (Instant::now(), Pacer::new(pace));
        let (mut sent, mut first, mut last, mut turn) = (0, None, 0, 0u32);
        while sent < limit {
            if turn.is_multiple_of(TURNS) {
                if begun.elapsed() >= time || stop() {
                    break;
                }
                if self.socket.is_gone() {
                    return Err(io::Error::other("the device is gone, or was down"));
                }
            }
            turn = turn.wrapping_add(1);
            let now_ns = monotonic_ns();
            let count = self.send_due(&mut pacer, now_ns, limit - sent);
            if count > 0 {
                first.get_or_insert(now_ns);
                last = now_ns;
                sent += count;
            } else {
                std::hint::spin_loop();
            }
        }
        let drain = Instant::now();
        while self.socket.tx_held() > 0 && drain.elapsed() < DRAIN {
            self.socket.kick_tx(&mut 0);
            self.socket.reclaim(&mut self.pool);
        }
        let time = Duration::from_nanos(last.saturating_sub(first.unwrap_or(last)));
        Ok(Sent { packets: sent, time })
    }
}
