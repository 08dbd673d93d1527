//! Numbers of a table's nodes: free, in use, or retired until no reader can hold them.

/// Hands out node numbers below a limit, the lowest unused first, so that memory is touched only
/// as far as it was ever needed.
#[derive(Debug)]
pub(super) struct Slots {
    limit: u32,
    touched: u32,
    free: Vec<u32>,
    retired: Vec<u32>,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Slots {
        Slots { limit, touched: 0, free: Vec::new(), retired: Vec::new() }
    }

    pub(super) fn alloc(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        if self.touched == self.limit {
            return None;
        }
        self.touched += 1;
        Some(self.touched - 1)
    }

    /// Takes a number out of use; it is handed out again only after [`Slots::reclaim`].
    pub(super) fn retire(&mut self, number: u32) {
        self.retired.push(number);
    }

    pub(super) fn reclaim(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Numbers that [`Slots::alloc`] can still give.
    pub(super) fn available(&self) -> usize {
        (self.limit - self.touched) as usize + self.free.len()
    }

    pub(super) fn retired(&self) -> usize {
        self.retired.len()
    }

    /// Numbers in the tables that readers see.
    pub(super) fn in_use(&self) -> usize {
        self.touched as usize - self.free.len() - self.retired.len()
    }
}
