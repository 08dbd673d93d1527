//! Copies of packets for `margay capture`, taken by the workers while somebody asks for them.
//!
//! A worker never waits for the reader: a copy that finds the channel full is counted and left out.

use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::port::PortId;
use crossbeam::channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes copied of one packet.
pub const SNAP_LEN: usize = 65_535 + 14;

/// Where a copy was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// As it came in.
    Rx,
    /// As it went out, before checksums were finished or a super-packet was cut.
    Tx,
    /// Where it was dropped.
    Drop(DropReason),
}

/// One copy.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The port it came in by, or went out by for [`Point::Tx`].
    pub port: PortId,
    /// Where it was taken.
    pub point: Point,
    /// Nanoseconds on the worker's clock; see [`crate::dataplane::Dataplane::now_ns`].
    pub time_ns: u64,
    /// Length of the whole packet, in bytes.
    pub len: usize,
    /// Its first bytes, [`SNAP_LEN`] at most.
    pub bytes: Vec<u8>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptureFilter {
    /// Only this port.
    pub port: Option<PortId>,
    /// Only drops.
    pub drops_only: bool,
}

/// A worker's end of a capture.
#[derive(Debug, Clone)]
pub struct Tap {
    pub(crate) filter: CaptureFilter,
    pub(crate) sender: Sender<Captured>,
    pub(crate) missed: Arc<AtomicU64>,
}

impl Tap {
    /// Copies a packet if the filter wants it.
    #[cold]
    pub fn copy(&self, packet: &Packet, port: PortId, point: Point, time_ns: u64) {
        let dropped = matches!(point, Point::Drop(_));
        let wanted = self.filter.port.is_none_or(|only| only == port);
        if !wanted || (self.filter.drops_only && !dropped) {
            return;
        }
        let mut bytes = vec![0; packet.len().min(SNAP_LEN)];
        let copied = packet.copy_out(0, &mut bytes);
        bytes.truncate(copied);
        let captured = Captured { port, point, time_ns, len: packet.len(), bytes };
        if self.sender.try_send(captured).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
