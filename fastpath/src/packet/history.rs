//! What has happened to a packet here, for those who come later on its way: bits of
//! [`Packet`]'s state. Said once, each stays, but for the last.

use super::Packet;

const FROM_TUNNEL: u32 = 1 << 8;
const ASKED: u32 = 1 << 9;
const JUDGED: u32 = 1 << 10;
const FROM_TAP: u32 = 1 << 11;
/// All of them.
pub(super) const HISTORY: u32 = FROM_TUNNEL | ASKED | JUDGED | FROM_TAP;

impl Packet {
    /// True when it came out of a tunnel here.
    #[inline]
    pub fn is_from_tunnel(&self) -> bool {
        self.unfinished & FROM_TUNNEL != 0
    }

    /// Notes that it came out of a tunnel.
    #[inline]
    pub fn set_from_tunnel(&mut self) {
        self.unfinished |= FROM_TUNNEL;
    }

    /// True when it was translated here, and host endpoints were asked before; see
    /// [`crate::hand_over`].
    #[inline]
    pub fn is_asked(&self) -> bool {
        self.unfinished & ASKED != 0
    }

    /// True when host endpoints are to be asked no more.
    #[inline]
    pub fn is_judged(&self) -> bool {
        self.unfinished & JUDGED != 0
    }

    /// Notes that host endpoints were asked; `judged` when they have accepted it.
    #[inline]
    pub fn set_asked(&mut self, judged: bool) {
        self.unfinished |= if judged { ASKED | JUDGED } else { ASKED };
    }

    /// True when it came from a port that gives super-packets (a TAP): so do all packets of its
    /// flow that go the same way, whatever their size. Ports that have a way of their own for
    /// these send all of them there, and none overtakes another.
    #[inline]
    pub fn is_from_tap(&self) -> bool {
        self.unfinished & FROM_TAP != 0
    }

    /// Notes that it came from such a port, or that it is no longer of its flow: in a tunnel.
    #[inline]
    pub fn set_from_tap(&mut self, is_from_tap: bool) {
        self.unfinished = self.unfinished & !FROM_TAP | if is_from_tap { FROM_TAP } else { 0 };
    }
}
