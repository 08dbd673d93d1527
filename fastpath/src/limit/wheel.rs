//! Things that wait for a time, in slots of that time; bounded in number and in how far ahead.
//!
//! What is put in comes out no earlier than its time, and at most a slot later. In one slot, first
//! come is first out: packets of one endpoint, whose times only grow, keep their order.

use std::collections::VecDeque;

/// The time that one slot stands for, in nanoseconds.
pub const SLOT_NS: u64 = 1 << 14;
/// Slots.
const SLOTS: usize = 2048;
/// How far ahead of the last poll a time may be, in nanoseconds.
pub const HORIZON_NS: u64 = SLOT_NS * (SLOTS as u64 - 1);

/// A timing wheel of one level.
#[derive(Debug)]
pub struct Wheel<T> {
    slots: Vec<VecDeque<T>>,
    /// The first slot of time that has not been emptied.
    next: u64,
    count: usize,
    limit: usize,
}

impl<T> Wheel<T> {
    /// For at most so many things.
    pub fn new(limit: usize, now_ns: u64) -> Wheel<T> {
        let slots = (0..SLOTS).map(|_| VecDeque::new()).collect();
        Wheel { slots, next: now_ns / SLOT_NS, count: 0, limit }
    }

    /// Things that wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts a thing in for a time; gives it back when there is no room, or the time is beyond
    /// [`HORIZON_NS`].
    pub fn insert(&mut self, at_ns: u64, thing: T) -> Result<(), T> {
        let slot = at_ns.div_ceil(SLOT_NS).max(self.next);
        if self.count >= self.limit || slot - self.next >= SLOTS as u64 {
            return Err(thing);
        }
        self.slots[slot as usize % SLOTS].push_back(thing);
        self.count += 1;
        Ok(())
    }

    /// Takes any thing, whatever its time is.
    pub fn take_any(&mut self) -> Option<T> {
        let taken = self.slots.iter_mut().find_map(VecDeque::pop_front)?;
        self.count -= 1;
        Some(taken)
    }

    /// Takes the next thing whose time has come, in the order of slots.
    pub fn pop(&mut self, now_ns: u64) -> Option<T> {
        let due = now_ns / SLOT_NS;
        while self.next <= due {
            if self.count == 0 {
                self.next = due;
                return None;
            }
            if let Some(thing) = self.slots[self.next as usize % SLOTS].pop_front() {
                self.count -= 1;
                return Some(thing);
            }
            if self.next == due {
                return None;
            }
            self.next += 1;
        }
        None
    }
}
