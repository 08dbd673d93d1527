//! The part that lets packets pass a limit without asking the clock, while it has plenty of its
//! burst left. [`crate::limit::gates`] tells how.

use super::limits::{ahead, cost, farthest, give_to, unless};
use super::offload::word;
use crate::limit::gates::{CREDIT_SHIFT, layout};
use crate::sys::bpf::asm::{Alu, Assembler, If, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R8, R9};

/// Takes a packet of R7 bytes from the row R0 without asking the clock, and goes to the second
/// label; or to the first one, with the row still in R0.
pub(super) fn take(asm: &mut Assembler, [asked, passed]: [&'static str; 2]) {
    asm.load(Size::D, R1, R0, word(layout::WAITING));
    asm.jump_if(If::Ne, R1, 0, asked);
    asm.load(Size::D, R1, R0, word(layout::FLAGS));
    asm.alu(Alu::And, R1, layout::OPEN);
    asm.jump_if(If::Eq, R1, 0, asked);
    cost(asm, R0, layout::BITS);
    asm.load(Size::D, R2, R0, word(layout::BITS + layout::BURST));
    asm.alu(Alu::Rsh, R2, CREDIT_SHIFT as i32);
    asm.load(Size::D, R3, R0, word(layout::OWED));
    asm.alu(Alu::Add, R3, R1);
    asm.jump_if(If::Gt, R3, R2, asked);
    asm.atomic_add(R0, word(layout::OWED), R1);
    asm.jump(passed);
}

/// Gives back what a packet of R7 bytes took from the bits of the row R6, booked or not.
pub(super) fn give_back(asm: &mut Assembler) {
    unless(asm, R2, layout::OPEN, "give_closed");
    cost(asm, R6, layout::BITS);
    asm.mov(R2, 0);
    asm.alu(Alu::Sub, R2, R1);
    asm.atomic_add(R6, word(layout::OWED), R2);
    asm.jump("gave_bits");
    asm.label("give_closed");
    give_to(asm, layout::BITS, layout::HAS_BITS, "gave_bits");
}

/// Books what was let pass on credit, and gives none until there is room again. The row is R6, R8
/// the clock.
pub(super) fn settle(asm: &mut Assembler) {
    let owed = word(layout::OWED);
    unless(asm, R1, layout::OPEN, "settle_owed");
    asm.load(Size::D, R1, R6, word(layout::FLAGS));
    asm.alu(Alu::And, R1, !layout::OPEN);
    asm.store(Size::D, R6, word(layout::FLAGS), R1);
    asm.label("settle_owed");
    asm.load(Size::D, R1, R6, owed);
    asm.jump_if(If::Eq, R1, 0, "settle_done");
    asm.mov(R9, 0);
    asm.exchange(R6, owed, R9);
    farthest(asm, layout::BITS);
    asm.label("settle_retry");
    ahead(asm, layout::BITS, "settle_ahead");
    asm.alu(Alu::Add, R2, R9);
    asm.alu(Alu::Add, R2, R8);
    asm.mov(R1, R0);
    asm.compare_exchange(R6, word(layout::BITS + layout::ARRIVAL), R2);
    asm.jump_if(If::Eq, R0, R1, "settle_done");
    asm.alu(Alu::Sub, R5, 1);
    asm.jump_if(If::Ne, R5, 0, "settle_retry");
    asm.atomic_add(R6, owed, R9);
    asm.jump("bits_crowded");
    asm.label("settle_done");
}

/// Gives credit if as much of the burst R3 is left beyond the arrival R2. The row is R6, R8 the
/// clock.
pub(super) fn open(asm: &mut Assembler) {
    asm.mov(R4, R3);
    asm.alu(Alu::Rsh, R4, CREDIT_SHIFT as i32);
    asm.alu(Alu::Sub, R2, R8);
    asm.alu(Alu::Sub, R3, R2);
    asm.jump_if(If::Lt, R3, R4, "limit_pass");
    asm.load(Size::D, R1, R6, word(layout::FLAGS));
    asm.alu(Alu::Or, R1, layout::OPEN);
    asm.store(Size::D, R6, word(layout::FLAGS), R1);
}
