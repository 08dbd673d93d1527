//! Counts stamped frames that come in by a device: what is lost, late, damaged, and how long it
//! took.

use super::latency::{BUCKETS, EXACT, Latency, STEPS_LOG2};
use super::stamp;
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size, Src};
use crate::sys::bpf::checksum;
use crate::sys::bpf::generator::{GeneratorError, entry};
use crate::sys::bpf::{AttachMode, Link, Map, MapKind, Program};
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol, tcp, udp};
use std::io;

// A CPU's counters, by number.
const PACKETS: i16 = 0;
const BYTES: i16 = 1;
const STAMPED: i16 = 2;
const DAMAGED: i16 = 3;
const MISSING: i16 = 4;
const LATE: i16 = 5;
const NUMBERS: usize = 6;

// A flow's entry: the next sequence number, and whether any has come.
const NEXT: i16 = 0;
const SEEN: i16 = 4;

/// What has come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames of all kinds.
    pub packets: u64,
    /// Their bytes, without check sequences.
    pub bytes: u64,
    /// Frames with a good stamp of a flow that is watched.
    pub stamped: u64,
    /// Frames of UDP and TCP whose IPv4 header or stamp is damaged, or that never had one.
    pub damaged: u64,
    /// Sequence numbers that were skipped; late ones are among them.
    pub missing: u64,
    /// Frames with a lower number than one before of their flow (RFC 4737 3.3), and second ones.
    pub late: u64,
}

impl Counts {
    /// Frames of watched flows that have not come, between the first and the last that have.
    pub fn lost(&self) -> u64 {
        self.missing.saturating_sub(self.late)
    }

    /// Frames that are nobody's: neither stamped nor damaged.
    pub fn foreign(&self) -> u64 {
        self.packets.saturating_sub(self.stamped + self.damaged)
    }
}

/// Counts and drops what comes in by a device, until it is dropped itself.
#[derive(Debug)]
pub struct Receiver {
    counts: Map,
    times: Map,
    _program: Program,
    _link: Link,
}

impl Receiver {
    /// Attaches to a device, in the driver or before the stack. The first `flows` flows are
    /// watched; frames of others count as foreign. The calling thread must be in the device's
    /// network namespace.
    pub fn attach(ifindex: u32, flows: u32, mode: AttachMode) -> Result<Receiver, GeneratorError> {
        let maps = Maps::new(flows)?;
        let program = Program::load_xdp("mgy_receiver", &maps.program().finish()?)?;
        let link = Link::attach_xdp(&program, ifindex, mode)?;
        Ok(Receiver { counts: maps.counts, times: maps.times, _program: program, _link: link })
    }

    /// What it has counted so far.
    pub fn counts(&self) -> io::Result<Counts> {
        read_counts(&self.counts)
    }

    /// How long the stamped frames took.
    pub fn latency(&self) -> io::Result<Latency> {
        read_times(&self.times)
    }
}

pub(super) fn read_counts(counts: &Map) -> io::Result<Counts> {
    let values = counts.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
    let (words, _) = values.as_chunks::<8>();
    let sum = |number: i16| -> u64 {
        let of_cpus = words.iter().skip(number as usize).step_by(NUMBERS);
        of_cpus.map(|word| u64::from_ne_bytes(*word)).sum()
    };
    Ok(Counts {
        packets: sum(PACKETS),
        bytes: sum(BYTES),
        stamped: sum(STAMPED),
        damaged: sum(DAMAGED),
        missing: sum(MISSING),
        late: sum(LATE),
    })
}

pub(super) fn read_times(times: &Map) -> io::Result<Latency> {
    let mut counts = Vec::with_capacity(BUCKETS);
    for bucket in 0..BUCKETS as u32 {
        let values = times.lookup(&bucket.to_ne_bytes())?.unwrap_or_default();
        let (words, _) = values.as_chunks::<8>();
        counts.push(words.iter().map(|word| u64::from_ne_bytes(*word)).sum());
    }
    Ok(Latency::new(counts))
}

/// What the program writes to.
pub(super) struct Maps {
    pub(super) counts: Map,
    pub(super) times: Map,
    flows: Map,
}

impl Maps {
    pub(super) fn new(flows: u32) -> io::Result<Maps> {
        Ok(Maps {
            counts: Map::new(MapKind::PerCpuArray, "mgy_counts", 4, NUMBERS * 8, 1)?,
            times: Map::new(MapKind::PerCpuArray, "mgy_times", 4, 8, BUCKETS as u32)?,
            flows: Map::new(MapKind::Array, "mgy_flows", 4, 8, flows.max(1))?,
        })
    }

    /// R6 context, R7 the frame and then its stamp, R8 its end, R9 the counters; the flow's number
    /// on the stack.
    pub(super) fn program(&self) -> Assembler {
        let mut asm = Assembler::new();
        asm.mov(Reg::R6, Reg::R1);
        asm.store(Size::W, Reg::R10, -4, 0);
        entry(&mut asm, &self.counts, "counts", "drop");
        asm.mov(Reg::R9, Reg::R0);
        asm.load(Size::W, Reg::R7, Reg::R6, 0);
        asm.load(Size::W, Reg::R8, Reg::R6, 4);
        asm.mov(Reg::R2, Reg::R8);
        asm.alu(Alu::Sub, Reg::R2, Reg::R7);
        add(&mut asm, BYTES, Reg::R2);
        add(&mut asm, PACKETS, 1);
        find_stamp(&mut asm);
        asm.label("stamp");
        self.judge(&mut asm);
        asm.label("damaged");
        add(&mut asm, DAMAGED, 1);
        asm.label("drop");
        asm.mov(Reg::R0, 1);
        asm.exit();
        asm
    }

    /// Reads the stamp at R7.
    fn judge(&self, asm: &mut Assembler) {
        need(asm, stamp::LEN as i32, "damaged");
        stamp::sum_fields(asm, (Reg::R7, 0), [Reg::R3, Reg::R4, Reg::R5]);
        asm.load(Size::H, Reg::R4, Reg::R7, 0);
        asm.alu(Alu::Add, Reg::R3, Reg::R4);
        checksum::fold(asm, Reg::R3, Reg::R4, stamp::FOLDS);
        asm.jump_if(If::Ne, Reg::R3, 0xffff, "damaged");
        asm.load(Size::W, Reg::R1, Reg::R7, stamp::FLOW);
        asm.store(Size::W, Reg::R10, -4, Reg::R1);
        entry(asm, &self.flows, "flows", "drop");
        add(asm, STAMPED, 1);
        check_sequence(asm);
        asm.label("timed");
        asm.call(Helper::KtimeGetNs);
        asm.load(Size::D, Reg::R1, Reg::R7, stamp::TIME);
        asm.jump_if(If::Lt, Reg::R0, Reg::R1, "drop");
        asm.alu(Alu::Sub, Reg::R0, Reg::R1);
        find_bucket(asm);
        asm.store(Size::W, Reg::R10, -4, Reg::R0);
        entry(asm, &self.times, "times", "drop");
        asm.load(Size::D, Reg::R1, Reg::R0, 0);
        asm.alu(Alu::Add, Reg::R1, 1);
        asm.store(Size::D, Reg::R0, 0, Reg::R1);
        asm.jump("drop");
    }
}

/// Adds to a counter behind R9; loses R1.
fn add(asm: &mut Assembler, number: i16, by: impl Into<Src>) {
    asm.load(Size::D, Reg::R1, Reg::R9, number * 8);
    asm.alu(Alu::Add, Reg::R1, by);
    asm.store(Size::D, Reg::R9, number * 8, Reg::R1);
}

/// Goes on at `short` unless so many bytes follow R7; loses R2.
fn need(asm: &mut Assembler, bytes: i32, short: &'static str) {
    asm.mov(Reg::R2, Reg::R7);
    asm.alu(Alu::Add, Reg::R2, bytes);
    asm.jump_if(If::Gt, Reg::R2, Reg::R8, short);
}

/// Moves R7 on to where a stamp would be, behind IPv4 without options or IPv6 without extensions,
/// and UDP or TCP.
fn find_stamp(asm: &mut Assembler) {
    let ethertype = |kind: u16| i32::from(kind.to_be());
    let header = ethernet::HEADER_LEN as i16;
    need(asm, i32::from(header) + ipv4::MIN_HEADER_LEN as i32, "drop");
    asm.load(Size::H, Reg::R1, Reg::R7, header - 2);
    asm.alu(Alu::Add, Reg::R7, i32::from(header));
    asm.jump_if(If::Eq, Reg::R1, ethertype(ethernet::IPV6), "ipv6");
    asm.jump_if(If::Ne, Reg::R1, ethertype(ethernet::IPV4), "drop");
    asm.load(Size::B, Reg::R1, Reg::R7, 0);
    asm.jump_if(If::Ne, Reg::R1, 0x45, "damaged");
    checksum::ipv4_header(asm, (Reg::R7, 0), [Reg::R2, Reg::R1]);
    asm.jump_if(If::Ne, Reg::R2, 0xffff, "damaged");
    asm.load(Size::B, Reg::R1, Reg::R7, 9);
    asm.alu(Alu::Add, Reg::R7, ipv4::MIN_HEADER_LEN as i32);
    asm.jump("transport");
    asm.label("ipv6");
    need(asm, ipv6::HEADER_LEN as i32, "drop");
    asm.load(Size::B, Reg::R1, Reg::R7, 6);
    asm.alu(Alu::Add, Reg::R7, ipv6::HEADER_LEN as i32);
    asm.label("transport");
    asm.jump_if(If::Eq, Reg::R1, i32::from(protocol::TCP), "tcp");
    asm.jump_if(If::Ne, Reg::R1, i32::from(protocol::UDP), "drop");
    asm.alu(Alu::Add, Reg::R7, udp::HEADER_LEN as i32);
    asm.jump("stamp");
    asm.label("tcp");
    asm.alu(Alu::Add, Reg::R7, tcp::MIN_HEADER_LEN as i32);
}

/// Compares the sequence number of the stamp at R7 with the flow's entry at R0, and goes on at
/// `timed`. Numbers begin anew at 2^32: the half of them behind the next one is late.
fn check_sequence(asm: &mut Assembler) {
    asm.load(Size::W, Reg::R2, Reg::R7, stamp::SEQUENCE);
    asm.load(Size::W, Reg::R4, Reg::R0, SEEN);
    asm.load(Size::W, Reg::R3, Reg::R0, NEXT);
    asm.jump_if(If::Ne, Reg::R4, 0, "begun");
    asm.store(Size::W, Reg::R0, SEEN, 1);
    asm.mov(Reg::R3, Reg::R2);
    asm.label("begun");
    asm.mov(Reg::R4, Reg::R2);
    asm.alu(Alu::Sub, Reg::R4, Reg::R3);
    asm.alu(Alu::Lsh, Reg::R4, 32);
    asm.alu(Alu::Rsh, Reg::R4, 32);
    asm.load_u64(Reg::R5, 1 << 31);
    asm.jump_if(If::Ge, Reg::R4, Reg::R5, "late");
    asm.alu(Alu::Add, Reg::R2, 1);
    asm.store(Size::W, Reg::R0, NEXT, Reg::R2);
    add(asm, MISSING, Reg::R4);
    asm.jump("timed");
    asm.label("late");
    add(asm, LATE, 1);
}

/// R0 = the bucket of R0 nanoseconds, as `latency::bucket` finds it.
fn find_bucket(asm: &mut Assembler) {
    asm.jump_if(If::Lt, Reg::R0, EXACT as i32, "bucket");
    // R2 what is left, R3 the logarithm so far.
    asm.mov(Reg::R2, Reg::R0);
    asm.mov(Reg::R3, 0);
    for (bits, label) in [(32, "l32"), (16, "l16"), (8, "l8"), (4, "l4"), (2, "l2"), (1, "l1")] {
        asm.mov(Reg::R4, Reg::R2);
        asm.alu(Alu::Rsh, Reg::R4, bits);
        asm.jump_if(If::Eq, Reg::R4, 0, label);
        asm.mov(Reg::R2, Reg::R4);
        asm.alu(Alu::Add, Reg::R3, bits);
        asm.label(label);
    }
    asm.alu(Alu::Sub, Reg::R3, STEPS_LOG2 as i32);
    asm.alu(Alu::Rsh, Reg::R0, Reg::R3);
    asm.alu(Alu::And, Reg::R0, 7);
    asm.alu(Alu::Add, Reg::R3, 1);
    asm.alu(Alu::Lsh, Reg::R3, STEPS_LOG2 as i32);
    asm.alu(Alu::Add, Reg::R0, Reg::R3);
    asm.jump_if(If::Lt, Reg::R0, BUCKETS as i32, "bucket");
    asm.mov(Reg::R0, BUCKETS as i32 - 1);
    asm.label("bucket");
}
