//! The part that keeps endpoints' limits together with the workers: by the same words, so that a
//! packet costs the same whoever carries it. [`crate::limit::gates`] tells how.
//!
//! The clock is asked for packets only that pass on no credit.
//!
//! What is beyond a policer is dropped here. What is beyond a shaper is a worker's, which has it
//! wait; so is everything at a shaper at which packets wait already.

use super::credit;
use super::family::Labels;
use super::offload::word;
use super::tc::TC_DROP;
use super::{Carrier, Hook, LINK_LEN, XDP_DROP, look_up, skb};
use crate::limit::gates::{FINER, FRACTION, SLACK, layout};
use crate::offload::FlowMap;
use crate::offload::layout as record;
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};

/// What the functions say of a packet: it passes,
const PASS: i32 = 0;
/// it is the worker's,
const WORKER: i32 = 1;
/// it is dropped.
const DROP: i32 = 2;

/// Times that an arrival is tried to be moved before others; then it is left to the worker.
const TRIES: i32 = 8;
/// Bits below this one are a packet's bytes, and those above it how many packets more it becomes.
pub(super) const MORE_PACKETS: i32 = 32;
const BYTES: i32 = i32::MAX;
/// Rates without which there is credit.
const MORE: i32 = layout::HAS_PACKETS | layout::HAS_PEAK;
/// Where the number of a row lies on the stack.
const ROW: i16 = -4;

/// R5 are the record's flags, R7 is the record, R9 the length of the IP packet: goes on with a
/// packet that may pass, and R5 is the same. Limits count frames.
pub(super) fn take(asm: &mut Assembler, hook: Hook, labels: &Labels) {
    let Labels { ordinary, worker, .. } = *labels;
    asm.mov(R4, R5);
    asm.alu(Alu::And, R4, record::LIMITED);
    asm.jump_if(If::Eq, R4, 0, ordinary);
    asm.mov(R1, R7);
    asm.mov(R2, R9);
    asm.alu(Alu::Add, R2, LINK_LEN);
    if let Hook::Tc = hook {
        skb::cost(asm);
    }
    asm.call_own("limits");
    asm.jump_if(If::Eq, R0, WORKER, worker);
    asm.jump_if(If::Eq, R0, DROP, "refused");
    asm.load(Size::H, R5, R7, record::FLAGS);
}

/// Drops a packet, and counts it at its port. R9 is the length of the IP packet.
pub(super) fn refuse(asm: &mut Assembler, carrier: Carrier<'_>) {
    asm.label("refused");
    asm.load_map_value(R1, carrier.map.refused_map(), "refused");
    asm.alu(Alu::Add, R1, i32::from(word(2)) * i32::from(carrier.port.0));
    asm.mov(R2, 1);
    asm.atomic_add(R1, word(0), R2);
    asm.alu(Alu::Add, R9, LINK_LEN);
    asm.atomic_add(R1, word(1), R9);
    let verdict = match carrier.hook {
        Hook::Xdp => XDP_DROP as i32,
        Hook::Tc => TC_DROP,
    };
    asm.mov(R0, verdict);
    asm.exit();
}

/// The functions, which come last.
pub(super) fn functions(asm: &mut Assembler, map: &FlowMap) {
    limits(asm, map);
    limit(asm, map);
    give_back(asm);
}

/// R0 is a row of the record R6, or 0; goes to the label if it names none.
fn row(asm: &mut Assembler, map: &FlowMap, at: i16, none: &'static str) {
    asm.load(Size::H, R1, R6, at);
    asm.jump_if(If::Eq, R1, 0, none);
    asm.store(Size::W, R10, ROW, R1);
    look_up(asm, map.gates().map(), "limits", i32::from(ROW));
}

/// Takes a packet of R2 bytes from the limits of the record R1: first of who sends, then of who
/// receives, as workers do. From bit [`MORE_PACKETS`] on R2 says how many packets more it becomes.
fn limits(asm: &mut Assembler, map: &FlowMap) {
    let [from, to] = record::LIMITS;
    asm.label("limits");
    asm.mov(R6, R1);
    asm.mov(R7, R2);
    row(asm, map, from, "limits_to");
    asm.jump_if(If::Eq, R0, 0, "limits_worker");
    credit::take(asm, ["limits_from_asked", "limits_to"]);
    asm.label("limits_from_asked");
    call_limit(asm);
    asm.jump_if(If::Ne, R0, PASS, "limits_end");
    asm.label("limits_to");
    row(asm, map, to, "limits_pass");
    asm.jump_if(If::Eq, R0, 0, "limits_worker");
    credit::take(asm, ["limits_to_asked", "limits_pass"]);
    asm.label("limits_to_asked");
    call_limit(asm);
    asm.jump_if(If::Eq, R0, PASS, "limits_end");
    // What was taken from the first one is taken again by the worker, or lost.
    asm.mov(R9, R0);
    row(asm, map, from, "limits_beyond");
    asm.jump_if(If::Eq, R0, 0, "limits_beyond");
    asm.jump_if(If::Eq, R9, DROP, "limits_lost");
    asm.mov(R1, R0);
    asm.mov(R2, R7);
    asm.call_own("give_back");
    asm.jump("limits_beyond");
    asm.label("limits_lost");
    let [packets, bytes] = layout::LOST;
    asm.mov(R1, R7);
    asm.alu(Alu::Rsh, R1, MORE_PACKETS);
    asm.alu(Alu::Add, R1, 1);
    asm.atomic_add(R0, word(packets), R1);
    asm.mov(R1, R7);
    asm.alu(Alu::And, R1, BYTES);
    asm.atomic_add(R0, word(bytes), R1);
    asm.label("limits_beyond");
    asm.mov(R0, R9);
    asm.label("limits_end");
    asm.exit();
    asm.label("limits_worker");
    asm.mov(R0, WORKER);
    asm.exit();
    asm.label("limits_pass");
    asm.mov(R0, PASS);
    asm.exit();
}

fn call_limit(asm: &mut Assembler) {
    asm.mov(R1, R0);
    asm.mov(R2, R7);
    asm.call_own("limit");
}

/// R1 is what a packet takes of a rate of the row: its bytes, or packets, in R7. Loses R2.
pub(super) fn cost(asm: &mut Assembler, row: Reg, rate: usize) {
    asm.load(Size::D, R1, row, word(rate + layout::COST));
    asm.mov(R2, R7);
    if rate == layout::PACKETS {
        asm.alu(Alu::Rsh, R2, MORE_PACKETS);
        asm.alu(Alu::Add, R2, 1);
    } else {
        asm.alu(Alu::And, R2, BYTES);
    }
    asm.alu(Alu::Mul, R1, R2);
    asm.alu(Alu::Add, R1, (1 << FINER) - 1);
    asm.alu(Alu::Rsh, R1, FINER as i32);
}

struct Rate {
    first: usize,
    retry: &'static str,
    ahead: &'static str,
    taken: &'static str,
    /// It is beyond the rate.
    beyond: &'static str,
    /// Others were always before.
    crowded: &'static str,
}

/// R3 is the burst of a rate of the row R6, R4 how far ahead an arrival can be, R5 how often to
/// try.
pub(super) fn farthest(asm: &mut Assembler, rate: usize) {
    asm.load(Size::D, R3, R6, word(rate + layout::BURST));
    asm.mov(R4, 1);
    asm.alu(Alu::Lsh, R4, SLACK as i32);
    asm.alu(Alu::Add, R4, R3);
    asm.mov(R5, TRIES);
}

/// R0 is the arrival, R2 how far ahead of the clock R8 it is.
pub(super) fn ahead(asm: &mut Assembler, rate: usize, label: &'static str) {
    asm.load(Size::D, R0, R6, word(rate + layout::ARRIVAL));
    asm.mov(R2, R0);
    asm.alu(Alu::Sub, R2, R8);
    asm.jump_if(If::Le, R2, R4, label);
    // It has passed.
    asm.mov(R2, 0);
    asm.label(label);
}

/// Takes a packet from one rate of the row R6; R8 is the clock, R3 the burst afterwards, and R2 the
/// arrival.
fn take_from(asm: &mut Assembler, rate: &Rate) {
    let arrival = word(rate.first + layout::ARRIVAL);
    cost(asm, R6, rate.first);
    farthest(asm, rate.first);
    asm.label(rate.retry);
    ahead(asm, rate.first, rate.ahead);
    asm.alu(Alu::Add, R2, R1);
    asm.jump_if(If::Gt, R2, R3, rate.beyond);
    asm.alu(Alu::Add, R2, R8);
    asm.mov(R9, R0);
    asm.compare_exchange(R6, arrival, R2);
    asm.jump_if(If::Eq, R0, R9, rate.taken);
    asm.alu(Alu::Sub, R5, 1);
    asm.jump_if(If::Ne, R5, 0, rate.retry);
    asm.jump(rate.crowded);
    asm.label(rate.taken);
}

/// Goes to the label unless the row R6 has this flag.
pub(super) fn unless(asm: &mut Assembler, scratch: Reg, flag: i32, label: &'static str) {
    asm.load(Size::D, scratch, R6, word(layout::FLAGS));
    asm.alu(Alu::And, scratch, flag);
    asm.jump_if(If::Eq, scratch, 0, label);
}

/// Gives back what was taken from one rate, if the row has it.
pub(super) fn give_to(asm: &mut Assembler, rate: usize, flag: i32, label: &'static str) {
    unless(asm, R2, flag, label);
    cost(asm, R6, rate);
    asm.mov(R2, 0);
    asm.alu(Alu::Sub, R2, R1);
    asm.atomic_add(R6, word(rate + layout::ARRIVAL), R2);
    asm.label(label);
}

/// Takes a packet of R2 bytes from all rates of the row R1, or from none.
fn limit(asm: &mut Assembler, map: &FlowMap) {
    asm.label("limit");
    asm.mov(R6, R1);
    asm.mov(R7, R2);
    asm.mov(R0, WORKER);
    asm.load(Size::D, R1, R6, word(layout::WAITING));
    asm.jump_if(If::Ne, R1, 0, "limit_end");
    clock(asm, map);
    asm.load(Size::D, R1, R6, word(layout::FLAGS));
    asm.jump_if(If::Set, R1, MORE, "limit_more");
    credit::settle(asm);
    asm.label("limit_bits");
    let bits = Rate {
        first: layout::BITS,
        retry: "bits_retry",
        ahead: "bits_ahead",
        taken: "bits_taken",
        beyond: "bits_beyond",
        crowded: "bits_crowded",
    };
    take_from(asm, &bits);
    asm.load(Size::D, R1, R6, word(layout::FLAGS));
    asm.jump_if(If::Set, R1, MORE, "limit_pass");
    credit::open(asm);
    asm.label("limit_pass");
    asm.mov(R0, PASS);
    asm.label("limit_end");
    asm.exit();
    more(asm);
    beyond(asm);
}

/// R8 is the workers' clock, as arrivals are.
fn clock(asm: &mut Assembler, map: &FlowMap) {
    asm.call(Helper::KtimeGetNs);
    asm.load_map_value(R1, map.generation_map(), "generation");
    asm.load(Size::D, R1, R1, word(1));
    asm.mov(R8, R0);
    asm.alu(Alu::Sub, R8, R1);
    asm.alu(Alu::Lsh, R8, FRACTION as i32);
}

/// The rates that most have not.
fn more(asm: &mut Assembler) {
    asm.label("limit_more");
    unless(asm, R1, layout::HAS_PACKETS, "limit_peak");
    let packets = Rate {
        first: layout::PACKETS,
        retry: "packets_retry",
        ahead: "packets_ahead",
        taken: "packets_taken",
        beyond: "packets_beyond",
        crowded: "packets_crowded",
    };
    take_from(asm, &packets);
    asm.label("limit_peak");
    unless(asm, R1, layout::HAS_PEAK, "limit_no_peak");
    let peak = Rate {
        first: layout::PEAK,
        retry: "peak_retry",
        ahead: "peak_ahead",
        taken: "peak_taken",
        beyond: "peak_beyond",
        crowded: "peak_crowded",
    };
    take_from(asm, &peak);
    asm.label("limit_no_peak");
    unless(asm, R1, layout::HAS_BITS, "limit_pass");
    asm.jump("limit_bits");
}

/// What is beyond one rate takes from none.
fn beyond(asm: &mut Assembler) {
    asm.label("bits_crowded");
    asm.mov(R9, WORKER);
    asm.jump("bits_back");
    asm.label("bits_beyond");
    shaped_or_dropped(asm, "bits_shaped");
    asm.label("bits_back");
    give_to(asm, layout::PEAK, layout::HAS_PEAK, "peak_back");
    give_to(asm, layout::PACKETS, layout::HAS_PACKETS, "packets_back");
    asm.jump_if(If::Ne, R9, DROP, "limit_refused");
    asm.mov(R1, 1);
    asm.atomic_add(R6, word(layout::DROPPED[0]), R1);
    asm.label("limit_refused");
    asm.mov(R0, R9);
    asm.exit();
    asm.label("peak_crowded");
    asm.mov(R9, WORKER);
    asm.jump("peak_back");
    asm.label("peak_beyond");
    shaped_or_dropped(asm, "peak_shaped");
    asm.jump("peak_back");
    asm.label("packets_beyond");
    unless_one(asm, "packets_crowded");
    asm.mov(R1, 1);
    asm.atomic_add(R6, word(layout::DROPPED[1]), R1);
    asm.mov(R0, DROP);
    asm.exit();
    asm.label("packets_crowded");
    asm.mov(R0, WORKER);
    asm.exit();
}

/// Goes to the label with a super-packet: the worker cuts it, and asks about its parts.
fn unless_one(asm: &mut Assembler, label: &'static str) {
    asm.mov(R1, R7);
    asm.alu(Alu::Rsh, R1, MORE_PACKETS);
    asm.jump_if(If::Ne, R1, 0, label);
}

/// R9 is what becomes of a packet beyond the bits.
fn shaped_or_dropped(asm: &mut Assembler, shaped: &'static str) {
    asm.mov(R9, WORKER);
    asm.load(Size::D, R1, R6, word(layout::FLAGS));
    asm.jump_if(If::Set, R1, layout::SHAPED, shaped);
    unless_one(asm, shaped);
    asm.mov(R9, DROP);
    asm.label(shaped);
}

/// Gives back what a packet of R2 bytes took from all rates of the row R1.
fn give_back(asm: &mut Assembler) {
    asm.label("give_back");
    asm.mov(R6, R1);
    asm.mov(R7, R2);
    credit::give_back(asm);
    give_to(asm, layout::PEAK, layout::HAS_PEAK, "gave_peak");
    give_to(asm, layout::PACKETS, layout::HAS_PACKETS, "gave_packets");
    asm.mov(R0, 0);
    asm.exit();
}
