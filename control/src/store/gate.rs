//! Holds changes back while the cluster is locked (ClusterInformation `datastoreReady: false`), as
//! while its data moves to another store: what is known stays in force until the lock is gone, and
//! then only what is different by then is told.

use super::watch::Batch;
use super::{Event, Fault};
use crate::resource::{Key, Resource};
use std::collections::BTreeMap;

/// Between a store and who acts on it. What it holds is at most one event of each resource.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    locked: bool,
    /// The store has been known without a lock.
    opened: bool,
    held: BTreeMap<Key, Event>,
}

impl Gate {
    /// What of a batch counts now.
    pub(crate) fn pass(&mut self, mut batch: Batch) -> Batch {
        for event in &batch.events {
            match event {
                Event::Put(_, Resource::ClusterInformation { ready }) => self.locked = !ready,
                Event::Remove(key) if key.kind == "ClusterInformation" => self.locked = false,
                _ => {}
            }
        }
        for event in std::mem::take(&mut batch.events) {
            let (Event::Put(key, _) | Event::Remove(key)) = &event;
            self.held.insert(key.clone(), event);
        }
        if self.locked {
            batch.known &= self.opened;
            batch.report.faults.push(Fault {
                file: "ClusterInformation default".to_owned(),
                line: 0,
                what: "datastoreReady is false: changes are held back".to_owned(),
                mend: "`margay ctl datastore migrate unlock` when the cluster may go on".to_owned(),
            });
            return batch;
        }
        self.opened |= batch.known;
        batch.events = std::mem::take(&mut self.held).into_values().collect();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Report;

    fn key(kind: &str, name: &str) -> Key {
        Key { kind: kind.to_owned(), namespace: String::new(), name: name.to_owned() }
    }

    fn put(name: &str) -> Event {
        Event::Put(key("Other", name), Resource::Other)
    }

    fn lock(ready: bool) -> Event {
        let key = key("ClusterInformation", "default");
        Event::Put(key, Resource::ClusterInformation { ready })
    }

    fn pass(gate: &mut Gate, events: Vec<Event>) -> (Vec<Event>, bool, usize) {
        let passed = gate.pass(Batch { events, report: Report::default(), known: true });
        (passed.events, passed.known, passed.report.faults.len())
    }

    #[test]
    fn without_a_lock_everything_passes_at_once() {
        let mut gate = Gate::default();
        assert_eq!(pass(&mut gate, vec![put("a")]), (vec![put("a")], true, 0));
        assert_eq!(pass(&mut gate, vec![lock(true)]), (vec![lock(true)], true, 0));
    }

    #[test]
    fn a_locked_cluster_is_not_known_until_it_is_ready() {
        let mut gate = Gate::default();
        assert_eq!(pass(&mut gate, vec![put("a"), lock(false)]), (vec![], false, 1));
        assert_eq!(pass(&mut gate, vec![put("b")]), (vec![], false, 1));
        let all = vec![lock(true), put("a"), put("b")];
        assert_eq!(pass(&mut gate, vec![lock(true)]), (all, true, 0));
    }

    #[test]
    fn changes_during_a_lock_are_told_once_after_it() {
        let mut gate = Gate::default();
        pass(&mut gate, vec![put("a"), put("b"), lock(true)]);
        let gone = Event::Remove(key("Other", "a"));
        assert_eq!(pass(&mut gate, vec![lock(false), gone]), (vec![], true, 1));
        assert_eq!(pass(&mut gate, vec![put("a")]), (vec![], true, 1));
        let end = Event::Remove(key("ClusterInformation", "default"));
        assert_eq!(pass(&mut gate, vec![end.clone()]), (vec![end, put("a")], true, 0));
    }
}
