//! Packet headers, and the tunnels built from them: bytes in, bytes out.
//!
//! A leaf crate: no I/O, no clock, no thread, no unsafe. `wire` is the only parser of each header
//! in margay; everything that reads or writes a header field goes through it. `encap` and `decap`
//! are IPIP and VXLAN, `ecn` what their outer headers say about congestion, `mss` what TCP is told
//! where a tunnel takes room.
#![forbid(unsafe_code)]

pub mod decap;
pub mod ecn;
pub mod encap;
pub mod mss;
pub mod wire;
