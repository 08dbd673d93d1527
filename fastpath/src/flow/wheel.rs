//! When sessions are looked at again: a wheel of one-second slots, with lists through the sessions.
//!
//! A packet does not move its session: when the slot comes up, the session that has lived on is
//! put into the slot of its new end. One whose end is farther than the wheel is long goes as far
//! as there is, and so is looked at every [`SLOTS`] seconds. One turn does a bounded piece of work.

/// Slots of the wheel, and seconds of one round.
pub(super) const SLOTS: usize = 1024;
/// No session.
pub(super) const NONE: u32 = u32::MAX;

/// Neighbours in a slot's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) next: u32,
    pub(super) previous: u32,
}

impl Links {
    /// In no list.
    pub(super) const NONE: Links = Links { next: NONE, previous: NONE };
}

/// Where the links of a session are.
pub(super) trait Linked {
    fn links(&mut self, id: u32) -> &mut Links;
}

/// The heads of the lists.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32]>,
    /// The slot of this second is being looked at.
    now_s: u32,
}

impl Wheel {
    pub(super) fn new(now_s: u32) -> Wheel {
        Wheel { heads: vec![NONE; SLOTS].into_boxed_slice(), now_s }
    }

    /// The slot of a session that ends at `end_s`: after now, and within the round.
    fn slot(&self, end_s: u32) -> u32 {
        let ahead = end_s.saturating_sub(self.now_s).clamp(1, SLOTS as u32 - 1);
        self.now_s.wrapping_add(ahead) % SLOTS as u32
    }

    /// Puts a session in, by its end; the slot, which [`Wheel::remove`] wants back.
    pub(super) fn insert(&mut self, all: &mut impl Linked, id: u32, end_s: u32) -> u16 {
        let slot = self.slot(end_s);
        let head = std::mem::replace(&mut self.heads[slot as usize], id);
        *all.links(id) = Links { next: head, previous: NONE };
        if head != NONE {
            all.links(head).previous = id;
        }
        slot as u16
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, all: &mut impl Linked, id: u32, slot: u16) {
        let Links { next, previous } = std::mem::replace(all.links(id), Links::NONE);
        match previous {
            NONE => self.heads[usize::from(slot)] = next,
            previous => all.links(previous).next = next,
        }
        if next != NONE {
            all.links(next).previous = previous;
        }
    }

    /// A session to be looked at at `now_s`, still in its list: the caller takes it out, or puts
    /// it elsewhere, and asks again. `None` when all that was due has been looked at.
    pub(super) fn due(&mut self, now_s: u32) -> Option<u32> {
        loop {
            let head = self.heads[self.now_s as usize % SLOTS];
            if head != NONE {
                return Some(head);
            }
            if self.now_s >= now_s {
                return None;
            }
            self.now_s += 1;
        }
    }
}
