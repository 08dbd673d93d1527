//! The BGP protocol (RFC 4271) without I/O and without a clock: bytes and times in, messages and
//! decisions out. [`wire`] reads and writes messages; [`session`] speaks with a peer; [`rib`] keeps
//! routes and chooses among them, [`policy`] judges them; [`bfd`] watches the way to a peer;
//! [`family`] holds the address-family words that the rest of margay shares with it.
#![forbid(unsafe_code)]

pub mod bfd;
pub mod family;
pub mod policy;
pub mod rib;
pub mod session;
pub mod wire;

pub use family::{Family, FamilySet};
