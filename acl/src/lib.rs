//! Calico policy: from selectors, tiers and rules to a verdict for one packet.
//!
//! A leaf: no I/O, no clock, no thread, no unsafe. [`model`] says what policy is, [`selector`] its
//! language; [`reference`] evaluates it slowly and explains, [`compile`] keeps a [`classifier`]
//! up to date that gives the same verdicts at constant cost. Left out: connection tracking and
//! NAT, which decide whether policy is asked at all, and for which addresses.
#![forbid(unsafe_code)]

pub mod classifier;
pub mod compile;
pub mod model;
pub mod origin;
pub mod packet;
pub mod reference;
pub mod selector;

/// What policy decides for a packet at one endpoint, in one direction and stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The packet goes on; in a stage before the last one it has passed the later ones too.
    Allow,
    /// The packet is dropped and counted.
    Deny,
    /// This stage has nothing to say: the next one is asked. Only from stages that have a next
    /// one ([`Stage::PreDnat`] and [`Stage::Untracked`]).
    Continue,
}

/// A packet's way through an endpoint, from the endpoint's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the endpoint; for a host endpoint in from its interface.
    Ingress,
    /// From the endpoint; for a host endpoint out to its interface.
    Egress,
}

/// Which of an endpoint's policies are asked. Workloads have [`Stage::Normal`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Traffic that begins or ends at the endpoint.
    Normal,
    /// Traffic that only passes a host endpoint: policies with applyOnForward.
    Forward,
    /// Ingress before destination NAT: policies with preDNAT.
    PreDnat,
    /// Before connection tracking: policies with doNotTrack.
    Untracked,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 4] = [Stage::Normal, Stage::Forward, Stage::PreDnat, Stage::Untracked];
}
