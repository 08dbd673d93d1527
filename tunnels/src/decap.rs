//! Decapsulation: where the inner packet of an outer one begins, and what is refused before.
//!
//! Whether the outer packet is for this node, comes from a node that is known, and has an inner
//! packet that may be forwarded is the caller's to judge: here are the tunnels' own headers only.

use crate::wire::vxlan::{self, Vni};
use crate::wire::{ethernet, ipv4, udp};

/// Why an outer packet holds no inner one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecapError {
    /// Headers or lengths are wrong.
    Header,
    /// A network that is not ours.
    Vni(Vni),
}

/// The inner packet of IPIP: `payload` is what follows the outer IPv4 header. Calico has IPv4 in
/// IPv4 only, so anything else is refused.
#[inline]
pub fn ipip(payload: &[u8]) -> Result<(), DecapError> {
    match ipv4::View::new(payload) {
        Some(view) if view.version() == 4 => Ok(()),
        _ => Err(DecapError::Header),
    }
}

/// The inner Ethernet frame of VXLAN: its offset in `datagram`, which begins with the UDP header.
/// `len` is the number of bytes behind the outer IP header, of which `datagram` may be the first.
#[inline]
pub fn vxlan(datagram: &[u8], len: usize, ours: Vni) -> Result<usize, DecapError> {
    const FRAME: usize = udp::HEADER_LEN + vxlan::HEADER_LEN;
    let header = udp::View::new(datagram).ok_or(DecapError::Header)?;
    if header.len() < FRAME + ethernet::HEADER_LEN || header.len() > len {
        return Err(DecapError::Header);
    }
    if datagram.len() < FRAME + ethernet::HEADER_LEN {
        return Err(DecapError::Header);
    }
    let view = vxlan::View::new(&datagram[udp::HEADER_LEN..]).ok_or(DecapError::Header)?;
    match view.vni() {
        Some(vni) if vni == ours => Ok(FRAME),
        Some(vni) => Err(DecapError::Vni(vni)),
        None => Err(DecapError::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(length: u16, flags: u8, vni: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0xc0, 0, 0x12, 0xb5];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, flags, 0, 0, 0, 0, 0x10, vni, 0]);
        bytes.resize(bytes.len() + payload, 0xaa);
        bytes
    }

    #[test]
    fn lengths_flags_and_networks_are_checked() {
        let ours = Vni::new(4096).unwrap();
        let good = datagram(30, 8, 0, 14);
        assert_eq!(vxlan(&good, 30, ours), Ok(16));
        assert_eq!(vxlan(&good, 40, ours), Ok(16), "padding behind the datagram");
        assert_eq!(vxlan(&good, 29, ours), Err(DecapError::Header), "longer than the IP packet");
        assert_eq!(vxlan(&good[..29], 30, ours), Err(DecapError::Header), "cut");
        let short = datagram(29, 8, 0, 14);
        assert_eq!(vxlan(&short, 30, ours), Err(DecapError::Header), "no room for Ethernet");
        let other = datagram(30, 8, 1, 14);
        assert_eq!(vxlan(&other, 30, ours), Err(DecapError::Vni(Vni::new(4097).unwrap())));
        assert_eq!(vxlan(&datagram(30, 0, 0, 14), 30, ours), Err(DecapError::Header), "no I flag");
    }

    #[test]
    fn ipip_takes_ipv4_only() {
        let v4 = ipv4::header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, 64, 0);
        assert_eq!(ipip(&v4), Ok(()));
        assert_eq!(ipip(&v4[..19]), Err(DecapError::Header));
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        assert_eq!(ipip(&v6), Err(DecapError::Header));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_point_outside(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), more in 0usize..40,
        ) {
            let ours = Vni::new(4096).unwrap();
            let _ = ipip(&bytes);
            if let Ok(at) = vxlan(&bytes, bytes.len() + more, ours) {
                prop_assert!(at + ethernet::HEADER_LEN <= bytes.len());
            }
        }
    }
}
