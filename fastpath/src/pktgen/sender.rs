//! Sends frames in turn out of a device, as fast as one core can or at a rate.

use super::frames::{Frames, HEAD};
use super::stamp;
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size};
use crate::sys::bpf::checksum::fold;
use crate::sys::bpf::generator::{GeneratorError, entry};
use crate::sys::bpf::{LiveRun, Map, MapKind, Program, XdpContext};
use crate::sys::xdp::netdev::Features;
use std::io;
use std::time::{Duration, Instant};

/// Fractions of a nanosecond that a pace is kept in.
const FRACTION_LOG2: u32 = 10;
/// How far a pace may lag behind before what was not sent is given up: the set-up of several calls.
const LAG_NS: u64 = 200_000_000;
/// Runs of the program in one call. Setting a call up takes some 25 ms in which nothing is sent.
const RUNS: u32 = 1 << 20;

// A frame's entry: bytes to write, sequence number, bytes to cut from the longest, and the bytes.
const WRITTEN: i16 = 0;
const NEXT: i16 = 4;
const CUT: i16 = 8;
const BYTES: i16 = 12;

// The sender's own state: turns, next departure, frames sent.
const TURN: i16 = 0;
const DEPARTURE: i16 = 8;
const SENT: i16 = 16;
const STATE_LEN: usize = 24;

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Frames a second; `None` for as many as the core makes.
    pub per_second: Option<u64>,
    /// Most frames in all.
    pub limit: Option<u64>,
}

/// Sends frames, by one thread at a time.
#[derive(Debug)]
pub struct Sender {
    program: Program,
    state: Map,
    longest: Vec<u8>,
    limit: u64,
}

impl Sender {
    /// Whether a device of the calling thread's network namespace takes redirected frames now;
    /// `None` where the kernel (before 6.3) cannot say.
    pub fn can_send(ifindex: u32) -> Option<bool> {
        Features::open().ok().map(|mut features| features.takes_redirects(ifindex))
    }

    /// Will send out of the device `ifindex`, whose driver must take redirected frames (a veth does
    /// when its peer has an XDP program or GRO).
    pub fn new(frames: &Frames, ifindex: u32, pace: Pace) -> Result<Sender, GeneratorError> {
        let longest = frames.list.iter().max_by_key(|frame| frame.len());
        let longest = longest.ok_or(GeneratorError::Frames("none given"))?.clone();
        let plan = Plan {
            room: if frames.stamp_at.is_some() { HEAD } else { longest.len() },
            cuts: frames.list.iter().any(|frame| frame.len() != longest.len()),
            stamp_at: frames.stamp_at,
            interval: pace.per_second.map(|rate| {
                let second = 1_000_000_000u64 << FRACTION_LOG2;
                second.div_ceil(rate.max(1))
            }),
            limit: pace.limit.unwrap_or(u64::MAX),
            ifindex,
        };
        let table = plan.table(frames, longest.len())?;
        let state = Map::new(MapKind::Array, "mgy_pace", 4, STATE_LEN, 1)?;
        let asm = plan.program(&table, &state, frames.count() as i32);
        let program = Program::load_xdp("mgy_pktgen", &asm.finish()?)?;
        Ok(Sender { program, state, longest, limit: plan.limit })
    }

    /// Sends for a time, or until `stop` says so or the limit is reached; the frames sent in all.
    /// Ends up to a third of a second late. The thread must be in the device's network namespace.
    pub fn send(&self, time: Duration, stop: impl Fn() -> bool) -> io::Result<u64> {
        let begun = Instant::now();
        while begun.elapsed() < time && !stop() && self.sent()? < self.limit {
            let run = LiveRun { context: XdpContext::default(), count: RUNS, batch: 0 };
            self.program.run_live(&self.longest, run)?;
        }
        self.sent()
    }

    /// Frames sent so far. Some of them a device may have dropped before they were on the wire.
    pub fn sent(&self) -> io::Result<u64> {
        let state = self.state.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let sent = state.get(SENT as usize..).and_then(|bytes| bytes.first_chunk::<8>());
        Ok(sent.map_or(0, |bytes| u64::from_ne_bytes(*bytes)))
    }

    #[cfg(test)]
    pub(super) fn run_once(&self) -> crate::sys::bpf::TestRun {
        self.program.test_run(&self.longest, XdpContext::default(), 1).unwrap()
    }
}

/// What the program is made of.
struct Plan {
    /// Bytes of a frame that its entry has.
    room: usize,
    cuts: bool,
    stamp_at: Option<usize>,
    interval: Option<u64>,
    limit: u64,
    ifindex: u32,
}

impl Plan {
    fn table(&self, frames: &Frames, longest: usize) -> io::Result<Map> {
        let room = self.room.next_multiple_of(4);
        let size = BYTES as usize + room;
        let table = Map::new(MapKind::Array, "mgy_frames", 4, size, frames.count() as u32)?;
        let mut value = vec![0; size];
        for (at, frame) in frames.list.iter().enumerate() {
            let written = frame.len().min(self.room);
            let cut = (longest - frame.len()) as u32;
            value.fill(0);
            value[..4].copy_from_slice(&(written as u32).to_ne_bytes());
            value[CUT as usize..BYTES as usize].copy_from_slice(&cut.to_ne_bytes());
            value[BYTES as usize..][..written].copy_from_slice(&frame[..written]);
            table.update(&(at as u32).to_ne_bytes(), &value)?;
        }
        Ok(table)
    }

    /// R6 context, R7 the frame's entry, R8 the time, R9 the state; the frame's number is on the
    /// stack.
    fn program(&self, table: &Map, state: &Map, count: i32) -> Assembler {
        let mut asm = Assembler::new();
        asm.mov(Reg::R6, Reg::R1);
        asm.call(Helper::KtimeGetNs);
        asm.mov(Reg::R8, Reg::R0);
        asm.store(Size::W, Reg::R10, -4, 0);
        entry(&mut asm, state, "state", "drop");
        asm.mov(Reg::R9, Reg::R0);
        self.wait_for_turn(&mut asm);
        asm.load(Size::D, Reg::R1, Reg::R9, TURN);
        asm.mov(Reg::R2, Reg::R1);
        asm.alu(Alu::Add, Reg::R2, 1);
        asm.store(Size::D, Reg::R9, TURN, Reg::R2);
        asm.alu(Alu::Mod, Reg::R1, count);
        asm.store(Size::W, Reg::R10, -4, Reg::R1);
        entry(&mut asm, table, "frames", "drop");
        asm.mov(Reg::R7, Reg::R0);
        self.write(&mut asm);
        if let Some(at) = self.stamp_at {
            write_stamp(&mut asm, at as i16);
        }
        add_one(&mut asm, Reg::R9, SENT, Size::D);
        asm.load_u64(Reg::R1, u64::from(self.ifindex));
        asm.mov(Reg::R2, 0);
        asm.call(Helper::Redirect);
        asm.exit();
        asm.label("drop");
        asm.mov(Reg::R0, 1);
        asm.exit();
        asm
    }

    /// Drops the frame when the limit is reached, or when it is not yet time.
    fn wait_for_turn(&self, asm: &mut Assembler) {
        if self.limit != u64::MAX {
            asm.load(Size::D, Reg::R1, Reg::R9, SENT);
            asm.load_u64(Reg::R2, self.limit);
            asm.jump_if(If::Ge, Reg::R1, Reg::R2, "drop");
        }
        let Some(interval) = self.interval else { return };
        asm.mov(Reg::R1, Reg::R8);
        asm.alu(Alu::Lsh, Reg::R1, FRACTION_LOG2 as i32);
        asm.load(Size::D, Reg::R2, Reg::R9, DEPARTURE);
        asm.jump_if(If::Lt, Reg::R1, Reg::R2, "drop");
        // The first one, or one after a long stop, is now.
        asm.mov(Reg::R3, Reg::R1);
        asm.alu(Alu::Sub, Reg::R3, Reg::R2);
        asm.load_u64(Reg::R4, LAG_NS << FRACTION_LOG2);
        asm.jump_if(If::Le, Reg::R3, Reg::R4, "on time");
        asm.mov(Reg::R2, Reg::R1);
        asm.label("on time");
        asm.load_u64(Reg::R4, interval);
        asm.alu(Alu::Add, Reg::R2, Reg::R4);
        asm.store(Size::D, Reg::R9, DEPARTURE, Reg::R2);
    }

    /// Cuts the frame to its length, and writes its bytes: whoever had it last may have changed it.
    fn write(&self, asm: &mut Assembler) {
        if self.cuts {
            asm.load(Size::W, Reg::R1, Reg::R7, CUT);
            asm.mov(Reg::R2, 0);
            asm.alu(Alu::Sub, Reg::R2, Reg::R1);
            asm.mov(Reg::R1, Reg::R6);
            asm.call(Helper::XdpAdjustTail);
            asm.jump_if(If::Ne, Reg::R0, 0, "drop");
        }
        asm.load(Size::W, Reg::R4, Reg::R7, WRITTEN);
        asm.jump_if(If::Eq, Reg::R4, 0, "drop");
        asm.jump_if(If::Gt, Reg::R4, self.room as i32, "drop");
        asm.mov(Reg::R1, Reg::R6);
        asm.mov(Reg::R2, 0);
        asm.mov(Reg::R3, Reg::R7);
        asm.alu(Alu::Add, Reg::R3, i32::from(BYTES));
        asm.call(Helper::XdpStoreBytes);
        asm.jump_if(If::Ne, Reg::R0, 0, "drop");
    }
}

/// Adds one to a counter, and leaves what it was in R1.
fn add_one(asm: &mut Assembler, base: Reg, at: i16, size: Size) {
    asm.load(size, Reg::R1, base, at);
    asm.mov(Reg::R2, Reg::R1);
    asm.alu(Alu::Add, Reg::R2, 1);
    asm.store(size, base, at, Reg::R2);
}

fn write_stamp(asm: &mut Assembler, at: i16) {
    let frame = Reg::R0;
    asm.load(Size::W, frame, Reg::R6, 0);
    asm.load(Size::W, Reg::R1, Reg::R6, 4);
    asm.mov(Reg::R2, frame);
    asm.alu(Alu::Add, Reg::R2, i32::from(at) + stamp::LEN as i32);
    asm.jump_if(If::Gt, Reg::R2, Reg::R1, "drop");
    asm.load(Size::W, Reg::R1, Reg::R10, -4);
    asm.store(Size::W, frame, at + stamp::FLOW, Reg::R1);
    add_one(asm, Reg::R7, NEXT, Size::W);
    asm.store(Size::W, frame, at + stamp::SEQUENCE, Reg::R1);
    asm.store(Size::D, frame, at + stamp::TIME, Reg::R8);
    stamp::sum_fields(asm, (frame, at), [Reg::R3, Reg::R4, Reg::R5]);
    fold(asm, Reg::R3, Reg::R4, stamp::FOLDS);
    asm.alu(Alu::Xor, Reg::R3, 0xffff);
    asm.store(Size::H, frame, at, Reg::R3);
}
