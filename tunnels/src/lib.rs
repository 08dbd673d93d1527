//! Packet headers, and the tunnels built from them: bytes in, bytes out.
//!
//! A leaf crate: no I/O, no clock, no thread, no unsafe. `wire` is the only parser of each header
//! in margay; everything that reads or writes a header field goes through it.
#![forbid(unsafe_code)]

pub mod wire;
