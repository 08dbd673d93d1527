//! The hash of a flow: the same for both directions, and for all packets of one connection.
//!
//! Ports count for TCP, UDP and SCTP in packets that are not fragments; all fragments of a packet
//! hash by addresses and protocol, so that they stay on one path (RFC 6438 says why).

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
    let mut hash = addresses ^ mix(u64::from(kind) << 32);
    let has_ports = matches!(kind, protocol::TCP | protocol::UDP | protocol::SCTP);
    if has_ports
        && !fragment
        && let Some(ports) = head.get(usize::from(packet.l4)..usize::from(packet.l4) + 4)
    {
        let src = u64::from(u16::from_be_bytes([ports[0], ports[1]]));
        let dst = u64::from(u16::from_be_bytes([ports[2], ports[3]]));
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
