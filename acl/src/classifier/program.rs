//! The compiled policy of an endpoint in one direction and stage.
//!
//! Every rule is one bit or more, a lane, in the order of evaluation. Each of four dimensions
//! (source address, destination address, source port, protocol with destination port or ICMP
//! type) has a vector of the lanes that a packet's value allows; the first bit that all four have
//! is the first rule that matches. Above eight words a summary with a bit for each word that is
//! not zero comes first, so that the work grows with a 512th of the lanes at most. What a small
//! program needs is found from its first two cache lines.

use super::Outcome;
use super::ports::Ports;
use crate::Verdict;
use crate::origin::Origin;
use crate::packet::Packet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Most lanes of a program: rules, counted once for each port that one of their names stands for.
pub const LANES_MAX: usize = 1 << 16;
/// Most different vectors of a dimension.
pub const VECTORS_MAX: usize = (1 << 16) - 2;
/// Up to this many words there is no summary.
const PLAIN_WORDS: usize = 8;
/// Words that are compared in one step; longer vectors are whole groups.
const GROUP: usize = 8;
/// Classes of one page of a [`Side`].
pub(crate) const CLASS_PAGE: usize = 1 << 13;
/// Fewest vectors of one page of a [`Side`].
const PAGE_VECTORS: usize = 16;
/// Words of a page with more than the fewest vectors.
const PAGE_WORDS: usize = 2048;

/// A compiled program.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Program {
    /// For source and destination addresses.
    pub(crate) sides: [Side; 2],
    pub(crate) ports: Ports,
    /// What each lane does.
    pub(crate) steps: Arc<[Step]>,
    pub(crate) shape: Shape,
    pub(crate) origins: Arc<[Origin]>,
}

/// Vectors of the four dimensions.
pub(crate) type Vectors<'a> = [&'a [u64]; 4];

/// What a lane does when it is the first that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    /// Place in the origins.
    pub(crate) origin: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Decide(Verdict),
    /// Goes on at a later lane.
    Jump(u32),
    /// Makes a note, and goes on at a later lane.
    Log(u32),
}

/// The length of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) words: u16,
    /// Words of the summary, which come first.
    pub(crate) summary: u16,
    /// The number of vectors of a page, as a power of two.
    page_shift: u16,
}

/// From address classes to vectors.
#[derive(Debug, Clone)]
#[repr(C)]
pub(crate) struct Side {
    /// Vector numbers from 1 on by class; 0 for the default. The first page. An entry changes only
    /// while no table of a snapshot has its class.
    numbers: Arc<[AtomicU16]>,
    /// The first page of vectors.
    vectors: Arc<[u64]>,
    /// Vector of IPv6 classes that are in none of the program's sets; that of IPv4's is 0.
    default_v6: u16,
    /// True when there is one vector, of ones.
    is_trivial: bool,
    /// The other pages.
    far: Option<Arc<Far>>,
}

#[derive(Debug)]
struct Far {
    numbers: Vec<Arc<[AtomicU16]>>,
    vectors: Vec<Arc<[u64]>>,
}

impl Shape {
    pub(crate) fn of(lanes: usize) -> Shape {
        let words = lanes.div_ceil(64);
        let (words, summary) = match words > PLAIN_WORDS {
            true => (words.next_multiple_of(GROUP), words.div_ceil(64)),
            false => (words, 0),
        };
        let page = (PAGE_WORDS / (words + summary).max(1)).max(PAGE_VECTORS);
        let page_shift = page.ilog2() as u16;
        Shape { words: words as u16, summary: summary as u16, page_shift }
    }

    pub(crate) fn stride(self) -> usize {
        usize::from(self.words) + usize::from(self.summary)
    }

    /// The page of a vector, and its place there.
    #[inline]
    pub(crate) fn place(self, number: u16) -> (usize, usize) {
        let (page, mask) = (number >> self.page_shift, (1 << self.page_shift) - 1);
        (usize::from(page), usize::from(number & mask) * self.stride())
    }

    /// Words of a whole page.
    pub(crate) fn page_words(self) -> usize {
        self.stride() << self.page_shift
    }

    /// A vector without lanes.
    pub(crate) fn empty(self) -> Vec<u64> {
        vec![0; self.stride()]
    }

    pub(crate) fn set(self, vector: &mut [u64], lane: u32) {
        let word = lane as usize / 64;
        vector[usize::from(self.summary) + word] |= 1 << (lane % 64);
        if self.summary > 0 {
            vector[word / 64] |= 1 << (word % 64);
        }
    }

    pub(crate) fn clear(self, vector: &mut [u64], lane: u32) {
        let word = lane as usize / 64;
        let summary = usize::from(self.summary);
        vector[summary + word] &= !(1 << (lane % 64));
        if summary > 0 && vector[summary + word] == 0 {
            vector[word / 64] &= !(1 << (word % 64));
        }
    }
}

impl Side {
    /// From pages of numbers and of vectors.
    pub(crate) fn new(
        numbers: &[Arc<[AtomicU16]>],
        vectors: Vec<Arc<[u64]>>,
        default_v6: u16,
        is_trivial: bool,
    ) -> Side {
        let far = (numbers.len() > 1 || vectors.len() > 1).then(|| {
            let numbers = numbers.iter().skip(1).cloned().collect();
            Arc::new(Far { numbers, vectors: vectors.iter().skip(1).cloned().collect() })
        });
        let numbers = numbers.first().cloned().unwrap_or_default();
        let vectors = vectors.into_iter().next().unwrap_or_default();
        Side { numbers, vectors, default_v6, is_trivial, far }
    }

    #[inline]
    fn vector(&self, shape: Shape, class: u32, is_v6: bool) -> &[u64] {
        let class = class as usize;
        let found = match self.numbers.get(class) {
            Some(number) => number.load(Ordering::Relaxed),
            None => self.far_number(class),
        };
        let number = match found {
            0 if is_v6 => self.default_v6,
            0 => 0,
            found => found - 1,
        };
        let (page, at) = shape.place(number);
        let words = if page == 0 { &self.vectors } else { self.far_vectors(page) };
        &words[at..at + shape.stride()]
    }

    #[cold]
    fn far_number(&self, class: usize) -> u16 {
        let page = (class / CLASS_PAGE).checked_sub(1);
        let page = page.and_then(|page| self.far.as_ref()?.numbers.get(page));
        let number = page.and_then(|page| page.get(class % CLASS_PAGE));
        number.map_or(0, |number| number.load(Ordering::Relaxed))
    }

    fn far_vectors(&self, page: usize) -> &[u64] {
        let found = self.far.as_ref().and_then(|far| far.vectors.get(page - 1));
        found.map_or(&[], |page| page)
    }

    /// All pages of vectors.
    pub(super) fn pages(&self) -> impl Iterator<Item = &[u64]> {
        let far = self.far.iter().flat_map(|far| &far.vectors);
        far.chain([&self.vectors]).map(|page| &**page)
    }

    /// Words of all vectors.
    fn words(&self) -> usize {
        self.pages().map(<[u64]>::len).sum()
    }

    fn bytes(&self) -> usize {
        let far = self.far.iter().flat_map(|far| &far.numbers);
        let numbers: usize = far.chain([&self.numbers]).map(|page| page.len()).sum();
        numbers * 2 + self.words() * 8
    }
}
impl Program {
    /// The vectors of a packet with its address classes.
    #[inline]
    pub(super) fn vectors(&self, packet: &Packet, classes: [u32; 2]) -> Vectors<'_> {
        let (shape, is_v6) = (self.shape, packet.source.is_ipv6());
        let service = self.ports.service(shape, packet);
        let [source, destination] = [0, 1].map(|side: usize| match self.sides[side].is_trivial {
            true => service,
            false => self.sides[side].vector(shape, classes[side], is_v6),
        });
        let source_port = self.ports.source(shape, packet).unwrap_or(service);
        [service, source, destination, source_port]
    }

    /// Finds the lane that decides. `log` is called for lanes that only make a note.
    #[inline]
    pub(super) fn decide(&self, vectors: Vectors<'_>, mut log: impl FnMut(&Origin)) -> Outcome {
        let (mut at, mut logged) = (0, false);
        // Every step goes forward, so this ends after all lanes at the latest.
        while let Some(lane) = self.shape.first(vectors, at) {
            let Some(step) = self.steps.get(lane) else { break };
            at = match step.action {
                Action::Decide(verdict) => {
                    return Outcome { verdict, logged, program: 0, origin: step.origin };
                }
                Action::Jump(to) => (to as usize).max(lane + 1),
                Action::Log(to) => {
                    logged = true;
                    log(&self.origins[step.origin as usize]);
                    (to as usize).max(lane + 1)
                }
            };
        }
        Outcome { verdict: Verdict::Deny, logged, program: 0, origin: u32::MAX }
    }

    /// Bytes of the program without those that it shares with others.
    pub(crate) fn bytes(&self) -> usize {
        let sides: usize = self.sides.iter().map(Side::bytes).sum();
        let steps = self.steps.len() * size_of::<Step>();
        let origins = self.origins.len() * size_of::<Origin>();
        size_of::<Program>() + sides + self.ports.bytes() + steps + origins
    }

    pub(crate) fn lanes(&self) -> usize {
        self.steps.len()
    }

    /// Address vectors.
    pub(crate) fn vector_count(&self) -> usize {
        let words: usize = self.sides.iter().map(Side::words).sum();
        words / self.shape.stride().max(1)
    }

    /// Reads what a decision begins with, so that it is in the cache then.
    #[inline]
    pub(super) fn touch(&self, packet: &Packet) -> u16 {
        self.ports.touch(packet.protocol)
    }
}

impl Shape {
    /// The first lane from `at` on that all vectors have.
    #[inline]
    fn first(self, vectors: Vectors<'_>, at: usize) -> Option<usize> {
        let (words, summary) = (usize::from(self.words), usize::from(self.summary));
        let (mut place, mut mask) = (at / 64, u64::MAX << (at % 64));
        if summary > 0 {
            return self.first_in_groups(vectors, at);
        }
        while place < words {
            let word = vectors.iter().fold(u64::MAX, |all, one| all & one[place]);
            let bits = word & mask;
            if bits != 0 {
                return Some(place * 64 + bits.trailing_zeros() as usize);
            }
            (place, mask) = (place + 1, u64::MAX);
        }
        None
    }

    /// The same for long vectors. A group of words is one step without a branch on any of them,
    /// because rules without an address or port leave few words of a vector at zero.
    fn first_in_groups(self, vectors: Vectors<'_>, at: usize) -> Option<usize> {
        let summary = usize::from(self.summary);
        let parts = vectors.map(|vector| vector.split_at(summary));
        let summaries = parts.map(|(summary, _)| summary);
        let groups = parts.map(|(_, words)| words.as_chunks::<GROUP>().0);
        let mut group = at / 64 / GROUP;
        let mut least = at;
        while group * GROUP < usize::from(self.words) {
            let shared = summaries.iter().fold(u64::MAX, |all, one| all & one[group * GROUP / 64]);
            let ahead = shared & u64::MAX << (group * GROUP % 64);
            if ahead == 0 {
                group = (group * GROUP / 64 + 1) * (64 / GROUP);
                continue;
            }
            group = (group * GROUP / 64 * 64 + ahead.trailing_zeros() as usize) / GROUP;
            let [a, b, c, d] = groups.map(|groups| &groups[group]);
            let mut found = [0; GROUP];
            for (word, found) in found.iter_mut().enumerate() {
                *found = a[word] & b[word] & c[word] & d[word];
            }
            if found.iter().fold(0, |all, one| all | one) != 0 {
                let from = least.saturating_sub(group * GROUP * 64);
                let lane = first_bit(found, from);
                if let Some(lane) = lane {
                    return Some(group * GROUP * 64 + lane);
                }
            }
            (group, least) = (group + 1, 0);
        }
        None
    }
}

/// The first bit from a place on.
#[inline]
fn first_bit(mut words: [u64; GROUP], from: usize) -> Option<usize> {
    if from > 0 {
        for (number, word) in words.iter_mut().enumerate() {
            let below = from.saturating_sub(number * 64).min(64) as u32;
            *word &= u64::MAX.checked_shl(below).unwrap_or(0);
        }
    }
    let word = words.iter().position(|word| *word != 0)?;
    Some(word * 64 + words[word].trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_common_lane_is_found(
            lanes in prop_oneof![1usize..600, 600usize..6000],
            seeds in prop::collection::vec((any::<u16>(), any::<u8>()), 0..200),
            at in any::<u16>(),
        ) {
            let shape = Shape::of(lanes);
            let mut vectors = [(); 4].map(|()| shape.empty());
            let mut sets = [(); 4].map(|()| vec![false; lanes]);
            for (lane, mask) in seeds {
                let lane = usize::from(lane) % lanes;
                for one in 0..4 {
                    if mask >> one & 1 == 1 || mask > 200 {
                        shape.set(&mut vectors[one], lane as u32);
                        sets[one][lane] = true;
                    } else if mask & 0x30 == 0x30 {
                        shape.clear(&mut vectors[one], lane as u32);
                        sets[one][lane] = false;
                    }
                }
            }
            let at = usize::from(at) % (lanes + 1);
            let expected = (at..lanes).find(|lane| sets.iter().all(|set| set[*lane]));
            let slices = [0, 1, 2, 3].map(|one: usize| vectors[one].as_slice());
            prop_assert_eq!(shape.first(slices, at), expected);
        }
    }
}
