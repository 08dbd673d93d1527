//! Where margay meets the kernel and raw memory: the only folder of this crate with unsafe code.
#![allow(unsafe_code)]

pub mod bpf;
pub mod clock;
pub(crate) mod interrupt;
pub(crate) mod lanes;
pub mod memory;
pub(crate) mod packet;
pub(crate) mod parked;
pub mod table;
pub(crate) mod tap;
pub mod wait;
pub mod walk;
pub mod xdp;
