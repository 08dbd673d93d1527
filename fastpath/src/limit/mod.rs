//! Traffic control: what an endpoint may send and receive, and who goes first.
//!
//! A [`Policer`] drops what is beyond an endpoint's rates, a [`Shaper`] delays it, [`FairQueue`]
//! shares a congested port, [`Connections`] bounds how many there are, [`dscp`] marks. Arithmetic
//! is in exact integers, and time is an argument: nanoseconds of a monotonic clock. A bucket is
//! shared by all workers, each of which leases a little of it at a time ([`Lease`]).

mod bucket;
mod connections;
pub mod dscp;
mod fair;
mod policer;
mod shaper;
mod wheel;

pub use bucket::{Bucket, LEASE_NS, Lease, RATE_MAX, Rate};
pub use connections::Connections;
pub use fair::{CLASSES_MAX, FairQueue, QUANTUM_MIN, Refused, WEIGHT_MAX};
pub use policer::{Excess, Leases, Policer, Rates};
pub use shaper::{Booking, SHAPER_DELAY_NS, Shaper};
pub use wheel::{HORIZON_NS, SLOT_NS, Wheel};

#[cfg(test)]
mod tests;
