//! What happens to the packets of a flow, and how the map has it.

use crate::flow::Tuple;
use crate::nat::changes;
use crate::port::PortId;
use crate::tunnel::{TunnelId, TunnelKind};
use margay_tunnels::wire::ethernet::Mac;

/// Where things are in a record, for the program and for the workers. A record is two lines of the
/// cache: what a routed packet reads is in the first one, what is counted in the second.
pub(crate) mod layout {
    /// Words of 8 bytes of a record.
    pub(crate) const WORDS: usize = 16;
    /// The word with the generation; 0 is never valid.
    pub(crate) const GENERATION: usize = 0;
    /// Words that the decision fills, from word 1 on.
    pub(crate) const DECISION_WORDS: usize = 9;
    /// The word that counts packets.
    pub(crate) const PACKETS: usize = 10;
    /// The word that counts bytes of IP packets.
    pub(crate) const BYTES: usize = 11;
    /// The word that says when the last packet came, in nanoseconds of the kernel's clock.
    pub(crate) const USED_NS: usize = 12;
    /// Words that only the program writes, about the order of packets; 0 at first. The generation
    /// in which no packet is under way to the worker any more:
    pub(crate) const SETTLED: usize = 13;
    /// the generation and the queue, in the lowest byte, that the next word is about:
    pub(crate) const KNOWN: usize = 14;
    /// the number of the last packet that went to the worker.
    pub(crate) const LAST: usize = 15;
    /// Where the program is tc's: since when the flow waits for its packets at the worker, in
    /// nanoseconds of the kernel's clock,
    pub(crate) const SINCE: usize = 13;
    /// what packets on the wire are more than those that were counted, in bits from this one on,
    /// and below it their bytes,
    pub(crate) const EXTRA: usize = 14;
    pub(crate) const EXTRA_SHIFT: i32 = 40;
    /// and when the last packet had gone to the worker; 0 if that is not known,
    pub(crate) const WENT_NS: usize = 15;
    /// or this, if none is under way there any more.
    pub(crate) const NONE_UNDER_WAY: i32 = 1;

    /// Byte offset: both link addresses as they are written, 12 bytes.
    pub(crate) const LINK: i16 = 8;
    /// Longest IP packet, 2 bytes.
    pub(crate) const MAX_LEN: i16 = 20;
    /// Flags, 2 bytes.
    pub(crate) const FLAGS: i16 = 22;
    /// Number of the egress port, 2 bytes.
    pub(crate) const EGRESS: i16 = 24;
    /// Source port of a tunnel's outer packets as it is written, 2 bytes.
    pub(crate) const SOURCE_PORT: i16 = 26;
    /// The link address that packets must be sent to, 6 bytes.
    pub(crate) const IN_MAC: i16 = 28;
    /// What the IP header's checksum changes by, one less to live and all, 2 bytes.
    pub(crate) const IP_CHANGE: i16 = 34;
    /// What the transport's checksum changes by, 2 bytes.
    pub(crate) const TRANSPORT_CHANGE: i16 = 36;
    /// Row of the tunnel's outer headers, 2 bytes.
    pub(crate) const OUTER: i16 = 38;
    /// Both ports as they are written, 4 bytes.
    pub(crate) const PORTS: i16 = 40;
    /// Rows of the limits of who sends and of who receives, 2 bytes each; 0 for none.
    pub(crate) const LIMITS: [i16; 2] = [44, 46];
    /// Both addresses as they are written, 8 or 32 bytes.
    pub(crate) const ADDRESSES: i16 = 48;

    /// Flag: addresses and ports are written anew.
    pub(crate) const TRANSLATED: i32 = 1;
    /// Flag: packets whose checksum may be unfinished are the workers'.
    pub(crate) const MAYBE_PARTIAL: i32 = 2;
    /// Flag: there are limits.
    pub(crate) const LIMITED: i32 = 4;
    /// Flag: it leaves through an IPIP tunnel;
    pub(crate) const IPIP: i32 = 8;
    /// through one of VXLAN.
    pub(crate) const VXLAN: i32 = 16;
    /// Flag: what packets become on the wire is counted.
    pub(crate) const ON_WIRE: i32 = 32;
}

/// The tunnel that a flow leaves through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrap {
    /// Which one.
    pub tunnel: TunnelId,
    /// How it carries packets.
    pub kind: TunnelKind,
    /// Row of its outer headers.
    pub outer: u16,
    /// Bytes of them.
    pub overhead: u16,
    /// Source port of UDP.
    pub source_port: u16,
}

/// What happens to each packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The port that it leaves by.
    pub egress: PortId,
    /// Link address of the next hop.
    pub next_hop: Mac,
    /// Link address of the egress port.
    pub source: Mac,
    /// Link address of the ingress port.
    pub station: Mac,
    /// Longest IP packet that the egress port or the tunnel takes, in bytes.
    pub max_len: u16,
    /// Its sender may leave checksums unfinished without a mark.
    pub maybe_partial: bool,
    /// Rows of the limits of the endpoints that it comes from and goes to; 0 for none.
    pub limits: [u16; 2],
    /// The tunnel that it leaves through.
    pub wrap: Option<Wrap>,
    /// It came whole by tc, and leaves by a wire.
    pub on_wire: bool,
    /// As its packets leave, or go into the tunnel.
    pub leaving: Tuple,
}

impl Decision {
    /// The words of a record from word 1 on, for packets that arrive as `arriving`.
    pub(super) fn words(&self, arriving: &Tuple) -> [u64; layout::DECISION_WORDS] {
        let mut bytes = [0u8; layout::DECISION_WORDS * 8];
        let mut put = |at: i16, value: &[u8]| {
            let at = at as usize - size_of::<u64>();
            bytes[at..at + value.len()].copy_from_slice(value);
        };
        let mut flags = if self.maybe_partial { layout::MAYBE_PARTIAL } else { 0 };
        flags |= if self.on_wire { layout::ON_WIRE } else { 0 };
        put(layout::LINK, &self.next_hop.0);
        put(layout::LINK + 6, &self.source.0);
        put(layout::MAX_LEN, &self.max_len.to_ne_bytes());
        put(layout::EGRESS, &self.egress.0.to_ne_bytes());
        if let Some(wrap) = self.wrap {
            flags |= match wrap.kind {
                TunnelKind::Ipip => layout::IPIP,
                TunnelKind::Vxlan => layout::VXLAN,
            };
            put(layout::OUTER, &wrap.outer.to_ne_bytes());
            put(layout::SOURCE_PORT, &wrap.source_port.to_be_bytes());
        }
        put(layout::IN_MAC, &self.station.0);
        for (at, row) in layout::LIMITS.into_iter().zip(self.limits) {
            put(at, &row.to_ne_bytes());
            flags |= if row == 0 { 0 } else { layout::LIMITED };
        }
        if self.leaving != *arriving {
            flags |= layout::TRANSLATED;
            let Tuple { src, dst, src_port, dst_port, .. } = self.leaving;
            let (ip, transport) = changes(arriving, &self.leaving);
            put(layout::IP_CHANGE, &one_less_to_live(ip).to_be_bytes());
            put(layout::TRANSPORT_CHANGE, &transport.to_be_bytes());
            put(layout::PORTS, &src_port.to_be_bytes());
            put(layout::PORTS + 2, &dst_port.to_be_bytes());
            if src.is_v4() {
                put(layout::ADDRESSES, &src.v4_bits().to_be_bytes());
                put(layout::ADDRESSES + 4, &dst.v4_bits().to_be_bytes());
            } else {
                put(layout::ADDRESSES, &src.bits().to_be_bytes());
                put(layout::ADDRESSES + 16, &dst.bits().to_be_bytes());
            }
        }
        put(layout::FLAGS, &(flags as u16).to_ne_bytes());
        let (words, _) = bytes.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
    }
}

/// What an IPv4 header's checksum changes by (RFC 1624), and by a TTL, the high byte of its word,
/// that is one less.
fn one_less_to_live(change: u16) -> u16 {
    let (sum, is_over) = change.overflowing_add(!0x0100);
    sum + u16::from(is_over)
}
