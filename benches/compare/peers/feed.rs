//! A BGP speaker that has nothing but routes: it accepts one session of the own AS, and sends all
//! of them in as few messages as there can be.

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use margay_bgp::session::Config;
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::frame::{self, Kind};
use margay_bgp::wire::nlri::Nlri;
use margay_bgp::wire::pack::encode_update;
use margay_bgp::wire::{HEADER_LEN, MAX_LEN, Negotiated};
use margay_bgp::{Family, FamilySet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// Calico's default.
pub(crate) const AS: u16 = 64_512;
const PORT: u16 = 179;

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
    let (mut stream, peer) = listener.accept()?;
    let mut config = Config::new(AS.into(), id, AS.into(), peer.ip());
    config.hold_time_s = 0;
    config.add_path_rx = FamilySet::EMPTY;
    config.add_path_tx = FamilySet::EMPTY;
    config.restart = None;
    stream.write_all(&config.open(false).encode())?;
    ensure!(read(&mut stream)? == Kind::Open, "no OPEN came");
    stream.write_all(&frame::KEEPALIVE)?;
    ensure!(read(&mut stream)? == Kind::Keepalive, "the session was not confirmed");
    let attributes = Attributes { local_pref: Some(100), ..Attributes::default() };
    let families = [Family::Ipv4Unicast].into_iter().collect();
    let agreed = Negotiated { ibgp: true, families, ..Negotiated::default() };
    let prefixes = routes.map(|(address, len)| Ok(Nlri::new(Ipv4Net::new(address, len)?.trunc())));
    let prefixes: Vec<Nlri<Ipv4Net>> = prefixes.collect::<Result<_>>()?;
    let mut updates = Vec::new();
    encode_update(&attributes, NextHop::V4(next_hop), prefixes, &agreed, &mut updates)?;
    stream.write_all(&updates)?;
    Ok(stream)
}

/// The type of the next message.
fn read(stream: &mut TcpStream) -> Result<Kind> {
    let mut message = vec![0; HEADER_LEN];
    stream.read_exact(&mut message)?;
    let length = usize::from(u16::from_be_bytes([message[16], message[17]]));
    message.resize(length.max(HEADER_LEN), 0);
    stream.read_exact(&mut message[HEADER_LEN..])?;
    let found = frame::first(&message, MAX_LEN).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(found.context("a message that is too short")?.kind)
}
