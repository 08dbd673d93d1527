//! IPv4: the DIR-24-8 shape. One entry for each /24; a /24 with longer prefixes has a group of 256.
//!
//! So a lookup is one load, or two for the few addresses under a prefix longer than /24. A change
//! writes just the entries whose longest match it is, each with one store. Groups are filled before
//! the entry that leads to them is stored, and when one is left its contents stay as they are until
//! [`Writer4::reclaim`]: a reader on its way still finds the answer that was right as it entered.

use super::entry::Entry;
use super::fallback::{Fallback, Seen};
use super::rib::Rib;
use super::slots::Slots;
use super::{FibError, Resource};
use crate::sys::table::WordTable;
use crate::tables::TargetId;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

/// Addresses that a batch has on their way at once.
const LANES: usize = 32;
/// Most addresses of one batch.
const MOST: usize = 64;

/// What readers see.
#[derive(Debug)]
pub(super) struct Table4 {
    root: WordTable,
    groups: WordTable,
    pub(super) fallback: Fallback,
}

impl Table4 {
    pub(super) fn new(groups: u32) -> std::io::Result<Table4> {
        Ok(Table4 {
            root: WordTable::new(1 << 24)?,
            groups: WordTable::new(groups as usize * 256)?,
            fallback: Fallback::default(),
        })
    }

    #[inline]
    fn root_entry(&self, address: u32) -> Entry {
        Entry(self.root[(address >> 8) as usize].load(Ordering::Acquire))
    }

    /// Fetches the first word of a lookup.
    #[inline]
    pub(super) fn prefetch(&self, address: u32) {
        self.root.prefetch((address >> 8) as usize);
    }

    #[inline]
    fn group_entry(&self, group: Entry, address: u32) -> Entry {
        Entry(self.groups[group_index(group, address)].load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn lookup(&self, address: u32) -> TargetId {
        loop {
            let before = self.fallback.read();
            let mut entry = self.root_entry(address);
            if entry.is_stride() {
                entry = self.group_entry(entry, address);
            }
            if entry.is_target() {
                return entry.id();
            }
            if self.fallback.read() == before {
                return before.id();
            }
        }
    }

    /// One after the other: the processor guesses that an address has no group, and has the loads
    /// of many on their way at once. With a full table and random addresses this takes 18 cycles
    /// an address where a pass of loads before one for groups takes 29, for a wrong guess of how
    /// many have one waits for all loads of its pass; two loads for each without a guess take 33.
    pub(super) fn lookup_batch(&self, addresses: &[Ipv4Addr], out: &mut [TargetId]) {
        for (address, out) in addresses.iter().zip(out) {
            *out = self.lookup(address.to_bits());
        }
    }

    /// As [`Table4::lookup_batch`] for up to 64 addresses, without those that have a group: a bit
    /// for each of these, whose words are asked for meanwhile.
    pub(super) fn begin_batch(&self, addresses: &[Ipv4Addr], out: &mut [TargetId]) -> u64 {
        let mut deeper = 0;
        let lists = addresses.chunks(LANES).zip(out.chunks_mut(LANES)).enumerate();
        for (at, (addresses, out)) in lists.take(MOST / LANES) {
            let before = self.fallback.read();
            let mut entries = [Entry::NONE; LANES];
            let (mut strides, mut all) = (0u32, u32::MAX);
            for (at, (address, entry)) in addresses.iter().zip(&mut entries).enumerate() {
                *entry = self.root_entry(address.to_bits());
                strides |= u32::from(entry.is_stride()) << at;
                all &= if entry.is_stride() { u32::MAX } else { entry.0 };
            }
            for (entry, out) in entries.iter().zip(out.iter_mut()) {
                *out = entry.id();
            }
            if !Entry(all).is_target() {
                self.finish(before, addresses, &entries, out);
            }
            deeper |= u64::from(strides) << (at * LANES);
            while strides != 0 {
                let at = strides.trailing_zeros() as usize;
                self.groups.prefetch(group_index(entries[at], addresses[at].to_bits()));
                strides &= strides - 1;
            }
        }
        deeper
    }

    /// Gives addresses without a prefix the default route.
    fn finish(&self, before: Seen, addresses: &[Ipv4Addr], found: &[Entry], out: &mut [TargetId]) {
        for ((address, entry), out) in addresses.iter().zip(found).zip(out) {
            if !entry.is_target() && !entry.is_stride() {
                let constant = self.fallback.read() == before;
                *out = if constant { before.id() } else { self.lookup(address.to_bits()) };
            }
        }
    }

    pub(super) fn promote(&self) {
        self.root.promote();
        self.groups.promote();
    }

    fn set_root(&self, slot: u32, entry: Entry) {
        self.root[slot as usize].store(entry.0, Ordering::Release);
    }

    /// Writes `entry` for the addresses `first..=last`. A /24 that is only partly among them has
    /// longer prefixes, and so a group.
    fn fill(&self, first: u32, last: u32, entry: Entry) {
        let (mut from, mut to) = (i64::from(first >> 8), i64::from(last >> 8));
        if from == to && (first & 255, last & 255) != (0, 255) {
            return self.fill_group(self.root_entry(first), first & 255, last & 255, entry);
        }
        if first & 255 != 0 {
            self.fill_group(self.root_entry(first), first & 255, 255, entry);
            from += 1;
        }
        if last & 255 != 255 {
            self.fill_group(self.root_entry(last), 0, last & 255, entry);
            to -= 1;
        }
        (from..=to).for_each(|slot| self.set_root(slot as u32, entry));
    }

    fn fill_group(&self, group: Entry, first: u32, last: u32, entry: Entry) {
        for word in &self.groups[group_index(group, first)..=group_index(group, last)] {
            word.store(entry.0, Ordering::Release);
        }
    }
}

#[inline]
fn group_index(group: Entry, address: u32) -> usize {
    (group.number() as usize) << 8 | (address & 255) as usize
}

/// The book of the one writer of a [`Table4`].
#[derive(Debug)]
pub(super) struct Writer4 {
    pub(super) rib: Rib<u32>,
    pub(super) groups: Slots,
}

impl Writer4 {
    pub(super) fn new(groups: u32) -> Writer4 {
        Writer4 { rib: Rib::new(), groups: Slots::new(groups) }
    }

    pub(super) fn insert(
        &mut self,
        table: &Table4,
        (key, len): (u32, u8),
        target: TargetId,
    ) -> Result<Option<TargetId>, FibError> {
        if len > 24 && !table.root_entry(key).is_stride() && self.groups.available() == 0 {
            return Err(FibError::Full(Resource::GroupsV4));
        }
        let old = self.rib.insert(key, len, target);
        if old != Some(target) {
            self.publish(table, key, len);
        }
        Ok(old)
    }

    pub(super) fn remove(&mut self, table: &Table4, key: u32, len: u8) -> Option<TargetId> {
        let old = self.rib.remove(key, len)?;
        self.publish(table, key, len);
        Some(old)
    }

    /// Writes what the book now says of `key/len` into the entries that this prefix owns or owned.
    fn publish(&mut self, table: &Table4, key: u32, len: u8) {
        if len > 24 {
            return self.publish_in_group(table, key, len);
        }
        let view = self.rib.narrow(self.rib.whole(), key, len);
        self.rib.gaps(view, key, len, &mut |first, last| table.fill(first, last, view.entry));
    }

    fn publish_in_group(&mut self, table: &Table4, key: u32, len: u8) {
        let root = table.root_entry(key);
        let above = self.rib.narrow(self.rib.whole(), key, 24);
        if above.is_uniform() {
            table.set_root(key >> 8, above.entry);
            if root.is_stride() {
                self.groups.retire(root.number());
            }
            return;
        }
        let mut group = root;
        if !root.is_stride() {
            let Some(number) = self.groups.alloc() else { return };
            group = Entry::stride(number);
            table.fill_group(group, 0, 255, above.entry);
        }
        let view = self.rib.narrow(above, key, len);
        self.rib.gaps(view, key, len, &mut |first, last| {
            table.fill_group(group, first & 255, last & 255, view.entry);
        });
        if group != root {
            table.set_root(key >> 8, group);
        }
    }
}
