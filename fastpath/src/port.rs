//! Ports: where packets come in and go out, a burst at a time.
//!
//! Five kinds implement [`Port`]: AF_XDP sockets, TAP devices, veths by tc, pcap files and
//! simulated links. A port belongs to one worker and is called from its thread only, except while
//! it is opened.

pub mod pcap;
pub mod sim;
pub mod tap;
pub mod tc;
pub mod xdp;

use crate::packet::{Gso, Packet};
use crate::segment;
use crate::sys::memory::FramePool;
use std::os::fd::RawFd;

/// Most packets that one call moves.
pub const BURST: usize = 64;

/// Number of a port in the tables, small and dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: for packets that margay makes itself.
    pub const NONE: PortId = PortId(u16::MAX);
}

impl std::fmt::Display for PortId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a port takes whole on transmit, so that nothing need be finished in software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxOffloads {
    /// Takes packets with unfinished checksums.
    pub csum: bool,
    /// Takes super-packets of TCP over IPv4.
    pub tso4: bool,
    /// Takes super-packets of TCP over IPv6.
    pub tso6: bool,
    /// Takes super-packets of UDP.
    pub uso: bool,
    /// Whoever is behind gains when TCP segments are joined to super-packets (a TAP).
    pub join: bool,
    /// Takes large frames too; AF_XDP knows only the small ones of its UMEM.
    pub large_frames: bool,
    /// All this of packets from TAPs only ([`Packet::is_from_tap`]), and of those that may
    /// ([`segment::may_go_whole`]). The device is a wire: super-packets count as what becomes of
    /// them.
    pub taps_only: bool,
}

impl TxOffloads {
    /// Takes everything as it is.
    pub const ALL: TxOffloads = TxOffloads {
        csum: true,
        tso4: true,
        tso6: true,
        uso: true,
        join: false,
        large_frames: true,
        taps_only: false,
    };

    /// Takes what comes from TAPs as it is, towards a wire.
    pub const OF_TAPS: TxOffloads = TxOffloads { taps_only: true, ..TxOffloads::ALL };

    /// What it takes whole of this packet.
    #[inline]
    pub fn of(&self, packet: &Packet) -> TxOffloads {
        if self.taps_only && !packet.is_from_tap() { TxOffloads::default() } else { *self }
    }

    /// True when a packet in this state may be given to the port as it is.
    #[inline]
    pub fn takes(&self, packet: &Packet) -> bool {
        if packet.is_finished() && !packet.is_large() {
            return true;
        }
        let (offload, takes) = (packet.offload(), self.of(packet));
        (!takes.taps_only || segment::may_go_whole(packet))
            && (takes.csum || !offload.needs_csum)
            && (takes.large_frames || !packet.is_large())
            && match offload.gso {
                Gso::None => true,
                Gso::Tcp4 => takes.tso4,
                Gso::Tcp6 => takes.tso6,
                Gso::Udp => takes.uso,
            }
    }
}

/// State and totals of a port, for `show ports`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortReport {
    /// `xdp`, `tap`, `tc`, `pcap` or `sim`.
    pub kind: &'static str,
    /// How it works and why so: "native, copy: veth has no zero-copy".
    pub mode: String,
    /// Frames that the port holds in rings of the kernel.
    pub frames_held: usize,
    /// Named totals of the kernel about this port: `rx_dropped`, `rx_ring_full`, ...
    pub kernel: Vec<(&'static str, u64)>,
}

/// What a port says after a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxState {
    /// It works.
    Up,
    /// The device is gone or down for good: take the port away and open it anew.
    Gone,
}

/// A source and sink of packets. `rx` appends at most [`BURST`] packets with `in_port` set to the
/// port's number; `tx` takes packets from the front of the burst as long as it has room, and
/// leaves the rest, which the worker drops and counts.
pub trait Port: Send {
    /// Receives up to `budget` packets (at most [`BURST`]) into `out`.
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState;

    /// Sends from the front of `burst`; what it could not take stays in `burst`, in order. Frames
    /// of sent packets are the port's until it returns them to the pool by itself.
    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>);

    /// Called once a loop, also when there was nothing to do: completes what is under way,
    /// returns finished frames to the pool, refills rings, wakes the kernel if it asks for it.
    fn service(&mut self, pool: &mut FramePool);

    /// Whether packets that `tx` took wait for the device, which is up, to take them.
    fn has_unsent(&self) -> bool {
        false
    }

    /// Whether packets that `tx` took are being sent by another thread: [`Port::service`] is to
    /// be called until they are, also when there is nothing else to do.
    fn is_sending(&self) -> bool {
        false
    }

    /// Notes what `rx` has given so far.
    fn mark(&mut self) {}

    /// What `rx` had given at the last mark has left the workers: nothing that comes in after it
    /// can overtake it.
    fn settle(&mut self) {}

    /// A descriptor that polls readable when `rx` would find packets; `None` when the port must
    /// be asked (files, simulations).
    fn poll_fd(&self) -> Option<RawFd>;

    /// What `tx` takes unfinished.
    fn tx_offloads(&self) -> TxOffloads;

    /// State and totals.
    fn report(&self) -> PortReport;

    /// Gives every frame back that the port holds, and ends it.
    fn close(self: Box<Self>, pool: &mut FramePool);
}
