//! Fragmented packets of the model: which first fragments have come, and who waits for one.

use super::super::probe::{Probe, Shape};
use crate::flow::Address;

/// Seconds that a packet is remembered: Linux's `ipfrag_time`.
const TIME_S: u64 = 30;

type Key = (Address, Address, u8, u16);

struct Entry {
    key: Key,
    until_s: u64,
    first_came: bool,
    waiting: Vec<Probe>,
}

#[derive(Default)]
pub(in super::super) struct Waiting {
    entries: Vec<Entry>,
    /// Those whose first one has come, until the driver takes them.
    pub(in super::super) released: Vec<Probe>,
    /// Those that waited in vain.
    pub(in super::super) expired: usize,
}

fn key(probe: &Probe, id: u16) -> Key {
    (probe.tuple.src, probe.tuple.dst, probe.tuple.protocol, id)
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.entries.iter().map(|entry| entry.waiting.len()).sum()
    }

    /// False when the packet is a fragment whose first one has not come: it waits.
    pub(super) fn knows(&mut self, probe: &Probe, now_s: u64) -> bool {
        let (id, is_first) = match probe.shape {
            Shape::First(id) => (id, true),
            Shape::Later(id) => (id, false),
            _ => return true,
        };
        let key = key(probe, id);
        let at = self.entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            let waiting = Vec::new();
            self.entries.push(Entry { key, until_s: now_s + TIME_S, first_came: false, waiting });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[at];
        entry.first_came |= is_first;
        if entry.first_came {
            self.released.append(&mut entry.waiting);
        } else {
            entry.waiting.push(*probe);
        }
        entry.first_came
    }

    pub(super) fn expire(&mut self, now_s: u64) {
        let gone = self.entries.iter().filter(|entry| entry.until_s <= now_s);
        self.expired += gone.map(|entry| entry.waiting.len()).sum::<usize>();
        self.entries.retain(|entry| entry.until_s > now_s);
    }
}
