//! Traffic made and counted inside the kernel, for measuring: no packet crosses into user space.
//!
//! The [`Generator`] sends frames out of a device as fast as one core can: live frames of
//! BPF_PROG_TEST_RUN, redirected. The kernel recycles them as whoever got them last left them, so
//! the program writes the head of each anew, from a table of flows that it goes through in turn.
//! The [`Sink`] counts what comes in by a device, by CPU, and drops it.

use std::io;

use super::asm::{Alu, AsmError, Assembler, Helper, If, Reg, Size};
use super::{AttachMode, Link, LiveRun, Map, MapKind, Program, ProgramError, XdpContext, checksum};
use margay_tunnels::wire::{ethernet, ipv4};

/// Bytes that are written anew in each frame.
pub const HEAD: usize = 64;
/// Most flows of one generator.
pub const MAX_FLOWS: usize = 1 << 20;
/// Shortest and longest frame, in bytes without the check sequence.
pub const FRAME_LEN: std::ops::RangeInclusive<usize> = 14..=3000;

/// Why generator or sink could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// The frames are none, too many, or not of one length within [`FRAME_LEN`].
    #[error("frames: {0}")]
    Frames(&'static str),
    /// The program does not fit together.
    #[error(transparent)]
    Assembler(#[from] AsmError),
    /// The kernel refused the program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel refused a map or the attachment.
    #[error(transparent)]
    Kernel(#[from] io::Error),
}

/// Sends flows out of a device.
#[derive(Debug)]
pub struct Generator {
    program: Program,
    frame: Vec<u8>,
}

impl Generator {
    /// Sends `frames` in turn out of the device `ifindex`, whose driver must take redirected
    /// frames (a veth does when its peer has an XDP program or GRO). All are of one length; behind
    /// the first [`HEAD`] bytes all have the bytes of the first.
    pub fn new(frames: &[Vec<u8>], ifindex: u32) -> Result<Generator, GeneratorError> {
        Generator::make(frames, ifindex, Ports::Own)
    }

    /// The same with another source port each time that a frame comes round: frames are TCP or UDP
    /// over IPv4 without options, and have no UDP checksum.
    pub fn with_fresh_ports(frames: &[Vec<u8>], ifindex: u32) -> Result<Generator, GeneratorError> {
        if frames.first().is_some_and(|frame| frame.len() < FRESH_MIN) {
            return Err(GeneratorError::Frames("too short for ports"));
        }
        Generator::make(frames, ifindex, Ports::Fresh)
    }

    fn make(frames: &[Vec<u8>], ifindex: u32, ports: Ports) -> Result<Generator, GeneratorError> {
        let first = frames.first().ok_or(GeneratorError::Frames("none given"))?;
        if frames.len() > MAX_FLOWS {
            return Err(GeneratorError::Frames("more than 2^20 flows"));
        }
        let fits = FRAME_LEN.contains(&first.len());
        if !fits || frames.iter().any(|frame| frame.len() != first.len()) {
            return Err(GeneratorError::Frames("not all of one length, 14 to 3000 bytes"));
        }
        let flows = Map::new(MapKind::Array, "mgy_flows", 4, HEAD, frames.len() as u32)?;
        for (at, frame) in frames.iter().enumerate() {
            let mut head = [0; HEAD];
            let length = frame.len().min(HEAD);
            head[..length].copy_from_slice(&frame[..length]);
            flows.update(&(at as u32).to_ne_bytes(), &head)?;
        }
        let turn = Map::new(MapKind::PerCpuArray, "mgy_turn", 4, 8, 1)?;
        let head = first.len().min(HEAD);
        let shape = (frames.len() as i32, head as i32);
        let asm = generator((&flows, &turn), shape, ports, ifindex);
        let program = Program::load_xdp("mgy_generator", &asm.finish()?)?;
        Ok(Generator { program, frame: first.clone() })
    }

    /// Sends `count` frames; returns when all are sent or dropped. The calling thread must be in
    /// the device's network namespace. Setting up takes some 25 ms: ask for 2^18 and more.
    pub fn send(&self, count: u32) -> io::Result<()> {
        let run = LiveRun { context: XdpContext::default(), count, batch: 0 };
        self.program.run_live(&self.frame, run)
    }
}

/// R6 context, R7 the frame's first byte, R8 its end.
fn bounds(asm: &mut Assembler, bytes: i32, short: &'static str) {
    asm.load(Size::W, Reg::R7, Reg::R6, 0);
    asm.load(Size::W, Reg::R8, Reg::R6, 4);
    asm.mov(Reg::R2, Reg::R7);
    asm.alu(Alu::Add, Reg::R2, bytes);
    asm.jump_if(If::Gt, Reg::R2, Reg::R8, short);
}

/// R0 = the entry of `map` whose number stands at R10 - 4; goes on at `missing` without one.
pub(crate) fn entry(asm: &mut Assembler, map: &Map, name: &'static str, missing: &'static str) {
    asm.load_map(Reg::R1, map, name);
    asm.mov(Reg::R2, Reg::R10);
    asm.alu(Alu::Add, Reg::R2, -4);
    asm.call(Helper::MapLookup);
    asm.jump_if(If::Eq, Reg::R0, 0, missing);
}

/// Which source ports frames have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// Those that they are given with.
    Own,
    /// The number of times that all have been sent.
    Fresh,
}

/// Where the source port is.
const SOURCE_PORT: usize = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN;
/// Shortest frame with ports.
const FRESH_MIN: usize = SOURCE_PORT + 4;

fn generator(
    (flows, turn): (&Map, &Map),
    (count, head): (i32, i32),
    ports: Ports,
    ifindex: u32,
) -> Assembler {
    let mut asm = Assembler::new();
    asm.mov(Reg::R6, Reg::R1);
    bounds(&mut asm, head, "drop");
    asm.store(Size::W, Reg::R10, -4, 0);
    entry(&mut asm, turn, "turn", "drop");
    asm.load(Size::D, Reg::R1, Reg::R0, 0);
    asm.mov(Reg::R3, Reg::R1);
    asm.alu(Alu::Add, Reg::R3, 1);
    asm.store(Size::D, Reg::R0, 0, Reg::R3);
    asm.mov(Reg::R9, Reg::R1);
    asm.alu(Alu::Div, Reg::R9, count);
    asm.alu(Alu::Mod, Reg::R1, count);
    asm.store(Size::W, Reg::R10, -4, Reg::R1);
    entry(&mut asm, flows, "flows", "drop");
    let mut at = 0;
    for (size, width) in [(Size::D, 8), (Size::W, 4), (Size::H, 2), (Size::B, 1)] {
        while head - at >= width {
            asm.load(size, Reg::R1, Reg::R0, at as i16);
            asm.store(size, Reg::R7, at as i16, Reg::R1);
            at += width;
        }
    }
    if ports == Ports::Fresh {
        asm.store(Size::H, Reg::R7, SOURCE_PORT as i16, Reg::R9);
    }
    asm.load_u64(Reg::R1, u64::from(ifindex));
    asm.mov(Reg::R2, 0);
    asm.call(Helper::Redirect);
    asm.exit();
    asm.label("drop");
    asm.mov(Reg::R0, XDP_DROP);
    asm.exit();
    asm
}

const XDP_DROP: i32 = 1;

/// What a sink has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkCounts {
    /// Frames that came in.
    pub packets: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes: u64,
    /// Frames that passed the check; all of them without one.
    pub good: u64,
}

/// What a sink checks of each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Nothing: the cheapest.
    None,
    /// IPv4 without options, with this TTL and a right header checksum.
    Ttl(u8),
}

/// Counts and drops what comes in by a device, until it is dropped itself.
#[derive(Debug)]
pub struct Sink {
    counts: Map,
    _program: Program,
    _link: Link,
}

impl Sink {
    /// Attaches to a device, in the driver. The calling thread must be in its network namespace.
    pub fn attach(ifindex: u32, check: Check) -> Result<Sink, GeneratorError> {
        let counts = Map::new(MapKind::PerCpuArray, "mgy_sink", 4, 24, 1)?;
        let program = Program::load_xdp("mgy_sink", &sink(&counts, check).finish()?)?;
        let link = Link::attach_xdp(&program, ifindex, AttachMode::Native)?;
        Ok(Sink { counts, _program: program, _link: link })
    }

    /// What it has counted so far, over all CPUs.
    pub fn counts(&self) -> io::Result<SinkCounts> {
        let values = self.counts.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let mut total = SinkCounts::default();
        let (numbers, _) = values.as_chunks::<8>();
        for cpu in numbers.chunks_exact(3) {
            total.packets += u64::from_ne_bytes(cpu[0]);
            total.bytes += u64::from_ne_bytes(cpu[1]);
            total.good += u64::from_ne_bytes(cpu[2]);
        }
        Ok(total)
    }
}

fn sink(counts: &Map, check: Check) -> Assembler {
    let mut asm = Assembler::new();
    asm.mov(Reg::R6, Reg::R1);
    asm.store(Size::W, Reg::R10, -4, 0);
    entry(&mut asm, counts, "counts", "drop");
    asm.mov(Reg::R9, Reg::R0);
    asm.load(Size::W, Reg::R7, Reg::R6, 0);
    asm.load(Size::W, Reg::R8, Reg::R6, 4);
    asm.mov(Reg::R2, Reg::R8);
    asm.alu(Alu::Sub, Reg::R2, Reg::R7);
    count(&mut asm, 8, Reg::R2);
    asm.mov(Reg::R2, 1);
    count(&mut asm, 0, Reg::R2);
    if let Check::Ttl(ttl) = check {
        check_ipv4(&mut asm, ttl);
    }
    asm.mov(Reg::R2, 1);
    count(&mut asm, 16, Reg::R2);
    asm.label("drop");
    asm.mov(Reg::R0, XDP_DROP);
    asm.exit();
    asm
}

/// Adds a register to the counter at `off` behind R9.
fn count(asm: &mut Assembler, off: i16, by: Reg) {
    asm.load(Size::D, Reg::R1, Reg::R9, off);
    asm.alu(Alu::Add, Reg::R1, by);
    asm.store(Size::D, Reg::R9, off, Reg::R1);
}

fn check_ipv4(asm: &mut Assembler, ttl: u8) {
    let ip = ethernet::HEADER_LEN as i16;
    bounds(asm, i32::from(ip) + ipv4::MIN_HEADER_LEN as i32, "drop");
    asm.load(Size::H, Reg::R1, Reg::R7, ip - 2);
    asm.jump_if(If::Ne, Reg::R1, i32::from(ethernet::IPV4.to_be()), "drop");
    asm.load(Size::B, Reg::R1, Reg::R7, ip);
    asm.jump_if(If::Ne, Reg::R1, 0x45, "drop");
    asm.load(Size::B, Reg::R1, Reg::R7, ip + 8);
    asm.jump_if(If::Ne, Reg::R1, i32::from(ttl), "drop");
    checksum::ipv4_header(asm, (Reg::R7, ip), [Reg::R2, Reg::R1]);
    asm.jump_if(If::Ne, Reg::R2, 0xffff, "drop");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bpf::TestRun;

    fn is_root() -> bool {
        let root = nix::unistd::Uid::effective().is_root();
        if !root {
            println!("SKIPPED: not root");
        }
        root
    }

    fn run(program: &Program, frame: &[u8]) -> TestRun {
        program.test_run(frame, XdpContext::default(), 1).unwrap()
    }

    fn frame(ttl: u8) -> Vec<u8> {
        let mut frame =
            ethernet::header(Default::default(), Default::default(), ethernet::IPV4).to_vec();
        let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        frame.extend(ipv4::header(src, dst, 17, ttl, 26));
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn the_generator_writes_the_flows_in_turn() {
        if !is_root() {
            return;
        }
        let frames: Vec<Vec<u8>> = (1..4).map(|at| vec![at; 61]).collect();
        let generator = Generator::new(&frames, 1).unwrap();
        // CPUs take turns of their own, so this thread stays on one.
        core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
        for at in 0..7 {
            let ran = run(&generator.program, &[0; 61]);
            assert_eq!((ran.verdict, &ran.packet), (4, &frames[at % 3]));
        }
        assert_eq!(run(&generator.program, &[0; 60]).verdict, 1, "a frame cut short is dropped");
    }

    #[test]
    fn fresh_ports_count_the_rounds() {
        if !is_root() {
            return;
        }
        let frames = [frame(64), frame(63)];
        let generator = Generator::with_fresh_ports(&frames, 1).unwrap();
        core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
        for at in 0..6u16 {
            let mut expected = frames[usize::from(at % 2)].clone();
            expected[34..36].copy_from_slice(&(at / 2).to_ne_bytes());
            assert_eq!(run(&generator.program, &[0; 60]).packet, expected);
        }
    }

    #[test]
    fn frames_that_cannot_be_sent_are_refused() {
        assert!(matches!(
            Generator::with_fresh_ports(&[vec![0; 37]], 1),
            Err(GeneratorError::Frames(_))
        ));
        for frames in [vec![], vec![vec![0; 13]], vec![vec![0; 60], vec![0; 61]]] {
            assert!(matches!(Generator::new(&frames, 1), Err(GeneratorError::Frames(_))));
        }
    }

    #[test]
    fn the_sink_counts_what_is_good() {
        if !is_root() {
            return;
        }
        for (check, good) in [(Check::None, 4), (Check::Ttl(63), 1)] {
            let counts = Map::new(MapKind::PerCpuArray, "mgy_sink", 4, 24, 1).unwrap();
            let program = sink(&counts, check).finish().unwrap();
            let program = Program::load_xdp("mgy_sink", &program).unwrap();
            let mut wrong = frame(63);
            wrong[24] ^= 1;
            for frame in [frame(63), frame(64), wrong, vec![0; 20]] {
                assert_eq!(run(&program, &frame).verdict, 1);
            }
            let values = counts.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
            let (numbers, _) = values.as_chunks::<8>();
            let sum = |column: usize| -> u64 {
                numbers.iter().skip(column).step_by(3).map(|one| u64::from_ne_bytes(*one)).sum()
            };
            assert_eq!((sum(0), sum(1), sum(2)), (4, 200, good), "{check:?}");
        }
    }
}
