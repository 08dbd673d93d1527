//! Connection tracking: which packets belong together, and for how long.
//!
//! A [`FlowTable`] is one worker's: nothing in it is shared, and time is an argument, in seconds.
//! Each session is found by one lookup from either direction. TCP is followed by its flags without
//! windows (the kernel's `nf_conntrack_tcp_be_liberal`), timeouts have Linux's names and defaults.
//! Translation of addresses is not done here: a session only remembers both of its tuples.

mod address;
mod index;
mod protocol;
mod session;
mod table;
mod timeouts;
mod wheel;

pub use address::{Address, Tuple, TupleV4};
pub use protocol::{Signal, State};
pub use session::{Direction, Session, SessionId};
pub use table::{Alike, BATCH, Carried, Counters, FlowTable, Limits, Refused, Removed, Seen, Tier};
pub use timeouts::{NAT_QUERY_MIN_S, NAT_TCP_TRANSITORY_MIN_S, NAT_UDP_MIN_S, Timeouts};

#[cfg(test)]
pub(crate) mod tests;
