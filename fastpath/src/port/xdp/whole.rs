//! The way out whole: super-packets from TAPs leave by a packet socket.
//!
//! AF_XDP sends frames as they are on the wire, and copies each by itself. The packet socket takes
//! super-packets whole and checksums unfinished; the device cuts and finishes them where it can
//! (TSO, a veth not at all), and else the kernel does right before it, as with its own TCP. A small
//! packet costs more there than in the ring, so a port's packets from TAPs go by the ring until
//! there is a super-packet among them, and again once there has been none for a while. They change
//! the way only when nothing is left of what went the other one, so that those of one flow stay in
//! order.

use crate::packet::{Gso, Packet};
use crate::port::tap::header;
use crate::segment;
use crate::sys::memory::FramePool;
use crate::sys::packet::PacketSocket;
use std::io;

/// So many small packets after the last super-packet go its way too: the way is not changed for
/// what a sender has between two of them.
const CALM: u32 = 64;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Whole {
    socket: PacketSocket,
    way: Way,
    /// Packets of a burst that go this way.
    burst: Vec<Packet>,
    /// Packets that the kernel took.
    pub(super) sent: u64,
    /// Packets that the device or its queue threw away.
    pub(super) dropped: u64,
    /// Packets that the kernel does not send.
    pub(super) refused: u64,
}

/// Which way packets from TAPs go.
#[derive(Debug, Default)]
struct Way {
    /// By the socket.
    is_whole: bool,
    /// Small packets since the last super-packet.
    small: u32,
    /// What the ring had been given when the last of them went there.
    ring: u64,
}

impl Way {
    /// Chooses for the packets from TAPs of a burst; true for the socket. `is_drained` says
    /// whether nothing is left of what the socket was given.
    fn choose(&mut self, burst: &[Packet], is_drained: impl FnOnce() -> bool) -> bool {
        for packet in burst.iter().filter(|packet| packet.is_from_tap()) {
            let is_small = is_small(packet);
            self.small = if is_small { self.small.saturating_add(1) } else { 0 };
            self.is_whole |= !is_small;
        }
        self.is_whole &= self.small < CALM || !is_drained();
        self.is_whole
    }
}

/// True for a packet that the ring takes once its checksum is finished.
fn is_small(packet: &Packet) -> bool {
    packet.offload().gso == Gso::None && !packet.is_large() && packet.segment_count() == 1
}

impl Whole {
    pub(super) fn open(if_index: u32) -> io::Result<Whole> {
        let socket = PacketSocket::open(if_index)?;
        let (way, burst) = (Way::default(), Vec::new());
        Ok(Whole { socket, way, burst, sent: 0, dropped: 0, refused: 0 })
    }

    /// Whether the packets from TAPs of this burst go this way; else [`Whole::finish`] makes them
    /// ready for the ring.
    pub(super) fn takes(&mut self, burst: &[Packet]) -> bool {
        let socket = &self.socket;
        self.way.choose(burst, || socket.is_drained())
    }

    /// Finishes checksums; a packet whose checksum cannot be is freed.
    pub(super) fn finish(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        let malformed =
            |packet: &mut Packet| packet.is_from_tap() && segment::finish_checksum(packet).is_err();
        for packet in burst.extract_if(.., malformed) {
            packet.free(pool);
            self.refused += 1;
        }
    }

    /// Packets from TAPs went by the ring, which has been given so many parts in all.
    pub(super) fn note_ring(&mut self, given: u64) {
        self.way.ring = given;
    }

    /// Takes what goes this way out of a burst, in order.
    pub(super) fn pick(&mut self, burst: &mut Vec<Packet>) {
        if burst.iter().all(Packet::is_from_tap) {
            return self.burst.append(burst);
        }
        self.burst.extend(burst.extract_if(.., |packet| packet.is_from_tap()));
    }

    /// Sends what was picked; what there is no room for goes back behind the others of the burst,
    /// and so does all while packets from TAPs are under way that went by the ring, of which
    /// `returned` parts are back.
    pub(super) fn send(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>, returned: u64) {
        let mut done = 0;
        while done < self.burst.len() && returned >= self.way.ring {
            match self.socket.send(&self.burst[done..], header::encode) {
                Ok(count) => {
                    self.sent += count as u64;
                    done += count.max(1);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENETDOWN | libc::EINTR) => break,
                    Some(libc::ENOBUFS | libc::ENOMEM) => {
                        self.dropped += 1;
                        done += 1;
                    }
                    _ => {
                        self.refused += 1;
                        done += 1;
                    }
                },
            }
        }
        self.burst.drain(..done).for_each(|packet| packet.free(pool));
        burst.append(&mut self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Offload;
    use crate::port::PortId;
    use crate::sys::memory::{Arena, HEADROOM};

    fn burst(pool: &mut FramePool, kinds: &str) -> Vec<Packet> {
        let one = |kind| {
            let mut packet = Packet::new(pool.alloc().unwrap(), HEADROOM, 60, PortId(1));
            packet.set_from_tap(kind != 'x');
            if kind == 'S' {
                packet.set_offload(Offload { gso: Gso::Tcp4, gso_size: 9, ..Offload::default() });
            }
            packet
        };
        kinds.chars().map(one).collect()
    }

    /// Whether a burst goes by the socket: small (`s`) and super-packets (`S`), and others.
    fn choose(way: &mut Way, kinds: &str, is_drained: bool) -> bool {
        let mut pool = FramePool::new(Arena::new(BURST, 0).unwrap());
        let mut burst = burst(&mut pool, kinds);
        let chosen = way.choose(&burst, || is_drained);
        pool.free_burst(&mut burst);
        chosen
    }

    const BURST: usize = 2 * CALM as usize;

    #[test]
    fn small_packets_go_with_super_packets_until_there_are_none_for_a_while() {
        let mut way = Way::default();
        let calm = "s".repeat(CALM as usize - 1);
        assert!(!choose(&mut way, "ss", true), "there was no super-packet yet");
        assert!(choose(&mut way, "sS", true));
        assert!(choose(&mut way, &calm, true));
        assert!(choose(&mut way, "S", true), "the count begins anew");
        assert!(choose(&mut way, &calm, true));
        assert!(choose(&mut way, &"x".repeat(BURST), true), "others do not count");
        assert!(!choose(&mut way, "s", true));
        assert!(choose(&mut way, "S", true));
    }

    #[test]
    fn while_the_socket_has_packets_nothing_goes_past_them() {
        let mut way = Way::default();
        assert!(choose(&mut way, "S", false));
        assert!(choose(&mut way, &"s".repeat(BURST), false));
        assert!(choose(&mut way, "s", false));
        assert!(!choose(&mut way, "s", true));
    }
}
