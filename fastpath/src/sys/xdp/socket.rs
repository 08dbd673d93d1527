//! One AF_XDP socket: a queue of a device, its four rings, and the frames in them.
//!
//! The kernel is given frames on the fill ring and returns them on rx; it is given packets on tx
//! and returns their frames on completion. Addresses that come back are checked against the book
//! of [`super::umem`] before a frame is made of them. Dropping a socket unmaps its rings, closes
//! it, and then gives all its frames back to the arena: only a closed socket holds no frames.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::bind;
use super::open::wait_until_free;
use super::ring::{Consumer, Desc, Producer};
use super::umem::{Direction, Holder, Umem};
use crate::sys::memory::{Frame, FramePool, LINK_SPACE, SMALL_CHUNK};

/// A part of a packet that came in.
#[derive(Debug)]
pub struct Received {
    /// Holds it.
    pub frame: Frame,
    /// Where it begins in the chunk.
    pub offset: usize,
    /// How long it is.
    pub len: usize,
    /// The packet goes on in the next part.
    pub more: bool,
}

/// What came of asking the kernel to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// It took everything.
    Drained,
    /// Something is left in the ring, for a later kick.
    Left,
    /// The device is down; what is in the ring waits until it is up.
    Down,
    /// The socket is bound to nothing any more.
    Gone,
}

/// Totals of the kernel about a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets lost for want of a frame or of room, or too big.
    pub rx_dropped: u64,
    /// Fill descriptors that made no sense.
    pub rx_invalid_descs: u64,
    /// Tx descriptors that made no sense.
    pub tx_invalid_descs: u64,
    /// Packets lost because the rx ring was full.
    pub rx_ring_full: u64,
    /// How often the fill ring was found empty.
    pub rx_fill_ring_empty_descs: u64,
    /// How often the tx ring was found empty; rises in idle, and is no fault.
    pub tx_ring_empty_descs: u64,
}

#[derive(Debug)]
pub(super) struct Rings {
    pub(super) rx: Consumer<Desc>,
    pub(super) tx: Producer<Desc>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
}

/// The descriptor. Closed under the lock that keeps others from sharing with it meanwhile.
#[derive(Debug)]
pub(super) struct OpenFd {
    umem: Arc<Umem>,
    fd: Option<OwnedFd>,
}

impl OpenFd {
    pub(super) fn new(umem: Arc<Umem>, fd: OwnedFd) -> OpenFd {
        OpenFd { umem, fd: Some(fd) }
    }
}

impl AsFd for OpenFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("only dropping takes the descriptor").as_fd()
    }
}

impl Drop for OpenFd {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.umem.close(fd);
        }
    }
}

/// The frames that the kernel has. Dropped last, when the socket is closed: a sweep over the book.
#[derive(Debug)]
struct Loans {
    /// Device and queue, if the device itself writes into the frames.
    zero_copy: Option<(u32, u32)>,
    umem: Arc<Umem>,
    holder: Holder,
    rx: usize,
    tx: usize,
}

impl Drop for Loans {
    fn drop(&mut self) {
        if let Some(queue) = self.zero_copy
            && !wait_until_free(&self.umem, queue)
        {
            // Better lost than written to by a device while they belong to someone else.
            return;
        }
        self.umem.sweep(self.holder);
    }
}

/// The UMEM address of a received packet's first byte: unaligned memory has the chunk's address in
/// the low 48 bits and the distance from there above them (the kernel's AF_XDP documentation,
/// XDP_UMEM_UNALIGNED_CHUNK_FLAG), aligned memory nothing above.
#[inline]
fn place(addr: u64) -> u64 {
    (addr & ((1 << libc::XSK_UNALIGNED_BUF_OFFSET_SHIFT) - 1))
        + (addr >> libc::XSK_UNALIGNED_BUF_OFFSET_SHIFT)
}

/// A bound socket. See the head of the file.
#[derive(Debug)]
pub struct Socket {
    // The order of the first three is the order of their ends.
    rings: Rings,
    fd: OpenFd,
    loans: Loans,
    chains: bool,
    bad_descs: u64,
}

/// Most calls of the kernel that one kick makes, beyond those that the ring's size asks for.
const SPARE_KICKS: u32 = 4;
/// Packets that a copy-mode call sends when its budget could not be raised.
const KERNEL_TX_BUDGET: u32 = 32;

impl Socket {
    /// `zero_copy` is the device and queue, if the device itself reads and writes the frames.
    pub(super) fn new(
        umem: &Arc<Umem>,
        rings: Rings,
        fd: OpenFd,
        zero_copy: Option<(u32, u32)>,
        chains: bool,
    ) -> Socket {
        let (umem, holder) = (umem.clone(), umem.new_holder());
        let loans = Loans { zero_copy, umem, holder, rx: 0, tx: 0 };
        Socket { rings, fd, loans, chains, bad_descs: 0 }
    }

    /// The descriptor, to poll and to put into an XSKMAP.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }

    /// True when the device reads and writes the frames itself.
    pub fn is_zero_copy(&self) -> bool {
        self.loans.zero_copy.is_some()
    }

    /// True when packets of several frames can be sent and received.
    pub fn takes_chains(&self) -> bool {
        self.chains
    }

    /// Frames given to the kernel to receive into, and not back yet.
    pub fn rx_held(&self) -> usize {
        self.loans.rx
    }

    /// Frames given to the kernel to send, and not back yet.
    pub fn tx_held(&self) -> usize {
        self.loans.tx
    }

    /// Descriptors of the kernel that made no sense, and ring indices that did not.
    pub fn bad_descs(&self) -> u64 {
        let Rings { rx, tx, fill, completion } = &self.rings;
        self.bad_descs + rx.broken() + tx.broken() + fill.broken() + completion.broken()
    }

    /// Posts frames until `target` are held for receiving, the ring is full or the pool is empty;
    /// false in the last case.
    pub fn fill_to(&mut self, pool: &mut FramePool, target: usize) -> bool {
        let wanted = target.saturating_sub(self.loans.rx);
        if wanted == 0 {
            return true;
        }
        let Loans { umem, holder, rx, .. } = &mut self.loans;
        let fill = &mut self.rings.fill;
        let room = (fill.free(wanted as u32) as usize).min(wanted);
        for _ in 0..room {
            let Some(frame) = pool.alloc() else { break };
            fill.push(umem.lend(frame, *holder, Direction::Rx));
        }
        let posted = fill.publish() as usize;
        *rx += posted;
        if posted != 0 && fill.needs_wakeup() {
            self.wake_rx();
        }
        posted == room
    }

    /// Makes the kernel look at the fill ring and, with busy polling, at the device.
    pub fn wake_rx(&self) {
        // A device that can't be woken is down or gone, which `is_gone` finds out.
        let _ = bind::kick_rx(self.fd.as_fd());
    }

    /// The next part of a packet. Descriptors that make no sense are counted and passed over.
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool) -> Option<Received> {
        while let Some(desc) = self.rings.rx.pop() {
            let Loans { umem, holder, rx, .. } = &mut self.loans;
            let addr = place(desc.addr);
            let Some(frame) = umem.take_back(addr, *holder, Direction::Rx) else {
                self.bad_descs += 1;
                continue;
            };
            *rx -= 1;
            let offset = addr as usize % SMALL_CHUNK;
            let len = desc.len as usize;
            if offset < LINK_SPACE || offset + len > SMALL_CHUNK {
                self.bad_descs += 1;
                pool.free(frame);
                continue;
            }
            let more = desc.options & Desc::CONTINUED != 0;
            return Some(Received { frame, offset, len, more });
        }
        None
    }

    /// True when the kernel has put something into the rx ring that was not taken yet.
    pub fn has_received(&mut self) -> bool {
        self.rings.rx.ready() > 0
    }

    /// Ends a run of [`Socket::receive`]: the kernel may use the ring's places again.
    #[inline]
    pub fn end_receive(&mut self) {
        self.rings.rx.release();
    }

    /// Parts of packets that can be sent now.
    #[inline]
    pub fn tx_room(&mut self, wanted: usize) -> usize {
        self.rings.tx.free(wanted as u32) as usize
    }

    /// Puts a part of a packet, `len` bytes at `offset` of a small frame, into the tx ring. Gives
    /// the frame back when there is no room, when it is large, or when `len` is 0.
    #[inline]
    pub fn send(&mut self, frame: Frame, at: (usize, usize), more: bool) -> Result<(), Frame> {
        let (offset, len) = at;
        if frame.is_large() || len == 0 || offset + len > SMALL_CHUNK || self.tx_room(1) == 0 {
            return Err(frame);
        }
        let addr = self.loans.umem.lend(frame, self.loans.holder, Direction::Tx) + offset as u64;
        let options = if more { Desc::CONTINUED } else { 0 };
        self.rings.tx.push(Desc { addr, len: len as u32, options });
        self.loans.tx += 1;
        Ok(())
    }

    /// Publishes what [`Socket::send`] put into the ring; how many parts.
    #[inline]
    pub fn end_send(&mut self) -> usize {
        self.rings.tx.publish() as usize
    }

    /// Asks the kernel to send until the ring is empty or it has had enough. `dropped` counts the
    /// packets that the device threw away (`EBUSY`: NET_XMIT_DROP).
    pub fn kick_tx(&mut self, dropped: &mut u64) -> Kick {
        if self.is_zero_copy() {
            return self.wake_tx();
        }
        let mut pending = self.rings.tx.pending();
        for _ in 0..self.rings.tx.size() / KERNEL_TX_BUDGET + SPARE_KICKS {
            if pending == 0 {
                return Kick::Drained;
            }
            let error = bind::kick_tx(self.fd.as_fd()).err().and_then(|e| e.raw_os_error());
            let left = self.rings.tx.pending();
            match error {
                Some(libc::EBUSY) => *dropped += 1,
                Some(libc::ENXIO | libc::EBADF) => return Kick::Gone,
                Some(libc::ENETDOWN) => return Kick::Down,
                _ if left == pending => return Kick::Left,
                _ => {}
            }
            pending = left;
        }
        if pending == 0 { Kick::Drained } else { Kick::Left }
    }

    fn wake_tx(&mut self) -> Kick {
        if self.rings.tx.needs_wakeup() {
            let error = bind::kick_tx(self.fd.as_fd()).err().and_then(|e| e.raw_os_error());
            match error {
                Some(libc::ENXIO | libc::EBADF) => return Kick::Gone,
                Some(libc::ENETDOWN) => return Kick::Down,
                _ => {}
            }
        }
        if self.rings.tx.pending() == 0 { Kick::Drained } else { Kick::Left }
    }

    /// Returns the frames of sent packets to the pool; how many.
    #[inline]
    pub fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        if self.loans.tx == 0 {
            return 0;
        }
        let before = self.loans.tx;
        while let Some(addr) = self.rings.completion.pop() {
            let Loans { umem, holder, tx, .. } = &mut self.loans;
            match umem.take_back(addr, *holder, Direction::Tx) {
                Some(frame) => {
                    *tx -= 1;
                    pool.free(frame);
                }
                None => self.bad_descs += 1,
            }
        }
        self.rings.completion.release();
        before - self.loans.tx
    }

    /// True when the device was unregistered. The kernel says so once: the caller keeps it.
    pub fn is_gone(&self) -> bool {
        let error = bind::get_words::<1>(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
        error.map_or(true, |[word]| word != 0)
    }

    /// Totals of the kernel; zeroes when it has none.
    pub fn statistics(&self) -> Statistics {
        let words = bind::get_words::<6>(self.fd.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS);
        let [dropped, rx_invalid, tx_invalid, full, fill_empty, tx_empty] =
            words.unwrap_or_default();
        Statistics {
            rx_dropped: dropped,
            rx_invalid_descs: rx_invalid,
            tx_invalid_descs: tx_invalid,
            rx_ring_full: full,
            rx_fill_ring_empty_descs: fill_empty,
            tx_ring_empty_descs: tx_empty,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
