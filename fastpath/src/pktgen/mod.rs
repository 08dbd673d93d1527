//! A packet generator, its sink, and the methods of RFC 2544 and RFC 9004 for the two.
//!
//! ```text
//! Sender: BPF_PROG_TEST_RUN live frames -> write a flow's bytes, stamp -> redirect out of a device
//! SocketSender: the same bytes from user space -> AF_XDP socket of a device
//! Receiver: XDP on a device -> check the stamp -> count, by CPU -> drop
//! ```
//!
//! A stamp ([`stamp`]) lies behind the UDP or TCP header and says flow, sequence number and time,
//! so that a [`Receiver`] on the same machine knows what is lost, late, damaged, and how long it
//! took (RFC 2544, RFC 4737). Any router can be between the two.

mod frames;
mod latency;
pub mod method;
mod receiver;
mod sender;
mod socket;
mod source;
pub mod stamp;
#[cfg(test)]
mod tests;

pub use frames::{Frames, FramesError, IMIX, Protocol, Template};
pub use latency::Latency;
pub use receiver::{Counts, Receiver};
pub use sender::Sender;
pub use socket::{SocketSender, SocketSenderError};
pub use source::{Pace, Sent, Source};
