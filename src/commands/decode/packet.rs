//! An Ethernet frame as a list of layers, outermost first.
//!
//! Headers are read by the same views as the data path reads them (`margay_tunnels::wire`), and by
//! smoltcp where the slow path uses it. A frame is malformed when a header does not fit into the
//! bytes or contradicts them; wrong checksums and odd addresses are reported, not refused.

use super::Malformed;
use super::layers::{Arp, Ethernet, Extension, Hex, Ipv4, Ipv6, Layer, Payload};
use super::transport;
use margay_fastpath::drop_reason::DropReason;
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol};
use serde::Serialize;
use smoltcp::wire::ArpPacket;
use std::net::{IpAddr, Ipv4Addr};

/// Most IP headers in one another that are opened.
const MAX_NESTING: usize = 8;
/// IPv6 in IP (RFC 4213).
const IPV6_IN_IP: u8 = 41;

/// A whole frame.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decoded {
    /// Bytes given.
    length: usize,
    pub(super) layers: Vec<Layer>,
}

/// What the transport layer must know of the IP header above it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Above {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    /// First or later part of a fragmented packet: its checksum covers bytes not seen here.
    pub(super) fragment: bool,
}

/// Decodes one frame.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Malformed> {
    let mut walk = Walk { bytes, layers: Vec::new() };
    let link = ethernet::View::new(bytes)
        .ok_or_else(|| cut("ethernet", 0, bytes.len(), ethernet::HEADER_LEN))?;
    let ethertype = link.ethertype();
    walk.layers.push(Layer::Ethernet(Ethernet {
        dst: link.dst().to_string(),
        src: link.src().to_string(),
        ether_type: format!("{ethertype:#06x}"),
        padding: 0,
    }));
    let at = ethernet::HEADER_LEN;
    let end = match ethertype {
        ethernet::IPV4 => walk.ipv4(at, bytes.len(), 0)?,
        ethernet::IPV6 => walk.ipv6(at, bytes.len(), 0)?,
        ethernet::ARP => walk.arp(at)?,
        _ => walk.payload(at, bytes.len()),
    };
    if let Some(Layer::Ethernet(link)) = walk.layers.first_mut() {
        link.padding = bytes.len() - end;
    }
    Ok(Decoded { length: bytes.len(), layers: walk.layers })
}

/// A header or packet that needs `need` bytes and has only `have`.
pub(super) fn cut(layer: &'static str, offset: usize, have: usize, need: usize) -> Malformed {
    let detail = format!("{have} bytes, {need} needed");
    refused(DropReason::Truncated.name(), layer, offset, detail)
}

/// A header that contradicts itself or its surroundings.
pub(super) fn refused(
    code: &'static str,
    layer: &'static str,
    offset: usize,
    detail: String,
) -> Malformed {
    Malformed { code, layer: Some(layer), offset: Some(offset), treatment: Some("drop"), detail }
}

struct Walk<'a> {
    bytes: &'a [u8],
    layers: Vec<Layer>,
}

impl Walk<'_> {
    /// Each of these reads the layer at `at`, which may reach to `end`, and answers where it ended.
    fn ipv4(&mut self, at: usize, end: usize, depth: usize) -> Result<usize, Malformed> {
        let bytes = &self.bytes[at..end];
        let header = ipv4::View::new(bytes)
            .ok_or_else(|| cut("ipv4", at, bytes.len(), ipv4::MIN_HEADER_LEN))?;
        let (length, total) = (header.header_len(), header.total_len());
        let bad = |detail| refused(DropReason::BadHeader.name(), "ipv4", at, detail);
        if header.version() != 4 {
            return Err(bad(format!("version {}, 4 expected", header.version())));
        }
        if length < ipv4::MIN_HEADER_LEN || length > total {
            return Err(bad(format!("header length {length}, total length {total}")));
        }
        if total > bytes.len() {
            return Err(cut("ipv4", at, bytes.len(), total));
        }
        let flags = header.flags_fragment();
        self.layers.push(Layer::Ipv4(Ipv4 {
            header_length: length,
            dscp: header.traffic_class() >> 2,
            ecn: header.traffic_class() & 3,
            total_length: total,
            identification: header.id(),
            dont_fragment: header.dont_fragment(),
            more_fragments: flags & ipv4::MORE_FRAGMENTS != 0,
            fragment_offset: header.fragment_offset(),
            ttl: header.ttl(),
            protocol: header.protocol(),
            checksum: format!("{:#06x}", header.checksum()),
            checksum_valid: header.checksum_ok(),
            src: header.src(),
            dst: header.dst(),
            options: Hex(bytes[ipv4::MIN_HEADER_LEN..length].to_vec()),
        }));
        let above = Above {
            src: header.src().into(),
            dst: header.dst().into(),
            protocol: header.protocol(),
            fragment: header.is_fragment(),
        };
        self.inside_ip(above, header.fragment_offset() > 0, (at + length, at + total), depth)
    }

    fn ipv6(&mut self, at: usize, end: usize, depth: usize) -> Result<usize, Malformed> {
        let bytes = &self.bytes[at..end];
        let header =
            ipv6::View::new(bytes).ok_or_else(|| cut("ipv6", at, bytes.len(), ipv6::HEADER_LEN))?;
        if header.version() != 6 {
            let detail = format!("version {}, 6 expected", header.version());
            return Err(refused(DropReason::BadHeader.name(), "ipv6", at, detail));
        }
        let total = ipv6::HEADER_LEN + header.payload_len();
        let packet = bytes.get(..total).ok_or_else(|| cut("ipv6", at, bytes.len(), total))?;
        let whole = ipv6::View::new(packet).unwrap_or(header);
        let transport =
            whole.transport().filter(|found| found.offset <= total).ok_or_else(|| {
                let detail = format!(
                    "extension headers run past the packet or are more than {}",
                    ipv6::MAX_EXTENSIONS
                );
                refused(DropReason::BadExtension.name(), "ipv6", at, detail)
            })?;
        self.layers.push(Layer::Ipv6(Ipv6 {
            dscp: header.traffic_class() >> 2,
            ecn: header.traffic_class() & 3,
            flow_label: header.flow_label(),
            payload_length: header.payload_len(),
            next_header: header.next_header(),
            hop_limit: header.hop_limit(),
            src: header.src(),
            dst: header.dst(),
            extensions: whole.extensions().map(|found| Extension::new(packet, &found)).collect(),
        }));
        let above = Above {
            src: header.src().into(),
            dst: header.dst().into(),
            protocol: transport.protocol,
            fragment: transport.fragment.is_some_and(|word| word & 0xfff9 != 0),
        };
        let range = (at + transport.offset, at + total);
        self.inside_ip(above, transport.is_later_fragment(), range, depth)
    }

    fn inside_ip(
        &mut self,
        above: Above,
        later_fragment: bool,
        (at, end): (usize, usize),
        depth: usize,
    ) -> Result<usize, Malformed> {
        if later_fragment || depth == MAX_NESTING {
            return Ok(self.payload(at, end));
        }
        let nested = depth + 1;
        match above.protocol {
            // What follows the inner packet inside the outer one is shown as payload.
            protocol::IPIP => self.ipv4(at, end, nested).map(|inner| self.payload(inner, end)),
            IPV6_IN_IP => self.ipv6(at, end, nested).map(|inner| self.payload(inner, end)),
            _ => {
                let rest = match transport::decode(&self.bytes[at..end], at, &above)? {
                    Some((layer, used)) => {
                        self.layers.push(layer);
                        at + used
                    }
                    None => at,
                };
                Ok(self.payload(rest, end))
            }
        }
    }

    fn arp(&mut self, at: usize) -> Result<usize, Malformed> {
        let bytes = &self.bytes[at..];
        let packet =
            ArpPacket::new_checked(bytes).map_err(|_| cut("arp", at, bytes.len(), ARP_LEN))?;
        let address = |octets: &[u8]| {
            <[u8; 4]>::try_from(octets).map(|it| IpAddr::from(Ipv4Addr::from(it))).ok()
        };
        if (packet.hardware_len(), packet.protocol_len()) != (6, 4) {
            let detail = format!(
                "address lengths {} and {}, 6 and 4 expected",
                packet.hardware_len(),
                packet.protocol_len()
            );
            return Err(refused(DropReason::NeighborMessage.name(), "arp", at, detail));
        }
        self.layers.push(Layer::Arp(Arp {
            operation: packet.operation().into(),
            sender_mac: Hex::mac(packet.source_hardware_addr()),
            sender_address: address(packet.source_protocol_addr()),
            target_mac: Hex::mac(packet.target_hardware_addr()),
            target_address: address(packet.target_protocol_addr()),
        }));
        Ok(at + ARP_LEN)
    }

    fn payload(&mut self, at: usize, end: usize) -> usize {
        if at < end {
            let bytes = Hex(self.bytes[at..end].to_vec());
            self.layers.push(Layer::Payload(Payload { length: end - at, bytes }));
        }
        end
    }
}

/// ARP for Ethernet and IPv4 (RFC 826), in bytes.
const ARP_LEN: usize = 28;
