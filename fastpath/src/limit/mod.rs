//! Traffic control: what an endpoint may send and receive, and who goes first.
//!
//! A [`Policer`] drops what is beyond an endpoint's rates, a [`Shaper`] delays it, [`FairQueue`]
//! shares a congested port, [`Connections`] bounds how many there are, [`dscp`] marks, [`Punts`]
//! protects the host and the worker from packets that need more than to be forwarded. Arithmetic
//! is in exact integers, and time is an argument: nanoseconds of a monotonic clock. A bucket is
//! shared by all workers, each of which leases a little of it at a time ([`Lease`]), and with flow
//! offload by the XDP program ([`Gates`]). [`Limits`] is
//! the snapshot that workers read, by port; [`OwnLimits`] is what one of them keeps of it.

mod account;
mod bucket;
mod codel;
mod connections;
mod cost;
pub mod dscp;
mod endpoint;
mod excess;
mod fair;
pub(crate) mod gates;
mod line;
mod policer;
mod port_rate;
mod punt;
mod queue_account;
mod round;
mod shaper;
mod snapshot;
mod wheel;

pub use account::{Account, Tally, Totals, WINDOW_NS};
pub use bucket::{Bucket, LEASE_NS, Lease, RATE_MAX, Rate};
pub use codel::{FEW, INTERVAL_NS, TARGET_NS};
pub use connections::{ConnectionLimit, Connections};
pub use cost::Cost;
pub use endpoint::{Departure, EndpointLimits, Takers, Wanted, WayLimits};
pub use excess::Excess;
pub use fair::{CLASSES_MAX, Entry, FLOWS, FairQueue, QUANTUM, Refused, WEIGHT_MAX};
pub use gates::{Gates, Queued};
pub use policer::{Leases, Policer, Rates};
pub use port_rate::PortRate;
pub use punt::{ALL_PORTS, Allowance, Cause, Punts, is_routing};
pub use queue_account::{QueueAccount, QueueTotals};
pub use shaper::{Booking, SHAPER_DELAY_NS, Shaper};
pub use snapshot::{Limits, OwnLimits, WAITING_MAX, Waiting};
pub use wheel::{HORIZON_NS, SLOT_NS, Wheel};

#[cfg(test)]
mod tests;
