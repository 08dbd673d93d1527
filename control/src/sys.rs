//! Socket options that no crate of ours wraps: the only file of this crate with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// Sets the receive buffer of a socket, in bytes, beyond the system's limit where the process may.
pub(crate) fn set_receive_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size)
        .or_else(|_| set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, size))
}

/// The same for the send buffer.
pub(crate) fn set_send_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size)
        .or_else(|_| set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, size))
}

fn set_int(socket: &impl AsRawFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option takes an int; the pointer is to a live one of the length given, which
    // the kernel copies before the call returns. The descriptor is open while `socket` lives.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Packets with a smaller TTL, or hop limit, do not reach the socket (RFC 5082).
pub(crate) fn set_min_ttl(socket: &impl AsRawFd, is_v4: bool, ttl: u8) -> io::Result<()> {
    let (level, option) = match is_v4 {
        true => (libc::IPPROTO_IP, libc::IP_MINTTL),
        false => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    };
    set_int(socket, level, option, ttl.into())
}

/// Has a listener keep the first packet of each connection, for [`first_ttl`].
pub(crate) fn keep_first_packet(listener: &impl AsRawFd) -> io::Result<()> {
    set_int(listener, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)
}

/// The TTL, or hop limit, of the first packet of a connection that was accepted.
pub(crate) fn first_ttl(socket: &impl AsRawFd) -> io::Result<u8> {
    let mut packet = [0u8; 256];
    let mut length = packet.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes at the pointer, which is to a live array of
    // that length, and then how many into `length`. The descriptor is open while `socket` lives.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            packet.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    match packet.get(..length as usize) {
        Some([0x45..=0x4f, _, _, _, _, _, _, _, ttl, ..]) => Ok(*ttl),
        Some([0x60..=0x6f, _, _, _, _, _, _, hop_limit, ..]) => Ok(*hop_limit),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Longest key of [`set_md5_key`], in bytes.
pub(crate) const MAX_MD5_KEY_LEN: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `struct tcp_md5sig` of the kernel's `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    /// A `sockaddr_storage`.
    address: [u8; 128],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: libc::c_int,
    key: [u8; MAX_MD5_KEY_LEN],
}

/// Signs, and demands signatures of, segments to and from `peer` (RFC 2385); an empty key ends it.
/// On a listener it counts for connections to come.
pub(crate) fn set_md5_key(socket: &impl AsRawFd, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    let mut option = TcpMd5Sig {
        address: [0; 128],
        flags: 0,
        prefix_len: 0,
        key_len: 0,
        interface: 0,
        key: [0; MAX_MD5_KEY_LEN],
    };
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the key is too long");
    option.key.get_mut(..key.len()).ok_or_else(too_long)?.copy_from_slice(key);
    option.key_len = u16::try_from(key.len()).map_err(|_| too_long())?;
    // The family is in the machine's byte order; the address follows the port, or the flow label.
    match peer {
        IpAddr::V4(peer) => {
            option.address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            option.address[4..8].copy_from_slice(&peer.octets());
        }
        IpAddr::V6(peer) => {
            option.address[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            option.address[8..24].copy_from_slice(&peer.octets());
        }
    }
    // SAFETY: the pointer is to a live structure with the layout that the option takes and of the
    // length given; the kernel copies it before the call returns. The descriptor is open while
    // `socket` lives.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            std::ptr::from_ref(&option).cast(),
            size_of_val(&option) as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
