//! The plain engine: one read or writev a packet. Works everywhere.

use super::{EngineCounters, HEADER_LEN, READ_AT, READ_LEN, Read};
use crate::packet::{MAX_SEGMENTS, Packet};
use crate::sys::memory::{Frame, FramePool};
use std::io;
use std::os::fd::RawFd;

/// The engine's state. The descriptor is the port's, and outlives it.
#[derive(Debug)]
pub(crate) struct Poll {
    fd: RawFd,
    /// A large frame kept for the next read.
    spare: Option<Frame>,
    /// The last read found nothing.
    drained: bool,
    gone: bool,
    pub(crate) counters: EngineCounters,
}

impl Poll {
    pub(crate) fn new(fd: RawFd) -> Poll {
        Poll { fd, spare: None, drained: false, gone: false, counters: EngineCounters::default() }
    }

    pub(crate) fn read(&mut self, pool: &mut FramePool) -> Read {
        if self.gone {
            return Read::Gone;
        }
        self.drained = false;
        let Some(mut frame) = self.spare.take().or_else(|| pool.alloc_large()) else {
            self.counters.rx_no_frame += 1;
            return Read::Empty;
        };
        let room = frame.bytes_mut(READ_AT, READ_LEN);
        // SAFETY: the buffer is `room`, which is ours alone and lives through the call.
        let count = unsafe { libc::read(self.fd, room.as_mut_ptr().cast(), room.len()) };
        match usize::try_from(count) {
            Ok(count) if count > HEADER_LEN && count <= READ_LEN => {
                return Read::Packet(frame, count - HEADER_LEN);
            }
            Ok(_) => self.counters.rx_errors += 1,
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) => self.drained = true,
                Some(libc::EINTR) => {}
                Some(libc::EBADFD) => self.gone = true,
                _ => self.counters.rx_errors += 1,
            },
        }
        self.spare = Some(frame);
        if self.gone { Read::Gone } else { Read::Empty }
    }

    /// True when the kernel had nothing to read as of the last [`Poll::read`].
    pub(crate) fn is_drained(&self) -> bool {
        self.drained
    }

    /// Keeps a frame for the next read.
    pub(crate) fn recycle(&mut self, frame: Frame, pool: &mut FramePool) {
        if let Some(frame) = self.spare.replace(frame) {
            pool.free(frame);
        }
    }

    pub(crate) fn write(&mut self, header: [u8; HEADER_LEN], packet: Packet, pool: &mut FramePool) {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut vectors = [empty; MAX_SEGMENTS + 1];
        let mut count = 0;
        for part in std::iter::once(&header[..]).chain(packet.segments()) {
            vectors[count] =
                libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
            count += 1;
        }
        // SAFETY: each vector is a live slice that the kernel only reads; `count` of them are set.
        let written = unsafe { libc::writev(self.fd, vectors.as_ptr(), count as i32) };
        if written < 0 {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
            self.gone |= self.counters.write_failed(errno);
        }
        packet.free(pool);
    }

    pub(crate) fn frames_held(&self) -> usize {
        usize::from(self.spare.is_some())
    }

    pub(crate) fn close(mut self, pool: &mut FramePool) {
        if let Some(frame) = self.spare.take() {
            pool.free(frame);
        }
    }
}
