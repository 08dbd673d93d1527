//! What is measured: a file each, with the peers that it has.

pub(crate) mod acl;
pub(crate) mod curves;
pub(crate) mod floods;
pub(crate) mod full;
mod jumbo;
pub(crate) mod latency;
mod losses;
pub(crate) mod memory;
pub(crate) mod nat;
pub(crate) mod routes;
pub(crate) mod share;
pub(crate) mod tc;
pub(crate) mod tcp;
pub(crate) mod veth;
pub(crate) mod vxlan;
