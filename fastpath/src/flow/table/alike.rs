//! Sessions of IPv4 whose packets all fare alike, and the short way for them: one line of the
//! index, one of the session, and no question about rules, which were asked about a packet just
//! like it.

use super::keys::{Key, MAPPING, NUMBER, direction, parts};
use super::{FlowTable, Seen};
use crate::flow::address::TupleV4;
use crate::flow::protocol::{Signal, State};
use crate::flow::session::{Direction, Place, Session, SessionId};
use crate::port::PortId;
use crate::sys::table::prefetch;

/// What makes packets of a session and direction fare alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alike {
    /// The rules in force, by a number that no others have had; not 0.
    pub epoch: u32,
    /// The port that they come in by.
    pub in_port: PortId,
}

/// States that packets without SYN, FIN and RST go on in.
fn is_steady(state: State) -> bool {
    matches!(state, State::TcpEstablished | State::Udp | State::UdpStream)
}

impl FlowTable {
    /// First of three steps: fetches the line of the index. The hash that the next one wants.
    #[inline]
    pub fn seek_v4(&self, tuple: &TupleV4) -> u64 {
        let hash = self.hash_v4(Key::Tuple, tuple);
        self.index.prefetch(hash);
        hash
    }

    /// The second one: fetches the session that it probably is; what the last step wants.
    #[inline]
    pub fn approach_v4(&self, hash: u64) -> Option<u32> {
        let number = self.index.hint(hash)?;
        prefetch(self.slab.0.get((number & NUMBER) as usize)?);
        Some(number)
    }

    /// The session of this number, if it is the packet's and its packets fare alike.
    #[inline]
    fn alike(&self, number: u32, tuple: &TupleV4, alike: Alike) -> Option<&Session> {
        let session = self.slot(number)?;
        let direction = direction(number);
        let is_it = session.is_v4
            && session.place != Place::Free
            && number & MAPPING == 0
            && session.of_v4(direction).0 == *tuple;
        let same = Alike { epoch: session.alike, in_port: session.alike_by[direction as usize] };
        (is_it && same == alike && is_steady(session.state)).then_some(session)
    }

    /// True when [`FlowTable::pass_alike`] would take the packet now.
    #[inline]
    pub fn is_alike(&self, number: u32, tuple: &TupleV4, alike: Alike) -> bool {
        self.alike(number, tuple, alike).is_some()
    }

    /// The third one: notes a packet (of TCP: without SYN, FIN and RST) of a session whose packets
    /// fare alike; how it leaves. `None`, with nothing changed, when it has to go the whole way.
    #[inline]
    pub fn pass_alike(
        &mut self,
        number: u32,
        (tuple, alike): (&TupleV4, Alike),
        (signal, bytes): (Signal, u32),
        now_s: u32,
    ) -> Option<TupleV4> {
        let (id, direction) = parts(number);
        let session = self.alike(number, tuple, alike)?;
        let (_, leaving) = session.of_v4(direction);
        if session.is_assured() {
            self.slab.0.get_mut(id.0 as usize)?.count((direction, bytes), now_s);
        } else {
            self.seen(id, Seen { direction, signal, bytes }, now_s);
        }
        Some(leaving)
    }

    /// Notes that packets of a session like the last one fare as it did. Without effect on sessions
    /// whose next packet may change them.
    #[inline]
    pub fn set_alike(&mut self, id: SessionId, direction: Direction, alike: Alike) {
        let Some(session) = self.slab.0.get_mut(id.0 as usize) else { return };
        if !session.is_v4 || !is_steady(session.state) {
            return;
        }
        if session.alike != alike.epoch {
            session.alike = alike.epoch;
            session.alike_by = [PortId::NONE; 2];
        }
        session.alike_by[direction as usize] = alike.in_port;
    }
}
