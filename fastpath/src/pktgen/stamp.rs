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
use crate::sys::clock::monotonic_ns;

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

/// The stamp of a packet that is sent now by a socket.
pub fn now(flow: u32, sequence: u32) -> [u8; LEN] {
    at_time(flow, sequence, monotonic_ns())
}

fn at_time(flow: u32, sequence: u32, time_ns: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let at = |field: i16| field as usize;
    bytes[at(FLOW)..at(SEQUENCE)].copy_from_slice(&flow.to_ne_bytes());
    bytes[at(SEQUENCE)..at(TIME)].copy_from_slice(&sequence.to_ne_bytes());
    bytes[at(TIME)..].copy_from_slice(&time_ns.to_ne_bytes());
    let check = !sum(&bytes) as u16;
    bytes[..2].copy_from_slice(&check.to_ne_bytes());
    bytes
}

/// Writes a stamp into a frame at `at`; false, and nothing is written, where it is too short.
pub(super) fn write(
    frame: &mut [u8],
    at: usize,
    (flow, sequence, time_ns): (u32, u32, u64),
) -> bool {
    let place = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<LEN>());
    place.map(|place| *place = at_time(flow, sequence, time_ns)).is_some()
}

/// The words, added up and folded.
fn sum(bytes: &[u8; LEN]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// What the stamp of a frame says, if it has a good one at `at`: flow, sequence number,
/// nanoseconds.
pub fn read(frame: &[u8], at: usize) -> Option<(u32, u32, u64)> {
    let bytes = frame.get(at..)?.first_chunk::<LEN>()?;
    let word = |at: usize| -> u32 {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let time = bytes.last_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes))?;
    (sum(bytes) == 0xffff).then_some((word(FLOW as usize), word(SEQUENCE as usize), time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_says_what_was_written() {
        for (flow, sequence) in [(0, 0), (7, u32::MAX), (u32::MAX, 12_345_678)] {
            let (before_ns, bytes) = (monotonic_ns(), now(flow, sequence));
            let (seen_flow, seen_sequence, time_ns) = read(&bytes, 0).unwrap();
            assert_eq!((seen_flow, seen_sequence), (flow, sequence));
            assert!((before_ns..=monotonic_ns()).contains(&time_ns));
            let mut damaged = bytes;
            damaged[LEN - 9] ^= 4;
            assert_eq!(read(&damaged, 0), None);
        }
    }
}
