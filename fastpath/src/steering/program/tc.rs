//! The same steering behind the driver, for pods on veths whose packets are to stay whole.
//!
//! XDP on the host's end of a veth makes the pod's end cut its super-packets; a program of tc does
//! not. What is the workers' goes to a TAP, by which they read it with its virtio header; what they
//! write to the TAP comes in by the pod's end. All else passes on in the kernel, as it came.
//! Offloaded flows are carried to their next hop at once (see [`super::skb`]).

use super::{Maps, ethernet, limits, skb, steer_v4, steer_v6};
use crate::sys::bpf::asm::{Alu, AsmError, Assembler, Helper, If, Insn, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R8};

/// Verdict: the next program, or the host's stack.
const TC_NEXT: i32 = -1;
/// Verdict: nowhere.
pub(super) const TC_DROP: i32 = 2;

/// Offsets in the kernel's `struct __sk_buff`.
pub(super) const CTX_LEN: i16 = 0;
const CTX_VLAN_PRESENT: i16 = 20;
pub(super) const CTX_DATA: i16 = 76;
pub(super) const CTX_DATA_END: i16 = 80;
pub(super) const CTX_GSO_SIZE: i16 = 176;

/// Bytes that steering looks at: of a super-packet the headers, of others also what an ICMP error
/// quotes.
const LOOKED_AT: i32 = 128;
const HEADERS: i32 = 74;

/// The encoded program for what a pod sends, whose worker reads the TAP with this index.
pub(in crate::steering) fn assemble(maps: Maps<'_>, tap: u32) -> Result<Vec<Insn>, AsmError> {
    let mut asm = Assembler::new();
    in_one_piece(&mut asm, maps);
    ethernet(&mut asm, maps.hook);
    asm.label("ipv4");
    steer_v4(&mut asm, maps);
    asm.label("ipv6");
    steer_v6(&mut asm, maps);
    asm.label("redirect");
    asm.mov(R1, tap as i32);
    asm.mov(R2, 0);
    asm.call(Helper::Redirect);
    asm.exit();
    asm.label("pass");
    asm.mov(R0, TC_NEXT);
    asm.exit();
    if let Some(carrier) = maps.offload {
        skb::to_worker(&mut asm, carrier.arrivals, tap);
        limits::refuse(&mut asm, carrier);
        limits::functions(&mut asm, carrier.map);
    }
    asm.finish()
}

/// R6 is the context: R8 is the packet, of which so many bytes can be read and written, or the
/// label is gone to.
pub(super) fn look_at(asm: &mut Assembler, bytes: i32, label: &'static str) {
    asm.load(Size::W, R8, R6, CTX_DATA);
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, bytes);
    asm.jump_if(If::Gt, R4, R3, label);
}

/// The encoded program for what a worker writes to the TAP: to the far end of the veth `device`.
pub(in crate::steering) fn deliver(device: u32) -> Result<Vec<Insn>, AsmError> {
    let mut asm = Assembler::new();
    asm.mov(R1, device as i32);
    asm.mov(R2, 0);
    asm.call(Helper::RedirectPeer);
    asm.exit();
    asm.finish()
}

/// R1 is the context, and stays it. VLAN tags, which the kernel keeps beside the packet, are not
/// for workers. Headers may be spread over fragments of memory; those that are not are left alone,
/// for a packet that others share would be copied.
fn in_one_piece(asm: &mut Assembler, maps: Maps<'_>) {
    asm.mov(R6, R1);
    asm.load(Size::W, R4, R6, CTX_VLAN_PRESENT);
    asm.jump_if(If::Ne, R4, 0, "pass");
    maps.hook.packet(asm);
    asm.alu(Alu::Sub, R3, R2);
    asm.mov(R4, HEADERS);
    asm.load(Size::W, R5, R6, CTX_GSO_SIZE);
    asm.jump_if(If::Ne, R5, 0, "super_packet");
    asm.mov(R4, LOOKED_AT);
    asm.label("super_packet");
    asm.load(Size::W, R2, R6, CTX_LEN);
    asm.jump_if(If::Le, R4, R2, "long");
    asm.mov(R4, R2);
    asm.label("long");
    asm.jump_if(If::Ge, R3, R4, "in_one_piece");
    asm.mov(R1, R6);
    asm.mov(R2, R4);
    asm.call(Helper::SkbPullData);
    asm.label("in_one_piece");
    asm.mov(R1, R6);
}
