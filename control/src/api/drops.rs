//! `show drops`: an object of reasons and counts, those that happened.

use crate::status::Status;
use std::collections::BTreeMap;

/// Dropped packets by reason, over all workers.
pub type DropsAnswer = BTreeMap<String, u64>;

pub(crate) fn answer(status: &Status) -> DropsAnswer {
    let mut drops = DropsAnswer::new();
    for worker in status.dataplane().report().workers {
        for (reason, count) in worker.counters.drops() {
            *drops.entry(reason.name().to_owned()).or_default() += count;
        }
    }
    drops
}
