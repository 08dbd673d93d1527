//! How a worker sleeps: one epoll set of its cold ports, and an eventfd that wakes it.
//!
//! Ports are registered edge-triggered: a packet that arrives while a port is polled leaves an edge
//! behind, which costs one needless look and loses nothing. One that is readable when it is added
//! is reported at once.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Most events taken at once.
const MAX_EVENTS: usize = 64;
/// The token of the waker among the events.
const WAKER: u64 = u64::MAX;

/// Wakes a worker from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes the next, or the present, wait return.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is 8 bytes, as an eventfd wants; the fd is owned and open. The only
        // failure is a counter that is full, and then the wait returns anyway.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// The set that a worker waits on.
#[derive(Debug)]
pub struct WaitSet {
    epoll: OwnedFd,
    waker: Waker,
}

impl WaitSet {
    /// An empty set with its waker.
    pub fn new() -> io::Result<WaitSet> {
        // SAFETY: no pointer is passed.
        let event = owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: no pointer is passed.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let set = WaitSet { epoll, waker: Waker(Arc::new(event)) };
        set.control(libc::EPOLL_CTL_ADD, set.waker.0.as_raw_fd(), WAKER)?;
        Ok(set)
    }

    /// A handle that wakes the owner of this set.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Adds a descriptor under `token`, which [`WaitSet::wait`] reports. Closing the descriptor
    /// takes it out again.
    pub fn add(&self, fd: RawFd, token: u16) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, u64::from(token))
    }

    /// Takes a descriptor out; no error when it is not there.
    pub fn remove(&self, fd: RawFd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0);
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: token };
        // SAFETY: `event` lives through the call; the kernel checks both descriptors.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits up to `timeout_ms` milliseconds (0: not at all) and appends the tokens of ports that
    /// have something to `ready`. True when the waker was used.
    pub fn wait(&self, timeout_ms: i32, ready: &mut Vec<u16>) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MAX_EVENTS];
        // SAFETY: `events` has room for MAX_EVENTS and lives through the call.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                MAX_EVENTS as i32,
                timeout_ms,
            )
        };
        let mut woken = false;
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            let token = event.u64;
            if token == WAKER {
                woken = true;
                self.drain_waker();
            } else {
                ready.push(token as u16);
            }
        }
        woken
    }

    fn drain_waker(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is 8 bytes, as an eventfd wants; the fd is owned and open.
        let _ =
            unsafe { libc::read(self.waker.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_ready_descriptor_and_the_waker_are_told_apart() {
        let set = WaitSet::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        set.add(far.as_raw_fd(), 7).unwrap();
        let mut ready = Vec::new();
        assert!(!set.wait(0, &mut ready));
        near.write_all(b"x").unwrap();
        assert!(!set.wait(1000, &mut ready));
        assert_eq!(ready, [7]);
        set.waker().wake();
        assert!(set.wait(1000, &mut ready));
        assert!(!set.wait(0, &mut ready));
        near.write_all(b"y").unwrap();
        set.wait(1000, &mut ready);
        assert_eq!(ready, [7, 7], "a new edge is reported though the old byte is unread");
    }
}
