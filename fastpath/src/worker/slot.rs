//! A port as its worker has it: hot or cold, waited on or not.

use super::queue::PortQueue;
use super::settle::Settling;
use crate::counters::PortCounters;
use crate::port::{Port, PortId};
use crate::sys::wait::WaitSet;
use std::sync::Arc;

/// Time without a packet after which a port is cold, in nanoseconds: about what a sleep and a
/// wake-up cost, so that waiting costs at most twice the best choice.
pub(super) const COLD_AFTER_NS: u64 = 100_000;
/// Packets, both ways, since a port became hot, after which it leaves the epoll set.
const BUSY_AFTER: u32 = 256;

/// One port.
pub(super) struct Slot {
    pub(super) port: Box<dyn Port>,
    pub(super) counters: Arc<PortCounters>,
    /// It is in the list of hot ports.
    pub(super) hot: bool,
    /// When it becomes cold if nothing happens.
    pub(super) cold_at_ns: u64,
    /// Packets since it became hot.
    pub(super) moved: u32,
    /// It is in the epoll set.
    pub(super) waited_on: bool,
    /// What waits for it, once something has.
    pub(super) queue: Option<Box<PortQueue>>,
    /// How far what it brought has come.
    pub(super) settling: Settling,
    /// Packets that it took wait for its device, as of when it was told to send last.
    pub(super) unsent: bool,
}

impl Slot {
    /// A hot port.
    pub(super) fn new(port: Box<dyn Port>, counters: Arc<PortCounters>, cold_at_ns: u64) -> Slot {
        let (moved, waited_on, queue) = (0, true, None);
        let settling = Settling::default();
        let (hot, unsent) = (true, false);
        Slot { port, counters, hot, cold_at_ns, moved, waited_on, queue, settling, unsent }
    }

    /// Packets that wait for it.
    #[inline]
    pub(super) fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// To be called when the port has sent; `ports` is how many have something unsent.
    #[inline]
    pub(super) fn count_unsent(&mut self, ports: &mut usize) {
        let unsent = self.port.has_unsent();
        *ports = *ports + usize::from(unsent) - usize::from(self.unsent);
        self.unsent = unsent;
    }

    /// Packets came or went: it stays hot for a while, and is not waited on if they are many.
    pub(super) fn note_moved(&mut self, count: usize, now_ns: u64, wait: &WaitSet) {
        self.cold_at_ns = now_ns + COLD_AFTER_NS;
        self.moved = self.moved.saturating_add(count as u32);
        if self.waited_on
            && self.moved >= BUSY_AFTER
            && let Some(fd) = self.port.poll_fd()
        {
            wait.remove(fd);
            self.waited_on = false;
        }
    }

    /// Becomes cold, unless it is sending or cannot be waited on now; true when it has.
    pub(super) fn cool(&mut self, id: PortId, wait: &WaitSet) -> bool {
        if self.port.is_sending() {
            return false;
        }
        if !self.waited_on {
            // What has come in between is reported by the next look.
            self.waited_on = self.port.poll_fd().is_none_or(|fd| wait.add(fd, id.0).is_ok());
        }
        self.hot = !self.waited_on;
        self.moved = 0;
        !self.hot
    }
}
