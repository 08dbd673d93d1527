//! A packet generator and its sink, in the kernel: no packet crosses into user space.
//!
//! ```text
//! Sender: BPF_PROG_TEST_RUN live frames -> write a flow's bytes, stamp -> redirect out of a device
//! Receiver: XDP on a device -> check the stamp -> count, by CPU -> drop
//! ```
//!
//! A stamp ([`stamp`]) lies behind the UDP or TCP header and says flow, sequence number and time,
//! so that a [`Receiver`] on the same machine knows what is lost, late, damaged, and how long it
//! took (RFC 2544, RFC 4737). Any router can be between the two.

mod frames;
mod latency;
mod receiver;
mod sender;
pub mod stamp;
#[cfg(test)]
mod tests;

pub use frames::{Frames, FramesError, IMIX, Protocol, Template};
pub use latency::Latency;
pub use receiver::{Counts, Receiver};
pub use sender::{Pace, Sender};
