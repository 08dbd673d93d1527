//! Long bursts leave past the tx ring, as redirected frames: in copy mode the kernel makes a socket
//! buffer of each packet in the ring, and hands each by itself to who is at the far end.
//!
//! Only for devices like veth, whose far end takes both kinds of packets from one queue in the
//! order in which they were sent, and only while it takes redirected frames at all.

use std::time::{Duration, Instant};

use crate::packet::Packet;
use crate::sys::bpf::bulk::BulkSender;
use crate::sys::memory::FramePool;
use crate::sys::xdp::netdev::takes_redirects;

/// Packets of a burst from which on it pays: one call costs what some 20 packets in the ring do.
const LONG: usize = 32;
/// Long bursts between two looks that make a port worth a sender.
const BUSY: u32 = 64;
/// Time between two looks at the device.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without a long burst after which the sender, of 128 KiB, goes.
const IDLE_LOOKS: u32 = 60;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Bulk {
    device: u32,
    sender: Option<BulkSender>,
    /// The kernel cannot do it.
    refused: bool,
    /// Long bursts since the last look.
    long: u32,
    idle: u32,
    last_look: Instant,
    /// Packets that left so.
    pub(super) sent: u64,
}

impl Bulk {
    /// For a device of the calling thread's network namespace.
    pub(super) fn new(device: u32) -> Bulk {
        let last_look = Instant::now();
        Bulk { device, sender: None, refused: false, long: 0, idle: 0, last_look, sent: 0 }
    }

    /// Sends packets from the front of a burst if that pays, and frees them.
    #[inline]
    pub(super) fn send(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        if burst.len() >= LONG {
            self.long = self.long.saturating_add(1);
            self.send_long(pool, burst);
        }
    }

    fn send_long(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        let Some(sender) = &mut self.sender else { return };
        sender.clear();
        let whole = |packet: &&Packet| packet.segment_count() == 1 && !packet.is_large();
        let fit = |packet: &&Packet| sender.push(packet.head());
        let count = burst.iter().take_while(whole).take_while(fit).count();
        if count < LONG {
            return;
        }
        let sent = sender.send().unwrap_or_else(|error| {
            tracing::warn!(device = self.device, %error, "packets leave one by one from now on");
            self.refused = true;
            0
        });
        self.sent += sent as u64;
        burst.drain(..sent).for_each(|packet| packet.free(pool));
        if sent < count {
            // The device takes them no longer; the next look tells.
            self.sender = None;
        }
    }

    /// To be called in intervals: finds out whether the device takes redirected frames.
    pub(super) fn look(&mut self, now: Instant) {
        if self.refused || now.duration_since(self.last_look) < LOOK {
            return;
        }
        self.last_look = now;
        let long = std::mem::take(&mut self.long);
        self.idle = if long == 0 { self.idle.saturating_add(1) } else { 0 };
        if self.idle >= IDLE_LOOKS {
            self.sender = None;
        }
        let is_wanted = self.sender.is_some() || long >= BUSY;
        if !is_wanted {
            return;
        }
        if !takes_redirects(self.device) {
            self.sender = None;
        } else if self.sender.is_none() {
            match BulkSender::new(self.device) {
                Ok(sender) => self.sender = Some(sender),
                Err(error) => {
                    tracing::info!(device = self.device, %error, "packets leave one by one");
                    self.refused = true;
                }
            }
        }
    }
}
