//! The bpf(2) call. Each command has its own attribute struct, zeroed where the kernel wants
//! zeroes; the kernel takes any length up to its own.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

pub(super) const MAP_CREATE: u32 = 0;
pub(super) const MAP_LOOKUP_ELEM: u32 = 1;
pub(super) const MAP_UPDATE_ELEM: u32 = 2;
pub(super) const MAP_DELETE_ELEM: u32 = 3;
pub(super) const PROG_LOAD: u32 = 5;
pub(super) const PROG_TEST_RUN: u32 = 10;
pub(super) const PROG_GET_FD_BY_ID: u32 = 13;
pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
pub(super) const LINK_CREATE: u32 = 28;

/// An attribute struct of bpf(2): plain numbers and addresses, without padding.
///
/// # Safety
///
/// The struct is `repr(C)`, has no padding, and every address in it stays valid, for as long as
/// its length field says, during each call it is passed to.
pub(super) unsafe trait Attr {}

/// Runs one command; the non-negative result, a descriptor for those commands that make one.
pub(super) fn bpf<A: Attr>(command: u32, attr: &mut A) -> io::Result<i32> {
    let size = size_of::<A>();
    // SAFETY: the pointer and length are of one live, exclusively borrowed struct, and `Attr`
    // promises that the addresses inside it are good for what the command reads and writes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Runs a command that makes a descriptor.
pub(super) fn bpf_fd<A: Attr>(command: u32, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just given this descriptor to us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The name of an object as the kernel keeps it: 15 bytes and a zero.
pub(super) fn object_name(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    for (place, byte) in out.iter_mut().take(15).zip(name.bytes()) {
        *place = if byte.is_ascii_alphanumeric() { byte } else { b'_' };
    }
    out
}
