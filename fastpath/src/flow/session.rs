//! One session: both its tuples, its state, and where it hangs in the table's lists.

use super::address::Tuple;
use super::protocol::{self, State};
use super::wheel::Links;

/// Number of a session in its table; given to another one once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// Which way a packet goes, as its session sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As the first packet.
    Original,
    /// Back.
    Reply,
}

impl Direction {
    /// The other one.
    #[inline]
    #[must_use]
    pub fn other(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// Two lines of the cache, which some processors fetch together when they are a pair.
#[derive(Debug, Clone)]
#[repr(C, align(128))]
pub struct Session {
    /// As the one who began sends.
    pub original: Tuple,
    /// As the one who answers receives it; equal to `original` unless it is translated.
    pub translated: Tuple,
    pub(super) state: State,
    pub(super) bits: u8,
    pub(super) place: Place,
    /// Its slot in the wheel.
    pub(super) slot: u16,
    /// When the last packet came, in seconds on the table's clock.
    pub last_seen_s: u32,
    pub(super) wheel: Links,
    /// Sessions with the same mapping, in a ring.
    pub(super) ring: Links,
    /// Packets by direction; they begin anew at 2^32.
    pub packets: [u32; 2],
    /// The snapshot of policy that let it through; 0 where none was asked.
    pub judged: u32,
    /// Bytes of IP packets, both directions together.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Session>() == 128);

/// What stands for the session in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// Not in use.
    Free,
    /// Its two tuples.
    Tuples,
    /// Its tuples; its mapping is another session's.
    Sharing,
    /// Its tuples and its mapping.
    Mapping,
}

impl Session {
    /// Where it is in its life.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// True once a packet has come back.
    #[inline]
    pub fn is_replied(&self) -> bool {
        self.bits & protocol::REPLIED != 0
    }

    /// True when it is not given up for a new one.
    #[inline]
    pub fn is_assured(&self) -> bool {
        self.bits & protocol::ASSURED != 0
    }

    /// True while the XDP program may carry packets of it.
    #[inline]
    pub fn is_offloaded(&self) -> bool {
        self.bits & protocol::OFFLOADED != 0
    }

    /// True when an address or a port is changed on the way.
    #[inline]
    pub fn is_translated(&self) -> bool {
        self.original != self.translated
    }

    /// True when its outside address and port are its own for all destinations.
    #[inline]
    pub fn has_mapping(&self) -> bool {
        matches!(self.place, Place::Sharing | Place::Mapping)
    }

    /// The direction of the packet that began it.
    #[inline]
    pub fn begun_by(&self) -> Direction {
        match self.bits & protocol::BEGUN_BY_REPLY {
            0 => Direction::Original,
            _ => Direction::Reply,
        }
    }

    /// What a packet of this direction looks like when it arrives.
    #[inline]
    pub fn arriving(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.original,
            Direction::Reply => self.translated.reversed(),
        }
    }

    /// What it looks like when it leaves.
    #[inline]
    pub fn leaving(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.translated,
            Direction::Reply => self.original.reversed(),
        }
    }
}
