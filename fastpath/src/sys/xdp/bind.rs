//! The system calls that make an AF_XDP socket, one safe function each.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::ring::Layout;
use crate::sys::memory::{Arena, SMALL_CHUNK};

/// Not in libc: sets how many packets one copy-mode transmit call may send (Linux 6.17).
pub(super) const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// Not in libc: the socket's NAPI is driven by polling first.
pub(super) const SO_PREFER_BUSY_POLL: i32 = 69;
/// Not in libc: packets that one busy poll may take.
pub(super) const SO_BUSY_POLL_BUDGET: i32 = 70;

/// Where the four rings of a socket keep their parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layouts {
    pub(super) rx: Layout,
    pub(super) tx: Layout,
    pub(super) fill: Layout,
    pub(super) completion: Layout,
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A new AF_XDP socket, bound to nothing, in the calling thread's network namespace.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no addresses.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel has just given this descriptor to us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as u32;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads `size` bytes of a live value.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value, size) })
}

/// Sets a number of the SOL_XDP level.
pub(super) fn set_xdp(fd: BorrowedFd<'_>, option: i32, value: u32) -> io::Result<()> {
    set(fd, libc::SOL_XDP, option, &value)
}

/// Sets a number of the SOL_SOCKET level.
pub(super) fn set_socket(fd: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, option, &value)
}

/// Reads an option into as many 64-bit words as the kernel has for it, at most `N`.
pub(super) fn get_words<const N: usize>(
    fd: BorrowedFd<'_>,
    level: i32,
    option: i32,
) -> io::Result<[u64; N]> {
    let mut words = [0u64; N];
    let mut size = size_of_val(&words) as u32;
    let value = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `size` bytes, the size of the array that we borrow.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, value, &raw mut size) })?;
    Ok(words)
}

/// Registers the first `chunks` small chunks of the arena with this socket. The kernel holds the
/// pages themselves, so that it writes nowhere else should the arena be unmapped.
///
/// `unaligned` lets the kernel take its notes on a chunk from a stack, the last used first, where
/// aligned memory has them by the chunk's number, spread over more than the caches hold: a tenth
/// of the time of a 64-byte packet from veth to veth.
pub(super) fn register_umem(
    fd: BorrowedFd<'_>,
    arena: &Arena,
    chunks: usize,
    unaligned: bool,
) -> io::Result<()> {
    let umem = libc::xdp_umem_reg {
        addr: arena.base().expose_provenance() as u64,
        len: (chunks.min(arena.small_count()) * SMALL_CHUNK) as u64,
        chunk_size: SMALL_CHUNK as u32,
        headroom: 0,
        flags: if unaligned { libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG } else { 0 },
        tx_metadata_len: 0,
    };
    set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
}

/// Binds to a queue; `shared` is the socket whose registration is used, if not its own.
pub(super) fn bind(
    fd: BorrowedFd<'_>,
    (ifindex, queue): (u32, u32),
    flags: u16,
    shared: Option<i32>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd as u32),
    };
    let size = size_of_val(&address) as u32;
    // SAFETY: the kernel reads `size` bytes of a live address.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) })
}

/// Where the rings' parts are. Kernels before 5.4 (no flags) are refused.
pub(super) fn layouts(fd: BorrowedFd<'_>) -> io::Result<Layouts> {
    let words = get_words::<16>(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
    let layout = |at: usize| Layout {
        producer: words[at] as usize,
        consumer: words[at + 1] as usize,
        slots: words[at + 2] as usize,
        flags: words[at + 3] as usize,
    };
    if words[15] == 0 {
        return Err(io::Error::other("this kernel's AF_XDP rings have no flags (before 5.4)"));
    }
    Ok(Layouts { rx: layout(0), tx: layout(4), fill: layout(8), completion: layout(12) })
}

/// Asks the kernel to send what is in the tx ring.
pub(super) fn kick_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: an empty message: no address is read.
    let sent =
        unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    check(sent as i32)
}

/// Asks the kernel to look at the fill ring, and with busy polling at the device.
pub(super) fn kick_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    let (none, no_address) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: an empty buffer and no address: nothing is written.
    let got = unsafe {
        libc::recvfrom(fd, none, 0, libc::MSG_DONTWAIT, no_address, std::ptr::null_mut())
    };
    check(got as i32)
}

/// Lifts the limit of locked memory as far as we may: packet memory counts against it where the
/// process lacks CAP_IPC_LOCK. That it could not be lifted shows when memory is registered.
pub fn raise_memlock_limit() {
    for limit in [libc::RLIM_INFINITY, hard_memlock_limit()] {
        let wanted = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: the kernel reads a live struct.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const wanted) } == 0 {
            return;
        }
    }
}

fn hard_memlock_limit() -> libc::rlim_t {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one struct that we borrow.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut now) };
    now.rlim_max
}

/// A descriptor that polls readable when one of `fds` does.
pub fn poll_any(fds: impl Iterator<Item = i32>) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no addresses.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(epoll)?;
    // SAFETY: the kernel has just given this descriptor to us, so nobody else owns it.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    for fd in fds {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        let (add, watched) = (libc::EPOLL_CTL_ADD, &raw mut event);
        // SAFETY: the kernel reads a live event.
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), add, fd, watched) })?;
    }
    Ok(epoll)
}
