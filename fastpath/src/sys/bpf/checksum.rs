//! Internet checksums (RFC 1071) in programs: sums of words, folded with end-around carry.

use super::asm::{Alu, Assembler, Reg, Size};

/// Folds a sum with end-around carry, `times` over: each time takes its carry down by 16 bits.
/// Loses `spare`.
pub(crate) fn fold(asm: &mut Assembler, sum: Reg, spare: Reg, times: u32) {
    for _ in 0..times {
        asm.mov(spare, sum);
        asm.alu(Alu::Rsh, spare, 16);
        asm.alu(Alu::And, sum, 0xffff);
        asm.alu(Alu::Add, sum, spare);
    }
}

/// `sum` = the words of the IPv4 header without options at `base + at`, folded: 0xffff if its
/// checksum is right. A header is never all zeros, so that its sum is never 0. Loses `spare`.
pub(crate) fn ipv4_header(asm: &mut Assembler, (base, at): (Reg, i16), [sum, spare]: [Reg; 2]) {
    asm.load(Size::W, sum, base, at);
    for word in [4, 8, 12, 16] {
        asm.load(Size::W, spare, base, at + word);
        asm.alu(Alu::Add, sum, spare);
    }
    fold(asm, sum, spare, 3);
}
