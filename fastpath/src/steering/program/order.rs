//! The part that keeps order between packets that the program carries and those of the same flow
//! that it gave to a worker before; [`crate::offload`] tells how.

use super::family::Labels;
use super::offload::word;
use super::{CTX_RX_QUEUE, XDP_DROP, XDP_REDIRECT, redirect};
use crate::offload::layout;
use crate::offload::{Arrivals, QUEUE_SHIFT, arrivals_layout};
use crate::sys::bpf::Map;
use crate::sys::bpf::asm::{Alu, Assembler, If, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7};

/// `dst` points to what is known of the packet's queue; goes to the label if there is nothing.
fn queue(asm: &mut Assembler, arrivals: &Arrivals, dst: Reg, scratch: Reg, label: &'static str) {
    asm.load(Size::W, scratch, R6, CTX_RX_QUEUE);
    asm.jump_if(If::Ge, scratch, arrivals.queues() as i32, label);
    asm.alu(Alu::Lsh, scratch, QUEUE_SHIFT);
    asm.load_map_value(dst, arrivals.map(), "arrivals");
    asm.alu(Alu::Add, dst, scratch);
}

/// Gives a packet to its queue's worker, with the next number, if there is room.
pub(super) fn give(asm: &mut Assembler, arrivals: &Arrivals, xsks: &Map) {
    use arrivals_layout::{CREDIT, GIVEN, REFUSED};
    queue(asm, arrivals, R7, R1, "uncounted");
    asm.load(Size::D, R1, R7, GIVEN);
    asm.load(Size::D, R2, R7, CREDIT);
    asm.jump_if(If::Ge, R1, R2, "refuse");
    redirect(asm, xsks);
    asm.jump_if(If::Ne, R0, XDP_REDIRECT as i32, "given");
    asm.load(Size::D, R1, R7, GIVEN);
    asm.alu(Alu::Add, R1, 1);
    asm.store(Size::D, R7, GIVEN, R1);
    asm.label("given");
    asm.exit();
    asm.label("refuse");
    asm.load(Size::D, R1, R7, REFUSED);
    asm.alu(Alu::Add, R1, 1);
    asm.store(Size::D, R7, REFUSED, R1);
    asm.mov(R0, XDP_DROP as i32);
    asm.exit();
    asm.label("uncounted");
}

/// R1 is the generation. Goes on with a flow of which no packet is under way to a worker; what
/// comes in between goes to the worker, or is dropped when that is far behind.
pub(super) fn settle(asm: &mut Assembler, arrivals: &Arrivals, labels: &Labels) {
    use arrivals_layout::{CREDIT, GIVEN, ROOM, SEEN};
    let Labels { not, worker, settled, settles, .. } = *labels;
    asm.load(Size::D, R4, R7, word(layout::SETTLED));
    asm.jump_if(If::Eq, R4, R1, settled);
    queue(asm, arrivals, R2, R4, not);
    known(asm);
    asm.load(Size::D, R5, R7, word(layout::KNOWN));
    asm.jump_if(If::Ne, R4, R5, worker);
    asm.load(Size::D, R4, R7, word(layout::LAST));
    asm.load(Size::D, R3, R2, SEEN);
    asm.jump_if(If::Ge, R3, R4, settles);
    asm.load(Size::D, R4, R2, CREDIT);
    asm.jump_if(If::Eq, R4, -1, worker);
    // Far behind: less than an eighth of the room is left.
    asm.load(Size::D, R5, R2, GIVEN);
    asm.alu(Alu::Sub, R4, R5);
    asm.alu(Alu::Lsh, R4, 3);
    asm.load(Size::D, R5, R2, ROOM);
    asm.jump_if(If::Ge, R4, R5, worker);
    asm.mov(R7, R2);
    asm.jump("refuse");
    asm.label(settles);
    asm.store(Size::D, R7, word(layout::SETTLED), R1);
    asm.label(settled);
}

/// R1 is the generation: R4 is that and the queue.
fn known(asm: &mut Assembler) {
    asm.load(Size::W, R5, R6, CTX_RX_QUEUE);
    asm.mov(R4, R1);
    asm.alu(Alu::Lsh, R4, 8);
    asm.alu(Alu::Or, R4, R5);
}

/// Notes that this packet, if it goes to the worker, is the flow's last one there so far.
pub(super) fn to_worker(asm: &mut Assembler, arrivals: &Arrivals, labels: &Labels) {
    asm.label(labels.worker);
    queue(asm, arrivals, R2, R4, labels.not);
    asm.load(Size::D, R1, R7, word(layout::GENERATION));
    known(asm);
    asm.store(Size::D, R7, word(layout::KNOWN), R4);
    asm.load(Size::D, R4, R2, arrivals_layout::GIVEN);
    asm.alu(Alu::Add, R4, 1);
    asm.store(Size::D, R7, word(layout::LAST), R4);
    asm.store(Size::D, R7, word(layout::SETTLED), 0);
}
