//! When a TAP's packets are written by a thread of the kernel (io_uring's own, one for each
//! worker) in place of the worker.
//!
//! In a write to a TAP the kernel does the TCP of whoever gets the packet: its acknowledgements,
//! and what they let it send. Where a port brings more than a worker can take, that is worth a
//! second core, if one is idle; else the worker writes by itself, which costs less in all. The
//! thread takes packets in their order, and while it has some of a port all others of that port
//! follow them.

use io_uring::Submitter;
use std::io;

/// Turns, more than others, in which a port had more than could be read, from which on it lends.
const PRESSED: u32 = 32;
/// The same, at which it ends.
const CALM: u32 = 8;
/// Most turns that count.
const MOST: u32 = 2 * PRESSED;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Lending {
    /// The thread can be had.
    is_possible: bool,
    /// There was more to read in this turn.
    had_more: bool,
    pressure: u32,
    is_on: bool,
    /// Writes that the thread has.
    under_way: usize,
}

impl Lending {
    /// The thread of a worker's ring is that worker's alone, so it takes writes in their order, and
    /// runs where the daemon's other threads do: off the cores of the workers.
    pub(super) fn prepare(&mut self, ring: &Submitter<'_>) {
        if ring.register_iowq_max_workers(&mut [1, 1]).is_ok() {
            self.allow();
            // Without it the thread runs anywhere.
            let _ = cores_of_process().and_then(|cores| ring.register_iowq_aff(&cores));
        }
    }

    fn allow(&mut self) {
        self.is_possible = true;
    }

    /// The port has more packets than the worker takes at once.
    pub(super) fn note_more(&mut self) {
        self.had_more = true;
    }

    /// Begins a turn.
    pub(super) fn turn(&mut self) {
        self.pressure = match std::mem::take(&mut self.had_more) {
            true => MOST.min(self.pressure + 1),
            false => self.pressure.saturating_sub(1),
        };
        let enough = if self.is_on { CALM } else { PRESSED };
        self.is_on = self.is_possible && self.pressure >= enough;
    }

    /// Whether the next write is the thread's; it counts as under way then.
    pub(super) fn lend(&mut self) -> bool {
        let lends = self.is_on || self.under_way > 0;
        self.under_way += usize::from(lends);
        lends
    }

    /// A write of the thread is done.
    pub(super) fn end(&mut self) {
        self.under_way -= 1;
    }

    /// True while the thread has writes that are not known to be done.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way > 0
    }
}

/// The cores that the process's first thread may run on.
fn cores_of_process() -> io::Result<libc::cpu_set_t> {
    // SAFETY: a set of bits, for which zero bytes are valid.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let (process, size) = (std::process::id() as libc::pid_t, size_of_val(&cores));
    // SAFETY: the kernel writes at most `size` bytes of a live set.
    let got = unsafe { libc::sched_getaffinity(process, size, &raw mut cores) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(cores) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(lending: &mut Lending, count: u32, had_more: bool) {
        for _ in 0..count {
            if had_more {
                lending.note_more();
            }
            lending.turn();
        }
    }

    #[test]
    fn a_port_lends_under_pressure_and_until_it_is_gone_for_a_while() {
        let mut lending = Lending::default();
        turns(&mut lending, MOST, true);
        assert!(!lending.lend(), "there is no thread");
        lending.allow();
        turns(&mut lending, MOST, false);
        turns(&mut lending, PRESSED - 1, true);
        assert!(!lending.lend());
        turns(&mut lending, 1, true);
        assert!(lending.lend());
        lending.end();
        turns(&mut lending, PRESSED - CALM, false);
        assert!(lending.lend());
        lending.end();
        turns(&mut lending, 1, false);
        assert!(!lending.lend());
    }

    #[test]
    fn what_is_under_way_is_followed() {
        let mut lending = Lending::default();
        lending.allow();
        turns(&mut lending, PRESSED, true);
        assert!(lending.lend() && lending.lend());
        turns(&mut lending, MOST, false);
        lending.end();
        assert!(lending.lend() && lending.is_under_way());
        lending.end();
        lending.end();
        assert!(!lending.lend() && !lending.is_under_way());
    }
}
