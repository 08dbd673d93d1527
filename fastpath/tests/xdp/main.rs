//! AF_XDP ports on real veth devices: traffic, jumbo frames, queues, and devices that go away.
//!
//! Needs root. Each test works in network namespaces of its own and leaves none behind.

#![allow(clippy::unwrap_used)]

mod bulk;
mod lifetime;
mod limits;
mod rig;
mod traffic;
mod whole;
