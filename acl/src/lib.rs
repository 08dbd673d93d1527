//! Calico policy: from selectors, tiers and rules to a verdict for one packet.
//!
//! A leaf: no I/O, no clock, no thread, no unsafe. It holds the word that the packet path and the
//! policy compiler share, and [`selector`]s.
#![forbid(unsafe_code)]

pub mod selector;

/// What policy decides for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on.
    Allow,
    /// The packet is dropped and counted.
    Deny,
}
