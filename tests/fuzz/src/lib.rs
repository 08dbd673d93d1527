//! The fuzz targets' shared parts; `tests/sim` and `bgp/tests` run the same bodies under
//! `cargo test`.

pub mod bgp;
pub mod body;
pub mod session;
pub mod stateful;
pub mod views;
