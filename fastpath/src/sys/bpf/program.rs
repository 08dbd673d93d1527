//! A program in the kernel, of XDP or of tc: load it past the verifier, run it on a packet, ask its
//! name.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::asm::Insn;
use super::link::ATTACH_TYPE_XDP;
use super::syscall::{self, Attr, bpf, bpf_fd};

/// Owns the descriptor of a loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    takes_chains: bool,
}

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
#[error("BPF program {name} not loaded: {source}{}", verdict_of(.log))]
pub struct ProgramError {
    name: String,
    /// What the kernel said.
    pub source: io::Error,
    /// The verifier's own words; empty when it was not asked.
    pub log: String,
}

impl ProgramError {
    fn new(name: &str, source: io::Error, log: &[u8]) -> ProgramError {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]).into_owned();
        ProgramError { name: name.to_string(), source, log }
    }
}

fn verdict_of(log: &str) -> String {
    let last = log.lines().rev().find(|line| !line.starts_with("processed"));
    last.map_or_else(String::new, |line| format!(" (verifier: {line})"))
}

/// Number and name of a program, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The kernel's number.
    pub id: u32,
    /// Up to 15 characters; empty when it has none, or when we may not ask.
    pub name: String,
}

/// Where a test packet says it came from.
#[derive(Debug, Clone, Copy, Default)]
pub struct XdpContext {
    /// Interface; 0 is the loopback of the calling thread's network namespace.
    pub ifindex: u32,
    /// Receive queue; the interface must have it.
    pub rx_queue: u32,
}

/// What a program did with a test packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRun {
    /// Its verdict: 0 aborted, 1 drop, 2 pass, 3 tx, 4 redirect.
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

/// How live frames are made: see [`Program::run_live`].
#[derive(Debug, Clone, Copy)]
pub struct LiveRun {
    /// Where the frames seem to come from.
    pub context: XdpContext,
    /// How many frames, in all.
    pub count: u32,
    /// Frames a batch, 1 to 256; 0 is the kernel's 64.
    pub batch: u32,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

// SAFETY: no padding; `load_once` keeps instructions, licence and log buffer borrowed meanwhile.
unsafe impl Attr for LoadAttr {}

#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    zero: u32,
}

// SAFETY: no padding; the callers keep packet, context and output buffer borrowed meanwhile, and
// the sizes are theirs.
unsafe impl Attr for TestAttr {}

#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

// SAFETY: three u32, no padding and no address.
unsafe impl Attr for IdAttr {}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

// SAFETY: no padding; `info` keeps the buffer of `info_len` bytes borrowed meanwhile.
unsafe impl Attr for InfoAttr {}

/// The kernel's `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// What a program is for, as the kernel's numbers say it.
#[derive(Clone, Copy)]
struct Kind {
    program: u32,
    attach: u32,
    flags: u32,
}

const XDP: Kind = Kind { program: 6, attach: ATTACH_TYPE_XDP, flags: 0 };
const XDP_CHAINS: Kind = Kind { flags: HAS_FRAGS, ..XDP };
const DEVMAP: Kind = Kind { attach: 33, ..XDP };
const TC: Kind = Kind { program: 3, attach: 0, flags: 0 };
const HAS_FRAGS: u32 = 1 << 5;
const LIVE_FRAMES: u32 = 1 << 1;
const LOG_BYTES: usize = 256 * 1024;
/// Room that an output packet may need beyond the input's: no program of ours grows it by more.
const GROWTH: usize = 512;

impl Program {
    /// Loads an XDP program. Kernels before 5.18 know no packets in several fragments: there it
    /// is loaded without, and [`Program::takes_chains`] says so.
    pub fn load_xdp(name: &str, insns: &[Insn]) -> Result<Program, ProgramError> {
        match Self::load_once(name, insns, XDP_CHAINS, &mut []) {
            Ok(fd) => return Ok(Program { fd, takes_chains: true }),
            Err(source) if source.raw_os_error() == Some(libc::EPERM) => {
                return Err(ProgramError { name: name.to_string(), source, log: String::new() });
            }
            Err(_) => {}
        }
        if let Ok(fd) = Self::load_once(name, insns, XDP, &mut []) {
            return Ok(Program { fd, takes_chains: false });
        }
        let fd = Self::load_explained(name, insns, XDP_CHAINS)?;
        Ok(Program { fd, takes_chains: true })
    }

    /// Loads a program for the entries of a device map: it runs on what is redirected there.
    pub fn load_devmap(name: &str, insns: &[Insn]) -> Result<Program, ProgramError> {
        let fd = Self::load_explained(name, insns, DEVMAP)?;
        Ok(Program { fd, takes_chains: false })
    }

    /// Loads a program for packets behind the driver, where they are the kernel's: the context is
    /// `struct __sk_buff`, the verdicts are those of tc.
    pub fn load_tc(name: &str, insns: &[Insn]) -> Result<Program, ProgramError> {
        let fd = match Self::load_once(name, insns, TC, &mut []) {
            Ok(fd) => fd,
            Err(_) => Self::load_explained(name, insns, TC)?,
        };
        Ok(Program { fd, takes_chains: true })
    }

    /// With the verifier's words, if it refuses.
    fn load_explained(name: &str, insns: &[Insn], kind: Kind) -> Result<OwnedFd, ProgramError> {
        let mut log = vec![0; LOG_BYTES];
        Self::load_once(name, insns, kind, &mut log)
            .map_err(|source| ProgramError::new(name, source, &log))
    }

    fn load_once(name: &str, insns: &[Insn], kind: Kind, log: &mut [u8]) -> io::Result<OwnedFd> {
        let license = c"Dual MIT/GPL";
        let mut attr = LoadAttr {
            prog_type: kind.program,
            insn_cnt: insns.len() as u32,
            insns: insns.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            prog_flags: kind.flags,
            prog_name: syscall::object_name(name),
            expected_attach_type: kind.attach,
            ..LoadAttr::default()
        };
        if !log.is_empty() {
            attr.log_buf = log.as_mut_ptr().expose_provenance() as u64;
        }
        bpf_fd(syscall::PROG_LOAD, &mut attr)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// True when packets in several fragments (jumbo frames) may pass through it.
    pub fn takes_chains(&self) -> bool {
        self.takes_chains
    }

    /// Runs the program `repeat` times on a copy of `packet` (14 bytes to about a page).
    pub fn test_run(&self, packet: &[u8], context: XdpContext, repeat: u32) -> io::Result<TestRun> {
        let mut out = vec![0u8; packet.len() + GROWTH];
        let context = XdpMd::new(packet, context);
        let mut attr = TestAttr {
            repeat,
            data_size_out: out.len() as u32,
            data_out: out.as_mut_ptr().expose_provenance() as u64,
            ..self.test_attr(packet, &context)
        };
        bpf(syscall::PROG_TEST_RUN, &mut attr)?;
        out.truncate(attr.data_size_out as usize);
        let duration = Duration::from_nanos(u64::from(attr.duration_ns));
        Ok(TestRun { verdict: attr.retval, packet: out, duration })
    }

    /// Makes `run.count` real frames with the bytes of `packet`, runs the program on each, and
    /// does what it says: pass to the stack, transmit, redirect. The kernel (5.18 on) reuses the
    /// frames without writing them anew, so a program that changes bytes has to write all of
    /// them each time. A call for more than one frame takes about 25 ms to set up: let
    /// it make 2^18 frames and more.
    pub fn run_live(&self, packet: &[u8], run: LiveRun) -> io::Result<()> {
        let context = XdpMd::new(packet, run.context);
        let mut attr = TestAttr {
            repeat: run.count,
            flags: LIVE_FRAMES,
            batch_size: run.batch,
            ..self.test_attr(packet, &context)
        };
        bpf(syscall::PROG_TEST_RUN, &mut attr).map(drop)
    }

    /// Runs a program of [`Program::load_tc`] once on a copy of `packet` (14 bytes to about a page)
    /// that came in by the loopback; it is a super-packet if `gso_size` is not 0. Verdicts:
    /// 0xffff_ffff next, 2 drop, 7 redirect.
    pub fn test_run_tc(&self, packet: &[u8], gso_size: u32) -> io::Result<TestRun> {
        /// Words of `struct __sk_buff`, and which of them is the size of segments.
        const WORDS: usize = 48;
        const GSO_SIZE: usize = 44;
        let mut out = vec![0u8; packet.len() + GROWTH];
        let mut context = [0u32; WORDS];
        context[GSO_SIZE] = gso_size;
        let mut attr = TestAttr {
            repeat: 1,
            ctx_size_in: size_of_val(&context) as u32,
            ctx_in: context.as_ptr().expose_provenance() as u64,
            data_size_out: out.len() as u32,
            data_out: out.as_mut_ptr().expose_provenance() as u64,
            ..self.packet_attr(packet)
        };
        bpf(syscall::PROG_TEST_RUN, &mut attr)?;
        out.truncate(attr.data_size_out as usize);
        let duration = Duration::from_nanos(u64::from(attr.duration_ns));
        Ok(TestRun { verdict: attr.retval, packet: out, duration })
    }

    fn test_attr(&self, packet: &[u8], context: &XdpMd) -> TestAttr {
        TestAttr {
            ctx_size_in: size_of::<XdpMd>() as u32,
            ctx_in: std::ptr::from_ref(context).expose_provenance() as u64,
            ..self.packet_attr(packet)
        }
    }

    fn packet_attr(&self, packet: &[u8]) -> TestAttr {
        TestAttr {
            prog_fd: self.fd.as_raw_fd() as u32,
            data_size_in: packet.len() as u32,
            data_in: packet.as_ptr().expose_provenance() as u64,
            ..TestAttr::default()
        }
    }
}

impl XdpMd {
    fn new(packet: &[u8], context: XdpContext) -> XdpMd {
        XdpMd {
            data_end: packet.len() as u32,
            ingress_ifindex: context.ifindex,
            rx_queue_index: context.rx_queue,
            ..XdpMd::default()
        }
    }
}

impl ProgramInfo {
    /// The program with the kernel's number `id`; without a name when it can't be asked.
    pub fn by_id(id: u32) -> ProgramInfo {
        ProgramInfo { id, name: Self::name_of(id).unwrap_or_default() }
    }

    fn name_of(id: u32) -> io::Result<String> {
        /// Where `struct bpf_prog_info` has the name: behind type, id, tag, two lengths, two
        /// addresses, load time, user id, number of maps and their address.
        const NAME_AT: usize = 64;
        let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
        let fd = bpf_fd(syscall::PROG_GET_FD_BY_ID, &mut attr)?;
        let mut info = [0u64; 28];
        let mut attr = InfoAttr {
            bpf_fd: fd.as_raw_fd() as u32,
            info_len: size_of_val(&info) as u32,
            info: info.as_mut_ptr().expose_provenance() as u64,
        };
        bpf(syscall::OBJ_GET_INFO_BY_FD, &mut attr)?;
        let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = &bytes[NAME_AT..NAME_AT + 16];
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(16);
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }
}
