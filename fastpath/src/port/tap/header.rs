//! The virtio network header (virtio 1.2, 5.1.6) as TAPs use it: ten bytes, native byte order.

use crate::packet::{Gso, Offload, Packet};
use crate::sys::tap::HEADER_LEN;
use margay_tunnels::wire::{tcp, udp};

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The first part has CWR set, and only it may (RFC 3168 6.1.2).
const GSO_ECN: u8 = 0x80;

/// The state of a packet of `len` bytes; `None` when the header does not fit it.
pub(super) fn decode(header: &[u8; HEADER_LEN], len: usize) -> Option<Offload> {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let gso = match header[1] & !GSO_ECN {
        GSO_NONE => Gso::None,
        GSO_TCPV4 => Gso::Tcp4,
        GSO_TCPV6 => Gso::Tcp6,
        GSO_UDP_L4 => Gso::Udp,
        _ => return None,
    };
    let gso_size = if gso == Gso::None { 0 } else { word(4) };
    if gso != Gso::None && gso_size == 0 {
        return None;
    }
    if header[0] & NEEDS_CSUM == 0 {
        return Some(Offload { gso, gso_size, ..Offload::default() });
    }
    let (csum_start, csum_offset) = (word(6), word(8));
    let fits = usize::from(csum_start) + usize::from(csum_offset) + 2 <= len;
    fits.then_some(Offload { needs_csum: true, gso, gso_size, csum_start, csum_offset })
}

/// The header of a packet.
pub(in crate::port) fn encode(packet: &Packet) -> [u8; HEADER_LEN] {
    let Offload { needs_csum, gso, gso_size, csum_start, csum_offset } = packet.offload();
    let mut header = [0; HEADER_LEN];
    let mut put = |at: usize, word: u16| header[at..at + 2].copy_from_slice(&word.to_ne_bytes());
    if needs_csum {
        put(6, csum_start);
        put(8, csum_offset);
    }
    let l4 = usize::from(if needs_csum { csum_start } else { packet.l4 });
    let tcp = packet.head().get(l4..).and_then(tcp::View::new);
    let (kind, transport) = match (gso, tcp) {
        (Gso::None, _) => (GSO_NONE, 0),
        (Gso::Udp, _) => (GSO_UDP_L4, udp::HEADER_LEN),
        (gso, tcp) => {
            let kind = if gso == Gso::Tcp4 { GSO_TCPV4 } else { GSO_TCPV6 };
            let cwr = tcp.is_some_and(|tcp| tcp.flags() & tcp::CWR != 0);
            let length = tcp.map_or(tcp::MIN_HEADER_LEN, |tcp| tcp.header_len());
            (kind | if cwr { GSO_ECN } else { 0 }, length)
        }
    };
    if gso != Gso::None {
        put(2, (l4 + transport) as u16);
        put(4, gso_size);
    }
    header[0] = if needs_csum { NEEDS_CSUM } else { 0 };
    header[1] = kind;
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::tests::{as_super, assert_all_back, packet, pool, written};

    #[test]
    fn every_state_goes_through_the_header_and_back() {
        let (arena, mut pool) = pool();
        for (v6, udp, gso) in
            [(false, false, Gso::Tcp4), (true, false, Gso::Tcp6), (true, true, Gso::Udp)]
        {
            for size in [0, 1448] {
                let (bytes, l4) = written(v6, udp, &[], &[7; 3000]);
                let mut one = packet(&mut pool, &bytes, 4000, 1);
                as_super(&mut one, l4, gso, size);
                if size == 0 {
                    one.set_offload(Offload { gso: Gso::None, ..one.offload() });
                }
                let header = encode(&one);
                assert_eq!(decode(&header, one.len()), Some(one.offload()));
                // `written` sets CWR in TCP.
                assert_eq!(header[1] & GSO_ECN != 0, !udp && size > 0);
                one.set_offload(Offload::default());
                assert_eq!(encode(&one), [0; HEADER_LEN]);
                one.free(&mut pool);
            }
        }
        assert_all_back(&arena, pool, vec![]);
    }

    #[test]
    fn a_header_that_does_not_fit_is_refused() {
        let header = |flags: u8, kind: u8, size: u16, start: u16| {
            let mut header = [0; HEADER_LEN];
            (header[0], header[1]) = (flags, kind);
            header[4..6].copy_from_slice(&size.to_ne_bytes());
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&16u16.to_ne_bytes());
            header
        };
        assert!(decode(&header(NEEDS_CSUM, GSO_TCPV4, 1448, 34), 52).is_some());
        assert!(decode(&header(NEEDS_CSUM, GSO_TCPV4, 1448, 34), 51).is_none(), "past the end");
        assert!(decode(&header(NEEDS_CSUM, GSO_TCPV4, 0, 34), 60).is_none(), "size 0");
        assert!(decode(&header(NEEDS_CSUM, 3, 1448, 34), 60).is_none(), "UFO");
        assert_eq!(decode(&header(2, 0, 9, 34), 60), Some(Offload::default()), "data valid");
    }
}
