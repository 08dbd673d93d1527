//! The layers as they are printed: keys in camelCase, addresses as text, raw bytes as hex.

use margay_tunnels::wire::ethernet::Mac;
use margay_tunnels::wire::ipv6;
use serde::{Serialize, Serializer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes that print as hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Vec<u8>);

impl Hex {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Six bytes as a link address; other lengths as plain hex.
    pub(super) fn mac(bytes: &[u8]) -> String {
        match <[u8; 6]>::try_from(bytes) {
            Ok(octets) => Mac(octets).to_string(),
            Err(_) => Hex(bytes.to_vec()).to_string(),
        }
    }
}

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One layer; `layer` names it.
#[derive(Debug, Serialize)]
#[serde(tag = "layer", rename_all = "camelCase")]
pub(super) enum Layer {
    Ethernet(Ethernet),
    Arp(Arp),
    Ipv4(Ipv4),
    Ipv6(Ipv6),
    Tcp(Tcp),
    Udp(Udp),
    Icmp(Icmp),
    Icmpv6(Icmp),
    Payload(Payload),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ethernet {
    pub(super) dst: String,
    pub(super) src: String,
    pub(super) ether_type: String,
    /// Bytes behind the packet that its length does not cover.
    pub(super) padding: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Arp {
    /// 1 request, 2 reply.
    pub(super) operation: u16,
    pub(super) sender_mac: String,
    pub(super) sender_address: Option<IpAddr>,
    pub(super) target_mac: String,
    pub(super) target_address: Option<IpAddr>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ipv4 {
    pub(super) header_length: usize,
    pub(super) dscp: u8,
    pub(super) ecn: u8,
    pub(super) total_length: usize,
    pub(super) identification: u16,
    pub(super) dont_fragment: bool,
    pub(super) more_fragments: bool,
    /// In bytes.
    pub(super) fragment_offset: usize,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    pub(super) checksum: String,
    pub(super) checksum_valid: bool,
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    #[serde(skip_serializing_if = "Hex::is_empty")]
    pub(super) options: Hex,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ipv6 {
    pub(super) dscp: u8,
    pub(super) ecn: u8,
    pub(super) flow_label: u32,
    pub(super) payload_length: usize,
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) src: Ipv6Addr,
    pub(super) dst: Ipv6Addr,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) extensions: Vec<Extension>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extension {
    /// IANA number of this header.
    header: u8,
    next_header: u8,
    length: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment_offset: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more_fragments: Option<bool>,
    bytes: Hex,
}

impl Extension {
    pub(super) fn new(packet: &[u8], found: &ipv6::Extension) -> Extension {
        let end = (found.offset + found.len).min(packet.len());
        Extension {
            header: found.kind,
            next_header: found.next,
            length: found.len,
            fragment_offset: found.fragment.map(|word| usize::from(word & 0xfff8)),
            more_fragments: found.fragment.map(|word| word & 1 != 0),
            bytes: Hex(packet[found.offset..end].to_vec()),
        }
    }
}

/// What can be said of a transport checksum.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checksum {
    pub(super) checksum: String,
    /// Null when it cannot be told: a fragment, or UDP over IPv4 without one.
    pub(super) checksum_valid: Option<bool>,
    /// The field holds the pseudo-header's sum only: a device is to finish it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) checksum_partial: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tcp {
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) header_length: usize,
    pub(super) flags: Vec<&'static str>,
    pub(super) window: u16,
    #[serde(flatten)]
    pub(super) checksum: Checksum,
    #[serde(skip_serializing_if = "Hex::is_empty")]
    pub(super) options: Hex,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Udp {
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) length: usize,
    #[serde(flatten)]
    pub(super) checksum: Checksum,
}

/// ICMP of either family.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Icmp {
    pub(super) r#type: u8,
    pub(super) code: u8,
    pub(super) name: &'static str,
    pub(super) checksum: String,
    pub(super) checksum_valid: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identifier: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sequence: Option<u16>,
    /// Next-hop MTU of "fragmentation needed" and "packet too big", in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u32>,
    /// Target of a neighbour solicitation or advertisement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) link_address: Option<String>,
    /// The packet that an error answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quoted: Option<Quoted>,
}

/// As much as is there of a packet quoted in an error.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Quoted {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dst_port: Option<u16>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payload {
    pub(super) length: usize,
    pub(super) bytes: Hex,
}
