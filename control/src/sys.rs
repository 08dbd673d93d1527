//! Socket options that no crate of ours wraps: the only file of this crate with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

/// Sets the receive buffer of a socket, in bytes, beyond the system's limit where the process may.
pub(crate) fn set_receive_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let set = |option: libc::c_int| {
        // SAFETY: the option takes an int; the pointer is to a live one of the length given, which
        // the kernel copies before the call returns. The descriptor is open while `socket` lives.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(&size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF))
}
