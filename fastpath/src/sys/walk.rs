//! A walk through tables of words, sixteen addresses at a time, where the processor has AVX-512.
//!
//! One instruction gathers the words of sixteen addresses: each level of the IPv6 table takes a
//! dozen instructions for all of them, in place of some thirty for each. What the words mean is
//! said by whoever asks ([`Naming`]).

use super::table::WordTable;

/// Addresses that are gathered for at once.
pub const GROUP: usize = 16;
/// Groups of one walk.
pub const GROUPS: usize = 4;

/// A word for each address.
pub type Words = [[u32; GROUP]; GROUPS];

/// How a word says where the next one is.
#[derive(Debug, Clone, Copy)]
pub struct Naming {
    /// The bit of a word that names a stride of 256 words.
    pub stride: u32,
    /// The bit of one that names something else, where the walk ends.
    pub end: u32,
    /// The bits that are its number.
    pub number: u32,
    /// How far a number is shifted to be the place of its first word.
    pub shift: u32,
}

/// Says that the processor has AVX-512: for [`walk`].
#[derive(Debug, Clone, Copy)]
pub struct Walker(());

impl Walker {
    /// `None` where the processor has no AVX-512.
    pub fn new() -> Option<Walker> {
        #[cfg(target_arch = "x86_64")]
        {
            std::arch::is_x86_feature_detected!("avx512f").then_some(Walker(()))
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            None
        }
    }
}

/// Looks up the first 24 bits of `count` addresses in `root`, and follows strides by one octet
/// each until the 64th bit. `first` and `second` are the addresses' first words of 32 bits, of
/// which `second` is left alone and `first` becomes what was found. Gives a bit for each address
/// that has come to an end before its last octet.
#[inline]
pub fn walk(
    _: Walker,
    (root, nodes): (&WordTable, &WordTable),
    naming: Naming,
    (first, second): (&mut Words, &Words),
    count: usize,
) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the processor has AVX-512, as the walker says.
        unsafe { avx512::walk((root, nodes), naming, (first, second), count) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (root, nodes, naming, first, second, count);
        0
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{GROUP, Naming, WordTable, Words};
    use std::arch::x86_64::{
        __m512i, __mmask16, _mm_cvtsi32_si128, _mm512_add_epi32, _mm512_and_si512,
        _mm512_loadu_si512, _mm512_mask_i32gather_epi32, _mm512_min_epu32, _mm512_set1_epi32,
        _mm512_sll_epi32, _mm512_srl_epi32, _mm512_storeu_si512, _mm512_test_epi32_mask,
    };

    /// The words at these places where `mask` is set, elsewhere `before`. Acquiring, as each load
    /// of this processor is.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn gather(table: &WordTable, before: __m512i, mask: __mmask16, places: __m512i) -> __m512i {
        let Some(last) = table.len().checked_sub(1) else { return before };
        let last = i32::try_from(last).unwrap_or(i32::MAX);
        let places = _mm512_min_epu32(places, _mm512_set1_epi32(last));
        // SAFETY: all places are in the table, whose words may change meanwhile: each is loaded
        // whole by the processor.
        unsafe { _mm512_mask_i32gather_epi32::<4>(before, mask, places, table.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load(words: &[u32; GROUP]) -> __m512i {
        // SAFETY: the array is as long as what is loaded.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn store(words: &mut [u32; GROUP], from: __m512i) {
        // SAFETY: the array is as long as what is stored.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), from) };
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn walk(
        (root, nodes): (&WordTable, &WordTable),
        naming: Naming,
        (first, second): (&mut Words, &Words),
        count: usize,
    ) -> u64 {
        let groups = count.div_ceil(GROUP).min(first.len());
        let all = |value: u32| _mm512_set1_epi32(value as i32);
        let (stride, number, octets) = (all(naming.stride), all(naming.number), all(255));
        let shift = _mm_cvtsi32_si128(naming.shift as i32);
        let step = |found: __m512i, octet: __m512i, mask: __mmask16| {
            let start = _mm512_sll_epi32(_mm512_and_si512(found, number), shift);
            let octet = _mm512_and_si512(octet, octets);
            gather(nodes, found, mask, _mm512_add_epi32(start, octet))
        };
        let mut found = [_mm512_set1_epi32(0); super::GROUPS];
        for (found, first) in found.iter_mut().zip(&*first).take(groups) {
            let slots = _mm512_srl_epi32(load(first), _mm_cvtsi32_si128(8));
            *found = gather(root, *found, !0, slots);
        }
        for (found, first) in found.iter_mut().zip(&*first).take(groups) {
            *found = step(*found, load(first), _mm512_test_epi32_mask(*found, stride));
        }
        let mut ended = 0;
        for right in [24, 16, 8, 0] {
            let mut any = 0;
            for (at, (found, second)) in found.iter_mut().zip(second).take(groups).enumerate() {
                let mask = _mm512_test_epi32_mask(*found, stride);
                let ends = _mm512_test_epi32_mask(*found, all(naming.end));
                ended |= u64::from(ends & !mask) << (GROUP * at);
                any |= mask;
                let octet = _mm512_srl_epi32(load(second), _mm_cvtsi32_si128(right));
                *found = step(*found, octet, mask);
            }
            if any == 0 {
                break;
            }
        }
        for (found, first) in found.iter().zip(&mut *first).take(groups) {
            store(first, *found);
        }
        ended
    }
}
