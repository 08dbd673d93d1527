//! Whose turn it is: deficit round robin (Shreedhar and Varghese, 1995) over numbered members.
//!
//! Who has just come goes before those who have waited in line, up to one quantum, so that whoever
//! sends little hardly waits (as in RFC 8290 4.2, whose order of the two lists this is). A member
//! keeps its place until its turn finds it empty, so coming anew gains nothing.

use std::collections::VecDeque;

/// The members that have something, in their order.
#[derive(Debug, Default)]
pub(super) struct Round {
    fresh: VecDeque<u32>,
    old: VecDeque<u32>,
    turns: Vec<Turn>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Bytes that it may still send; below 0 after a packet that was larger.
    deficit: i64,
    is_listed: bool,
}

impl Round {
    /// A member has something; it may have had before.
    pub(super) fn enter(&mut self, member: usize, quantum: u32) {
        if member >= self.turns.len() {
            self.turns.resize(member + 1, Turn::default());
        }
        let turn = &mut self.turns[member];
        if !std::mem::replace(&mut turn.is_listed, true) {
            turn.deficit = i64::from(quantum);
            self.fresh.push_back(member as u32);
        }
    }

    /// The member whose turn it is; each time that one's turn ends, it gets its quantum and goes
    /// behind the others.
    pub(super) fn next(&mut self, quantum: impl Fn(usize) -> u32) -> Option<usize> {
        // A packet is no longer than 64 KiB, so a member passes its turn 64 times at most.
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh { &mut self.fresh } else { &mut self.old };
            let member = *list.front()?;
            let turn = &mut self.turns[member as usize];
            if turn.deficit > 0 {
                return Some(member as usize);
            }
            turn.deficit += i64::from(quantum(member as usize));
            list.pop_front();
            self.old.push_back(member);
        }
    }

    /// The member whose turn it is has sent so many bytes.
    pub(super) fn spend(&mut self, member: usize, bytes: u32) {
        self.turns[member].deficit -= i64::from(bytes);
    }

    /// The member whose turn it is has nothing: it leaves, or goes behind the others first if it
    /// has just come and there are others.
    pub(super) fn pass(&mut self) {
        if let Some(member) = self.fresh.pop_front() {
            return self.old.push_back(member);
        }
        if let Some(member) = self.old.pop_front() {
            self.turns[member as usize].is_listed = false;
        }
    }
}
