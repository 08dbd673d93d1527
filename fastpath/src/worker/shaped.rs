//! Packets that waited for their time: those from endpoints go on to be routed, those for endpoints
//! to their ports.

use super::Worker;
use crate::limit::Waiting;
use crate::pipeline::View;
use crate::port::BURST;

impl Worker {
    /// Lets the packets go whose time has come, a burst at most; how many.
    pub(super) fn release_shaped(&mut self) -> usize {
        if self.pipeline.waiting() == 0 {
            return 0;
        }
        self.pipeline.start_lap();
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        let mut count = 0;
        while count < BURST
            && let Some(packet) = self.pipeline.release(view)
        {
            count += 1;
            match packet {
                Waiting::From(packet) => self.burst.push(packet),
                Waiting::To(port, packet) => self.released.push(port, packet),
            }
        }
        if !self.burst.is_empty() {
            self.pipeline.process_handed(view, &mut self.burst);
        }
        let mut burst = std::mem::take(&mut self.outgoing);
        while let Some(id) = self.released.take(&mut burst) {
            self.send_all(id, &mut burst);
        }
        self.outgoing = burst;
        self.flush();
        self.ask_for_neighbors();
        count
    }
}
