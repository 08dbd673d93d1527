//! What is different where flows are carried behind the driver: packets are the kernel's, may be
//! super-packets, and their checksums may be unfinished.
//!
//! They go to the worker by a TAP, whose queue drops what it has no room for, and several
//! processors give it packets. So no numbers tell which of a flow's packets have left the worker,
//! but the time: that of the last one is taken once the TAP has it, and the worker says up to when
//! everything has left it that the TAP had.

use super::family::Family;
use super::limits::MORE_PACKETS;
use super::offload::{TCP, TCP_CHECKSUM, TCP_LEN, UDP_CHECKSUM, pseudo_sum, word};
use super::tc::{CTX_DATA_END, CTX_GSO_SIZE, CTX_LEN, TC_DROP, look_at};
use super::{Carrier, LINK_LEN, network_order};
use crate::offload::layout::{self, EXTRA, NONE_UNDER_WAY, SINCE, WENT_NS};
use crate::offload::{Arrivals, FlowMap, MAX_PORTS, arrivals_layout};
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, PSEUDO_HEADER, Reg, Size, ZERO_IS_NONE};
use crate::sys::bpf::checksum::fold;
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};

/// Offset in the kernel's `struct __sk_buff`.
const CTX_SOCKET: i16 = 168;
/// Offset in `struct bpf_sock`.
const SOCKET_FAMILY: i16 = 4;
const AF_INET6: i32 = 10;

const TCP_OFFSET: i16 = 12;
/// Where the stack has what a super-packet's parts are more than itself, as [`EXTRA`] has it.
const PARTS: i16 = -56;
/// Bytes of a packet on the wire from which on only the worker can tell what they cost.
const BYTES_MAX: i32 = 1 << 17;

/// Time that a flow of TCP waits for a worker that does not come to the end of what the TAP has,
/// before its super-packets are dropped, which makes the sender pause, in nanoseconds;
const WAITS_NS: i32 = 20_000_000;
/// and until they are no longer: time enough for a full TAP. It happens once.
const PAUSE_NS: i32 = 70_000_000;

/// Goes to the label unless a socket of IP has sent the packet. One of another kind may want a
/// checksum anywhere, and so may who sends through the pod.
pub(super) fn own(asm: &mut Assembler, label: &'static str) {
    asm.load(Size::D, R1, R6, CTX_SOCKET);
    asm.jump_if(If::Eq, R1, 0, label);
    asm.load(Size::W, R1, R1, SOCKET_FAMILY);
    asm.jump_if(If::Gt, R1, AF_INET6, label);
}

/// Goes on with a flow of which no packet is under way to a worker. R7 is the record.
pub(super) fn settle(asm: &mut Assembler, arrivals: &Arrivals, family: &Family) {
    let worker = family.labels.worker;
    asm.load(Size::D, R4, R7, word(WENT_NS));
    asm.jump_if(If::Eq, R4, NONE_UNDER_WAY, family.labels.settled);
    asm.jump_if(If::Eq, R4, 0, worker);
    asm.load_map_value(R2, arrivals.map(), "arrivals");
    asm.load(Size::D, R3, R2, arrivals_layout::SEEN);
    asm.jump_if(If::Gt, R3, R4, family.labels.settles);
    asm.load(Size::D, R3, R2, arrivals_layout::READ);
    asm.jump_if(If::Gt, R3, R4, worker);
    asm.load(Size::W, R1, R6, CTX_GSO_SIZE);
    asm.jump_if(If::Eq, R1, 0, worker);
    asm.load(Size::B, R1, R8, family.protocol);
    asm.jump_if(If::Ne, R1, TCP, worker);
    asm.call(Helper::KtimeGetNs);
    asm.load(Size::D, R1, R7, word(SINCE));
    asm.jump_if(If::Eq, R1, 0, worker);
    asm.alu(Alu::Sub, R0, R1);
    asm.jump_if(If::Lt, R0, WAITS_NS, worker);
    asm.jump_if(If::Lt, R0, PAUSE_NS, "behind");
    asm.jump(worker);
    asm.label(family.labels.settles);
    // Unless another processor has just given the worker one more.
    asm.mov(R0, R4);
    asm.mov(R5, NONE_UNDER_WAY);
    asm.compare_exchange(R7, word(WENT_NS), R5);
    asm.jump_if(If::Ne, R0, R4, worker);
    asm.store(Size::D, R7, word(SINCE), 0);
    asm.label(family.labels.settled);
}

/// Gives packets to the worker at once, and notes when that was.
pub(super) fn to_worker(asm: &mut Assembler, arrivals: &Arrivals, tap: u32) {
    asm.label("to_tap");
    asm.mov(R1, R6);
    asm.mov(R2, tap as i32);
    asm.mov(R3, 0);
    asm.call(Helper::CloneRedirect);
    // There was no room for it.
    asm.jump_if(If::Ne, R0, 0, "lost");
    asm.call(Helper::KtimeGetNs);
    asm.store(Size::D, R7, word(WENT_NS), R0);
    asm.load(Size::D, R1, R7, word(SINCE));
    asm.jump_if(If::Ne, R1, 0, "lost");
    asm.store(Size::D, R7, word(SINCE), R0);
    asm.label("lost");
    asm.mov(R0, TC_DROP);
    asm.exit();
    asm.label("behind");
    asm.load_map_value(R1, arrivals.map(), "arrivals");
    asm.mov(R2, 1);
    asm.atomic_add(R1, arrivals_layout::REFUSED, R2);
    asm.jump("lost");
}

/// R1 is where packets of the record R7 go, as [`crate::offload`] has it; 0 for nowhere.
fn target(asm: &mut Assembler, map: &FlowMap) {
    asm.load_map_value(R1, map.targets_map(), "targets");
    asm.load(Size::H, R2, R7, layout::EGRESS);
    asm.alu(Alu::And, R2, MAX_PORTS as i32 - 1);
    asm.alu(Alu::Lsh, R2, 3);
    asm.alu(Alu::Add, R1, R2);
    asm.load(Size::D, R1, R1, 0);
}

/// Goes to the worker with what the program cannot send on: what is not whole, padded, or too long
/// for the egress port, and super-packets of UDP, which may be a tunnel's.
pub(super) fn valid(asm: &mut Assembler, map: &FlowMap, family: &Family) {
    let worker = family.labels.worker;
    let at = (LINK_LEN + family.header) as i16;
    asm.store(Size::D, R10, PARTS, 0);
    target(asm, map);
    asm.jump_if(If::Eq, R1, 0, worker);
    asm.load(Size::W, R4, R6, CTX_LEN);
    asm.alu(Alu::Sub, R4, LINK_LEN);
    asm.jump_if(If::Ne, R4, R9, worker);
    asm.load(Size::W, R2, R6, CTX_GSO_SIZE);
    asm.jump_if(If::Eq, R2, 0, family.labels.complete);
    asm.load(Size::B, R1, R8, family.protocol);
    asm.jump_if(If::Ne, R1, TCP, worker);
    headers(asm, family, at);
    asm.jump_if(If::Ge, R1, R9, worker);
    asm.mov(R4, R2);
    asm.alu(Alu::Add, R4, R1);
    asm.load(Size::H, R1, R7, layout::MAX_LEN);
    asm.jump_if(If::Le, R4, R1, family.labels.fits);
    asm.label(family.labels.complete);
    asm.load(Size::H, R4, R7, layout::MAX_LEN);
    asm.jump_if(If::Gt, R9, R4, worker);
    asm.label(family.labels.fits);
}

/// R1 = bytes of IP and TCP header; R2 stays.
fn headers(asm: &mut Assembler, family: &Family, at: i16) {
    let worker = family.labels.worker;
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, i32::from(at) + TCP_LEN);
    asm.jump_if(If::Gt, R4, R3, worker);
    asm.load(Size::B, R1, R8, at + TCP_OFFSET);
    asm.alu(Alu::Rsh, R1, 4);
    asm.alu(Alu::Lsh, R1, 2);
    asm.jump_if(If::Lt, R1, TCP_LEN, worker);
    asm.alu(Alu::Add, R1, family.header);
}

/// Notes what the parts of a super-packet are more than itself, as [`crate::limit::Cost`] has it.
pub(super) fn parts(asm: &mut Assembler, family: &Family) {
    let (worker, done) = (family.labels.worker, family.labels.has_room);
    asm.load(Size::W, R2, R6, CTX_GSO_SIZE);
    asm.jump_if(If::Eq, R2, 0, done);
    headers(asm, family, (LINK_LEN + family.header) as i16);
    asm.mov(R4, R9);
    asm.alu(Alu::Sub, R4, R1);
    asm.alu(Alu::Sub, R4, 1);
    asm.alu(Alu::Div, R4, R2);
    asm.alu(Alu::Add, R1, LINK_LEN);
    asm.alu(Alu::Mul, R1, R4);
    asm.mov(R3, R1);
    asm.alu(Alu::Add, R3, R9);
    asm.jump_if(If::Ge, R3, BYTES_MAX - LINK_LEN, worker);
    asm.alu(Alu::Lsh, R4, layout::EXTRA_SHIFT);
    asm.alu(Alu::Or, R4, R1);
    asm.store(Size::D, R10, PARTS, R4);
    asm.label(done);
}

/// R2 are the bytes of a packet: it is what [`super::limits`] takes for it.
pub(super) fn cost(asm: &mut Assembler) {
    asm.load(Size::D, R3, R10, PARTS);
    asm.mov(R4, R3);
    asm.alu(Alu::Rsh, R4, layout::EXTRA_SHIFT);
    asm.alu(Alu::Lsh, R4, MORE_PACKETS);
    asm.alu(Alu::Or, R2, R4);
    asm.alu(Alu::And, R3, i32::MAX);
    asm.alu(Alu::Add, R2, R3);
}

/// Brings the transport's checksum along where addresses and ports are written anew; R8 is the
/// packet. What it is about, and whether it is finished, the kernel knows; but of a datagram the
/// checksum of what is inside of it may be unfinished, and its own is not.
pub(super) fn transport_checksum(asm: &mut Assembler, family: &Family) {
    let at = (LINK_LEN + family.header) as i16;
    asm.load(Size::B, R2, R8, family.protocol);
    asm.jump_if(If::Eq, R2, TCP, family.labels.partial_tcp);
    pseudo_sum(asm, family);
    asm.load(Size::H, R4, R8, at + UDP_CHECKSUM);
    asm.jump_if(If::Ne, R1, R4, family.labels.translate_udp);
    replace(asm, family, at + UDP_CHECKSUM, ZERO_IS_NONE);
    asm.jump(family.labels.partial);
    asm.label(family.labels.partial_tcp);
    replace(asm, family, at + TCP_CHECKSUM, 0);
    asm.label(family.labels.partial);
    look_at(asm, i32::from(at) + 8, "lost");
    asm.jump(family.labels.transport_done);
}

fn replace(asm: &mut Assembler, family: &Family, field: i16, flags: i32) {
    let call = |asm: &mut Assembler, flags| {
        asm.mov(R1, R6);
        asm.mov(R2, i32::from(field));
        asm.mov(R3, 0);
        asm.mov(R5, flags);
        asm.call(Helper::L4ChecksumReplace);
    };
    of_addresses(asm, R4);
    call(asm, flags | PSEUDO_HEADER);
    asm.jump_if(If::Ne, R0, 0, family.labels.worker);
    // The ports' part of both.
    of_addresses(asm, R1);
    asm.load(Size::H, R4, R7, layout::TRANSPORT_CHANGE);
    asm.alu(Alu::Xor, R1, 0xffff);
    asm.alu(Alu::Add, R4, R1);
    fold(asm, R4, R1, 1);
    call(asm, flags);
    asm.jump_if(If::Ne, R0, 0, "lost");
}

/// What sums with the addresses change by: the IP header's, without the TTL.
fn of_addresses(asm: &mut Assembler, dst: Reg) {
    asm.load(Size::H, dst, R7, layout::IP_CHANGE);
    asm.alu(Alu::Add, dst, network_order(0x0100));
    fold(asm, dst, R3, 1);
}

/// Counts what the packet becomes, and sends it: into the pod's namespace, or by the device.
pub(super) fn leave(asm: &mut Assembler, carrier: Carrier<'_>, family: &Family) {
    asm.load(Size::D, R1, R10, PARTS);
    asm.jump_if(If::Eq, R1, 0, family.labels.wrap);
    asm.atomic_add(R7, word(EXTRA), R1);
    asm.label(family.labels.wrap);
    target(asm, carrier.map);
    asm.mov(R4, R1);
    asm.alu(Alu::Rsh, R4, 32);
    asm.alu(Alu::Lsh, R1, 32);
    asm.alu(Alu::Rsh, R1, 32);
    asm.mov(R2, 0);
    asm.jump_if(If::Eq, R4, 0, family.labels.plain);
    asm.call(Helper::RedirectPeer);
    asm.exit();
    asm.label(family.labels.plain);
    asm.call(Helper::Redirect);
    asm.exit();
}
