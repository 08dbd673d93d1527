//! When packets that waited for their time have left this worker, and those that it handed packets
//! to: only then may programs carry packets of the same endpoint past its shaper again.
//!
//! As for what ports bring (see [`super::settle`]): what waits here for room on the way out is
//! waited for, and so is everything that was in the inboxes, twice.

use super::Worker;
use crate::limit::Queued;
use std::sync::atomic::Ordering;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    queued: Vec<Queued>,
    /// What workers have yet to finish: what they were handed until this began, and whether that
    /// is for the second time.
    handed: Option<(Vec<u64>, bool)>,
}

impl Worker {
    /// To be called before anything else is released.
    #[inline]
    pub(super) fn let_leave(&mut self) {
        let has_some = !(self.leaving.queued.is_empty() && self.pipeline.released().is_empty());
        if has_some && self.nothing_waits() {
            self.follow_leaving();
        }
    }

    fn follow_leaving(&mut self) {
        let peers = &self.shared.workers;
        if peers.len() == 1 {
            return self.pipeline.released().clear();
        }
        let handed = || peers.iter().map(|peer| peer.handed.load(Ordering::SeqCst)).collect();
        let finished = |handed: &[u64]| {
            let finished = peers.iter().map(|peer| peer.finished.load(Ordering::SeqCst));
            finished.zip(handed).all(|(finished, handed)| finished >= *handed)
        };
        let leaving = &mut self.leaving;
        leaving.handed = match leaving.handed.take() {
            None => {
                leaving.queued.append(self.pipeline.released());
                Some((handed(), false))
            }
            Some((before, false)) if finished(&before) => Some((handed(), true)),
            Some((before, true)) if finished(&before) => {
                leaving.queued.clear();
                None
            }
            waits => waits,
        };
    }
}
