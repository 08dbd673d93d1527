//! HTTP with JSON over a Unix socket: what `margay show` and the like ask the daemon.
//!
//! One file a resource: the type of its answer, used by server and client alike, and how it is
//! made of the [`crate::status::Status`]. Keys are camelCase and stable.

pub mod bgp;
pub mod bgp_config;
pub(crate) mod capture;
pub mod client;
pub mod drops;
pub mod endpoints;
pub mod flows;
pub mod limits;
pub mod nat;
pub mod neighbors;
pub mod policy;
pub mod ports;
pub mod routes;
pub(crate) mod server;
pub mod status;
pub mod top;
pub mod tunnels;
pub mod workers;
