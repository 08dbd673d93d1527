//! Verdicts for many packets at once.
//!
//! A decision is a chain of reads, each of which says where the next one is. Here every step is
//! done for all packets of a burst before the next step begins, so that the reads of different
//! packets, most of which miss the caches, wait for memory together. Some steps only touch what
//! the next one needs: a branch on a value that is not there yet would end the overlap.

use super::program::{Program, Vectors};
use super::table::Cursor;
use super::{Classifier, Handle, Outcome, key};
use crate::packet::Packet;
use crate::{Direction, Stage};
use std::hint::black_box;

/// Packets that are decided together.
pub const BURST: usize = 32;

/// A packet at an endpoint, in one stage and direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The endpoint.
    pub endpoint: Handle,
    /// Which of its policies are asked.
    pub stage: Stage,
    /// The packet's way.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
}

/// What is known of each packet of a burst.
struct Burst<'a> {
    cursors: [[Cursor<'a>; 2]; BURST],
    numbers: [u32; BURST],
    programs: [Option<&'a Program>; BURST],
    vectors: [Vectors<'a>; BURST],
}

impl Classifier {
    /// Places for so many outcomes, each of which denies.
    pub fn outcomes(&self, count: usize) -> Vec<Outcome> {
        vec![Outcome::UNKNOWN_ENDPOINT; count]
    }

    /// Decides the fates of many packets, each as [`Classifier::classify`] does. There are as many
    /// outcomes as questions.
    pub fn classify_all(&self, questions: &[Question], outcomes: &mut [Outcome]) {
        for (some, outcomes) in questions.chunks(BURST).zip(outcomes.chunks_mut(BURST)) {
            self.classify_burst(some, outcomes);
        }
    }

    fn classify_burst(&self, questions: &[Question], outcomes: &mut [Outcome]) {
        let mut burst = Burst {
            cursors: [[Cursor::NOWHERE; 2]; BURST],
            numbers: [u32::MAX; BURST],
            programs: [None; BURST],
            vectors: [[&[]; 4]; BURST],
        };
        for (at, question) in questions.iter().enumerate() {
            let Question { endpoint, stage, direction, packet } = question;
            burst.numbers[at] = self.program_number((*endpoint, *stage, *direction));
            burst.cursors[at] = [packet.source, packet.destination]
                .map(|address| self.tables[usize::from(address.is_ipv6())].begin(key(address)));
        }
        let mut touched = 0;
        for at in 0..questions.len() {
            burst.programs[at] = self.program(burst.numbers[at]);
            touched ^= burst.cursors[at].map(Cursor::touch).iter().fold(0, |all, one| all ^ one);
        }
        for (program, question) in burst.programs.iter().zip(questions) {
            touched ^= program.map_or(0, |program| program.touch(&question.packet));
        }
        for (at, Question { packet, .. }) in questions.iter().enumerate() {
            let [source, destination] = burst.cursors[at];
            let (from, to) = (key(packet.source), key(packet.destination));
            let classes = [source.finish(from), destination.finish(to)];
            if let Some(program) = burst.programs[at] {
                burst.vectors[at] = program.vectors(packet, classes);
            }
        }
        let first = |vector: &&[u64]| vector.first().copied().unwrap_or(0) as u16;
        for vectors in &burst.vectors[..questions.len()] {
            touched ^= vectors.iter().map(first).fold(0, |all, one| all ^ one);
        }
        black_box(touched);
        for (at, outcome) in outcomes.iter_mut().enumerate().take(questions.len()) {
            *outcome = match burst.programs[at] {
                Some(program) => {
                    let outcome = program.decide(burst.vectors[at], |_| ());
                    Outcome { program: burst.numbers[at], ..outcome }
                }
                None => Outcome::UNKNOWN_ENDPOINT,
            };
        }
    }
}
