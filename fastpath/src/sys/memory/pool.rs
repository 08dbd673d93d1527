//! A cache of free frames before the arena, one for each thread that takes and gives many.
//!
//! Frames move between the two in batches, so that the arena's lock is seldom taken.

use crate::packet::Packet;
use std::sync::Arc;

use super::{Arena, BATCH, Frame};

/// One worker's cache of free frames.
#[derive(Debug)]
pub struct FramePool {
    arena: Arc<Arena>,
    small: Vec<Frame>,
    large: Vec<Frame>,
}

impl FramePool {
    /// Frames a pool keeps before it gives batches back.
    pub const HIGH_WATER: usize = 8 * BATCH;
    const LARGE_HIGH_WATER: usize = 8;

    /// An empty cache before `arena`.
    pub fn new(arena: Arc<Arena>) -> FramePool {
        FramePool { arena, small: Vec::with_capacity(Self::HIGH_WATER + BATCH), large: Vec::new() }
    }

    /// The arena behind the cache.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// A small frame; `None` when the arena is spent.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        if let Some(frame) = self.small.pop() {
            return Some(frame);
        }
        self.arena.take(false, &mut self.small, BATCH);
        self.small.pop()
    }

    /// So many small frames; fewer when the arena is spent. All are to be taken: those that are
    /// dropped with the iterator are lost.
    #[inline]
    pub fn alloc_burst(&mut self, count: usize) -> impl ExactSizeIterator<Item = Frame> {
        if self.small.len() < count {
            self.arena.take(false, &mut self.small, BATCH.max(count));
        }
        self.small.drain(self.small.len().saturating_sub(count)..)
    }

    /// A large frame; `None` when the arena has none left.
    pub fn alloc_large(&mut self) -> Option<Frame> {
        if self.large.is_empty() {
            self.arena.take(true, &mut self.large, Self::LARGE_HIGH_WATER / 2);
        }
        self.large.pop()
    }

    /// Takes a frame back, of either size.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        if frame.is_large() {
            self.large.push(frame);
            if self.large.len() > Self::LARGE_HIGH_WATER {
                self.arena.give(true, &mut self.large, Self::LARGE_HIGH_WATER / 2);
            }
            return;
        }
        self.small.push(frame);
        self.spill();
    }

    /// Gives what is too much back to the arena.
    #[inline]
    fn spill(&mut self) {
        if self.small.len() > Self::HIGH_WATER {
            self.arena.give(false, &mut self.small, Self::HIGH_WATER - BATCH);
        }
    }

    /// Takes the frames of all packets back; leaves `burst` empty.
    #[inline]
    pub fn free_burst(&mut self, burst: &mut Vec<Packet>) {
        for packet in burst.drain(..) {
            match packet.into_single() {
                Ok((frame, ..)) if !frame.is_large() => self.small.push(frame),
                Ok((frame, ..)) => self.free(frame),
                Err(packet) => packet.free(self),
            }
        }
        self.spill();
    }

    /// Small frames in the cache.
    pub fn cached(&self) -> usize {
        self.small.len()
    }

    /// Large frames in the cache.
    pub fn cached_large(&self) -> usize {
        self.large.len()
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.arena.give(false, &mut self.small, 0);
        self.arena.give(true, &mut self.large, 0);
    }
}
