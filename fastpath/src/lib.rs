//! Every packet byte after the NIC: ports, workers, the pipeline and its tables.

pub mod drop_reason;
pub mod packet;
pub mod port;
pub mod segment;
pub mod sys;
pub mod tables;
