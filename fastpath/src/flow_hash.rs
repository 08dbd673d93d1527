//! The hash of a flow: the same for both directions, and for all packets of one connection.
//!
//! Ports count for TCP, UDP and SCTP in packets that are not fragments; all fragments of a packet
//! hash by addresses and protocol, so that they stay on one path (RFC 6438 says why).

use crate::flow::Tuple;
use crate::packet::Packet;
use margay_tunnels::wire::{ipv4, ipv6, protocol};

/// Hash of a parsed packet; 0 when it is not IP.
#[inline]
pub fn flow_hash(packet: &Packet) -> u32 {
    let head = packet.head();
    let ip = &head[usize::from(packet.l3).min(head.len())..];
    let Some(version) = ip.first().map(|byte| byte >> 4) else { return 0 };
    let (addresses, kind, fragment) = match version {
        4 => {
            let Some(view) = ipv4::View::new(ip) else { return 0 };
            let pair =
                mix(u64::from(u32::from(view.src()))) ^ mix(u64::from(u32::from(view.dst())));
            (pair, view.protocol(), view.is_fragment())
        }
        6 => {
            let Some(view) = ipv6::View::new(ip) else { return 0 };
            let Some(transport) = view.transport() else { return 0 };
            let pair = mix_wide(view.src().into()) ^ mix_wide(view.dst().into());
            (pair, transport.protocol, transport.fragment.is_some())
        }
        _ => return 0,
    };
    let has_ports = matches!(kind, protocol::TCP | protocol::UDP | protocol::SCTP) && !fragment;
    let l4 = usize::from(packet.l4);
    let ports = head.get(l4..l4 + 4).filter(|_| has_ports).map(|ports| {
        (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
    });
    finish(addresses, kind, ports)
}

/// The same of a packet of TCP or UDP that is no fragment, by what names its flow.
pub fn of_tuple(tuple: &Tuple) -> u32 {
    let (src, dst) = (tuple.src, tuple.dst);
    let addresses = match src.is_v4() {
        true => mix(u64::from(src.v4_bits())) ^ mix(u64::from(dst.v4_bits())),
        false => mix_wide(src.bits()) ^ mix_wide(dst.bits()),
    };
    finish(addresses, tuple.protocol, Some((tuple.src_port, tuple.dst_port)))
}

#[inline]
fn finish(addresses: u64, kind: u8, ports: Option<(u16, u16)>) -> u32 {
    let mut hash = addresses ^ mix(u64::from(kind) << 32);
    if let Some((src, dst)) = ports {
        let (src, dst) = (u64::from(src), u64::from(dst));
        hash ^= mix(src | 1 << 40) ^ mix(dst | 1 << 40);
        // Equal ports would cancel out; their sum does not.
        hash = hash.wrapping_add(mix(src + dst));
    }
    (mix(hash) >> 32) as u32
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn mix_wide(value: u128) -> u64 {
    mix((value >> 64) as u64 ^ mix(value as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortId;
    use crate::sys::memory::{Arena, FramePool, HEADROOM};
    use margay_tunnels::wire::ethernet;

    fn hash(pool: &mut FramePool, src: [u8; 4], dst: [u8; 4], ports: (u16, u16), word: u16) -> u32 {
        let mut bytes =
            ethernet::header(Default::default(), Default::default(), ethernet::IPV4).to_vec();
        let mut header = ipv4::header(src.into(), dst.into(), protocol::UDP, 64, 8);
        ipv4::set_fragment(&mut header, 28, 1, word);
        bytes.extend(header);
        bytes.extend(ports.0.to_be_bytes());
        bytes.extend(ports.1.to_be_bytes());
        bytes.extend([0, 8, 0, 0]);
        let mut frame = pool.alloc().expect("a frame");
        frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(&bytes);
        let mut packet = Packet::new(frame, HEADROOM, bytes.len(), PortId(0));
        (packet.l3, packet.l4) = (14, 34);
        let hash = flow_hash(&packet);
        packet.free(pool);
        hash
    }

    #[test]
    fn both_directions_of_a_flow_hash_alike_and_others_do_not() {
        let pool = &mut FramePool::new(Arena::new(8, 0).unwrap());
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let one = hash(pool, a, b, (1000, 53), 0);
        assert_eq!(one, hash(pool, b, a, (53, 1000), 0));
        assert_ne!(one, hash(pool, a, b, (1001, 53), 0));
        assert_ne!(one, hash(pool, a, [10, 0, 0, 3], (1000, 53), 0));
        assert_ne!(hash(pool, a, b, (53, 53), 0), hash(pool, a, b, (54, 54), 0));
    }

    #[test]
    fn all_fragments_of_a_packet_hash_alike() {
        let pool = &mut FramePool::new(Arena::new(8, 0).unwrap());
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let first = hash(pool, a, b, (1000, 53), ipv4::MORE_FRAGMENTS);
        assert_eq!(first, hash(pool, a, b, (0x1234, 0x5678), 185));
    }

    #[test]
    fn flows_spread_over_the_low_bits() {
        let pool = &mut FramePool::new(Arena::new(8, 0).unwrap());
        let mut buckets = [0u32; 16];
        for port in 0..4096 {
            let hash = hash(pool, [10, 0, 0, 1], [10, 0, 0, 2], (port, 80), 0);
            buckets[hash as usize % 16] += 1;
        }
        assert!(buckets.iter().all(|count| (180..340).contains(count)), "{buckets:?}");
    }
}
