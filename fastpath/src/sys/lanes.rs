//! Many small numbers compared at once.

/// Numbers that are sorted into shares at once.
pub(crate) const LANES: usize = 64;

/// Calls `each` with every number that is among those whose bits are set, and the bits of its
/// places, in the order of their first ones.
#[inline]
pub(crate) fn shares(numbers: &[u16; LANES], bits: u64, each: impl FnMut(u16, u64)) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512bw") {
        // SAFETY: the processor has AVX-512 with words.
        return unsafe { avx512::shares(numbers, bits, each) };
    }
    shares_by(numbers, bits, each, equal);
}

#[inline(always)]
fn shares_by(
    numbers: &[u16; LANES],
    mut bits: u64,
    mut each: impl FnMut(u16, u64),
    equal: impl Fn(&[u16; LANES], u16) -> u64,
) {
    while bits != 0 {
        let number = numbers[bits.trailing_zeros() as usize];
        let share = equal(numbers, number) & bits;
        each(number, share);
        bits &= !share;
    }
}

/// The places of `number`: a bit for each.
#[inline]
fn equal(numbers: &[u16; LANES], number: u16) -> u64 {
    let sixteen = |sixteen: &[u16; 16]| {
        let equal: [u8; 16] = sixteen.map(|other| u8::from(other == number));
        let (eights, _) = equal.as_chunks::<8>();
        // Each byte's bit comes to a place of its own in the highest one.
        let bits =
            |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        eights.iter().rev().fold(0, |all, eight| all << 8 | bits(eight))
    };
    let (sixteens, _) = numbers.as_chunks::<16>();
    sixteens.iter().rev().fold(0, |all, numbers| all << 16 | sixteen(numbers))
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::LANES;
    use std::arch::x86_64::{_mm512_cmpeq_epi16_mask, _mm512_loadu_si512, _mm512_set1_epi16};

    #[target_feature(enable = "avx512bw")]
    pub(super) fn shares(numbers: &[u16; LANES], bits: u64, each: impl FnMut(u16, u64)) {
        let (halves, _) = numbers.as_chunks::<{ LANES / 2 }>();
        // SAFETY: half of the array is as long as what is loaded.
        let low = unsafe { _mm512_loadu_si512(halves[0].as_ptr().cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm512_loadu_si512(halves[1].as_ptr().cast()) };
        let equal = |_: &[u16; LANES], number: u16| {
            let number = _mm512_set1_epi16(number.cast_signed());
            let high = u64::from(_mm512_cmpeq_epi16_mask(high, number));
            high << 32 | u64::from(_mm512_cmpeq_epi16_mask(low, number))
        };
        super::shares_by(numbers, bits, each, equal);
    }
}

#[test]
fn shares_are_the_places_of_equal_numbers() {
    const NUMBERS: [u16; 5] = [3, 0x8001, 0, u16::MAX, 0x8000];
    let numbers: [u16; LANES] = std::array::from_fn(|at| NUMBERS[at * at % 11 % 5]);
    for bits in [0, 1, u64::MAX, 0xf0f0_0000_1111_0008] {
        let mut wanted: Vec<(u16, u64)> = Vec::new();
        for at in (0..LANES).filter(|at| bits >> at & 1 == 1) {
            match wanted.iter_mut().find(|(number, _)| *number == numbers[at]) {
                Some((_, places)) => *places |= 1 << at,
                None => wanted.push((numbers[at], 1 << at)),
            }
        }
        let (mut found, mut portable) = (Vec::new(), Vec::new());
        shares(&numbers, bits, |number, places| found.push((number, places)));
        shares_by(&numbers, bits, |number, places| portable.push((number, places)), equal);
        assert_eq!((&found, &portable), (&wanted, &wanted));
    }
}
