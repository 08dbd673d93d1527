//! Routes of BGP peers in the packet path.
//!
//! Their prefixes name sets of next hops, and each set has a target number of its own. A set that
//! leads elsewhere is another target in the snapshot, and no FIB entry; a prefix that changes is
//! one FIB entry, and no snapshot unless its set is new. So the work is as large as the change.

use super::{Done, Key, Publication, Publisher};
use crate::resolve::Route;
use crate::resolve::learned::SetId;
use ipnet::IpNet;
use margay_fastpath::tables::{Target as Entry, TargetId};

/// Nodes of the FIB that may wait for the workers before the writer waits too.
const RETIRED_MAX: usize = 1024;
/// Routes that had no room and are tried again at once.
pub(super) const RETRIES: usize = 1024;

impl Done {
    pub(super) fn add(&mut self, other: Done) {
        self.written += other.written;
        self.removed += other.removed;
        self.refused.extend(other.refused);
        self.stuck |= other.stuck;
    }
}

impl Publisher {
    /// Makes the packet path follow changes of [`Publication::learned`] at these prefixes. Blocks
    /// until all workers know of new sets.
    pub(crate) fn update(&mut self, publication: Publication, changed: &[IpNet]) -> Done {
        let mut done = Done::default();
        let wanted: Vec<Option<TargetId>> =
            changed.iter().map(|prefix| self.winner(&publication, prefix)).collect();
        let grown = [
            self.targets.take_grown(),
            self.groups.take_grown(),
            self.adjacencies.take_grown(),
            self.tunnels.take_grown(),
        ];
        if grown.contains(&true) {
            done.stuck |= !self.show(&publication);
        }
        for (prefix, target) in changed.iter().zip(wanted) {
            self.unwritten.remove(prefix);
            let is_ours = self.published.contains_key(prefix);
            match target.map(|target| (target, self.fib.insert(*prefix, target))) {
                Some((target, Ok(_))) => {
                    done.written += 1;
                    if is_ours {
                        self.written.insert(*prefix, target);
                    }
                }
                Some((_, Err(error))) => {
                    self.refuse(*prefix, &error, &mut done);
                    self.unwritten.insert(*prefix);
                }
                None => done.removed += usize::from(self.fib.remove(*prefix).is_some()),
            }
        }
        if self.fib.usage().retired > RETIRED_MAX && !done.stuck {
            done.stuck |= !self.dataplane.synchronize();
            if !done.stuck {
                self.fib.reclaim();
            }
        }
        done
    }

    /// The number of what a prefix is to lead to.
    fn winner(&mut self, publication: &Publication, prefix: &IpNet) -> Option<TargetId> {
        let own: Option<&Route> = publication.routes.get(prefix);
        let set = publication.learned.get(prefix);
        let set = set.filter(|(_, set, _)| own.is_none_or(|own| set.beats(own)));
        let key = match (set, own) {
            (Some((id, _, resolved)), _) => {
                if !self.sets.contains_key(&id) {
                    let entry = self.entry(publication.ports, &resolved.target);
                    self.sets.insert(id, entry);
                }
                Key::Set(id)
            }
            (None, Some(own)) => Key::Plain(self.entry(publication.ports, &own.target)),
            (None, None) => return None,
        };
        Some(TargetId(self.targets.number(&key)))
    }

    /// Numbers for all sets that are in use, and what they are now.
    pub(super) fn number_sets(&mut self, publication: &Publication) {
        self.sets.clear();
        for (id, resolved) in publication.learned.sets() {
            let entry = self.entry(publication.ports, &resolved.target);
            self.sets.insert(id, entry);
            self.targets.number(&Key::Set(id));
        }
    }

    pub(super) fn entry_of(&self, key: Option<&Key>) -> Entry {
        match key {
            Some(Key::Plain(entry)) => *entry,
            Some(Key::Set(id)) => self.set_entry(*id),
            None => Entry::NoRoute,
        }
    }

    fn set_entry(&self, id: SetId) -> Entry {
        self.sets.get(&id).copied().unwrap_or(Entry::Unreachable)
    }
}
