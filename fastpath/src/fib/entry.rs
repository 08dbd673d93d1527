//! One word of a lookup table: nothing, a target, or the number of a deeper node.

use crate::tables::TargetId;

/// Greatest target id that fits an entry.
pub const MAX_TARGET: u32 = (1 << 24) - 1;

const TARGET: u32 = 1 << 31;
pub(super) const STRIDE: u32 = 1 << 30;
pub(super) const BUCKET: u32 = 1 << 29;
pub(super) const NUMBER: u32 = MAX_TARGET;

/// A table's word, decoded. 0 is [`Entry::NONE`], so that fresh tables are empty tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u32);

impl Entry {
    /// No prefix but the default route covers this.
    pub(super) const NONE: Entry = Entry(0);

    pub(super) fn target(id: TargetId) -> Entry {
        Entry(TARGET | id.0)
    }

    pub(super) fn stride(number: u32) -> Entry {
        Entry(STRIDE | number)
    }

    pub(super) fn bucket(number: u32) -> Entry {
        Entry(BUCKET | number)
    }

    #[inline]
    pub(super) fn is_target(self) -> bool {
        self.0 & TARGET != 0
    }

    #[inline]
    pub(super) fn is_stride(self) -> bool {
        self.0 & STRIDE != 0
    }

    #[inline]
    pub(super) fn is_bucket(self) -> bool {
        self.0 & BUCKET != 0
    }

    /// A deeper node, of either kind.
    #[inline]
    pub(super) fn is_node(self) -> bool {
        self.0 & (STRIDE | BUCKET) != 0
    }

    /// The target's id; 0, no route, when there is none.
    #[inline]
    pub(super) fn id(self) -> TargetId {
        if self.is_target() { TargetId(self.0 & NUMBER) } else { TargetId(0) }
    }

    /// The node's number.
    #[inline]
    pub(super) fn number(self) -> u32 {
        self.0 & NUMBER
    }
}
