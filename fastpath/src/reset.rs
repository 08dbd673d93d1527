//! The answer to a TCP segment that is refused: a reset (RFC 9293 3.10.7.1).
//!
//! It comes from the address that the segment was for, so that its sender takes it for that host's.

use crate::packet::Packet;
use crate::port::PortId;
use crate::segment;
use crate::sys::memory::{FramePool, HEADROOM};
use margay_tunnels::wire::{checksum, ethernet, ipv4, ipv6, protocol, tcp};
use std::net::IpAddr;

/// TTL and hop limit of a reset.
const TTL: u8 = 64;
const LINK: usize = ethernet::HEADER_LEN;

/// The reset for a parsed, whole TCP segment; `None` when there is none (RFC 9293 3.5.2: nobody
/// resets a reset), or no frame is free.
pub fn answer(refused: &Packet, pool: &mut FramePool) -> Option<Packet> {
    let (l3, l4) = (usize::from(refused.l3), usize::from(refused.l4));
    let segment = refused.head().get(l4..)?.first_chunk::<{ tcp::MIN_HEADER_LEN }>()?;
    let flags = segment[13];
    let (src, dst) = addresses(refused.head().get(l3..)?)?;
    if flags & tcp::RST != 0 {
        return None;
    }
    let payload = refused.len().saturating_sub(l4 + tcp::View::new(segment)?.header_len());
    let mut reset = [0; tcp::MIN_HEADER_LEN];
    reset[0..2].copy_from_slice(&segment[2..4]);
    reset[2..4].copy_from_slice(&segment[0..2]);
    reset[12] = (tcp::MIN_HEADER_LEN as u8 / 4) << 4;
    if flags & tcp::ACK != 0 {
        reset[4..8].copy_from_slice(&segment[8..12]);
        reset[13] = tcp::RST;
    } else {
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let spoken = u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
        let end = sequence.wrapping_add(payload as u32).wrapping_add(spoken);
        reset[8..12].copy_from_slice(&end.to_be_bytes());
        reset[13] = tcp::RST | tcp::ACK;
    }
    wrap(&mut reset, (dst, src), pool)
}

fn addresses(ip: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match ip.first()? >> 4 {
        4 => {
            let view = ipv4::View::new(ip).filter(|view| view.protocol() == protocol::TCP)?;
            Some((view.src().into(), view.dst().into()))
        }
        6 => {
            let view = ipv6::View::new(ip)?;
            let transport = view.transport().filter(|it| it.protocol == protocol::TCP)?;
            (!transport.is_later_fragment()).then_some((view.src().into(), view.dst().into()))
        }
        _ => None,
    }
}

/// Puts a segment into a packet of its own, with its checksum.
fn wrap(
    segment: &mut [u8; tcp::MIN_HEADER_LEN],
    (src, dst): (IpAddr, IpAddr),
    pool: &mut FramePool,
) -> Option<Packet> {
    let length = segment.len() as u16;
    let (ethertype, header) = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            (ethernet::IPV4, ipv4::header(src, dst, protocol::TCP, TTL, length).to_vec())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            (ethernet::IPV6, ipv6::header(src, dst, protocol::TCP, TTL, length).to_vec())
        }
        _ => return None,
    };
    let frame = pool.alloc()?;
    let mut packet =
        Packet::new(frame, HEADROOM, LINK + header.len() + segment.len(), PortId::NONE);
    let bytes = packet.head_mut();
    let link = ethernet::header(Default::default(), Default::default(), ethertype);
    bytes[..LINK].copy_from_slice(&link);
    bytes[LINK..LINK + header.len()].copy_from_slice(&header);
    bytes[LINK + header.len()..].copy_from_slice(segment);
    (packet.l3, packet.l4) = (LINK as u16, (LINK + header.len()) as u16);
    fill_checksum(&mut packet);
    Some(packet)
}

fn fill_checksum(packet: &mut Packet) {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let Some((_, pseudo)) = segment::pseudo_header(packet.head(), l3, l4) else { return };
    let field = l4 + tcp::CHECKSUM_OFFSET;
    packet.head_mut()[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    let _ = segment::detect_partial(packet) && segment::finish_checksum(packet).is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::Arena;

    /// A segment of 3 bytes with these flags, from port 1000 to 80.
    fn segment_with(flags: u8, v6: bool, pool: &mut FramePool) -> Packet {
        let mut bytes = [0; tcp::MIN_HEADER_LEN];
        bytes[0..4].copy_from_slice(&[0x03, 0xe8, 0, 80]);
        bytes[4..12].copy_from_slice(&[0, 0, 0, 100, 0, 0, 2, 0]);
        (bytes[12], bytes[13]) = (5 << 4, flags);
        let ends: (IpAddr, IpAddr) = match v6 {
            false => ([192, 0, 2, 1].into(), [198, 51, 100, 2].into()),
            true => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x20, 0, 0, 0, 0, 0, 0, 2].into()),
        };
        let mut packet = wrap(&mut bytes, ends, pool).unwrap();
        let frame = pool.alloc().unwrap();
        packet.append(frame, HEADROOM, 3).unwrap();
        packet
    }

    /// RFC 9293 3.10.7.1: what a closed port answers.
    #[test]
    fn rfc9293_3_10_7_1_a_reset_acknowledges_what_it_refuses() {
        let arena = Arena::new(8, 0).unwrap();
        let mut pool = FramePool::new(arena);
        for v6 in [false, true] {
            let syn = segment_with(tcp::SYN, v6, &mut pool);
            let reset = answer(&syn, &mut pool).unwrap();
            let at = usize::from(reset.l4);
            let bytes = &reset.head()[at..];
            assert_eq!(&bytes[..4], &[0, 80, 0x03, 0xe8]);
            assert_eq!((&bytes[4..8], &bytes[8..12]), (&[0; 4][..], &[0, 0, 0, 104][..]));
            assert_eq!(bytes[13], tcp::RST | tcp::ACK);
            let l3 = usize::from(reset.l3);
            let (_, pseudo) = segment::pseudo_header(reset.head(), l3, at).unwrap();
            assert_eq!(checksum::finish(pseudo + checksum::sum(bytes)), 0);
            assert_eq!(
                addresses(&reset.head()[l3..]).map(|(src, dst)| (dst, src)),
                addresses(&syn.head()[l3..])
            );
            let ack = segment_with(tcp::ACK, v6, &mut pool);
            let other = answer(&ack, &mut pool).unwrap();
            assert_eq!(
                (&other.head()[at + 4..at + 8], other.head()[at + 13]),
                (&[0, 0, 2, 0][..], tcp::RST)
            );
            for packet in [syn, reset, ack, other] {
                packet.free(&mut pool);
            }
        }
    }

    /// RFC 9293 3.5.2: a reset is never answered.
    #[test]
    fn rfc9293_3_5_2_a_reset_is_not_answered() {
        let arena = Arena::new(8, 0).unwrap();
        let mut pool = FramePool::new(arena);
        let reset = segment_with(tcp::RST, false, &mut pool);
        assert!(answer(&reset, &mut pool).is_none());
        reset.free(&mut pool);
    }
}
