//! A congested port's time, shared by weight: deficit round robin (Shreedhar and Varghese, 1995).
//!
//! Each class, an endpoint, has a bounded queue of its own. When all queues together are full, the
//! oldest packet of the longest queue goes, whoever came last: who sends little loses nothing.
//! Classes are kept in lists by the length of their queues, so that no step looks at all of them.

use std::collections::VecDeque;

/// Least quantum, in bytes: no packet may be larger than a class's share of a round, or a round
/// would send nothing.
pub const QUANTUM_MIN: u32 = 1514;
/// Most classes.
pub const CLASSES_MAX: usize = 1 << 16;
/// Largest weight.
pub const WEIGHT_MAX: u32 = 1024;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// Queues of packets by class.
#[derive(Debug)]
pub struct FairQueue<T> {
    classes: Vec<Class<T>>,
    /// Classes with packets, the one whose turn it is first.
    active: VecDeque<u32>,
    /// Whether that class has got its quantum already.
    is_turn_open: bool,
    /// First class of each length of queue.
    by_length: Vec<u32>,
    longest: usize,
    count: usize,
    limit: usize,
    quantum: u32,
}

#[derive(Debug)]
struct Class<T> {
    weight: u32,
    /// Bytes that it may still send in this turn.
    deficit: u64,
    packets: VecDeque<(u32, T)>,
    /// Neighbours in the list of classes with as many packets.
    before: u32,
    after: u32,
}

/// A packet that had to go, and its class.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<T> {
    /// The class.
    pub class: usize,
    /// The packet.
    pub packet: T,
}

impl<T> FairQueue<T> {
    /// For classes of these weights (1 to [`WEIGHT_MAX`]); at most `each` packets of one class and
    /// `limit` of all. The quantum is that of weight 1, in bytes.
    pub fn new(weights: &[u32], each: usize, limit: usize, quantum: u32) -> FairQueue<T> {
        let weights = weights.iter().take(CLASSES_MAX);
        let classes = weights.map(|weight| Class {
            weight: (*weight).clamp(1, WEIGHT_MAX),
            deficit: 0,
            packets: VecDeque::new(),
            before: NONE,
            after: NONE,
        });
        FairQueue {
            classes: classes.collect(),
            active: VecDeque::new(),
            is_turn_open: false,
            by_length: vec![NONE; each + 1],
            longest: 0,
            count: 0,
            limit,
            quantum: quantum.max(QUANTUM_MIN),
        }
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Packets of a class that wait.
    pub fn depth(&self, class: usize) -> usize {
        self.classes.get(class).map_or(0, |class| class.packets.len())
    }

    /// Queues a packet of so many bytes. What comes back had to make room for it, or is itself of
    /// a class that does not exist.
    pub fn push(&mut self, class: usize, bytes: u32, packet: T) -> Option<Refused<T>> {
        if class >= self.classes.len() || self.limit == 0 || self.by_length.len() < 2 {
            return Some(Refused { class, packet });
        }
        let refused = if self.classes[class].packets.len() + 1 >= self.by_length.len() {
            self.drop_head(class)
        } else if self.count >= self.limit {
            self.drop_head(self.by_length[self.longest] as usize)
        } else {
            None
        };
        self.unlist(class);
        if self.classes[class].packets.is_empty() {
            self.classes[class].deficit = 0;
            self.active.push_back(class as u32);
        }
        self.classes[class].packets.push_back((bytes, packet));
        self.list(class);
        self.count += 1;
        refused
    }

    /// The next packet, and its class.
    pub fn pop(&mut self) -> Option<(usize, T)> {
        // Each turn of a class adds a quantum, and no packet is longer than 64 quanta.
        loop {
            let at = *self.active.front()? as usize;
            let class = &mut self.classes[at];
            if !std::mem::replace(&mut self.is_turn_open, true) {
                class.deficit += u64::from(self.quantum) * u64::from(class.weight);
            }
            let bytes = class.packets.front().map_or(0, |packet| u64::from(packet.0));
            if bytes <= class.deficit {
                class.deficit -= bytes;
                return self.take(at).map(|packet| (at, packet));
            }
            self.active.rotate_left(1);
            self.is_turn_open = false;
        }
    }

    /// Takes a class's first packet; a class without packets leaves the round.
    fn take(&mut self, at: usize) -> Option<T> {
        self.unlist(at);
        let taken = self.classes[at].packets.pop_front();
        self.list(at);
        let (_, packet) = taken?;
        self.count -= 1;
        if self.classes[at].packets.is_empty() {
            if self.active.front() == Some(&(at as u32)) {
                self.is_turn_open = false;
            }
            self.active.retain(|class| *class as usize != at);
        }
        Some(packet)
    }

    fn drop_head(&mut self, class: usize) -> Option<Refused<T>> {
        let packet = self.take(class)?;
        Some(Refused { class, packet })
    }

    /// Puts a class into the list of its length.
    fn list(&mut self, at: usize) {
        let length = self.classes[at].packets.len();
        let after = std::mem::replace(&mut self.by_length[length], at as u32);
        self.classes[at].before = NONE;
        self.classes[at].after = after;
        if let Some(class) = self.classes.get_mut(after as usize) {
            class.before = at as u32;
        }
        // Lengths change by one, so this is one step.
        self.longest = self.longest.max(length);
        while self.longest > 0 && self.by_length[self.longest] == NONE {
            self.longest -= 1;
        }
    }

    /// Takes a class out of its list.
    fn unlist(&mut self, at: usize) {
        let Class { before, after, ref packets, .. } = self.classes[at];
        let length = packets.len();
        match self.classes.get_mut(before as usize) {
            Some(class) => class.after = after,
            None if self.by_length[length] == at as u32 => self.by_length[length] = after,
            None => {}
        }
        if let Some(class) = self.classes.get_mut(after as usize) {
            class.before = before;
        }
        (self.classes[at].before, self.classes[at].after) = (NONE, NONE);
    }
}
