//! Translation of addresses: who is translated, to what, and how packets are rewritten.
//!
//! NAT-outgoing is Calico's: a source in a pool with `natOutgoing` and a destination in no pool
//! looks like one of the outside addresses. The [`Rules`] are one immutable snapshot; each worker
//! has a [`Tracker`] with its own sessions, ports and waiting fragments. A worker owns every fourth
//! (with four workers) pair of ports, inside and outside alike, so a packet's owner is read off its
//! inside port, and a port that is kept is always the owner's.
//!
//! RFC 4787, 5382 and 5508: mapping is independent of the far end, until ports run out; filtering
//! is a setting; hairpins work. Left out: hold-down of ports that were just in use (RFC 6888
//! REQ-8), logs (REQ-12), translation of SCTP's ports.

pub mod fragments;
mod ports;
mod rewrite;
mod rules;
mod subject;
mod tracker;

pub use ports::PortUse;
pub(crate) use rewrite::changes;
pub use rewrite::translate;
pub use rules::{Class, Filtering, OWN_RANGE, PortRange, Ranges, Rules};
pub use subject::{Part, Subject, subject};
pub use tracker::{HITS_MAX, NatReport, Tracker, Verdict};
