use super::*;
use crate::port::Port;
use crate::port::tap::{Engine, TapError, TapSpec, open};
use crate::sys::memory::Arena;

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
