//! The table: sessions in a slab, an index over their keys, the wheel that ends them.
//!
//! A session has two keys (both its tuples), and the first of a mapping two more: the inside
//! address and port, and the outside ones, so that translation can be independent of the far end
//! (RFC 4787 4.1). When the table is full a session that nobody has answered gives way; those that
//! are assured never do. Memory: 128 bytes a session, and 64 for every ten keys at 4 to 8 tenths
//! of load.

use super::address::{Address, Tuple, TupleV4};
use super::index::Index;
use super::protocol::Signal;
use super::session::{Direction, Place, Session, SessionId};
use super::timeouts::Timeouts;
use super::wheel::{Linked, Links, NONE, Wheel};
use crate::sys::table::{prefer_huge_pages, prefetch};
use ahash::{AHashMap, RandomState};
use std::hash::{BuildHasher, Hasher};

mod alike;
mod keys;
mod mapping;
mod offloaded;
mod slots;

pub use alike::Alike;
use keys::Key;
pub use offloaded::{Carried, Tier};

/// Sessions of one call of [`FlowTable::find_batch`] at most.
pub const BATCH: usize = 64;
/// Sessions that are looked at for one that gives way.
const EARLY_DROP_TRIES: usize = 16;

/// How much a table takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at most.
    pub sessions: usize,
    /// Sessions that one source address may have in this table; 0 is no limit.
    pub per_source: u32,
}

/// Why a session was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The table is full of sessions that do not give way.
    Full,
    /// The source has as many as it may have.
    SourceLimit,
    /// Another session has one of its tuples.
    Clash,
    /// The packet cannot begin one.
    Invalid,
}

/// A packet of a session.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Which way it goes.
    pub direction: Direction,
    /// What it says.
    pub signal: Signal,
    /// Length of the IP packet in bytes.
    pub bytes: u32,
}

/// A session that has ended.
#[derive(Debug)]
pub struct Removed {
    /// The number that it had.
    pub id: SessionId,
    /// The session.
    pub session: Session,
    /// It was the last one of its mapping: the outside port is free.
    pub ends_mapping: bool,
}

/// What has happened since the table was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions made.
    pub made: u64,
    /// Sessions ended by their timeout.
    pub expired: u64,
    /// Sessions that gave way to new ones.
    pub gave_way: u64,
    /// Sessions refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Slab(Vec<Session>);

impl Linked for Slab {
    #[inline]
    fn links(&mut self, id: u32) -> &mut Links {
        &mut self.0[id as usize].lists.wheel
    }
}

/// One worker's sessions.
#[derive(Debug)]
pub struct FlowTable {
    slab: Slab,
    free: u32,
    live: usize,
    index: Index,
    wheel: Wheel,
    hasher: RandomState,
    limits: Limits,
    timeouts: Timeouts,
    sources: AHashMap<Address, u32>,
    hand: usize,
    counters: Counters,
    changes: u64,
    withdrawn: Vec<SessionId>,
}

impl FlowTable {
    /// An empty table at second `now_s`. `seed` keys its hashes, so that senders cannot aim.
    /// Errors when there is no address space for the index.
    pub fn new(
        limits: Limits,
        timeouts: Timeouts,
        seed: u64,
        now_s: u32,
    ) -> std::io::Result<FlowTable> {
        let slab = Slab(Vec::with_capacity(limits.sessions));
        prefer_huge_pages(&slab.0);
        Ok(FlowTable {
            slab,
            free: NONE,
            live: 0,
            index: Index::new(limits.sessions * 4)?,
            wheel: Wheel::new(now_s),
            hasher: RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x6d61_7267_6179),
            limits,
            timeouts,
            sources: AHashMap::new(),
            hand: 0,
            counters: Counters::default(),
            changes: 0,
            withdrawn: Vec::new(),
        })
    }

    /// Grows when a session begins or ends: what was found before is as it was while it does not.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Sessions now.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True without a session.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Slots that sessions have had so far: numbers are below it.
    pub fn slots(&self) -> u32 {
        self.slab.0.len() as u32
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of memory that the sessions and a full index take.
    pub fn bytes(&self) -> usize {
        self.slab.0.len() * size_of::<Session>() + self.index.bytes()
    }

    /// What has happened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Idle times from now on.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// The session of a packet, and the packet's direction.
    #[inline]
    pub fn find(&self, tuple: &Tuple) -> Option<(SessionId, Direction)> {
        self.find_hashed(self.hash(Key::Tuple, tuple), tuple)
    }

    /// [`FlowTable::find`] for up to [`BATCH`] packets, with their memory fetched ahead.
    pub fn find_batch(&self, tuples: &[Tuple], out: &mut [Option<(SessionId, Direction)>]) {
        let mut hashes = [0u64; BATCH];
        for (hash, tuple) in hashes.iter_mut().zip(tuples) {
            *hash = self.hash(Key::Tuple, tuple);
            self.index.prefetch(*hash);
        }
        let mut hints = [None; BATCH];
        for (hint, hash) in hints.iter_mut().zip(&hashes).take(tuples.len()) {
            *hint = self.index.hint(*hash);
            if let Some(number) = *hint {
                self.prefetch_slot(number & keys::NUMBER);
            }
        }
        for (at, (found, tuple)) in out.iter_mut().zip(tuples).enumerate() {
            *found = match hints[at] {
                Some(number) if self.has_tuple(number, tuple) => Some(keys::parts(number)),
                _ => self.find_hashed(hashes[at], tuple),
            };
        }
    }

    /// Both lines of a session.
    #[inline]
    fn prefetch_slot(&self, id: u32) {
        if let Some(session) = self.slab.0.get(id as usize) {
            prefetch(session);
            prefetch(&session.lists);
        }
    }

    #[inline]
    fn find_hashed(&self, hash: u64, tuple: &Tuple) -> Option<(SessionId, Direction)> {
        let number = self.index.find(hash, |number| self.has_tuple(number, tuple))?;
        Some(keys::parts(number))
    }

    #[inline]
    fn slot(&self, number: u32) -> Option<&Session> {
        self.slab.0.get((number & keys::NUMBER) as usize)
    }

    /// A session by its number.
    #[inline]
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.slab.0.get(id.0 as usize).filter(|session| session.place != Place::Free)
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        let all = (0..).map(SessionId).zip(&self.slab.0);
        all.filter(|(_, session)| session.place != Place::Free)
    }

    #[inline]
    fn end_of(&self, session: &Session) -> u32 {
        let timeout = self.timeouts.of(session.state, session.is_translated());
        session.last_seen_s.saturating_add(timeout)
    }

    /// Notes a packet of a session.
    #[inline]
    pub fn seen(&mut self, id: SessionId, seen: Seen, now_s: u32) {
        let Some(session) = self.slab.0.get_mut(id.0 as usize) else { return };
        session.count((seen.direction, seen.bytes), now_s);
        let before = (session.state, session.bits);
        let (state, bits) = session.after(seen.direction, seen.signal);
        (session.state, session.bits) = (state, bits);
        if (state, bits) != before {
            self.withdraw(id);
        }
        if state != before.0 {
            self.rewind(id);
        }
    }

    /// A new state may end the session earlier than its slot comes up.
    #[cold]
    fn rewind(&mut self, id: SessionId) {
        let (end_s, slot) = (self.end_of(&self.slab.0[id.0 as usize]), self.slot_of(id));
        self.wheel.remove(&mut self.slab, id.0, slot);
        let slot = self.wheel.insert(&mut self.slab, id.0, end_s);
        self.slab.0[id.0 as usize].slot = slot;
    }

    fn slot_of(&self, id: SessionId) -> u16 {
        self.slab.0[id.0 as usize].slot
    }

    /// Makes a session for its first packet, without a mapping. `gave_way` gets the session that
    /// was ended for it, if one was.
    pub fn insert(
        &mut self,
        (original, translated): (Tuple, Tuple),
        seen: (Signal, u32),
        now_s: u32,
        gave_way: &mut Option<Removed>,
    ) -> Result<SessionId, Refused> {
        let made = self.try_insert((original, translated), seen, now_s, gave_way);
        self.counters.refused += u64::from(made.is_err());
        made
    }

    fn try_insert(
        &mut self,
        (original, translated): (Tuple, Tuple),
        (signal, bytes): (Signal, u32),
        now_s: u32,
        gave_way: &mut Option<Removed>,
    ) -> Result<SessionId, Refused> {
        let state = signal.begins().ok_or(Refused::Invalid)?;
        if self.find(&original).is_some() || self.find(&translated.reversed()).is_some() {
            return Err(Refused::Clash);
        }
        self.admit(original.src)?;
        if self.live >= self.limits.sessions {
            *gave_way = Some(self.early_drop().ok_or(Refused::Full)?);
        }
        let id = self.take_slot(Session::new((original, translated), state, bytes, now_s));
        if !self.index_tuples(id) {
            self.release_slot(id);
            return Err(Refused::Full);
        }
        self.count_source(original.src);
        let end_s = self.end_of(&self.slab.0[id.0 as usize]);
        let slot = self.wheel.insert(&mut self.slab, id.0, end_s);
        self.slab.0[id.0 as usize].slot = slot;
        self.counters.made += 1;
        Ok(id)
    }

    /// Ends one of the next few sessions that nobody would miss: under a flood most are such.
    fn early_drop(&mut self) -> Option<Removed> {
        for _ in 0..EARLY_DROP_TRIES.min(self.slab.0.len()) {
            self.hand = (self.hand + 1) % self.slab.0.len();
            let session = &self.slab.0[self.hand];
            if session.place != Place::Free && !session.is_assured() {
                self.counters.gave_way += 1;
                return self.remove(SessionId(self.hand as u32));
            }
        }
        None
    }

    /// Ends a session.
    pub fn remove(&mut self, id: SessionId) -> Option<Removed> {
        self.get(id)?;
        self.withdraw(id);
        let ends_mapping = self.leave_mapping(id);
        self.unindex_tuples(id);
        let slot = self.slot_of(id);
        self.wheel.remove(&mut self.slab, id.0, slot);
        let session = self.release_slot(id);
        self.forget_source(session.original().src);
        Some(Removed { id, session, ends_mapping })
    }

    #[inline]
    fn hash(&self, key: Key, tuple: &Tuple) -> u64 {
        let Tuple { src, dst, src_port, dst_port, protocol } = *tuple;
        let low = TupleV4 { src: src.v4_bits(), dst: dst.v4_bits(), src_port, dst_port, protocol };
        if src.is_v4() {
            return self.hash_v4(key, &low);
        }
        let mut hasher = self.hasher_of(key, &low);
        hasher.write_u128(src.bits());
        hasher.write_u128(dst.bits());
        hasher.finish()
    }

    /// [`FlowTable::hash`] of a tuple of IPv4.
    #[inline]
    fn hash_v4(&self, key: Key, tuple: &TupleV4) -> u64 {
        let mut hasher = self.hasher_of(key, tuple);
        hasher.write_u64(u64::from(tuple.src) << 32 | u64::from(tuple.dst));
        hasher.finish()
    }

    /// With all but the addresses.
    #[inline]
    fn hasher_of(&self, key: Key, tuple: &TupleV4) -> impl Hasher + use<> {
        let mut hasher = self.hasher.build_hasher();
        let ports = u64::from(tuple.src_port) << 32 | u64::from(tuple.dst_port) << 16;
        hasher.write_u64(ports | u64::from(tuple.protocol) << 8 | key as u64);
        hasher
    }

    #[cfg(test)]
    pub(super) fn state_of(&self, id: SessionId) -> Option<crate::flow::State> {
        self.get(id).map(Session::state)
    }

    #[cfg(test)]
    pub(super) fn slab_mut(&mut self, id: SessionId) -> &mut Session {
        &mut self.slab.0[id.0 as usize]
    }

    #[cfg(test)]
    pub(super) fn rewind_for_test(&mut self, id: SessionId) {
        self.rewind(id);
    }
}
