//! When what a port brought has left this worker, and those that it handed packets to: only then
//! may the port's program carry packets of the same flows past them (see [`crate::offload`]).
//!
//! A port's packets are marked from time to time. What waits here for room on the way out is waited
//! for, also in the ring of a port whose device has yet to take it, and so is everything that was
//! in the inboxes, twice: a packet may be handed on once, to the worker of its flow and from there
//! to that of its egress port.

use super::Worker;
use crate::port::PortId;
use std::sync::atomic::Ordering;

/// How far a port's packets up to the last mark have come.
#[derive(Debug, Default)]
pub(super) enum Settling {
    /// There is no mark.
    #[default]
    Unmarked,
    /// Workers have yet to finish what they were handed until the mark.
    Handed(Vec<u64>),
    /// The same, handed until those before were finished.
    HandedOn(Vec<u64>),
}

impl Worker {
    /// True when flows may be given to the programs of ports.
    #[inline]
    pub(super) fn offloads(&self) -> bool {
        self.shared.offload.get().is_some()
    }

    pub(super) fn nothing_waits(&self) -> bool {
        self.queued == 0 && self.unsent == 0
    }

    /// To be called before a port is asked for packets.
    #[inline]
    pub(super) fn settle(&mut self, id: PortId) {
        if self.offloads() && self.nothing_waits() {
            self.settle_offloading(id);
        }
    }

    fn settle_offloading(&mut self, id: PortId) {
        let peers = &self.shared.workers;
        let handed = || peers.iter().map(|peer| peer.handed.load(Ordering::SeqCst)).collect();
        let finished = |handed: &[u64]| {
            let finished = peers.iter().map(|peer| peer.finished.load(Ordering::SeqCst));
            finished.zip(handed).all(|(finished, handed)| finished >= *handed)
        };
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return;
        };
        match std::mem::take(&mut slot.settling) {
            Settling::Handed(before) if finished(&before) => {
                slot.settling = Settling::HandedOn(handed());
            }
            Settling::HandedOn(before) if finished(&before) => slot.port.settle(),
            Settling::Unmarked if peers.len() == 1 => {
                slot.port.mark();
                slot.port.settle();
            }
            Settling::Unmarked => {
                slot.port.mark();
                slot.settling = Settling::Handed(handed());
            }
            waits => slot.settling = waits,
        }
    }

    /// Tells what others have handed to this worker and what has left it, once nothing waits here.
    pub(super) fn tell_finished(&mut self) {
        if self.unfinished > 0 && self.nothing_waits() {
            let me = &self.shared.workers[self.index];
            me.finished.fetch_add(std::mem::take(&mut self.unfinished), Ordering::SeqCst);
        }
    }
}
