//! AF_XDP by hand: rings shared with the kernel, one registration of packet memory, sockets.
//!
//! [`ring`] is arithmetic that works in plain memory too; [`umem`] keeps the book of which socket
//! holds which frame; [`socket`] joins them to a queue of a device; [`netdev`] asks what a device
//! can do. Why a socket can't be opened is said here; what to do then is the port's business.

mod bind;
pub mod netdev;
mod netlink;
mod open;
pub mod ring;
pub mod socket;
pub mod umem;

pub use bind::{poll_any, raise_memlock_limit};
pub use open::{Opened, RingSizes, SocketError, SocketSpec, open};
