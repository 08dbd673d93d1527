//! What is measured beside each other, and how it is set up.

pub(crate) mod daemon;
pub(crate) mod felix;
pub(crate) mod forwarder;
pub(crate) mod l3fwd;
pub(crate) mod linux;
pub(crate) mod testpmd;
