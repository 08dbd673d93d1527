//! One queue of an AF_XDP port: packets from descriptors, descriptors from packets, and how many
//! frames are posted for receiving.

use super::arrival::Arrival;
use super::level::{Level, Watchdog};
use super::spec::FillLevels;
use crate::packet::Packet;
use crate::port::PortId;
use crate::sys::memory::{Frame, FramePool};
use crate::sys::table::prefetch;
use crate::sys::xdp::socket::Socket;

/// Fewer bytes than an Ethernet header can't be sent.
const SHORTEST: usize = 14;
/// Most frames of a packet that the kernel sends (MAX_SKB_FRAGS).
const MAX_TX_PARTS: usize = 17;

/// A socket with the state of its traffic.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) socket: Socket,
    pub(super) number: u32,
    /// Something in the tx ring has not been taken by the kernel.
    pub(super) wants_kick: bool,
    /// Packets received in too many frames, since the port last asked.
    pub(super) too_long: u64,
    level: Level,
    watchdog: Watchdog,
    /// Completions since the last look.
    completed: usize,
    /// Parts of packets that the tx ring was given, and those that are back.
    pub(super) given: u64,
    pub(super) returned: u64,
    /// Whether the arena has frames to spare.
    may_grow: bool,
    partial: Option<Packet>,
    skipping: bool,
    /// Its part in flow offload.
    arrival: Option<Arrival>,
}

impl Queue {
    pub(super) fn new(
        socket: Socket,
        number: u32,
        levels: FillLevels,
        arrival: Option<Arrival>,
    ) -> Queue {
        Queue {
            socket,
            number,
            wants_kick: false,
            too_long: 0,
            level: Level::new(levels),
            watchdog: Watchdog::default(),
            completed: 0,
            given: 0,
            returned: 0,
            may_grow: true,
            partial: None,
            skipping: false,
            arrival,
        }
    }

    /// Its part in flow offload.
    pub(super) fn arrival(&mut self) -> Option<&mut Arrival> {
        self.arrival.as_mut()
    }

    /// Lets the program give as many packets as there are frames for.
    #[inline]
    pub(super) fn give_credit(&mut self) {
        if let Some(arrival) = &self.arrival {
            arrival.give_credit(self.socket.rx_held());
        }
    }

    /// Packets that were dropped because there was no room, before the socket saw them.
    pub(super) fn refused(&self) -> u64 {
        self.arrival.as_ref().map_or(0, Arrival::refused)
    }

    /// Posts frames up to the level that traffic asks for; false when the pool had too few.
    pub(super) fn refill(&mut self, pool: &mut FramePool) -> bool {
        match self.level.wanted(self.socket.rx_held(), self.may_grow) {
            Some(target) => self.socket.fill_to(pool, target),
            None => true,
        }
    }

    /// Called in intervals; true when transmission has stalled.
    pub(super) fn look(&mut self, may_grow: bool) -> bool {
        self.level.look();
        self.may_grow = may_grow;
        if let Some(arrival) = &mut self.arrival {
            // What goes past the worker now is its own again at the next change.
            let carried = arrival.look(!self.socket.has_received());
            self.level.count(carried);
        }
        let under_way = self.socket.tx_held();
        self.wants_kick |= under_way > 0;
        self.watchdog.look(under_way, std::mem::take(&mut self.completed))
    }

    /// Receives up to `budget` packets.
    pub(super) fn receive(
        &mut self,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
        budget: usize,
        port: PortId,
    ) -> usize {
        let (mut count, mut taken) = (0, 0);
        while count < budget {
            let Some(part) = self.socket.receive(pool) else { break };
            let more = part.more;
            taken += u64::from(!more);
            let packet = match self.partial.take() {
                None if self.skipping => {
                    self.skipping = more;
                    pool.free(part.frame);
                    continue;
                }
                None => {
                    // The kernel wrote it, often on another core: 60 ns a packet less in `process`.
                    prefetch(part.frame.bytes(part.offset, part.len));
                    Packet::new(part.frame, part.offset, part.len, port)
                }
                Some(mut packet) => match packet.append(part.frame, part.offset, part.len) {
                    Ok(()) => packet,
                    Err(frame) => {
                        pool.free(frame);
                        packet.free(pool);
                        self.too_long += 1;
                        self.skipping = more;
                        continue;
                    }
                },
            };
            if more {
                self.partial = Some(packet);
            } else {
                out.push(packet);
                count += 1;
            }
        }
        self.socket.end_receive();
        self.level.count(count);
        if let Some(arrival) = &mut self.arrival {
            arrival.take(taken);
        }
        count
    }

    /// Puts packets from the front of the burst into the ring, each whole or not at all; how
    /// many of them were refused for good, and freed.
    pub(super) fn send(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) -> u64 {
        let parts: usize = burst.iter().map(Packet::segment_count).sum();
        let mut room = self.socket.tx_room(parts);
        let fitting = burst.iter().take_while(|packet| {
            let fits = packet.segment_count() <= room;
            room = room.saturating_sub(packet.segment_count());
            fits
        });
        let fitting = fitting.count();
        let longest = if self.socket.takes_chains() { MAX_TX_PARTS } else { 1 };
        let mut refused = 0;
        for packet in burst.drain(..fitting) {
            if packet.len() < SHORTEST || packet.segment_count() > longest || packet.is_large() {
                packet.free(pool);
                refused += 1;
                continue;
            }
            match packet.into_single() {
                Ok((frame, offset, len)) => self.send_part(pool, frame, (offset, len), false),
                Err(packet) => self.send_chain(pool, packet),
            }
        }
        refused
    }

    fn send_chain(&mut self, pool: &mut FramePool, packet: Packet) {
        let mut parts = packet.into_segments().filter_map(|(frame, offset, len)| {
            if len == 0 {
                // The kernel takes an empty descriptor for a faulty one, and keeps its frame.
                pool.free(frame);
                return None;
            }
            Some((frame, (offset, len)))
        });
        let mut part = parts.next();
        let mut ready = Vec::new();
        while let Some(now) = part {
            part = parts.next();
            ready.push((now, part.is_some()));
        }
        drop(parts);
        for ((frame, at), more) in ready {
            self.send_part(pool, frame, at, more);
        }
    }

    fn send_part(&mut self, pool: &mut FramePool, frame: Frame, at: (usize, usize), more: bool) {
        if let Err(frame) = self.socket.send(frame, at, more) {
            pool.free(frame);
        }
    }

    pub(super) fn reclaim(&mut self, pool: &mut FramePool) {
        let count = self.socket.reclaim(pool);
        self.completed += count;
        self.returned += count as u64;
    }

    /// Lets the kernel see what was sent.
    pub(super) fn end_send(&mut self) {
        let count = self.socket.end_send();
        self.given += count as u64;
        self.wants_kick |= count > 0;
    }

    /// Frees what was received in part.
    pub(super) fn abandon(&mut self, pool: &mut FramePool) {
        if let Some(packet) = self.partial.take() {
            packet.free(pool);
        }
    }
}

#[cfg(test)]
mod tests;
