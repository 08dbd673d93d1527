//! The compiled policy of an endpoint in one direction and stage.
//!
//! Every rule is one bit or more, a lane, in the order of evaluation. Each of four dimensions
//! (source address, destination address, source port, protocol with destination port or ICMP
//! type) has a vector of the lanes that a packet's value allows; the first bit that all four have
//! is the first rule that matches. Above eight words a summary with a bit for each word that is
//! not zero comes first, so that the work grows with a 4096th of the lanes.

use super::Outcome;
use crate::Verdict;
use crate::origin::Origin;
use crate::packet::Packet;
use std::sync::Arc;

/// Most lanes of a program: rules, counted once for each port that one of their names stands for.
pub const LANES_MAX: usize = 1 << 16;
/// Most different vectors of a dimension.
pub const VECTORS_MAX: usize = (1 << 16) - 2;
/// Up to this many words there is no summary.
const PLAIN_WORDS: usize = 8;
/// Vectors that lie in one allocation, and are copied together when one is added.
const TABLE_PAGE: usize = 64;
/// Classes of one page of an [`AddressMap`].
pub(crate) const CLASS_PAGE: usize = 256;

/// A compiled program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) source: AddressMap,
    pub(crate) destination: AddressMap,
    pub(crate) fixed: Arc<Fixed>,
}

/// The parts of a program that do not depend on addresses.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) shape: Shape,
    pub(crate) source_port: PortMap,
    pub(crate) source_vectors: Table,
    /// The place in `services` of each protocol.
    pub(crate) protocols: Box<[u8; 256]>,
    pub(crate) services: Vec<PortMap>,
    pub(crate) service_vectors: Table,
    /// What each lane does.
    pub(crate) steps: Box<[Step]>,
    pub(crate) origins: Box<[Origin]>,
}

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
    pub(crate) words: usize,
    /// Words of the summary, which come first.
    pub(crate) summary: usize,
}

/// Vectors by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    stride: usize,
    count: usize,
    pages: Vec<Arc<Vec<u64>>>,
}

/// From address classes to vectors.
#[derive(Debug, Clone)]
pub(crate) struct AddressMap {
    /// Vector of classes that are in none of the program's sets, for IPv4 and IPv6.
    pub(crate) default: [u16; 2],
    /// Vector numbers from 1 on; 0 for the default.
    pub(crate) pages: Vec<Arc<[u16; CLASS_PAGE]>>,
    pub(crate) table: Table,
    /// True when there is one vector, of ones.
    pub(crate) is_trivial: bool,
}

/// From 16-bit values to vectors, by runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortMap {
    /// First values of the runs, the first one 0.
    pub(crate) starts: Vec<u16>,
    pub(crate) vectors: Vec<u16>,
    /// The run of each 256th value and the last run, for maps that are long.
    pub(crate) index: Option<Box<[u16; 257]>>,
    /// For packets whose value is not known.
    pub(crate) unknown: u16,
}

impl Shape {
    pub(crate) fn of(lanes: usize) -> Shape {
        let words = lanes.div_ceil(64);
        Shape { words, summary: if words > PLAIN_WORDS { words.div_ceil(64) } else { 0 } }
    }

    pub(crate) fn stride(self) -> usize {
        self.words + self.summary
    }

    /// A vector without lanes.
    pub(crate) fn empty(self) -> Vec<u64> {
        vec![0; self.stride()]
    }

    pub(crate) fn set(self, vector: &mut [u64], lane: u32) {
        let word = lane as usize / 64;
        vector[self.summary + word] |= 1 << (lane % 64);
        if self.summary > 0 {
            vector[word / 64] |= 1 << (word % 64);
        }
    }

    pub(crate) fn clear(self, vector: &mut [u64], lane: u32) {
        let word = lane as usize / 64;
        vector[self.summary + word] &= !(1 << (lane % 64));
        if self.summary > 0 && vector[self.summary + word] == 0 {
            vector[word / 64] &= !(1 << (word % 64));
        }
    }
}

impl Table {
    pub(crate) fn new(stride: usize) -> Table {
        Table { stride, count: 0, pages: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    #[inline]
    pub(crate) fn get(&self, number: u16) -> &[u64] {
        let number = usize::from(number);
        let at = number % TABLE_PAGE * self.stride;
        &self.pages[number / TABLE_PAGE][at..at + self.stride]
    }

    /// Adds a vector; its number is the count before.
    pub(crate) fn push(&mut self, vector: &[u64]) {
        if self.count.is_multiple_of(TABLE_PAGE) {
            self.pages.push(Arc::default());
        }
        if let Some(page) = self.pages.last_mut() {
            Arc::make_mut(page).extend_from_slice(vector);
        }
        self.count += 1;
    }

    fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.capacity() * 8 + size_of::<Vec<u64>>()).sum()
    }
}

impl AddressMap {
    #[inline]
    fn vector(&self, class: u32, is_v6: bool) -> &[u64] {
        let page = self.pages.get(class as usize / CLASS_PAGE);
        let number = match page.map_or(0, |page| page[class as usize % CLASS_PAGE]) {
            0 => self.default[usize::from(is_v6)],
            number => number - 1,
        };
        self.table.get(number)
    }

    fn bytes(&self) -> usize {
        self.pages.len() * (8 + CLASS_PAGE * 2) + self.table.bytes()
    }
}

impl PortMap {
    #[inline]
    fn vector(&self, value: Option<u16>) -> u16 {
        let Some(value) = value else { return self.unknown };
        let (from, to) = match &self.index {
            None => (0, self.starts.len() - 1),
            Some(index) => {
                let high = usize::from(value >> 8);
                (usize::from(index[high]), usize::from(index[high + 1]))
            }
        };
        self.vectors[from + self.starts[from + 1..=to].partition_point(|start| *start <= value)]
    }

    fn bytes(&self) -> usize {
        self.starts.len() * 4 + if self.index.is_some() { 514 } else { 0 }
    }
}

impl Program {
    /// Finds the lane that decides. `log` is called for lanes that only make a note.
    pub(crate) fn decide(
        &self,
        packet: &Packet,
        classes: [u32; 2],
        mut log: impl FnMut(&Origin),
    ) -> Outcome {
        let fixed = &*self.fixed;
        let is_v6 = packet.source.is_ipv6();
        let ports = packet.ports();
        let value = match packet.icmp() {
            Some((kind, code)) => Some(u16::from_be_bytes([kind, code])),
            None => ports.map(|(_, destination)| destination),
        };
        let service = &fixed.services[usize::from(fixed.protocols[usize::from(packet.protocol)])];
        let service = fixed.service_vectors.get(service.vector(value));
        let source = match self.source.is_trivial {
            true => service,
            false => self.source.vector(classes[0], is_v6),
        };
        let destination = match self.destination.is_trivial {
            true => service,
            false => self.destination.vector(classes[1], is_v6),
        };
        let source_port = match fixed.source_vectors.len() {
            1 => service,
            _ => {
                let number = fixed.source_port.vector(ports.map(|(source, _)| source));
                fixed.source_vectors.get(number)
            }
        };
        self.run([service, source, destination, source_port], &mut log)
    }

    fn run(&self, vectors: [&[u64]; 4], log: &mut impl FnMut(&Origin)) -> Outcome {
        let fixed = &*self.fixed;
        let (mut at, mut logged) = (0, false);
        // Every step goes forward, so this ends after all lanes at the latest.
        while let Some(lane) = fixed.shape.first(vectors, at) {
            let Some(step) = fixed.steps.get(lane) else { break };
            at = match step.action {
                Action::Decide(verdict) => {
                    return Outcome { verdict, logged, program: 0, origin: step.origin };
                }
                Action::Jump(to) => (to as usize).max(lane + 1),
                Action::Log(to) => {
                    logged = true;
                    log(&fixed.origins[step.origin as usize]);
                    (to as usize).max(lane + 1)
                }
            };
        }
        Outcome { verdict: Verdict::Deny, logged, program: 0, origin: u32::MAX }
    }

    /// Bytes of the program without those that it shares with others.
    pub(crate) fn bytes(&self) -> usize {
        let fixed = &*self.fixed;
        let ports = fixed.source_port.bytes()
            + fixed.services.iter().map(PortMap::bytes).sum::<usize>()
            + fixed.source_vectors.bytes()
            + fixed.service_vectors.bytes();
        let steps = fixed.steps.len() * size_of::<Step>();
        let origins = fixed.origins.len() * size_of::<Origin>();
        size_of::<Program>()
            + size_of::<Fixed>()
            + 256
            + self.source.bytes()
            + self.destination.bytes()
            + ports
            + steps
            + origins
    }

    pub(crate) fn lanes(&self) -> usize {
        self.fixed.steps.len()
    }

    pub(crate) fn vectors(&self) -> usize {
        self.source.table.len() + self.destination.table.len()
    }
}

impl Shape {
    /// The first lane from `at` on that all vectors have.
    #[inline]
    fn first(self, vectors: [&[u64]; 4], at: usize) -> Option<usize> {
        let word = |place: usize| vectors.iter().fold(u64::MAX, |all, one| all & one[place]);
        let (mut place, mut mask) = (at / 64, u64::MAX << (at % 64));
        if self.summary == 0 {
            while place < self.words {
                let bits = word(place) & mask;
                if bits != 0 {
                    return Some(place * 64 + bits.trailing_zeros() as usize);
                }
                (place, mask) = (place + 1, u64::MAX);
            }
            return None;
        }
        while place < self.words {
            let candidates = word(place / 64) & u64::MAX << (place % 64);
            if candidates == 0 {
                (place, mask) = ((place / 64 + 1) * 64, u64::MAX);
                continue;
            }
            let next = place / 64 * 64 + candidates.trailing_zeros() as usize;
            if next != place {
                (place, mask) = (next, u64::MAX);
            }
            let bits = word(self.summary + place) & mask;
            if bits != 0 {
                return Some(place * 64 + bits.trailing_zeros() as usize);
            }
            (place, mask) = (place + 1, u64::MAX);
        }
        None
    }
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
