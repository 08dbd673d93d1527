//! One session: both its tuples, its state, and where it hangs in the table's lists.

use super::address::{Address, Tuple, TupleV4};
use super::protocol::{self, State};
use super::table::Tier;
use super::wheel::Links;
use crate::port::PortId;

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

/// Two lines of the cache. An established flow of IPv4 needs the first one only; the second one has
/// what IPv6 addresses are longer, and the lists.
#[derive(Debug, Clone)]
#[repr(C, align(128))]
pub struct Session {
    /// The last words of the addresses: as the one who began sends (source, destination), and as
    /// the one who answers receives it.
    low: [u32; 4],
    /// The ports, in the same order.
    ports: [u16; 4],
    pub(super) protocol: u8,
    pub(super) state: State,
    pub(super) bits: u8,
    pub(super) place: Place,
    /// Its slot in the wheel.
    pub(super) slot: u16,
    pub(super) is_v4: bool,
    /// When the last packet came, in seconds on the table's clock.
    pub last_seen_s: u32,
    /// Packets by direction; they begin anew at 2^32.
    pub packets: [u32; 2],
    /// The snapshot of policy that let it through; 0 where none was asked.
    pub judged: u32,
    /// Bytes of IP packets, both directions together.
    pub bytes: u64,
    /// The rules under which packets were found to fare alike; 0 for none.
    pub(super) alike: u32,
    /// By direction, the port whose packets do; [`PortId::NONE`] for none.
    pub(super) alike_by: [PortId; 2],
    pub(super) lists: Lists,
}

/// The second line of a session.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Lists {
    pub(super) wheel: Links,
    /// Sessions with the same mapping, in a ring.
    pub(super) ring: Links,
    /// The other words of IPv6 addresses.
    high: [[u32; 3]; 4],
}

const _: () = assert!(size_of::<Session>() == 128);
const _: () = assert!(std::mem::offset_of!(Session, lists) == 64);

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
    /// A session that begins at `now_s`, and is in no list yet.
    pub(super) fn new(
        (original, translated): (Tuple, Tuple),
        state: State,
        bytes: u32,
        now_s: u32,
    ) -> Session {
        let addresses = [original.src, original.dst, translated.src, translated.dst];
        let words = addresses.map(Address::words);
        Session {
            low: words.map(|[.., low]| low),
            ports: [original.src_port, original.dst_port, translated.src_port, translated.dst_port],
            protocol: original.protocol,
            state,
            bits: 0,
            place: Place::Tuples,
            slot: 0,
            is_v4: addresses.iter().all(|address| address.is_v4()),
            last_seen_s: now_s,
            packets: [1, 0],
            judged: 0,
            bytes: u64::from(bytes),
            alike: 0,
            alike_by: [PortId::NONE; 2],
            lists: Lists {
                wheel: Links::NONE,
                ring: Links::NONE,
                high: words.map(|[high @ .., _]| high),
            },
        }
    }

    /// As the one who began sends.
    #[inline]
    pub fn original(&self) -> Tuple {
        self.tuple(0)
    }

    /// As the one who answers receives it; equal to the original unless it is translated.
    #[inline]
    pub fn translated(&self) -> Tuple {
        self.tuple(2)
    }

    /// The tuple whose source is at `at`.
    #[inline]
    fn tuple(&self, at: usize) -> Tuple {
        let words = self.words(at);
        if self.is_v4 {
            return words.into();
        }
        let TupleV4 { src, dst, src_port, dst_port, protocol } = words;
        let address = |[a, b, c]: [u32; 3], low| Address::of_words([a, b, c, low]);
        let [src_high, dst_high] = [self.lists.high[at], self.lists.high[at + 1]];
        let (src, dst) = (address(src_high, src), address(dst_high, dst));
        Tuple { src, dst, src_port, dst_port, protocol }
    }

    /// The last words of that tuple: all of it for IPv4.
    #[inline]
    fn words(&self, at: usize) -> TupleV4 {
        TupleV4 {
            src: self.low[at],
            dst: self.low[at + 1],
            src_port: self.ports[at],
            dst_port: self.ports[at + 1],
            protocol: self.protocol,
        }
    }

    /// [`Session::arriving`] and [`Session::leaving`] of a session of IPv4.
    #[inline]
    pub(super) fn of_v4(&self, direction: Direction) -> (TupleV4, TupleV4) {
        let (original, translated) = (self.words(0), self.words(2));
        match direction {
            Direction::Original => (original, translated),
            Direction::Reply => (translated.reversed(), original.reversed()),
        }
    }

    /// Counts a packet, of so many bytes of IP.
    #[inline]
    pub(super) fn count(&mut self, (direction, bytes): (Direction, u32), now_s: u32) {
        self.last_seen_s = now_s;
        let packets = &mut self.packets[direction as usize];
        *packets = packets.wrapping_add(1);
        self.bytes += u64::from(bytes);
    }

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

    /// Who carries its ordinary packets.
    pub fn tier(&self) -> Tier {
        match (self.is_offloaded(), self.bits & protocol::BY_TC != 0) {
            (false, _) => Tier::Worker,
            (true, false) => Tier::Xdp,
            (true, true) => Tier::Tc,
        }
    }

    /// True while a program may carry packets of it.
    #[inline]
    pub fn is_offloaded(&self) -> bool {
        self.bits & protocol::OFFLOADED != 0
    }

    /// True when an address or a port is changed on the way.
    #[inline]
    pub fn is_translated(&self) -> bool {
        self.original() != self.translated()
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
            Direction::Original => self.original(),
            Direction::Reply => self.translated().reversed(),
        }
    }

    /// What it looks like when it leaves.
    #[inline]
    pub fn leaving(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.translated(),
            Direction::Reply => self.original().reversed(),
        }
    }
}
