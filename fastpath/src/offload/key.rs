//! What names an offloaded flow: the port that it comes in by, and its five-tuple as it arrives.
//!
//! [`Key::of_frame`] takes exactly the packets that the XDP program would look up, so that a worker
//! offloads no flow whose packets would all come to it again.

use crate::flow::Tuple;
use crate::port::PortId;
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol, tcp, udp};

/// Bytes of a key of IPv4: addresses, ports, number of the port, protocol in 16 bits.
pub(super) const V4_BYTES: usize = 16;
/// The same of IPv6.
pub(super) const V6_BYTES: usize = 40;

/// Flags that end a connection, or begin one: their packets are the workers'.
pub(crate) const TCP_TURNING: u8 = tcp::FIN | tcp::SYN | tcp::RST;

/// A flow in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The port that it comes in by.
    pub port: PortId,
    /// As its packets arrive.
    pub tuple: Tuple,
}

/// A key as the maps have it.
pub(super) enum Bytes {
    V4([u8; V4_BYTES]),
    V6([u8; V6_BYTES]),
}

impl Key {
    /// The key of a whole frame as it came in, if the program would look it up: TCP or UDP right
    /// behind an IP header without options or extensions, no fragment, a TTL above 1, no SYN, FIN
    /// or RST, and all of it in `frame`.
    #[inline]
    pub fn of_frame(port: PortId, frame: &[u8]) -> Option<Key> {
        Key::of_head(port, frame, frame.len())
    }

    /// The same of the first bytes of a frame of `length` bytes, with all headers.
    #[inline]
    pub fn of_head(port: PortId, frame: &[u8], length: usize) -> Option<Key> {
        let link = ethernet::View::new(frame)?;
        let ip = link.payload();
        let (tuple, total_len, transport) = match link.ethertype() {
            ethernet::IPV4 => of_v4(ip)?,
            ethernet::IPV6 => of_v6(ip)?,
            _ => return None,
        };
        if total_len + ethernet::HEADER_LEN > length {
            return None;
        }
        let least = match tuple.protocol {
            protocol::TCP => tcp::MIN_HEADER_LEN,
            protocol::UDP => udp::HEADER_LEN,
            _ => return None,
        };
        let header = ip.get(transport..total_len.min(ip.len()))?;
        if header.len() < least {
            return None;
        }
        if tuple.protocol == protocol::TCP && header[13] & TCP_TURNING != 0 {
            return None;
        }
        let port_at = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let tuple = Tuple { src_port: port_at(0), dst_port: port_at(2), ..tuple };
        Some(Key { port, tuple })
    }

    /// As the program puts it together.
    pub(super) fn bytes(&self) -> Bytes {
        let Tuple { src, dst, src_port, dst_port, protocol } = self.tuple;
        let mut tail = [0; 8];
        tail[..2].copy_from_slice(&src_port.to_be_bytes());
        tail[2..4].copy_from_slice(&dst_port.to_be_bytes());
        let last = u32::from(self.port.0) | u32::from(protocol) << 16;
        tail[4..].copy_from_slice(&last.to_ne_bytes());
        if src.is_v4() {
            let mut bytes = [0; V4_BYTES];
            bytes[..4].copy_from_slice(&src.v4_bits().to_be_bytes());
            bytes[4..8].copy_from_slice(&dst.v4_bits().to_be_bytes());
            bytes[8..].copy_from_slice(&tail);
            return Bytes::V4(bytes);
        }
        let mut bytes = [0; V6_BYTES];
        bytes[..16].copy_from_slice(&src.bits().to_be_bytes());
        bytes[16..32].copy_from_slice(&dst.bits().to_be_bytes());
        bytes[32..].copy_from_slice(&tail);
        Bytes::V6(bytes)
    }
}

/// Addresses and protocol, length of the packet, and where its transport header is.
fn of_v4(ip: &[u8]) -> Option<(Tuple, usize, usize)> {
    let view = ipv4::View::new(ip)?;
    if view.version() != 4
        || view.header_len() != ipv4::MIN_HEADER_LEN
        || view.is_fragment()
        || view.ttl() <= 1
    {
        return None;
    }
    let (src, dst) = (view.src().into(), view.dst().into());
    let tuple = Tuple { src, dst, src_port: 0, dst_port: 0, protocol: view.protocol() };
    Some((tuple, view.total_len(), ipv4::MIN_HEADER_LEN))
}

fn of_v6(ip: &[u8]) -> Option<(Tuple, usize, usize)> {
    let view = ipv6::View::new(ip).filter(|view| view.version() == 6 && view.hop_limit() > 1)?;
    let (src, dst) = (view.src().into(), view.dst().into());
    let tuple = Tuple { src, dst, src_port: 0, dst_port: 0, protocol: view.next_header() };
    Some((tuple, ipv6::HEADER_LEN + view.payload_len(), ipv6::HEADER_LEN))
}
