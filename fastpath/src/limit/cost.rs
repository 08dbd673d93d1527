//! What a packet costs its endpoint's limits.
//!
//! Bytes are those of Ethernet frames without their checksums, as Linux's token bucket filter has
//! them. A super-packet costs what its parts will: each repeats the headers, and counts as one.

use crate::packet::{Gso, Packet};
use margay_tunnels::wire::{tcp, udp};

/// The cost of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes on the wire.
    pub bytes: u32,
    /// Packets on the wire, 1 or more.
    pub packets: u32,
}

impl Cost {
    /// One packet of so many bytes.
    #[inline]
    pub const fn packet(bytes: u32) -> Cost {
        Cost { bytes, packets: 1 }
    }

    /// Bits on the wire.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.bytes.saturating_mul(8)
    }

    /// Of a parsed packet.
    #[inline]
    pub fn of(packet: &Packet) -> Cost {
        match packet.is_finished() {
            true => Cost::packet(packet.len() as u32),
            false => Cost::of_unfinished(packet),
        }
    }

    fn of_unfinished(packet: &Packet) -> Cost {
        let (len, offload) = (packet.len() as u32, packet.offload());
        if offload.gso == Gso::None || offload.gso_size == 0 {
            return Cost::packet(len);
        }
        let transport = packet.head().get(usize::from(packet.l4)..).unwrap_or_default();
        let of_transport = match offload.gso {
            Gso::Udp => udp::HEADER_LEN,
            _ => tcp::View::new(transport).map_or(tcp::MIN_HEADER_LEN, |view| view.header_len()),
        };
        let headers = u32::from(packet.l4) + of_transport as u32;
        let payload = len.saturating_sub(headers);
        let packets = payload.div_ceil(offload.gso_size.into()).max(1);
        Cost { bytes: len.saturating_add((packets - 1).saturating_mul(headers)), packets }
    }
}
