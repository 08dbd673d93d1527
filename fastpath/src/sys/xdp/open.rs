//! Opens an AF_XDP socket: which registration, which mode, and what older kernels lack.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bind;
use super::ring::{Consumer, Layout, Producer, Region, Slot};
use super::socket::{OpenFd, Rings, Socket};
use super::umem::{Sharer, Umem};

/// Sizes of the rings, in slots: powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// Received packets that wait for us.
    pub rx: u32,
    /// Packets that wait for the kernel.
    pub tx: u32,
    /// Frames that wait to be filled.
    pub fill: u32,
    /// Sent frames that wait for us; at least as many as `tx`, or transmission stalls.
    pub completion: u32,
}

/// What to open.
#[derive(Debug, Clone, Copy)]
pub struct SocketSpec {
    /// The device.
    pub ifindex: u32,
    /// Its queue.
    pub queue: u32,
    /// Sizes of the rings.
    pub rings: RingSizes,
    /// Try zero-copy first.
    pub zero_copy: bool,
    /// Packets may be larger than a chunk.
    pub jumbo: bool,
    /// Drive the device from here, at most this many packets at a time.
    pub busy_poll: Option<u32>,
}

/// Which step of opening failed, and how.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SocketError {
    /// The step.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A socket, and what became of zero-copy.
#[derive(Debug)]
pub struct Opened {
    /// Bound; no frames posted yet.
    pub socket: Socket,
    /// Why zero-copy was tried in vain.
    pub zero_copy_refused: Option<io::Error>,
}

struct Bound {
    fd: OwnedFd,
    zero_copy: bool,
    chains: bool,
}

/// How long binding waits for the queue's last user: the kernel frees a closed socket's hold on
/// its queue later, after about 25 ms on an idle machine and after more than a second on one that
/// is busy with namespaces.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
const BIND_WAIT: Duration = Duration::from_millis(5);
const BIND_WAIT_MAX: Duration = Duration::from_millis(150);
/// Longest wait for the kernel to let go of a zero-copy queue.
const LET_GO_TIME: Duration = Duration::from_secs(2);

/// Opens and binds. Waits up to [`BIND_PATIENCE`] while the queue's last user goes away, and gives
/// `EBUSY` then.
pub fn open(umem: &Arc<Umem>, spec: &SocketSpec) -> Result<Opened, SocketError> {
    let mut zero_copy_refused = None;
    if spec.zero_copy {
        match bind_patiently(umem, spec, true) {
            Ok(bound) => return finish(umem, spec, bound, None),
            Err(error) => zero_copy_refused = Some(error.source),
        }
    }
    let bound = bind_patiently(umem, spec, false)?;
    finish(umem, spec, bound, zero_copy_refused)
}

fn at(step: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError { step, source }
}

fn finish(
    umem: &Arc<Umem>,
    spec: &SocketSpec,
    bound: Bound,
    zero_copy_refused: Option<io::Error>,
) -> Result<Opened, SocketError> {
    let fd = OpenFd::new(umem.clone(), bound.fd);
    let rings = map_rings(fd.as_fd(), &spec.rings)?;
    tune(fd.as_fd(), spec);
    let zero_copy = bound.zero_copy.then_some((spec.ifindex, spec.queue));
    let socket = Socket::new(umem, rings, fd, zero_copy, bound.chains);
    Ok(Opened { socket, zero_copy_refused })
}

fn bind_patiently(umem: &Umem, spec: &SocketSpec, zero_copy: bool) -> Result<Bound, SocketError> {
    let start = Instant::now();
    let mut wait = BIND_WAIT;
    loop {
        match bind_once(umem, spec, zero_copy) {
            Err(error)
                if error.source.raw_os_error() == Some(libc::EBUSY)
                    && start.elapsed() < BIND_PATIENCE =>
            {
                std::thread::sleep(wait);
                wait = (wait * 2).min(BIND_WAIT_MAX);
            }
            other => return other,
        }
    }
}

fn bind_once(umem: &Umem, spec: &SocketSpec, zero_copy: bool) -> Result<Bound, SocketError> {
    let mut sharers = umem.sharers();
    for sharer in sharers.iter().filter(|sharer| sharer.zero_copy == zero_copy) {
        let fd = prepare(&spec.rings)?;
        let (flags, queue) = (libc::XDP_SHARED_UMEM, (spec.ifindex, spec.queue));
        match bind::bind(fd.as_fd(), queue, flags, Some(sharer.fd)) {
            Ok(()) => {
                let (chains, shared) = (sharer.chains, fd.as_raw_fd());
                sharers.push(Sharer { fd: shared, zero_copy, chains });
                return Ok(Bound { fd, zero_copy, chains });
            }
            // That one's device is gone: it is bound no more, the next may be.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(source) => return Err(SocketError { step: "bind to the queue", source }),
        }
    }
    let bound = bind_registering(umem, spec, zero_copy)?;
    let (fd, chains) = (bound.fd.as_raw_fd(), bound.chains);
    sharers.push(Sharer { fd, zero_copy, chains });
    Ok(bound)
}

/// Registers the memory anew, unaligned unless a driver maps it for a device: not all of those
/// know that. Without chains where the kernel (before 6.6) has none, or where a zero-copy driver
/// has none and its packets fit into one chunk.
fn bind_registering(umem: &Umem, spec: &SocketSpec, zero_copy: bool) -> Result<Bound, SocketError> {
    let mode = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
    let mut refused = None;
    for chains in [true, false] {
        let fd = prepare(&spec.rings)?;
        bind::register_umem(fd.as_fd(), umem.arena(), umem.arena().small_count(), !zero_copy)
            .map_err(at("register packet memory"))?;
        let sg = if chains { libc::XDP_USE_SG } else { 0 };
        let flags = mode | libc::XDP_USE_NEED_WAKEUP | sg;
        match bind::bind(fd.as_fd(), (spec.ifindex, spec.queue), flags, None) {
            Ok(()) => return Ok(Bound { fd, zero_copy, chains }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) if zero_copy && !spec.jumbo => refused = Some(error),
            Err(source) => return Err(SocketError { step: "bind to the queue", source }),
        }
    }
    let source = refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL));
    Err(SocketError { step: "bind to the queue", source })
}

/// Waits, at most [`LET_GO_TIME`], until the kernel has let go of a closed socket's queue: only
/// then does a zero-copy device write into its frames no more. False when it did not in time.
pub(super) fn wait_until_free(umem: &Umem, queue: (u32, u32)) -> bool {
    const PROBE: RingSizes = RingSizes { rx: 1, tx: 1, fill: 1, completion: 1 };
    let start = Instant::now();
    while start.elapsed() < LET_GO_TIME {
        let Ok(fd) = prepare(&PROBE) else { return false };
        if bind::register_umem(fd.as_fd(), umem.arena(), 1, false).is_err() {
            return false;
        }
        match bind::bind(fd.as_fd(), queue, libc::XDP_COPY, None) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(BIND_WAIT);
            }
            // Free, or no device any more.
            _ => return true,
        }
    }
    false
}

/// A socket with its rings made, bound to nothing.
fn prepare(sizes: &RingSizes) -> Result<OwnedFd, SocketError> {
    let fd = bind::socket().map_err(at("make an AF_XDP socket"))?;
    let RingSizes { rx, tx, fill, completion } = *sizes;
    let sizes = [
        (libc::XDP_UMEM_FILL_RING, fill),
        (libc::XDP_UMEM_COMPLETION_RING, completion),
        (libc::XDP_RX_RING, rx),
        (libc::XDP_TX_RING, tx),
    ];
    for (ring, size) in sizes {
        bind::set_xdp(fd.as_fd(), ring, size).map_err(at("make the rings"))?;
    }
    Ok(fd)
}

fn map_rings(fd: BorrowedFd<'_>, sizes: &RingSizes) -> Result<Rings, SocketError> {
    let layouts = bind::layouts(fd).map_err(at("ask for the rings' layout"))?;
    let fill_at = libc::XDP_UMEM_PGOFF_FILL_RING as i64;
    let completion_at = libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64;
    let crooked = || at("map the rings")(io::Error::other("their layout makes no sense"));
    let rx = map::<super::ring::Desc>(fd, &layouts.rx, sizes.rx, libc::XDP_PGOFF_RX_RING)?;
    let tx = map::<super::ring::Desc>(fd, &layouts.tx, sizes.tx, libc::XDP_PGOFF_TX_RING)?;
    let fill = map::<u64>(fd, &layouts.fill, sizes.fill, fill_at)?;
    let completion = map::<u64>(fd, &layouts.completion, sizes.completion, completion_at)?;
    Ok(Rings {
        rx: Consumer::new(rx, layouts.rx, sizes.rx).ok_or_else(crooked)?,
        tx: Producer::new(tx, layouts.tx, sizes.tx).ok_or_else(crooked)?,
        fill: Producer::new(fill, layouts.fill, sizes.fill).ok_or_else(crooked)?,
        completion: Consumer::new(completion, layouts.completion, sizes.completion)
            .ok_or_else(crooked)?,
    })
}

fn map<T: Slot>(
    fd: BorrowedFd<'_>,
    layout: &Layout,
    size: u32,
    offset: i64,
) -> Result<Arc<Region>, SocketError> {
    Region::map(fd, layout.bytes::<T>(size), offset).map_err(at("map the rings"))
}

/// Settings that make it faster; the socket works without them, so refusals are not errors.
fn tune(fd: BorrowedFd<'_>, spec: &SocketSpec) {
    let tx = spec.rings.tx;
    let _ = bind::set_xdp(fd, bind::XDP_MAX_TX_SKB_BUDGET, tx);
    // Copy mode charges each packet under way to the socket's send buffer.
    let send_buffer = i32::try_from(u64::from(tx) * 4096).unwrap_or(i32::MAX);
    let _ = bind::set_socket(fd, libc::SO_SNDBUFFORCE, send_buffer);
    if let Some(budget) = spec.busy_poll {
        /// Longest busy poll, in microseconds.
        const BUSY_POLL_US: i32 = 20;
        let _ = bind::set_socket(fd, bind::SO_PREFER_BUSY_POLL, 1);
        let _ = bind::set_socket(fd, libc::SO_BUSY_POLL, BUSY_POLL_US);
        let _ = bind::set_socket(fd, bind::SO_BUSY_POLL_BUDGET, budget.min(64) as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::tests::in_namespace;
    use crate::sys::memory::Arena;

    const RINGS: RingSizes = RingSizes { rx: 64, tx: 64, fill: 64, completion: 64 };

    fn loopback(queue: u32) -> SocketSpec {
        SocketSpec {
            ifindex: 1,
            queue,
            rings: RINGS,
            zero_copy: false,
            jumbo: false,
            busy_poll: None,
        }
    }

    #[test]
    fn a_queue_is_free_some_time_after_its_socket_was_closed() {
        in_namespace(|| {
            let umem = Umem::new(Arena::new(64, 0).unwrap());
            assert!(wait_until_free(&umem, (1, 0)));
            let opened = open(&umem, &loopback(0)).unwrap();
            drop(opened);
            let start = Instant::now();
            assert!(wait_until_free(&umem, (1, 0)));
            assert!(start.elapsed() < LET_GO_TIME);
            assert!(wait_until_free(&umem, (12_345, 0)), "no such device");
        });
    }

    #[test]
    fn a_queue_in_use_stays_busy_and_the_one_who_asks_is_told_so() {
        in_namespace(|| {
            let umem = Umem::new(Arena::new(64, 0).unwrap());
            let _opened = open(&umem, &loopback(0)).unwrap();
            let other = Umem::new(Arena::new(64, 0).unwrap());
            let start = Instant::now();
            let error = open(&other, &loopback(0)).unwrap_err();
            assert_eq!(error.source.raw_os_error(), Some(libc::EBUSY));
            let taken = start.elapsed();
            assert!(taken >= BIND_PATIENCE && taken < BIND_PATIENCE * 3);
            let error = open(&other, &loopback(1)).unwrap_err();
            assert_eq!(error.source.raw_os_error(), Some(libc::EINVAL));
        });
    }

    #[test]
    fn zero_copy_is_refused_by_a_device_that_has_none_and_copy_serves() {
        in_namespace(|| {
            let umem = Umem::new(Arena::new(64, 0).unwrap());
            let spec = SocketSpec { zero_copy: true, ..loopback(0) };
            let opened = open(&umem, &spec).unwrap();
            let refused = opened.zero_copy_refused.unwrap();
            assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
            assert!(!opened.socket.is_zero_copy() && opened.socket.takes_chains());
        });
    }
}
