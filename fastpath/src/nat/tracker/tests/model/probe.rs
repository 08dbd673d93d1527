//! Packets of the random runs: made byte by byte from what they are to say, with an independent
//! library, so that what leaves can be compared with the packet that it should be.

use super::super::icmp::{unreachable, unreachable_v6};
use super::super::ip;
use crate::flow::{Address, Signal, Tuple};
use etherparse::{IpNumber, TcpHeader};
use std::net::{IpAddr, SocketAddr};

/// Bytes of transport that a first fragment carries: room for each header.
const FIRST: usize = 24;

/// A packet, by what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    /// Its addresses and ports; of an error those of the packet that it quotes.
    pub(super) tuple: Tuple,
    pub(super) signal: Signal,
    pub(super) shape: Shape,
}

/// Which part of a packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    First(u16),
    Later(u16),
    Error { teller: Address, told: Address },
}

impl Probe {
    /// Its addresses on the wire.
    pub(super) fn ends(&self) -> (Address, Address) {
        match self.shape {
            Shape::Error { teller, told } => (teller, told),
            _ => (self.tuple.src, self.tuple.dst),
        }
    }

    /// The frame.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let whole = whole(&self.tuple, self.signal);
        let v4 = self.tuple.src.is_v4();
        let start = if v4 { 34 } else { 54 };
        match self.shape {
            Shape::Whole => whole,
            Shape::First(id) => fragment(&whole, start, (id, 1), &whole[start..start + FIRST]),
            Shape::Later(id) => {
                fragment(&whole, start, (id, FIRST as u16), &whole[start + FIRST..])
            }
            Shape::Error { teller, told } => match (IpAddr::from(teller), IpAddr::from(told)) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    unreachable(src.octets(), dst.octets(), 1, &whole[14..])
                }
                (src, dst) => unreachable_v6(&src.to_string(), &dst.to_string(), &whole[14..]),
            },
        }
    }
}

fn whole(tuple: &Tuple, signal: Signal) -> Vec<u8> {
    let (src, dst) = (IpAddr::from(tuple.src), IpAddr::from(tuple.dst));
    let (src, dst) = (SocketAddr::new(src, tuple.src_port), SocketAddr::new(dst, tuple.dst_port));
    let (step, payload) = (ip(src, dst), [0x5a; 43]);
    let mut bytes = Vec::new();
    match signal {
        Signal::Udp => step.udp(src.port(), dst.port()).write(&mut bytes, &payload),
        Signal::Tcp(flags) => {
            let mut header = TcpHeader::new(src.port(), dst.port(), 7, 1024);
            header.fin = flags & 1 != 0;
            header.syn = flags & 2 != 0;
            header.rst = flags & 4 != 0;
            header.ack = flags & 16 != 0;
            step.tcp_header(header).write(&mut bytes, &payload)
        }
        Signal::Query { asks } => {
            let id = if asks { src.port() } else { dst.port() };
            match (src.is_ipv4(), asks) {
                (true, true) => step.icmpv4_echo_request(id, 1).write(&mut bytes, &payload),
                (true, false) => step.icmpv4_echo_reply(id, 1).write(&mut bytes, &payload),
                (false, true) => step.icmpv6_echo_request(id, 1).write(&mut bytes, &payload),
                (false, false) => step.icmpv6_echo_reply(id, 1).write(&mut bytes, &payload),
            }
        }
        Signal::Sctp(chunk) => {
            let mut packet = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
            packet.extend([0; 8]);
            packet.push(chunk);
            packet.extend(payload);
            step.write(&mut bytes, IpNumber(tuple.protocol), &packet)
        }
        Signal::Other => step.write(&mut bytes, IpNumber(tuple.protocol), &payload),
    }
    .unwrap();
    bytes
}

/// A fragment of a frame whose transport begins at `start`: `word` is its offset, and 1 when more
/// come.
fn fragment(frame: &[u8], start: usize, (id, word): (u16, u16), part: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..start].to_vec();
    if start == 34 {
        let word = if word == 1 { 0x2000 } else { word / 8 };
        let len = (20 + part.len()) as u16;
        margay_tunnels::wire::ipv4::set_fragment(&mut bytes[14..], len, id, word);
    } else {
        let next = std::mem::replace(&mut bytes[20], 44);
        let len = (8 + part.len()) as u16;
        bytes[18..20].copy_from_slice(&len.to_be_bytes());
        bytes.extend([next, 0]);
        bytes.extend(word.to_be_bytes());
        bytes.extend(u32::from(id).to_be_bytes());
    }
    bytes.extend(part);
    bytes
}
