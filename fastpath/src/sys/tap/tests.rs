use super::*;
use crate::packet::Packet;
use crate::port::Port;
use crate::port::tap::{Engine, TapError, TapSpec, open};
use crate::port::{BURST, PortId};
use crate::sys::memory::{Arena, FramePool, HEADROOM};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use uring::Uring;

/// Makes `io_uring_setup` fail with EPERM in this thread, as container runtimes do.
fn forbid_io_uring() -> bool {
    let statement =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let filter = [
        statement(load, 0, 0, 0),
        statement(equal, libc::SYS_io_uring_setup as u32, 0, 1),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: all arguments are numbers.
    let fixed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its filter live through the call, which only reads them.
    fixed == 0 && unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } == 0
}

#[test]
fn where_io_uring_is_forbidden_the_port_polls_and_says_why() {
    let arena = Arena::new(64, 8).unwrap();
    let spec = TapSpec {
        name: format!("mgyt{}", std::process::id() % 100_000),
        netns: None,
        mac: None,
        mtu: 1500,
        persistent: false,
        up: false,
        engine: Engine::Auto,
    };
    let inside = move || {
        if !forbid_io_uring() {
            return println!("SKIPPED: seccomp is not to be had here");
        }
        let port = match open(&arena, &spec) {
            Err(TapError::NoDriver(error)) => return println!("SKIPPED: no TUN: {error}"),
            Err(TapError::Forbidden { .. }) => return println!("SKIPPED: not root"),
            other => other.unwrap(),
        };
        let mode = port.report().mode;
        assert!(mode.starts_with("poll: io_uring: Operation not permitted"), "{mode}");
        drop(port);
        let demanded = open(&arena, &TapSpec { engine: Engine::Uring, ..spec });
        assert!(matches!(demanded, Err(TapError::Uring(_))), "{demanded:?}");
    };
    std::thread::spawn(inside).join().unwrap();
}

#[test]
fn a_failed_write_is_counted_by_its_kind() {
    let mut counters = EngineCounters::default();
    assert!(!counters.write_failed(libc::EIO));
    assert!(!counters.write_failed(libc::EINVAL));
    assert!(counters.write_failed(libc::EBADFD));
    assert_eq!((counters.tx_down, counters.tx_refused), (1, 2));
}

/// Packets in a receive queue of the kernel that nothing reads, at most.
const WAITING: usize = 8;

/// Packets of two sizes in turn, each with its number, through an engine whose writes are its own
/// and the kernel's thread's in turn.
fn write_numbered(uring: &mut Uring, far: &UnixDatagram, pool: &mut FramePool, count: u32) {
    let mut expected = 0u32;
    let mut take = |bytes: &mut [u8; 4096]| {
        let len = far.recv(bytes).unwrap();
        let number = u32::from_ne_bytes(bytes[HEADER_LEN..HEADER_LEN + 4].try_into().unwrap());
        assert_eq!(number, expected, "{len} bytes");
        expected += 1;
    };
    let mut bytes = [0; 4096];
    for number in 0..count {
        if number % 200 < 100 {
            uring.lending.note_more();
        }
        uring.service(pool);
        assert!(uring.room(pool) > 0);
        let len = if number % 3 == 0 { 60 } else { 1500 };
        let mut packet = Packet::new(pool.alloc().unwrap(), HEADROOM, len, PortId(1));
        packet.head_mut()[..4].copy_from_slice(&number.to_ne_bytes());
        uring.write([0; HEADER_LEN], packet, pool);
        uring.enter(pool);
        if number as usize >= WAITING {
            take(&mut bytes);
        }
    }
    (0..WAITING).for_each(|_| take(&mut bytes));
}

#[test]
fn packets_of_the_worker_and_of_the_kernels_thread_stay_in_order() {
    let arena = Arena::new(2 * BURST, 8).unwrap();
    let mut pool = FramePool::new(arena.clone());
    let (near, far) = UnixDatagram::pair().unwrap();
    let mut uring = match Uring::new(near.as_raw_fd()) {
        Err(error) => return println!("SKIPPED: io_uring: {error}"),
        Ok(uring) => uring,
    };
    write_numbered(&mut uring, &far, &mut pool, 1000);
    let EngineCounters { tx_down, tx_refused, tx_lent, .. } = uring.counters;
    assert!((200..800).contains(&tx_lent), "{tx_lent} of 1000");
    assert_eq!((tx_down, tx_refused), (0, 0));
    uring.close(&mut pool);
    drop(pool);
    assert_eq!((arena.free_small(), arena.free_large()), (2 * BURST, 8));
}
