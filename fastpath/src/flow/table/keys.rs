//! The keys of a session in the index, and the numbers that stand for them there.
//!
//! A number is the session's, with two bits on top that say which of its keys this is.

use super::FlowTable;
use crate::flow::address::Tuple;
use crate::flow::session::{Direction, SessionId};

/// Bits of a number that are the session's.
pub(super) const NUMBER: u32 = (1 << 30) - 1;
/// The tuple of packets that come back.
pub(super) const REPLY: u32 = 1 << 30;
/// A key of the mapping: set for both; the outside one has [`REPLY`] too.
pub(super) const MAPPING: u32 = 1 << 31;

/// Kinds of keys, so that they hash apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A tuple as it arrives.
    Tuple,
    /// An inside address and port.
    Inside,
    /// An outside address and port.
    Outside,
}

/// The session of a number, and the direction of the key.
#[inline]
pub(super) fn parts(number: u32) -> (SessionId, Direction) {
    (SessionId(number & NUMBER), direction(number))
}

#[inline]
pub(super) fn direction(number: u32) -> Direction {
    if number & REPLY == 0 { Direction::Original } else { Direction::Reply }
}

impl FlowTable {
    #[inline]
    pub(super) fn has_tuple(&self, number: u32, tuple: &Tuple) -> bool {
        let Some(session) = self.slot(number) else { return false };
        number & MAPPING == 0 && session.arriving(direction(number)) == *tuple
    }

    /// Both tuples into the index, or none.
    pub(super) fn index_tuples(&mut self, id: SessionId) -> bool {
        let (original, reply) = self.tuples(id);
        if !self.index.insert(original, id.0) {
            return false;
        }
        let whole = self.index.insert(reply, id.0 | REPLY);
        if !whole {
            self.index.remove(original, id.0);
        }
        whole
    }

    pub(super) fn unindex_tuples(&mut self, id: SessionId) {
        let (original, reply) = self.tuples(id);
        self.index.remove(original, id.0);
        self.index.remove(reply, id.0 | REPLY);
    }

    fn tuples(&self, id: SessionId) -> (u64, u64) {
        let session = &self.slab.0[id.0 as usize];
        let reply = session.translated().reversed();
        (self.hash(Key::Tuple, &session.original()), self.hash(Key::Tuple, &reply))
    }
}
