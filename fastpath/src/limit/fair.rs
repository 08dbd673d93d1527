//! A congested port's time, shared by weight among classes (endpoints), and within a class evenly
//! among flows, by deficit round robin.
//!
//! Each class has a bounded queue of its own. When all queues together are full, the oldest packet
//! of the longest flow of the longest queue goes, whoever came last: who sends little loses
//! nothing. Each flow's wait is watched too ([`super::codel`]). Classes are kept in lists by the
//! length of their queues, and packets in one slab, so that no step looks at all of them and a
//! queue that has been full once allocates no more.

use super::codel::Codel;
use super::round::Round;

/// The quantum of weight 1, in bytes: one full frame of Ethernet.
pub const QUANTUM: u32 = 1514;
/// Most classes.
pub const CLASSES_MAX: usize = 1 << 16;
/// Largest weight.
pub const WEIGHT_MAX: u32 = 1024;
/// Queues of flows within a class; flows of one hash share one.
pub const FLOWS: usize = 32;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// What the queue must know of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its class, below [`CLASSES_MAX`].
    pub class: usize,
    /// The weight of the class from now on, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// A hash of its flow.
    pub flow: u32,
    /// Its length in bytes.
    pub bytes: u32,
    /// The time, in nanoseconds.
    pub now_ns: u64,
}

/// Queues of packets by class and flow.
#[derive(Debug)]
pub struct FairQueue<T> {
    classes: Vec<Class>,
    round: Round,
    nodes: Vec<Node<T>>,
    /// First node without a packet.
    free: u32,
    /// First class of each length of queue.
    by_length: Vec<u32>,
    longest: usize,
    count: usize,
    limit: usize,
}

#[derive(Debug)]
struct Class {
    weight: u32,
    length: usize,
    /// Neighbours in the list of classes with as many packets.
    before: u32,
    after: u32,
    /// [`FLOWS`] of them, once it has had a packet.
    flows: Vec<Flow>,
    round: Round,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    head: u32,
    tail: u32,
    length: usize,
    codel: Codel,
}

#[derive(Debug)]
struct Node<T> {
    packet: Option<T>,
    bytes: u32,
    since_ns: u64,
    next: u32,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow { head: NONE, tail: NONE, length: 0, codel: Codel::default() }
    }
}

impl Default for Class {
    fn default() -> Class {
        Class {
            weight: 1,
            length: 0,
            before: NONE,
            after: NONE,
            flows: Vec::new(),
            round: Round::default(),
        }
    }
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
    /// For at most `each` packets of one class and `limit` of all.
    pub fn new(each: usize, limit: usize) -> FairQueue<T> {
        FairQueue {
            classes: Vec::new(),
            round: Round::default(),
            nodes: Vec::new(),
            free: NONE,
            by_length: vec![NONE; each + 1],
            longest: 0,
            count: 0,
            limit,
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
        self.classes.get(class).map_or(0, |class| class.length)
    }

    /// Queues a packet. What comes back had to make room for it, or is itself of a class that
    /// cannot be.
    pub fn push(&mut self, entry: Entry, packet: T) -> Option<Refused<T>> {
        let class = entry.class;
        if class >= CLASSES_MAX || self.limit == 0 || self.by_length.len() < 2 {
            return Some(Refused { class, packet });
        }
        while self.classes.len() <= class {
            self.classes.push(Class::default());
            self.list(self.classes.len() - 1);
        }
        let refused = if self.classes[class].length + 1 >= self.by_length.len() {
            self.drop_from(class)
        } else if self.count >= self.limit {
            self.drop_from(self.by_length[self.longest] as usize)
        } else {
            None
        };
        self.append(entry, packet);
        refused
    }

    /// Drops the oldest packet of the longest queue, to make room elsewhere.
    pub fn drop_longest(&mut self) -> Option<Refused<T>> {
        if self.count == 0 {
            return None;
        }
        self.drop_from(self.by_length[self.longest] as usize)
    }

    fn append(&mut self, entry: Entry, packet: T) {
        let at = self.node(Node {
            packet: Some(packet),
            bytes: entry.bytes,
            since_ns: entry.now_ns,
            next: NONE,
        });
        self.unlist(entry.class);
        let class = &mut self.classes[entry.class];
        class.weight = entry.weight.clamp(1, WEIGHT_MAX);
        class.length += 1;
        let number = entry.flow as usize % FLOWS;
        class.flows.resize(FLOWS, Flow::default());
        let flow = &mut class.flows[number];
        match std::mem::replace(&mut flow.tail, at) {
            NONE => flow.head = at,
            last => self.nodes[last as usize].next = at,
        }
        flow.length += 1;
        class.round.enter(number, QUANTUM);
        self.round.enter(entry.class, QUANTUM * class.weight);
        self.list(entry.class);
        self.count += 1;
    }

    /// The next packet; those that have waited too long are given to `lost`.
    pub fn pop(&mut self, now_ns: u64, mut lost: impl FnMut(T)) -> Option<T> {
        while self.count > 0 {
            let classes = &self.classes;
            let class = self.round.next(|class| QUANTUM * classes[class].weight)?;
            let Some(flow) = self.classes[class].round.next(|_| QUANTUM) else {
                self.round.pass();
                continue;
            };
            let Some(taken) = self.take(class, flow) else {
                self.classes[class].round.pass();
                continue;
            };
            let Class { flows, round, .. } = &mut self.classes[class];
            let behind = flows[flow].length;
            if flows[flow].codel.drops(taken.since_ns, now_ns, behind) {
                taken.packet.map(&mut lost);
                continue;
            }
            round.spend(flow, taken.bytes);
            self.round.spend(class, taken.bytes);
            return taken.packet;
        }
        None
    }

    /// Takes a flow's first packet.
    fn take(&mut self, at: usize, flow: usize) -> Option<Node<T>> {
        let first = self.classes[at].flows[flow].head;
        let node = self.nodes.get_mut(first as usize)?;
        let taken = Node { packet: node.packet.take(), ..*node };
        node.next = std::mem::replace(&mut self.free, first);
        self.unlist(at);
        let class = &mut self.classes[at];
        class.length -= 1;
        let flow = &mut class.flows[flow];
        flow.length -= 1;
        flow.head = taken.next;
        if flow.head == NONE {
            flow.tail = NONE;
        }
        self.list(at);
        self.count -= 1;
        Some(taken)
    }

    fn drop_from(&mut self, class: usize) -> Option<Refused<T>> {
        let lengths = self.classes[class].flows.iter().map(|flow| flow.length);
        let (longest, _) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        let packet = self.take(class, longest)?.packet?;
        Some(Refused { class, packet })
    }

    /// A place for a node.
    fn node(&mut self, node: Node<T>) -> u32 {
        match self.nodes.get_mut(self.free as usize) {
            Some(place) => {
                let at = std::mem::replace(&mut self.free, place.next);
                *place = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    /// Puts a class into the list of its length.
    fn list(&mut self, at: usize) {
        let length = self.classes[at].length;
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
        let Class { before, after, length, .. } = self.classes[at];
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

#[cfg(test)]
mod tests;
