//! The mark in each stamped frame.
//!
//! ```text
//! 0      2      6          10              18
//! | check | flow | sequence | nanoseconds |
//! ```
//!
//! All in the machine's own order, for sender and receiver share its clock. The check makes the
//! stamp's sum nothing (RFC 1071), so that a UDP or TCP checksum over it stays as it was reckoned
//! for a stamp of zeros.

use crate::sys::bpf::asm::{Alu, Assembler, Reg, Size};

/// Bytes of a stamp.
pub const LEN: usize = 18;
/// Where its fields are.
pub(super) const FLOW: i16 = 2;
pub(super) const SEQUENCE: i16 = 6;
pub(super) const TIME: i16 = 10;

/// Adds the two halves of `word` to `sum`; loses `word`.
pub(super) fn add_halves(asm: &mut Assembler, sum: Reg, word: Reg, spare: Reg) {
    asm.mov(spare, word);
    asm.alu(Alu::Rsh, spare, 32);
    asm.alu(Alu::Add, sum, spare);
    asm.alu(Alu::Lsh, word, 32);
    asm.alu(Alu::Rsh, word, 32);
    asm.alu(Alu::Add, sum, word);
}

/// Times that the sum of a stamp is folded: of 35 bits it has 20 then, 17, and 16.
pub(super) const FOLDS: u32 = 3;

/// `sum` = the fields of the stamp at `base + at`, added up but not folded; the check is not among
/// them. Loses `word` and `spare`.
pub(super) fn sum_fields(
    asm: &mut Assembler,
    (base, at): (Reg, i16),
    [sum, word, spare]: [Reg; 3],
) {
    asm.load(Size::W, sum, base, at + FLOW);
    asm.load(Size::W, word, base, at + SEQUENCE);
    asm.alu(Alu::Add, sum, word);
    asm.load(Size::D, word, base, at + TIME);
    add_halves(asm, sum, word, spare);
}

/// What the stamp of a frame says, if it has a good one at `at`: flow, sequence number,
/// nanoseconds.
pub fn read(frame: &[u8], at: usize) -> Option<(u32, u32, u64)> {
    let bytes = frame.get(at..)?.first_chunk::<LEN>()?;
    let (words, _) = bytes.as_chunks::<2>();
    let mut sum: u32 = words.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let word = |at: usize| -> u32 {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let time = bytes.last_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes))?;
    (sum == 0xffff).then_some((word(FLOW as usize), word(SEQUENCE as usize), time))
}
