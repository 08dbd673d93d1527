//! A queue's part in flow offload: how many packets its worker took, which of them have left it,
//! and how many more may come.

use super::spec::XdpSpec;
use crate::offload::{Arrivals, FlowMap};
use crate::port::PortId;
use crate::sys::memory::{HEADROOM, SMALL_CHUNK};
use std::sync::Arc;

/// An Ethernet header with a VLAN tag.
const ETHERNET: usize = 18;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Arrival {
    arrivals: Arc<Arrivals>,
    map: Arc<FlowMap>,
    port: PortId,
    queue: u32,
    /// Frames that the longest packet takes.
    frames: usize,
    /// Most packets that the rx ring holds.
    room: usize,
    /// Packets that the worker took.
    taken: u64,
    /// That number when last marked.
    marked: u64,
    /// Packets given and taken at the last look.
    looked: (u64, u64),
    /// What the program had carried for the port then.
    carried: u64,
}

impl Arrival {
    pub(super) fn new(
        (arrivals, map): (Arc<Arrivals>, Arc<FlowMap>),
        queue: u32,
        spec: &XdpSpec,
        mtu: u32,
    ) -> Arrival {
        let longest = mtu as usize + ETHERNET;
        let frames = longest.div_ceil(SMALL_CHUNK - HEADROOM);
        let room = spec.rings.rx as usize / frames;
        let looked = (u64::MAX, 0);
        let port = spec.port;
        let (taken, marked, carried) = (0, 0, 0);
        Arrival { arrivals, map, port, queue, frames, room, taken, marked, looked, carried }
    }

    /// `held` frames are the kernel's to receive into, those of packets under way among them.
    #[inline]
    pub(super) fn give_credit(&self, held: usize) {
        let more = (held / self.frames).min(self.room);
        self.arrivals.set_room(self.queue, self.taken, more as u64);
    }

    /// The worker took so many packets.
    #[inline]
    pub(super) fn take(&mut self, packets: u64) {
        self.taken += packets;
    }

    /// Notes what was taken.
    #[inline]
    pub(super) fn mark(&mut self) {
        self.marked = self.taken;
    }

    /// What was taken before the mark has left the worker.
    #[inline]
    pub(super) fn settle(&mut self) {
        self.arrivals.set_seen(self.queue, self.marked);
    }

    /// Packets that the program dropped for want of room.
    pub(super) fn refused(&self) -> u64 {
        self.arrivals.refused(self.queue)
    }

    /// Packets of the queue that the program has carried since the last look, as far as they are
    /// counted: any of them may be the worker's the next time.
    fn carried(&mut self) -> usize {
        let carried = self.map.totals(self.port).rx_packets;
        let news = carried.saturating_sub(std::mem::replace(&mut self.carried, carried));
        (news / u64::from(self.arrivals.queues())) as usize
    }

    /// Called in intervals of much longer than packets are under way; what [`Self::carried`] says.
    /// What the kernel lost between program and ring, which it should not, is made good: nothing
    /// has moved since the last look, and the ring is empty.
    pub(super) fn look(&mut self, is_empty: bool) -> usize {
        let now = (self.arrivals.given(self.queue), self.taken);
        if is_empty && now == self.looked {
            self.taken = now.0;
        }
        self.looked = (now.0, self.taken);
        self.carried()
    }
}
