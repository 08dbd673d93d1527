//! The way out whole: packets from TAPs, which may be super-packets, leave by a packet socket.
//!
//! AF_XDP sends frames as they are on the wire, and copies each by itself. The packet socket takes
//! super-packets whole and checksums unfinished; the device cuts and finishes them where it can
//! (TSO, a veth not at all), and else the kernel does right before it, as with its own TCP. All
//! packets of a port that gives super-packets go this way, so that those of one flow stay in
//! order.

use crate::packet::Packet;
use crate::port::tap::header;
use crate::sys::memory::FramePool;
use crate::sys::packet::PacketSocket;
use std::io;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Whole {
    socket: PacketSocket,
    /// Packets of a burst that go this way.
    burst: Vec<Packet>,
    /// Packets that the device or its queue threw away.
    pub(super) dropped: u64,
    /// Packets that the kernel does not send.
    pub(super) refused: u64,
}

impl Whole {
    pub(super) fn open(if_index: u32) -> io::Result<Whole> {
        let socket = PacketSocket::open(if_index)?;
        Ok(Whole { socket, burst: Vec::new(), dropped: 0, refused: 0 })
    }

    /// Takes what goes this way out of a burst, in order.
    pub(super) fn pick(&mut self, burst: &mut Vec<Packet>) {
        if burst.iter().all(Packet::is_from_tap) {
            return self.burst.append(burst);
        }
        self.burst.extend(burst.extract_if(.., |packet| packet.is_from_tap()));
    }

    /// Sends what was picked; what there is no room for goes back behind the others of the burst.
    pub(super) fn send(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        let mut done = 0;
        while done < self.burst.len() {
            match self.socket.send(&self.burst[done..], header::encode) {
                Ok(count) => done += count.max(1),
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
