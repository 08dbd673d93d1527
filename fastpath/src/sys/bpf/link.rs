//! A BPF link: the attachment of a program to a device, alive as long as its descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Program;
use super::syscall::{self, Attr, bpf_fd};

/// Where in the kernel's receive path the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel builds a packet of its own.
    Native,
    /// Behind the driver, on any device, at the price of a copy.
    Generic,
}

/// Owns an attachment; the program leaves the device when this is dropped or the process dies.
#[derive(Debug)]
pub struct Link {
    _fd: OwnedFd,
}

#[repr(C)]
struct CreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

// SAFETY: four u32, no padding and no address.
unsafe impl Attr for CreateAttr {}

pub(super) const ATTACH_TYPE_XDP: u32 = 37;
const ATTACH_TYPE_TCX_INGRESS: u32 = 46;
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

impl Link {
    /// Attaches `program` to a device. `EBUSY` or `EEXIST`: another program is there.
    /// `EOPNOTSUPP`: the driver has no native XDP. `ENODEV`: no such device.
    pub fn attach_xdp(program: &Program, ifindex: u32, mode: AttachMode) -> io::Result<Link> {
        let mut attr = CreateAttr {
            prog_fd: program.raw_fd().as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: ATTACH_TYPE_XDP,
            flags: if mode == AttachMode::Native { DRV_MODE } else { SKB_MODE },
        };
        Ok(Link { _fd: bpf_fd(syscall::LINK_CREATE, &mut attr)? })
    }

    /// Attaches `program`, of [`Program::load_tc`], to what comes in by a device, behind the
    /// programs that are there. `EINVAL`: the kernel is older than Linux 6.6. `ENODEV`: no such
    /// device.
    pub fn attach_tc(program: &Program, ifindex: u32) -> io::Result<Link> {
        let mut attr = CreateAttr {
            prog_fd: program.raw_fd().as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: ATTACH_TYPE_TCX_INGRESS,
            flags: 0,
        };
        Ok(Link { _fd: bpf_fd(syscall::LINK_CREATE, &mut attr)? })
    }
}
