//! How the host's stack is told by which way a packet has come that a worker hands to it: by the
//! source link address of the frame on the TAP between them, which nobody else reads.
//!
//! The kernel tracks the host's own connections, and so it judges what begins them, by the same
//! policy as what it gets from its devices itself. What a worker has judged is said to be.

use margay_tunnels::wire::ethernet::Mac;

/// Begin of the address of a packet that no host endpoint was asked about.
pub const UNASKED: [u8; 2] = [0x02, 0x6d];
/// Of one that a worker has translated: the stages before that were asked there.
pub const ASKED: [u8; 2] = [0x06, 0x6d];
/// Of a packet that is to be asked about no more: of a pod, of margay's own, or accepted.
pub const JUDGED: Mac = Mac([0x06, 0x6d, 0xff, 0xff, 0xff, 0xff]);
/// Where in the address the way stands.
pub const WAY_AT: u32 = 2;

/// The way in an address: by the device of this name, or out of a tunnel.
pub fn way(device: Option<&str>) -> [u8; 4] {
    // FNV-1a; the first and the last number have a meaning of their own.
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = |name: &str| name.as_bytes().iter().fold(0x811c_9dc5, step);
    device.map_or(0, |name| hash(name).clamp(1, u32::MAX - 1)).to_be_bytes()
}

/// The source address of a packet.
pub fn address(device: Option<&str>, is_asked: bool) -> Mac {
    let [a, b] = if is_asked { ASKED } else { UNASKED };
    let [c, d, e, f] = way(device);
    Mac([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ways_are_told_apart_and_from_what_is_judged() {
        let devices: Vec<String> = (0..10_000).map(|at| format!("eth{at}")).collect();
        let names = devices.iter().map(|name| Some(name.as_str())).chain([None, Some("")]);
        let all: BTreeSet<Mac> =
            names.flat_map(|name| [address(name, false), address(name, true)]).collect();
        assert_eq!(all.len(), 2 * (devices.len() + 2));
        assert!(!all.contains(&JUDGED));
        // No group address, and none that a maker gives a card.
        assert!(all.iter().chain([&JUDGED]).all(|mac| mac.0[0] & 3 == 2));
    }
}
