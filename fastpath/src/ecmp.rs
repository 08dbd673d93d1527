//! Choice among equal paths by flow hash.

use crate::tables::{AdjacencyId, EcmpGroup};

impl EcmpGroup {
    /// The path of a flow.
    #[inline]
    pub fn select(&self, hash: u32) -> AdjacencyId {
        self.buckets[hash as usize & (self.buckets.len() - 1)]
    }
}
