//! Sockets of sessions with their options: signatures (RFC 2385), TTL (RFC 5082), no delay, and
//! the class of network control. A socket that cannot be made as it should be is not used.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use margay_bgp::session;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// DSCP CS6 in the place of the TOS byte: network control (RFC 4594 section 3.1).
pub(super) const NETWORK_CONTROL: u32 = 0xc0;
/// The largest TTL, which no router on the way leaves as it is.
const MAX_TTL: u8 = 255;
/// Connections that wait to be accepted; the kernel's own limit may be smaller.
const BACKLOG: i32 = 1024;

/// The least TTL of packets from at most so many hops away.
fn min_ttl(hops: u8) -> u8 {
    MAX_TTL - (hops.max(1) - 1)
}

/// A connection to the peer that has been begun.
pub(super) fn connect(wanted: &session::Socket) -> io::Result<TcpStream> {
    let remote = SocketAddr::new(wanted.remote, wanted.port);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(remote), kind, Some(Protocol::TCP))?;
    if let Some(key) = &wanted.md5_key {
        sys::set_md5_key(&socket, wanted.remote, key)?;
    }
    set_class(&socket, remote.is_ipv4())?;
    if let Some(hops) = wanted.ttl_security_hops {
        set_ttl(&socket, remote.is_ipv4())?;
        sys::set_min_ttl(&socket, remote.is_ipv4(), min_ttl(hops))?;
    }
    if let Some(local) = wanted.local {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    match socket.connect(&remote.into()) {
        Err(why) if why.raw_os_error() != Some(libc::EINPROGRESS) => return Err(why),
        _ => (),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Gives a connection that the peer has begun the options that its listener does not.
pub(super) fn prepare(stream: &TcpStream, wanted: &session::Socket) -> io::Result<()> {
    if let Some(hops) = wanted.ttl_security_hops {
        sys::set_min_ttl(stream, wanted.remote.is_ipv4(), min_ttl(hops))?;
        // What came before the option was set has not been looked at.
        if sys::first_ttl(stream)? < min_ttl(hops) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
    }
    stream.set_nodelay(true)
}

/// A socket bound to this address, which does not listen yet.
pub(super) fn bind(address: IpAddr, port: u16) -> io::Result<Socket> {
    let local = SocketAddr::new(address, port);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(local), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_class(&socket, local.is_ipv4())?;
    // Who demands a TTL of 255 of us demands it of the answer to the very first packet.
    set_ttl(&socket, local.is_ipv4())?;
    sys::keep_first_packet(&socket)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

/// Listens, now that the keys are there.
pub(super) fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn set_class(socket: &Socket, is_v4: bool) -> io::Result<()> {
    if is_v4 { socket.set_tos_v4(NETWORK_CONTROL) } else { socket.set_tclass_v6(NETWORK_CONTROL) }
}

/// A TTL of 255 for all that is sent.
pub(super) fn set_ttl(socket: &Socket, is_v4: bool) -> io::Result<()> {
    let ttl = MAX_TTL.into();
    if is_v4 { socket.set_ttl_v4(ttl) } else { socket.set_unicast_hops_v6(ttl) }
}

/// Sets or, without one, removes the key for connections from `peer`.
pub(super) fn set_key(socket: &impl AsRawFd, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    match sys::set_md5_key(socket, peer, key) {
        // Removing what is not there.
        Err(why) if key.is_empty() && why.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5082 section 3: a directly connected peer's packets arrive with 255.
    #[test]
    fn the_least_ttl_follows_from_the_hops() {
        assert_eq!([0, 1, 2, 255].map(min_ttl), [255, 255, 254, 1]);
    }
}
