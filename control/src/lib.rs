//! Desired state, time and I/O: what the packet path should do, and how the world hears of it.
//!
//! [`daemon`] runs it all. An update's way: [`store`] and [`kernel`] -> [`router`] -> [`model`] ->
//! [`resolve`] (pure) -> [`publish`]; policy goes by [`policy`]. [`status`] and [`api`] tell of it,
//! [`trace`] says why a packet goes or falls. [`ipam`] gives addresses out, by way of a [`store`].

pub mod api;
pub mod bgp;
mod bird;
mod clock;
pub mod cni;
pub mod config;
mod cores;
pub mod daemon;
mod devices;
mod flow_log;
mod health;
mod host_policy;
mod http;
pub mod ipam;
pub mod kernel;
mod metrics;
pub mod model;
pub mod offline;
pub mod policy;
mod ports;
mod publish;
mod random;
pub mod resolve;
pub mod resource;
mod router;
#[cfg(test)]
mod scratch;
mod service_health;
pub mod startup;
mod status;
pub mod store;
mod sys;
pub mod trace;
mod tunnel_addresses;
mod unix_socket;
pub mod yaml;
