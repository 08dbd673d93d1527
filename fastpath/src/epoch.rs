//! Publication to workers, and the proof that they have all seen it (QSBR).
//!
//! The control side swaps the snapshot and raises the epoch; each worker notes, between two
//! bursts, the epoch that it has seen. A worker that sleeps, or has ended, reads nothing and is
//! offline. When no online worker is behind, nobody holds what was retired before.

use crate::tables::Tables;
use arc_swap::ArcSwap;
use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const OFFLINE: u64 = u64::MAX;
/// How long a worker may be behind before [`Published::synchronize`] gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The snapshot, and how far each worker has come.
#[derive(Debug)]
pub struct Published {
    tables: ArcSwap<Tables>,
    epoch: AtomicU64,
    seen: Box<[CachePadded<AtomicU64>]>,
}

impl Published {
    /// An empty snapshot for `workers` workers, all offline.
    pub fn new(workers: usize) -> Published {
        Published {
            tables: ArcSwap::from_pointee(Tables::default()),
            epoch: AtomicU64::new(1),
            seen: (0..workers).map(|_| CachePadded::new(AtomicU64::new(OFFLINE))).collect(),
        }
    }

    /// The snapshot now.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Swaps the snapshot; the old one is dropped here, once all workers have left it.
    pub fn publish(&self, tables: Tables) -> bool {
        let old = self.tables.swap(Arc::new(tables.ready()));
        let done = self.synchronize();
        drop(old);
        done
    }

    /// Waits until every worker has passed between two bursts since this call began. False when a
    /// worker did not within [`PATIENCE`]: it is stuck, and what it may read must not be reused.
    pub fn synchronize(&self) -> bool {
        let target = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let deadline = Instant::now() + PATIENCE;
        let mut spins = 0u32;
        while self.seen.iter().any(|seen| seen.load(Ordering::SeqCst) < target) {
            spins += 1;
            if spins < 200 {
                std::hint::spin_loop();
            } else if Instant::now() > deadline {
                return false;
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        true
    }

    /// True when `worker` has something new to look at; a plain load.
    #[inline]
    pub(crate) fn is_behind(&self, worker: usize) -> bool {
        self.seen[worker].load(Ordering::Relaxed) != self.epoch.load(Ordering::Acquire)
    }

    /// The worker is between bursts: it takes up the newest snapshot, and says so.
    pub(crate) fn catch_up(&self, worker: usize, tables: &mut Arc<Tables>) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        // Online before the snapshot is loaded: a publisher that swaps after this line waits.
        self.seen[worker].store(epoch, Ordering::SeqCst);
        *tables = self.tables.load_full();
    }

    /// The worker is about to sleep or to end: it reads nothing until [`Published::catch_up`].
    pub(crate) fn go_offline(&self, worker: usize) {
        self.seen[worker].store(OFFLINE, Ordering::SeqCst);
    }

    /// True while `worker` sleeps or has ended.
    pub fn is_offline(&self, worker: usize) -> bool {
        self.seen[worker].load(Ordering::Relaxed) == OFFLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Target;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn publish_returns_only_when_every_online_worker_uses_the_new_snapshot() {
        let published = Arc::new(Published::new(2));
        let stop = Arc::new(AtomicBool::new(false));
        let newest = Arc::new(AtomicU64::new(0));
        let reader = {
            let (published, stop, newest) = (published.clone(), stop.clone(), newest.clone());
            std::thread::spawn(move || {
                let mut tables = published.tables();
                while !stop.load(Ordering::Relaxed) {
                    if published.is_behind(0) {
                        published.catch_up(0, &mut tables);
                    }
                    let promised = newest.load(Ordering::SeqCst);
                    assert!(tables.targets.len() as u64 >= promised || published.is_behind(0));
                }
                published.go_offline(0);
            })
        };
        for count in 1..200u64 {
            let targets = vec![Target::NoRoute; count as usize];
            assert!(published.publish(Tables { targets, ..Tables::default() }));
            newest.store(count, Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        assert!(published.synchronize(), "sleeping workers hold nobody up");
    }

    #[test]
    fn a_stuck_worker_is_reported() {
        let published = Published::new(1);
        let mut tables = published.tables();
        published.catch_up(0, &mut tables);
        assert!(!published.synchronize());
    }
}
