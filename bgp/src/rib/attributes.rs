//! Attribute sets, each kept once however many routes have it.
//!
//! A set is its canonical bytes and a [`Summary`] of what the decision process compares, so that
//! choosing a route decodes nothing. Sets are counted, and their places used again.

use super::next_hop::{HopId, NextHops};
use crate::wire::attribute::{Attributes, Origin};
use ahash::RandomState;
use hashbrown::HashTable;

/// LOCAL_PREF of a route that has none (RFC 4271 section 9.1.1 leaves it open; everybody's value).
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// A set; [`AttrId::NONE`] stands for no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct AttrId(u32);

impl AttrId {
    pub(super) const NONE: AttrId = AttrId(0);

    fn at(self) -> usize {
        self.0 as usize
    }
}

/// What the decision process reads of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) local_pref: u32,
    /// 0 when there is none (RFC 4271 section 9.1.2.2 c).
    pub(super) med: u32,
    pub(super) neighbor_as: u32,
    /// ORIGINATOR_ID; 0 when there is none.
    pub(super) originator: u32,
    pub(super) next_hop: HopId,
    pub(super) path_length: u16,
    pub(super) cluster_length: u8,
    pub(super) origin: u8,
}

impl Summary {
    const NOTHING: Summary = Summary {
        local_pref: 0,
        med: 0,
        neighbor_as: 0,
        originator: 0,
        next_hop: HopId::NONE,
        path_length: 0,
        cluster_length: 0,
        origin: 0,
    };
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    summary: Summary,
    references: u32,
    /// Rises when the place is used again, so that a remembered id can be told to be old.
    life: u32,
}

/// All sets.
#[derive(Debug)]
pub(super) struct AttributeSets {
    entries: Vec<Entry>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
}

impl AttributeSets {
    pub(super) fn new() -> AttributeSets {
        let nothing =
            Entry { bytes: Box::default(), summary: Summary::NOTHING, references: 0, life: 0 };
        AttributeSets {
            entries: vec![nothing],
            free: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// Sets in use.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// The set of these attributes, counted once more.
    pub(super) fn intern(&mut self, attributes: &Attributes, hops: &mut NextHops) -> AttrId {
        let bytes = attributes.to_canonical();
        let hash = self.hasher.hash_one(&*bytes);
        let entries = &mut self.entries;
        if let Some(&known) = self.index.find(hash, |id| entries[*id as usize].bytes == bytes) {
            entries[known as usize].references += 1;
            return AttrId(known);
        }
        let summary = summarize(attributes, hops);
        let id = match self.free.pop() {
            Some(id) => {
                let entry = &mut entries[id as usize];
                *entry = Entry { bytes, summary, references: 1, life: entry.life.wrapping_add(1) };
                id
            }
            None => {
                entries.push(Entry { bytes, summary, references: 1, life: 0 });
                (entries.len() - 1) as u32
            }
        };
        let hasher = &self.hasher;
        self.index.insert_unique(hash, id, |id| hasher.hash_one(&*entries[*id as usize].bytes));
        AttrId(id)
    }

    /// One more user.
    #[inline]
    pub(super) fn retain(&mut self, id: AttrId) {
        if id != AttrId::NONE {
            self.entries[id.at()].references += 1;
        }
    }

    /// One user less; with the last one the set goes.
    #[inline]
    pub(super) fn release(&mut self, id: AttrId, hops: &mut NextHops) {
        if id == AttrId::NONE {
            return;
        }
        let entry = &mut self.entries[id.at()];
        entry.references -= 1;
        if entry.references == 0 {
            self.forget(id, hops);
        }
    }

    fn forget(&mut self, id: AttrId, hops: &mut NextHops) {
        let entry = &mut self.entries[id.at()];
        hops.release(entry.summary.next_hop);
        let bytes = std::mem::take(&mut entry.bytes);
        let hash = self.hasher.hash_one(&*bytes);
        if let Ok(place) = self.index.find_entry(hash, |known| *known == id.0) {
            place.remove();
        }
        self.free.push(id.0);
    }

    /// What is compared.
    #[inline]
    pub(super) fn summary(&self, id: AttrId) -> &Summary {
        &self.entries[id.at()].summary
    }

    /// The set itself.
    pub(super) fn attributes(&self, id: AttrId) -> Attributes {
        Attributes::from_canonical(&self.entries[id.at()].bytes).unwrap_or_default()
    }

    /// To be given to [`AttributeSets::is_alive`] later.
    pub(super) fn life(&self, id: AttrId) -> u32 {
        self.entries[id.at()].life
    }

    /// True when the id still stands for the set for which it stood in this life.
    pub(super) fn is_alive(&self, id: AttrId, life: u32) -> bool {
        let entry = &self.entries[id.at()];
        entry.references > 0 && entry.life == life
    }
}

fn summarize(attributes: &Attributes, hops: &mut NextHops) -> Summary {
    Summary {
        local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        med: attributes.med.unwrap_or(0),
        neighbor_as: attributes.as_path.neighbor_as().unwrap_or(0),
        originator: attributes.originator_id.map_or(0, |id| id.to_bits()),
        next_hop: attributes.next_hop.map_or(HopId::NONE, |hop| hops.retain(hop.address())),
        path_length: u16::try_from(attributes.as_path.length()).unwrap_or(u16::MAX),
        cluster_length: u8::try_from(attributes.cluster_list.len()).unwrap_or(u8::MAX),
        origin: match attributes.origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        },
    }
}
