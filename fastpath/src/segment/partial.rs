//! Unfinished transport checksums: seeing them, and completing them.
//!
//! A field that waits to be finished holds the folded, not complemented pseudo-header sum
//! (virtio's NEEDS_CSUM, the kernel's CHECKSUM_PARTIAL).

use super::{MAX_PARTS, SegmentError};
use crate::packet::{Gso, Offload, Packet};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};

/// Completes an unfinished transport checksum over the whole chain; a finished packet stays as it
/// is. Errs when the checksum does not lie behind the ports (`l4` must be set), or not in the first
/// frame: a sender could else have headers and ports written over, after they were checked.
pub fn finish_checksum(packet: &mut Packet) -> Result<(), SegmentError> {
    let Offload { needs_csum, csum_start, csum_offset, .. } = packet.offload();
    if !needs_csum {
        return Ok(());
    }
    let start = usize::from(csum_start);
    let field = start + usize::from(csum_offset);
    let is_behind = is_behind_ports(packet.l4.into(), start, csum_offset.into());
    if !is_behind || field + 2 > packet.head().len() {
        return Err(SegmentError::Malformed);
    }
    let value = checksum::finish(sum_from(packet, start));
    // UDP's 0 means "no checksum" (RFC 768); TCP has no such rule.
    let value = match usize::from(csum_offset) {
        udp::CHECKSUM_OFFSET => udp::nonzero(value),
        _ => value,
    };
    packet.head_mut()[field..field + 2].copy_from_slice(&value.to_be_bytes());
    packet.set_offload(Offload { needs_csum: false, ..packet.offload() });
    Ok(())
}

/// True when what a sender left undone is what others may be trusted with: the checksum of a
/// super-packet in its own transport header, and not too many parts; that of another packet behind
/// the ports, which have been looked at. `l4` must be set.
pub(crate) fn may_go_whole(packet: &Packet) -> bool {
    let Offload { needs_csum, gso, gso_size, csum_start, csum_offset } = packet.offload();
    let (l4, start, offset) = (packet.l4.into(), csum_start.into(), usize::from(csum_offset));
    let wanted = match gso {
        Gso::None => return !needs_csum || is_behind_ports(l4, start, offset),
        Gso::Udp => udp::CHECKSUM_OFFSET,
        Gso::Tcp4 | Gso::Tcp6 => tcp::CHECKSUM_OFFSET,
    };
    let parts = packet.len().saturating_sub(l4).checked_div(gso_size.into());
    needs_csum && (start, offset) == (l4, wanted) && parts.is_some_and(|parts| parts < MAX_PARTS)
}

/// True when the checksum's field lies behind the first four bytes of the transport header.
fn is_behind_ports(l4: usize, start: usize, offset: usize) -> bool {
    start >= l4 && start + offset >= l4 + 4
}

/// The sum of the packet's bytes from `start` (inside the first frame) to its end.
pub(crate) fn sum_from(packet: &Packet, start: usize) -> u64 {
    let head = &packet.head()[start..];
    let mut total = checksum::sum(head);
    if packet.segment_count() == 1 {
        return total;
    }
    let mut odd = head.len() % 2 == 1;
    for part in packet.segments().skip(1) {
        let folded = checksum::fold(checksum::sum(part));
        // RFC 1071 2.B: bytes at odd places count in the other half of their word.
        total += u64::from(if odd { folded.swap_bytes() } else { folded });
        odd ^= part.len() % 2 == 1;
    }
    total
}

/// Marks a TCP or UDP packet whose checksum field holds the folded pseudo-header sum as
/// unfinished, as senders behind a veth leave it without a mark; true when it did so. `l3` and
/// `l4` must be set. A finished checksum that happens to equal that sum (1 in 65,536) is marked
/// too: finishing it again gives the same value.
#[inline]
pub fn detect_partial(packet: &mut Packet) -> bool {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let head = packet.head();
    let Some((protocol, pseudo)) = pseudo_header(head, l3, l4) else { return false };
    let offset = match protocol {
        protocol::TCP => tcp::CHECKSUM_OFFSET,
        protocol::UDP => udp::CHECKSUM_OFFSET,
        _ => return false,
    };
    let Some(&[high, low]) = head.get(l4 + offset..l4 + offset + 2) else { return false };
    if u16::from_be_bytes([high, low]) != checksum::fold(pseudo) {
        return false;
    }
    packet.set_offload(Offload {
        needs_csum: true,
        csum_start: packet.l4,
        csum_offset: offset as u16,
        ..packet.offload()
    });
    true
}

/// Protocol and pseudo-header sum of a packet that is no fragment.
#[inline]
pub(crate) fn pseudo_header(head: &[u8], l3: usize, l4: usize) -> Option<(u8, u64)> {
    let ip = head.get(l3..)?;
    let header_len = l4.checked_sub(l3)?;
    match ip.first()? >> 4 {
        4 => {
            let view = ipv4::View::new(ip).filter(|view| !view.is_fragment())?;
            let length = view.total_len().checked_sub(header_len)?;
            let protocol = view.protocol();
            Some((protocol, checksum::pseudo_v4(view.src(), view.dst(), protocol, length)))
        }
        6 => {
            let view = ipv6::View::new(ip)?;
            let transport = view.transport().filter(|transport| transport.fragment.is_none())?;
            let length = (view.payload_len() + ipv6::HEADER_LEN).checked_sub(header_len)?;
            let protocol = transport.protocol;
            Some((protocol, checksum::pseudo_v6(view.src(), view.dst(), protocol, length)))
        }
        _ => None,
    }
}
