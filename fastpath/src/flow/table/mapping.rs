//! Mappings: an inside address and port that look the same to every destination.
//!
//! The sessions of one mapping are in a ring. One of them stands for the mapping in the index,
//! under the inside endpoint (for further sessions from there) and the outside one (for packets
//! that come to it from elsewhere); when it ends, the next of the ring takes its place.

use super::FlowTable;
use super::keys::{Key, MAPPING, NUMBER, REPLY};
use crate::flow::address::{Address, Tuple};
use crate::flow::protocol::BEGUN_BY_REPLY;
use crate::flow::session::{Place, Session, SessionId};
use crate::flow::wheel::Links;

/// The inside endpoint of a session, as a tuple to nowhere.
fn inside(session: &Session) -> Tuple {
    let Tuple { src, src_port, protocol, .. } = session.original();
    to_nowhere(src, src_port, protocol)
}

fn outside(session: &Session) -> Tuple {
    let Tuple { src, src_port, protocol, .. } = session.translated();
    to_nowhere(src, src_port, protocol)
}

fn to_nowhere(src: Address, src_port: u16, protocol: u8) -> Tuple {
    Tuple { src, src_port, protocol, ..Tuple::default() }
}

impl FlowTable {
    /// Fetches what a new session with these tuples and its mapping are looked up by, beside the
    /// original tuple.
    pub fn prefetch_new(&self, original: &Tuple, translated: &Tuple) {
        let inside = to_nowhere(original.src, original.src_port, original.protocol);
        let outside = to_nowhere(translated.src, translated.src_port, translated.protocol);
        let keys =
            [(Key::Inside, inside), (Key::Tuple, translated.reversed()), (Key::Outside, outside)];
        for (key, tuple) in keys {
            self.index.prefetch(self.hash(key, &tuple));
        }
    }

    /// After that, and with other work between: fetches the sessions whose mapping the new one will
    /// share, if there is one.
    pub fn prefetch_mapping(&self, original: &Tuple) {
        let inside = to_nowhere(original.src, original.src_port, original.protocol);
        if let Some(number) = self.index.hint(self.hash(Key::Inside, &inside)) {
            self.prefetch_slot(number & NUMBER);
        }
    }

    /// A session of the mapping of this inside endpoint.
    pub fn mapping_of(&self, address: Address, port: u16, protocol: u8) -> Option<SessionId> {
        let wanted = to_nowhere(address, port, protocol);
        let hash = self.hash(Key::Inside, &wanted);
        let number = self.index.find(hash, |number| {
            number & MAPPING != 0
                && number & REPLY == 0
                && self.slot(number).is_some_and(|session| inside(session) == wanted)
        })?;
        Some(SessionId(number & NUMBER))
    }

    /// A session of the mapping that has this outside endpoint.
    pub fn mapping_at(&self, address: Address, port: u16, protocol: u8) -> Option<SessionId> {
        let wanted = to_nowhere(address, port, protocol);
        let hash = self.hash(Key::Outside, &wanted);
        let number = self.index.find(hash, |number| {
            number & MAPPING != 0
                && number & REPLY != 0
                && self.slot(number).is_some_and(|session| outside(session) == wanted)
        })?;
        Some(SessionId(number & NUMBER))
    }

    /// The sessions of the mapping of `id`, itself first.
    pub fn mapped_with(&self, id: SessionId) -> impl Iterator<Item = &Session> {
        let mut at = Some(id.0);
        std::iter::from_fn(move || {
            let session = self.slot(at?)?;
            let next = session.lists.ring.next;
            at = (session.has_mapping() && next != id.0).then_some(next);
            Some(session)
        })
    }

    /// Gives a session its own mapping; false, with nothing changed, when the index has no room.
    pub fn begin_mapping(&mut self, id: SessionId) -> bool {
        let (inside, outside) = self.mapping_hashes(id);
        if !self.index.insert(inside, id.0 | MAPPING) {
            return false;
        }
        if !self.index.insert(outside, id.0 | MAPPING | REPLY) {
            self.index.remove(inside, id.0 | MAPPING);
            return false;
        }
        let session = &mut self.slab.0[id.0 as usize];
        session.place = Place::Mapping;
        session.lists.ring = Links { next: id.0, previous: id.0 };
        true
    }

    /// Lets a new session have the mapping of `with`.
    pub fn share_mapping(&mut self, id: SessionId, with: SessionId) {
        let next = self.slab.0[with.0 as usize].lists.ring.next;
        let session = &mut self.slab.0[id.0 as usize];
        session.place = Place::Sharing;
        session.lists.ring = Links { next, previous: with.0 };
        self.slab.0[with.0 as usize].lists.ring.next = id.0;
        self.slab.0[next as usize].lists.ring.previous = id.0;
    }

    /// Says of a new session that its first packet came from outside.
    pub fn begun_outside(&mut self, id: SessionId) {
        let session = &mut self.slab.0[id.0 as usize];
        session.bits |= BEGUN_BY_REPLY;
        session.packets.swap(0, 1);
    }

    fn mapping_hashes(&self, id: SessionId) -> (u64, u64) {
        let session = &self.slab.0[id.0 as usize];
        (self.hash(Key::Inside, &inside(session)), self.hash(Key::Outside, &outside(session)))
    }

    /// True when the session was the last one of its mapping.
    pub(super) fn leave_mapping(&mut self, id: SessionId) -> bool {
        let (place, Links { next, previous }) = {
            let session = &self.slab.0[id.0 as usize];
            (session.place, session.lists.ring)
        };
        if !matches!(place, Place::Sharing | Place::Mapping) {
            return false;
        }
        let last = next == id.0;
        if place == Place::Mapping {
            let (inside, outside) = self.mapping_hashes(id);
            if last {
                self.index.remove(inside, id.0 | MAPPING);
                self.index.remove(outside, id.0 | MAPPING | REPLY);
            } else {
                self.index.replace(inside, id.0 | MAPPING, next | MAPPING);
                self.index.replace(outside, id.0 | MAPPING | REPLY, next | MAPPING | REPLY);
                self.slab.0[next as usize].place = Place::Mapping;
            }
        }
        self.slab.0[next as usize].lists.ring.previous = previous;
        self.slab.0[previous as usize].lists.ring.next = next;
        last
    }
}
