//! Sends frames in turn out of a device from within the kernel, as fast as one core can or at a
//! rate.

use super::frames::{Frames, HEAD};
use super::source::{FRACTION_LOG2, Pace, Sent, Source};
use super::stamp;
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size};
use crate::sys::bpf::checksum::fold;
use crate::sys::bpf::generator::{GeneratorError, entry};
use crate::sys::bpf::{LiveRun, Map, MapKind, Program, XdpContext};
use crate::sys::interrupt::Interruptible;
use crate::sys::xdp::netdev::Features;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs of the program in one call, most of which is cut short. Setting a call up takes some 25 ms
/// in which nothing is sent, so there is one for a whole sending.
const RUNS: u32 = 1 << 31;
/// How often it is looked whether sending is over.
const NAP: Duration = Duration::from_millis(2);

// A frame's entry: bytes to write, sequence number, bytes to cut from the longest, and the bytes.
const WRITTEN: i16 = 0;
const NEXT: i16 = 4;
const CUT: i16 = 8;
const BYTES: i16 = 12;

// The sender's own state: turns, next departure, frames sent; the pace; times of the first and the
// last frame.
const TURN: i16 = 0;
const DEPARTURE: i16 = 8;
const SENT: i16 = 16;
const INTERVAL: i16 = 24;
const LIMIT: i16 = 32;
const LAG: i16 = 40;
const FIRST: i16 = 48;
const LAST: i16 = 56;
const STATE_LEN: usize = 64;

/// Sends by BPF_PROG_TEST_RUN with live frames.
#[derive(Debug)]
pub struct Sender {
    program: Program,
    state: Map,
    longest: Vec<u8>,
}

impl Sender {
    /// Whether a device of the calling thread's network namespace takes redirected frames now;
    /// `None` where the kernel (before 6.3) cannot say.
    pub fn can_send(ifindex: u32) -> Option<bool> {
        Features::open().ok().map(|mut features| features.takes_redirects(ifindex))
    }

    /// Will send out of the device `ifindex`, whose driver must take redirected frames (a veth does
    /// when its peer has an XDP program or GRO).
    pub fn new(frames: &Frames, ifindex: u32) -> Result<Sender, GeneratorError> {
        let longest = frames.list.iter().max_by_key(|frame| frame.len());
        let longest = longest.ok_or(GeneratorError::Frames("none given"))?.clone();
        let plan = Plan {
            room: if frames.stamp_at.is_some() { HEAD } else { longest.len() },
            cuts: frames.list.iter().any(|frame| frame.len() != longest.len()),
            stamp_at: frames.stamp_at,
            ifindex,
        };
        let table = plan.table(frames, longest.len())?;
        let state = Map::new(MapKind::Array, "mgy_pace", 4, STATE_LEN, 1)?;
        let asm = plan.program(&table, &state, frames.count() as i32);
        let program = Program::load_xdp("mgy_pktgen", &asm.finish()?)?;
        Ok(Sender { program, state, longest })
    }

    fn words(&self) -> io::Result<[u64; STATE_LEN / 8]> {
        let state = self.state.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let mut words = [0; STATE_LEN / 8];
        for (word, bytes) in words.iter_mut().zip(state.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(words)
    }

    /// Begins anew with another pace; turns and sequence numbers go on.
    pub(super) fn begin(&self, pace: Pace) -> io::Result<()> {
        let mut words = self.words()?;
        let mut set = |at: i16, value: u64| words[at as usize / 8] = value;
        for at in [DEPARTURE, SENT, FIRST, LAST] {
            set(at, 0);
        }
        set(INTERVAL, pace.interval());
        set(LIMIT, pace.limit.unwrap_or(u64::MAX));
        set(LAG, pace.lag());
        let bytes = words.map(u64::to_ne_bytes).concat();
        self.state.update(&0u32.to_ne_bytes(), &bytes)
    }

    pub(super) fn sent(&self) -> io::Result<Sent> {
        let words = self.words()?;
        let word = |at: i16| words[at as usize / 8];
        let time = Duration::from_nanos(word(LAST).saturating_sub(word(FIRST)));
        Ok(Sent { packets: word(SENT), time })
    }

    #[cfg(test)]
    pub(super) fn run_once(&self) -> crate::sys::bpf::TestRun {
        self.program.test_run(&self.longest, XdpContext::default(), 1).unwrap()
    }
}

impl Source for Sender {
    /// The thread must be in the device's network namespace.
    fn send(
        &mut self,
        pace: Pace,
        time: Duration,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Sent> {
        self.begin(pace)?;
        let (begun, done) = (Instant::now(), AtomicBool::new(false));
        let limit = pace.limit.unwrap_or(u64::MAX);
        let over = || {
            let complete = self.sent().is_ok_and(|sent| sent.packets >= limit);
            begun.elapsed() >= time || complete || stop()
        };
        let thread = Interruptible::current()?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                leave_core();
                while !done.load(Ordering::Relaxed) {
                    if over() {
                        thread.interrupt();
                    }
                    std::thread::sleep(NAP);
                }
            });
            let run = LiveRun { context: XdpContext::default(), count: RUNS, batch: 0 };
            let mut result = Ok(());
            while result.is_ok() && !over() {
                result = match self.program.run_live(&self.longest, run) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                    result => result,
                };
            }
            done.store(true, Ordering::Relaxed);
            result
        })?;
        self.sent()
    }
}

/// Lets the thread run wherever there is room: it has the core of the one that sends.
fn leave_core() {
    let mut set = CpuSet::new();
    for core in 0..CpuSet::count() {
        let _ = set.set(core);
    }
    // Where it may not, it stays.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// What the program is made of.
struct Plan {
    /// Bytes of a frame that its entry has.
    room: usize,
    cuts: bool,
    stamp_at: Option<usize>,
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
        wait_for_turn(&mut asm);
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

/// Drops the frame when the limit is reached, or when it is not yet time, and notes the time.
fn wait_for_turn(asm: &mut Assembler) {
    asm.load(Size::D, Reg::R1, Reg::R9, SENT);
    asm.load(Size::D, Reg::R2, Reg::R9, LIMIT);
    asm.jump_if(If::Ge, Reg::R1, Reg::R2, "drop");
    asm.load(Size::D, Reg::R4, Reg::R9, INTERVAL);
    asm.jump_if(If::Eq, Reg::R4, 0, "now");
    asm.mov(Reg::R1, Reg::R8);
    asm.alu(Alu::Lsh, Reg::R1, FRACTION_LOG2 as i32);
    asm.load(Size::D, Reg::R2, Reg::R9, DEPARTURE);
    asm.jump_if(If::Lt, Reg::R1, Reg::R2, "drop");
    // The first one, or one after a long stop, is now.
    asm.mov(Reg::R3, Reg::R1);
    asm.alu(Alu::Sub, Reg::R3, Reg::R2);
    asm.load(Size::D, Reg::R5, Reg::R9, LAG);
    asm.jump_if(If::Le, Reg::R3, Reg::R5, "on time");
    asm.mov(Reg::R2, Reg::R1);
    asm.label("on time");
    asm.alu(Alu::Add, Reg::R2, Reg::R4);
    asm.store(Size::D, Reg::R9, DEPARTURE, Reg::R2);
    asm.label("now");
    asm.store(Size::D, Reg::R9, LAST, Reg::R8);
    asm.load(Size::D, Reg::R1, Reg::R9, FIRST);
    asm.jump_if(If::Ne, Reg::R1, 0, "begun");
    asm.store(Size::D, Reg::R9, FIRST, Reg::R8);
    asm.label("begun");
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
