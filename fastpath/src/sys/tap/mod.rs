//! TAP devices: making them, and the two ways of moving their packets.
//!
//! `device` opens `/dev/net/tun` and sets the link up. `uring` reads by one multishot request into
//! provided buffers and writes in batches, or leaves that to the kernel (`lending`); `poll` makes
//! one system call a packet, for machines where io_uring is forbidden. What the virtio header
//! means is the port's business.

mod buffer_ring;
pub(crate) mod device;
mod lending;
pub(crate) mod poll;
pub(crate) mod uring;

use crate::sys::memory::{Frame, HEADROOM, LARGE_CHUNK};

/// Bytes of the virtio header that stands before each packet.
pub(crate) const HEADER_LEN: usize = 10;
/// Where a read begins in a large frame, so that the packet itself begins at [`HEADROOM`].
const READ_AT: usize = HEADROOM - HEADER_LEN;
/// Most bytes of one read.
const READ_LEN: usize = LARGE_CHUNK - READ_AT;

/// Bytes that are read before they are sent on, so that they are still in the second-level cache:
/// a burst and a round of buffers have many small packets, or few large ones. Between two TAPs
/// with 64 KiB packets 4 buffers moved about 1.15 times as much as 32 (beside the poll engine).
pub(crate) const ROUND: usize = 256 << 10;

/// What came of asking for a packet.
pub(crate) enum Read {
    /// A large frame: header at `HEADROOM - HEADER_LEN`, then that many bytes of packet.
    Packet(Frame, usize),
    /// Nothing there.
    Empty,
    /// The device is gone.
    Gone,
}

/// Totals of an engine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EngineCounters {
    /// Reads that failed.
    pub(crate) rx_errors: u64,
    /// Times that no large frame was there to read into.
    pub(crate) rx_no_frame: u64,
    /// Packets that the device refused because it is down.
    pub(crate) tx_down: u64,
    /// Packets that it refused for another reason.
    pub(crate) tx_refused: u64,
    /// Packets that were the kernel's thread's to write.
    pub(crate) tx_lent: u64,
}

impl EngineCounters {
    /// Counts a failed write; true when the device is gone.
    fn write_failed(&mut self, errno: i32) -> bool {
        match errno {
            libc::EIO => self.tx_down += 1,
            _ => self.tx_refused += 1,
        }
        errno == libc::EBADFD
    }
}

#[cfg(test)]
mod tests;
