//! What a device's program and the workers tell each other about its queues, so that a flow is
//! carried only when none of its packets is under way to a worker any more.
//!
//! The program numbers what it gives to a queue's worker and never gives more than the worker has
//! frames for, so that no packet is lost between them and the numbers stay true. The worker says
//! up to which number everything has left it.

use crate::steering::SteeringError;
use crate::sys::bpf::{Map, MappedArray};
use std::sync::atomic::Ordering;

/// Queues of a device that take part, at most; their numbers fill a byte.
const MAX_QUEUES: u32 = 256;
/// Bytes of a queue, as a power of two: a line of the cache for each writer.
pub(crate) const QUEUE_SHIFT: i32 = 7;
const QUEUE_WORDS: usize = 1 << (QUEUE_SHIFT - 3);

/// Byte offsets in a queue's part.
pub(crate) mod layout {
    /// How many packets were given to the worker. The program's.
    pub(crate) const GIVEN: i16 = 0;
    /// How many were dropped because the worker is behind. The program's.
    pub(crate) const REFUSED: i16 = 8;
    /// Up to which number all have left the worker. The worker's.
    pub(crate) const SEEN: i16 = 64;
    /// How many may be given in all; all bits set while no worker has the queue. The worker's.
    pub(crate) const CREDIT: i16 = 72;
    /// How many there was room for when that was said. The worker's.
    pub(crate) const ROOM: i16 = 80;
    /// Of a TAP: up to when all that it had has been read, in nanoseconds of the kernel's clock, in
    /// which [`SEEN`] is told then, too. The worker's.
    pub(crate) const READ: i16 = 88;
}

/// All queues of a device.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// One row, for programs read only such without a call.
    words: MappedArray,
    queues: u32,
}

impl Arrivals {
    pub(crate) fn new(queues: u32) -> Result<Arrivals, SteeringError> {
        let (name, queues) = ("arrivals", queues.clamp(1, MAX_QUEUES));
        let words = MappedArray::new(name, 1, QUEUE_WORDS * queues as usize);
        let words = words.map_err(|source| SteeringError::Map { name, source })?;
        let arrivals = Arrivals { words, queues };
        (0..queues).for_each(|queue| arrivals.end_credit(queue));
        Ok(arrivals)
    }

    /// The map, for a program.
    pub(crate) fn map(&self) -> &Map {
        self.words.map()
    }

    /// How many queues take part; those behind them have no part in offload.
    pub(crate) fn queues(&self) -> u32 {
        self.queues
    }

    fn get(&self, queue: u32, offset: i16) -> u64 {
        match queue < self.queues {
            true => self.words.word(0, word(queue, offset)).load(Ordering::Acquire),
            false => 0,
        }
    }

    fn set(&self, queue: u32, offset: i16, value: u64) {
        if queue < self.queues {
            self.words.word(0, word(queue, offset)).store(value, Ordering::Release);
        }
    }

    /// How many packets were given to the worker.
    pub(crate) fn given(&self, queue: u32) -> u64 {
        self.get(queue, layout::GIVEN)
    }

    /// How many were dropped because it is behind.
    pub(crate) fn refused(&self, queue: u32) -> u64 {
        self.get(queue, layout::REFUSED)
    }

    /// All packets up to this number have left the worker.
    pub(crate) fn set_seen(&self, queue: u32, number: u64) {
        self.set(queue, layout::SEEN, number);
    }

    /// All that the TAP had at this time has been read.
    pub(crate) fn set_read(&self, queue: u32, at_ns: u64) {
        self.set(queue, layout::READ, at_ns);
    }

    /// `taken` were taken by the worker, and it has room for so many more.
    pub(crate) fn set_room(&self, queue: u32, taken: u64, room: u64) {
        self.set(queue, layout::ROOM, room);
        self.set(queue, layout::CREDIT, taken + room);
    }

    /// No worker has the queue: what comes by it is the kernel's.
    pub(crate) fn end_credit(&self, queue: u32) {
        self.set(queue, layout::CREDIT, u64::MAX);
    }

    /// As the program does.
    #[cfg(test)]
    pub(crate) fn set_given(&self, queue: u32, number: u64) {
        self.set(queue, layout::GIVEN, number);
    }
}

fn word(queue: u32, offset: i16) -> usize {
    queue as usize * QUEUE_WORDS + offset as usize / size_of::<u64>()
}
