//! What of a packet matters to its session: its tuple, and what it says about the flow.
//!
//! ICMP errors are about another packet: their tuple is that of the packet that they quote
//! (RFC 5508 4), which travels the other way. Later fragments have no ports.

use crate::flow::{Address, Signal, Tuple, TupleV4};
use crate::packet::Packet;
use margay_tunnels::wire::{ipv4, ipv6, protocol, tcp, udp};

/// Types of ICMP and ICMPv6 messages.
const ICMP_ERRORS: [u8; 4] = [3, 4, 11, 12];
/// Echo, timestamp, information and address mask: each question with its answer.
const ICMP_QUERIES: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
const ECHO_V6: (u8, u8) = (128, 129);
/// Where an ICMP error's quote begins, in bytes from its header.
pub(super) const QUOTE: usize = 8;

/// A packet, as its session sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Its addresses and ports; of an ICMP error those of the packet that it is about.
    pub tuple: Tuple,
    /// What it says of the flow's life.
    pub signal: Signal,
    /// Which part of a packet it is.
    pub part: Part,
}

/// Whole packets and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// With all its headers.
    Whole,
    /// The first fragment, with the identification that all have.
    First(u32),
    /// Another fragment: its tuple has no ports.
    Later(u32),
    /// Its transport header is cut off.
    Cut,
    /// An ICMP error: these are the addresses of the error itself.
    Error {
        /// Who tells.
        src: Address,
        /// Whom.
        dst: Address,
    },
}

/// The addresses of a parsed packet itself, also of an ICMP error; `None` when it is not IP.
#[inline]
pub(super) fn addresses(packet: &Packet) -> Option<(Address, Address)> {
    let ip = packet.head().get(usize::from(packet.l3)..)?;
    match ip.first()? >> 4 {
        4 => ipv4::View::new(ip).map(|view| (view.src().into(), view.dst().into())),
        6 => ipv6::View::new(ip).map(|view| (view.src().into(), view.dst().into())),
        _ => None,
    }
}

/// The subject of a parsed packet. `None` when it has none: it is not IP, IPv6 with a mapped IPv4
/// address, which no wire carries, or an ICMP message that belongs to no flow.
#[inline]
pub fn subject(packet: &Packet) -> Option<Subject> {
    let head = packet.head();
    let ip = &head[usize::from(packet.l3).min(head.len())..];
    let transport = &head[usize::from(packet.l4).min(head.len())..];
    let header = Header::of(ip)?;
    match header.fragment {
        Some((id, word)) if word & OFFSET != 0 => Some(header.without_ports(Part::Later(id))),
        Some((id, _)) => with_ports(&header, transport, Part::First(id)),
        None => with_ports(&header, transport, Part::Whole),
    }
}

/// The tuple and the signal of a whole packet of TCP or UDP over IPv4 without options, with its
/// checksum finished, that did not come out of a tunnel. `None` for all others, and for SYN, FIN
/// and RST.
#[inline]
pub(super) fn plain_v4(packet: &Packet) -> Option<(TupleV4, Signal)> {
    const ADDRESSES: usize = 12;
    const PORTS: usize = ipv4::MIN_HEADER_LEN;
    const LEAST: usize = PORTS + udp::HEADER_LEN;
    const FLAGS: usize = PORTS + 13;
    let ip = packet.head().get(usize::from(packet.l3)..)?;
    let start = ip.first_chunk::<LEAST>()?;
    let is_plain = start[0] == 0x45
        && u16::from_be_bytes([start[6], start[7]]) & 0x3fff == 0
        && usize::from(packet.l4) == usize::from(packet.l3) + PORTS
        && !packet.is_from_tunnel()
        && !packet.offload().needs_csum;
    let signal = match start[9] {
        protocol::UDP => Signal::Udp,
        protocol::TCP => {
            let flags = *ip.get(..PORTS + tcp::MIN_HEADER_LEN)?.get(FLAGS)?;
            (flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0).then_some(Signal::Tcp(flags))?
        }
        _ => return None,
    };
    let word =
        |at: usize| u32::from_be_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    let ports = word(PORTS);
    let tuple = TupleV4 {
        src: word(ADDRESSES),
        dst: word(ADDRESSES + 4),
        src_port: (ports >> 16) as u16,
        dst_port: ports as u16,
        protocol: start[9],
    };
    is_plain.then_some((tuple, signal))
}

/// Bits of [`Header::fragment`]'s word that are the offset.
const OFFSET: u16 = 0xfff8;

struct Header {
    src: Address,
    dst: Address,
    protocol: u8,
    /// Identification, and the offset in bytes.
    fragment: Option<(u32, u16)>,
    transport: usize,
}

impl Header {
    #[inline]
    fn of(ip: &[u8]) -> Option<Header> {
        match ip.first()? >> 4 {
            4 => {
                let view = ipv4::View::new(ip)?;
                let offset = (view.fragment_offset() as u16) & OFFSET;
                Some(Header {
                    src: view.src().into(),
                    dst: view.dst().into(),
                    protocol: view.protocol(),
                    fragment: view.is_fragment().then(|| (u32::from(view.id()), offset)),
                    transport: view.header_len(),
                })
            }
            6 => {
                let view = ipv6::View::new(ip)?;
                let transport = view.transport()?;
                let (src, dst) = (Address::from(view.src()), Address::from(view.dst()));
                // An atomic fragment (RFC 6946) is whole.
                let word = transport.fragment.filter(|word| word & 0xfff9 != 0);
                let fragment = word.map(|word| (fragment_id_v6(ip, &view), word & OFFSET));
                let good = !src.is_v4() && !dst.is_v4();
                good.then_some(Header {
                    src,
                    dst,
                    protocol: transport.protocol,
                    fragment,
                    transport: transport.offset,
                })
            }
            _ => None,
        }
    }

    fn without_ports(&self, part: Part) -> Subject {
        Subject { tuple: self.tuple(0, 0), signal: Signal::Other, part }
    }

    #[inline]
    fn tuple(&self, src_port: u16, dst_port: u16) -> Tuple {
        Tuple { src: self.src, dst: self.dst, src_port, dst_port, protocol: self.protocol }
    }
}

#[cold]
fn fragment_id_v6(ip: &[u8], view: &ipv6::View<'_>) -> u32 {
    let header = view.extensions().find(|extension| extension.fragment.is_some());
    let id = header.and_then(|header| ip.get(header.offset + 4..header.offset + 8));
    id.map_or(0, |id| u32::from_be_bytes([id[0], id[1], id[2], id[3]]))
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[inline]
fn with_ports(header: &Header, bytes: &[u8], part: Part) -> Option<Subject> {
    let found = match header.protocol {
        protocol::TCP => bytes
            .first_chunk::<{ tcp::MIN_HEADER_LEN }>()
            .and_then(|bytes| Some((be16(bytes, 0)?, be16(bytes, 2)?, Signal::Tcp(bytes[13])))),
        protocol::UDP => be16(bytes, 0).zip(be16(bytes, 2)).map(|(s, d)| (s, d, Signal::Udp)),
        protocol::SCTP => bytes
            .first_chunk::<13>()
            .and_then(|bytes| Some((be16(bytes, 0)?, be16(bytes, 2)?, Signal::Sctp(bytes[12])))),
        protocol::ICMP if header.src.is_v4() => return icmp(header, bytes, part),
        protocol::ICMPV6 if !header.src.is_v4() => return icmp(header, bytes, part),
        _ => Some((0, 0, Signal::Other)),
    };
    let Some((src_port, dst_port, signal)) = found else {
        return Some(header.without_ports(Part::Cut));
    };
    Some(Subject { tuple: header.tuple(src_port, dst_port), signal, part })
}

fn icmp(header: &Header, bytes: &[u8], part: Part) -> Option<Subject> {
    let Some(kind) = bytes.first().copied() else {
        return Some(header.without_ports(Part::Cut));
    };
    let is_error = match header.src.is_v4() {
        true => ICMP_ERRORS.contains(&kind),
        false => kind < 128,
    };
    if is_error {
        let tuple = bytes.get(QUOTE..).and_then(quoted)?;
        let part = Part::Error { src: header.src, dst: header.dst };
        return Some(Subject { tuple, signal: Signal::Other, part });
    }
    let (src_port, dst_port, asks) = query(header.src.is_v4(), kind, bytes)?;
    Some(Subject { tuple: header.tuple(src_port, dst_port), signal: Signal::Query { asks }, part })
}

/// The identifier is the asker's port, the type of the question the other one.
fn query(v4: bool, kind: u8, bytes: &[u8]) -> Option<(u16, u16, bool)> {
    let queries: &[(u8, u8)] = if v4 { &ICMP_QUERIES } else { &[ECHO_V6] };
    let (ask, _) = queries.iter().find(|(ask, answer)| kind == *ask || kind == *answer)?;
    let (id, ask_port) = (be16(bytes, 4)?, u16::from(*ask));
    Some(if kind == *ask { (id, ask_port, true) } else { (ask_port, id, false) })
}

/// The tuple of the packet whose first bytes an ICMP error quotes: at least the IP header and 8
/// bytes (RFC 792). `None` when it is a later fragment, or itself an error.
pub(super) fn quoted(ip: &[u8]) -> Option<Tuple> {
    let header = Header::of(ip)?;
    if header.fragment.is_some_and(|(_, offset)| offset != 0) {
        return None;
    }
    let bytes = ip.get(header.transport..)?;
    let ports = match header.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => (be16(bytes, 0)?, be16(bytes, 2)?),
        protocol::ICMP | protocol::ICMPV6 => {
            let v4 = header.src.is_v4();
            let (src_port, dst_port, _) = query(v4, *bytes.first()?, bytes)?;
            (src_port, dst_port)
        }
        _ => (0, 0),
    };
    Some(header.tuple(ports.0, ports.1))
}

/// Offset of the transport header in a quote.
pub(super) fn quoted_transport(ip: &[u8]) -> Option<usize> {
    Some(Header::of(ip)?.transport)
}
