//! Rewriting a packet from one tuple to another, with all checksums brought along.
//!
//! Checksums are updated by what has changed (RFC 1624), so a packet that was damaged stays so. A
//! checksum that its sender has left unfinished covers the pseudo-header alone, and follows the
//! addresses only. An ICMP error is rewritten inside as well (RFC 5508 4.2): the quoted packet's
//! addresses, port and checksums, and the error's own checksum over all of that.

use super::subject::{QUOTE, quoted_transport};
use crate::flow::{Address, Tuple, TupleV4};
use crate::packet::Packet;
use crate::segment;
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};

/// What a sum of 16-bit words changes by, as an unfolded sum.
#[derive(Debug, Clone, Copy, Default)]
struct Delta(u64);

impl Delta {
    fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    fn bytes(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
            self.word(u16::from_be_bytes(*old), u16::from_be_bytes(*new));
        }
    }

    fn plus(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }

    /// A finished checksum after the change.
    fn finished(self, field: u16) -> u16 {
        checksum::finish(u64::from(!field) + self.0)
    }

    /// A sum that waits to be finished, after the change.
    fn unfinished(self, field: u16) -> u16 {
        checksum::fold(u64::from(field) + self.0)
    }
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Writes an address over another one; what the sums over it change by.
fn put_address(bytes: &mut [u8], at: usize, address: Address) -> Delta {
    let mut delta = Delta::default();
    let mut put = |octets: &[u8]| {
        if let Some(field) = bytes.get_mut(at..at + octets.len()) {
            delta.bytes(field, octets);
            field.copy_from_slice(octets);
        }
    };
    match address.is_v4() {
        true => put(&address.v4_bits().to_be_bytes()),
        false => put(&address.bits().to_be_bytes()),
    }
    delta
}

/// Offsets of both addresses in an IP header.
fn address_offsets(v4: bool) -> (usize, usize) {
    if v4 { (12, 16) } else { (8, 24) }
}

/// Writes both addresses of the IP header at the front of `ip`, and its own checksum. What sums
/// over the pseudo-header change by.
fn put_addresses(ip: &mut [u8], src: Address, dst: Address) -> Delta {
    let (src_at, dst_at) = address_offsets(src.is_v4());
    let delta = put_address(ip, src_at, src).plus(put_address(ip, dst_at, dst));
    if src.is_v4()
        && let Some(field) = get16(ip, 10)
    {
        put16(ip, 10, delta.finished(field));
    }
    delta
}

/// Where a protocol keeps its checksum, if it is one of this kind.
fn checksum_offset(number: u8) -> Option<usize> {
    match number {
        protocol::TCP => Some(tcp::CHECKSUM_OFFSET),
        protocol::UDP => Some(udp::CHECKSUM_OFFSET),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Writes the ports, or the identifier of an ICMP query; what a sum over them changes by.
fn put_ports(transport: &mut [u8], to: &Tuple) -> Delta {
    let fields: &[(usize, u16)] = match to.protocol {
        protocol::TCP | protocol::UDP => &[(0, to.src_port), (2, to.dst_port)],
        protocol::ICMP | protocol::ICMPV6 => {
            // The question's type stands in for the other port, and tells which side asks.
            let asks = matches!(transport.first(), Some(8 | 13 | 15 | 17 | 128));
            &[(4, if asks { to.src_port } else { to.dst_port })]
        }
        _ => &[],
    };
    let mut delta = Delta::default();
    for (at, value) in fields {
        if let Some(old) = get16(transport, *at) {
            delta.word(old, *value);
            put16(transport, *at, *value);
        }
    }
    delta
}

/// Brings the transport checksum along. `pseudo` is what the addresses change, `ports` the rest.
fn put_checksum(transport: &mut [u8], number: u8, (pseudo, ports): (Delta, Delta), partial: bool) {
    let Some(at) = checksum_offset(number) else { return };
    let Some(field) = get16(transport, at) else { return };
    let has_pseudo = number != protocol::ICMP;
    let whole = if has_pseudo { pseudo.plus(ports) } else { ports };
    let value = match (partial, number) {
        (true, _) => pseudo.unfinished(field),
        // RFC 768: 0 says that there is none.
        (false, protocol::UDP) if field == 0 => 0,
        (false, protocol::UDP) => udp::nonzero(whole.finished(field)),
        _ => whole.finished(field),
    };
    put16(transport, at, value);
}

/// [`translate`] for a packet that [`super::subject::plain_v4`] has found to have the tuple `from`.
#[inline]
pub(super) fn translate_v4(packet: &mut Packet, from: &TupleV4, to: &TupleV4) {
    const LEAST: usize = ipv4::MIN_HEADER_LEN + udp::HEADER_LEN;
    let l3 = usize::from(packet.l3);
    let Some(ip) = packet.head_mut().get_mut(l3..) else { return };
    let Some(start) = ip.first_chunk_mut::<LEAST>() else { return };
    // The sum of 32-bit words folds to that of their halves (RFC 1071 2).
    let changed = |old: u32, new: u32| u64::from(!old) + u64::from(new);
    let pseudo = Delta(changed(from.src, to.src) + changed(from.dst, to.dst));
    let mut ports = Delta::default();
    ports.word(from.src_port, to.src_port);
    ports.word(from.dst_port, to.dst_port);
    let sum = pseudo.finished(u16::from_be_bytes([start[10], start[11]]));
    start[10..12].copy_from_slice(&sum.to_be_bytes());
    start[12..16].copy_from_slice(&to.src.to_be_bytes());
    start[16..20].copy_from_slice(&to.dst.to_be_bytes());
    start[20..22].copy_from_slice(&to.src_port.to_be_bytes());
    start[22..24].copy_from_slice(&to.dst_port.to_be_bytes());
    put_checksum(&mut ip[ipv4::MIN_HEADER_LEN..], to.protocol, (pseudo, ports), false);
}

/// Rewrites a packet to have the tuple `to`. `with_ports` is false for fragments behind the first.
pub fn translate(packet: &mut Packet, to: &Tuple, with_ports: bool) {
    let partial = packet.offload().needs_csum;
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let head = packet.head_mut();
    if l3 > l4 || l4 > head.len() {
        return;
    }
    let (ip, transport) = head[l3..].split_at_mut(l4 - l3);
    let pseudo = put_addresses(ip, to.src, to.dst);
    if with_ports {
        let ports = put_ports(transport, to);
        put_checksum(transport, to.protocol, (pseudo, ports), partial);
    }
}

/// What the checksums of an IPv4 header and of TCP or UDP change by when a packet of `from` becomes
/// one of `to`, folded: to be added to what a finished checksum is the complement of.
pub(crate) fn changes(from: &Tuple, to: &Tuple) -> (u16, u16) {
    let (mut pseudo, mut ports) = (Delta::default(), Delta::default());
    for (old, new) in [(from.src, to.src), (from.dst, to.dst)] {
        if old.is_v4() {
            pseudo.bytes(&old.v4_bits().to_be_bytes(), &new.v4_bits().to_be_bytes());
        } else {
            pseudo.bytes(&old.bits().to_be_bytes(), &new.bits().to_be_bytes());
        }
    }
    ports.word(from.src_port, to.src_port);
    ports.word(from.dst_port, to.dst_port);
    (checksum::fold(pseudo.0), checksum::fold(pseudo.plus(ports).0))
}

/// Whether an ICMP error's checksum is right, or left for later hands (RFC 5508 REQ-3 a).
pub(super) fn is_error_whole(packet: &Packet) -> bool {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    if packet.offload().needs_csum || l4 > packet.head().len() {
        return packet.offload().needs_csum;
    }
    let ip = &packet.head()[l3.min(l4)..];
    let pseudo = match ipv6::View::new(ip).filter(|view| view.version() == 6) {
        Some(view) => {
            checksum::pseudo_v6(view.src(), view.dst(), protocol::ICMPV6, packet.len() - l4)
        }
        None => 0,
    };
    checksum::finish(segment::sum_from(packet, l4) + pseudo) == 0
}

/// Rewrites an ICMP error from `src` to `dst`, so that the packet that it quotes has the tuple
/// `about`.
pub(super) fn translate_error(packet: &mut Packet, (src, dst): (Address, Address), about: &Tuple) {
    if segment::finish_checksum(packet).is_err() {
        return;
    }
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let head = packet.head_mut();
    if l3 > l4 || l4 + QUOTE > head.len() {
        return;
    }
    let (ip, error) = head[l3..].split_at_mut(l4 - l3);
    let pseudo = put_addresses(ip, src, dst);
    let quote = &mut error[QUOTE..];
    // A quote is short, and each of its words counts in the error's checksum: the sum of it before
    // and after is the surest way to what has changed.
    let before = checksum::fold(checksum::sum(quote));
    if let Some(start) = quoted_transport(quote).filter(|start| *start <= quote.len()) {
        let (ip, transport) = quote.split_at_mut(start);
        let pseudo = put_addresses(ip, about.src, about.dst);
        let ports = put_ports(transport, about);
        put_checksum(transport, about.protocol, (pseudo, ports), false);
    }
    let mut changed = Delta::default();
    changed.word(before, checksum::fold(checksum::sum(quote)));
    let number = if src.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
    put_checksum(error, number, (pseudo, changed), false);
}

#[cfg(test)]
mod tests;
