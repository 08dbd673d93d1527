//! eBPF without a compiler: programs assembled in Rust, loaded by bpf(2) itself.
//!
//! [`asm`] writes instructions with labels; [`Map`], [`Program`] and [`Link`] own one descriptor
//! of the kernel each, and what they stand for goes away with them. No BTF, no pinning, no ELF:
//! what is loaded here dies with the process.

pub mod asm;
pub mod bulk;
pub(crate) mod checksum;
pub mod generator;
mod link;
mod map;
mod mapped;
mod program;
mod syscall;

pub use link::{AttachMode, Link};
pub use map::{Map, MapKind};
pub use mapped::MappedArray;
pub use program::{LiveRun, Program, ProgramError, ProgramInfo, TestRun, XdpContext};
