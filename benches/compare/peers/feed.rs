//! A BGP speaker that has nothing but routes: it accepts one session of the own AS, and sends all
//! of them in as few messages as there can be.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// Calico's default.
pub(crate) const AS: u16 = 64_512;
const PORT: u16 = 179;
/// Type numbers of messages (RFC 4271 4.1).
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;
const HEADER: usize = 19;
/// Prefixes of a message: 5 bytes each at most, of 4,096 in all.
const PREFIXES: usize = 800;

/// Listens on an address of the calling thread's namespace.
pub(crate) fn listen(address: Ipv4Addr) -> Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((address, PORT))).context("port 179")
}

/// Accepts a session, and sends `routes` by `next_hop`. The session lives as long as what is given
/// back; no keepalives are asked for.
pub(crate) fn send(
    listener: &TcpListener,
    id: Ipv4Addr,
    routes: impl Iterator<Item = (Ipv4Addr, u8)>,
    next_hop: Ipv4Addr,
) -> Result<TcpStream> {
    let (mut stream, _) = listener.accept()?;
    let [high, low] = AS.to_be_bytes();
    // Version 4, and a hold time of 0.
    let open = [&[4, high, low, 0, 0][..], &id.octets(), &[0]].concat();
    stream.write_all(&message(OPEN, &open))?;
    ensure!(read(&mut stream)? == OPEN, "no OPEN came");
    stream.write_all(&message(KEEPALIVE, &[]))?;
    ensure!(read(&mut stream)? == KEEPALIVE, "the session was not confirmed");
    // ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF.
    let hop = next_hop.octets();
    let attributes =
        [&[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4][..], &hop, &[0x40, 5, 4, 0, 0, 0, 100]].concat();
    let head = [&[0, 0, 0, attributes.len() as u8][..], &attributes].concat();
    let mut routes = routes.peekable();
    while routes.peek().is_some() {
        let mut body = head.clone();
        for (address, len) in routes.by_ref().take(PREFIXES) {
            body.push(len);
            body.extend(&address.octets()[..usize::from(len.div_ceil(8))]);
        }
        stream.write_all(&message(UPDATE, &body))?;
    }
    Ok(stream)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = ((HEADER + body.len()) as u16).to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// The type of the next message.
fn read(stream: &mut TcpStream) -> Result<u8> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.checked_sub(HEADER).context("a message that is too short")?];
    stream.read_exact(&mut body)?;
    Ok(header[18])
}
