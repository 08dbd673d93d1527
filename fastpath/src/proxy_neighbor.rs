//! ARP (RFC 826) and neighbour discovery (RFC 4861) on links with no kernel at margay's end.
//!
//! Behind a TAP the far side is a pod or the host, whose routes all point at this link, so margay
//! answers for every address (proxy ARP, RFC 1027), 169.254.1.1 and fe80::ecee:eeff:feee:eeee
//! among them. It does not answer probes for duplicates, nor a host that asks for itself.

use crate::packet::Packet;
use crate::sys::memory::FramePool;
use margay_tunnels::wire::{ethernet, ethernet::Mac, ipv6, protocol};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Message, Icmpv6Packet, Icmpv6Repr,
    NdiscNeighborFlags, NdiscRepr,
};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The gateway that Calico gives to pods for IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway that Calico gives to pods for IPv6: the link-local address of ee:ee:ee:ee:ee:ee.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// The link address of that gateway.
pub const GATEWAY_MAC: Mac = Mac([0xee; 6]);

/// What a neighbour message came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The packet has been turned into the answer: send it back where it came from.
    Answer,
    /// Nothing to do: malformed, not a question, or not to be answered.
    Ignored,
}

/// Handles an ARP or neighbour discovery message in place. `mac` is margay's address on the link.
pub fn answer(packet: &mut Packet, mac: Mac, pool: &mut FramePool) -> Outcome {
    match ethernet::View::new(packet.head()).map(|view| view.ethertype()) {
        Some(ethernet::ARP) => answer_arp(packet, mac, pool),
        Some(ethernet::IPV6) => answer_solicitation(packet, mac, pool),
        _ => Outcome::Ignored,
    }
}

fn answer_arp(packet: &mut Packet, mac: Mac, pool: &mut FramePool) -> Outcome {
    let Ok(view) = ArpPacket::new_checked(&packet.head()[ethernet::HEADER_LEN..]) else {
        return Outcome::Ignored;
    };
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: asker,
        target_protocol_addr: wanted,
        ..
    }) = ArpRepr::parse(&view)
    else {
        return Outcome::Ignored;
    };
    let asker_mac = Mac(source_hardware_addr.0);
    if asker_mac.is_multicast() || asker.is_unspecified() || asker == wanted {
        return Outcome::Ignored;
    }
    if operation != ArpOperation::Request {
        return Outcome::Ignored;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: wanted,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: asker,
    };
    packet.truncate(ethernet::HEADER_LEN + reply.buffer_len(), pool);
    let bytes = packet.head_mut();
    bytes[..ethernet::HEADER_LEN].copy_from_slice(&ethernet::header(asker_mac, mac, ethernet::ARP));
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[ethernet::HEADER_LEN..]));
    Outcome::Answer
}

fn answer_solicitation(packet: &mut Packet, mac: Mac, pool: &mut FramePool) -> Outcome {
    let Some((asker, wanted, asker_mac)) = solicitation(packet) else { return Outcome::Ignored };
    let source = wanted;
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::ROUTER,
        target_addr: wanted,
        lladdr: Some(EthernetAddress(mac.0).into()),
    });
    let length = advert.buffer_len();
    let total = ethernet::HEADER_LEN + ipv6::HEADER_LEN + length;
    if packet.head().len() < total {
        // A solicitation without an address option is shorter than its answer.
        let missing = total - packet.head().len();
        let Some(room) = packet.push_front(missing) else { return Outcome::Ignored };
        room.fill(0);
    }
    packet.truncate(total, pool);
    let bytes = packet.head_mut();
    let (link, rest) = bytes.split_at_mut(ethernet::HEADER_LEN);
    link.copy_from_slice(&ethernet::header(asker_mac, mac, ethernet::IPV6));
    let (ip, icmp) = rest.split_at_mut(ipv6::HEADER_LEN);
    // RFC 4861 7.1.2: the hop limit must be 255.
    ip.copy_from_slice(&ipv6::header(source, asker, protocol::ICMPV6, 255, length as u16));
    advert.emit(&source, &asker, &mut Icmpv6Packet::new_unchecked(icmp), &Default::default());
    Outcome::Answer
}

/// Who asks, for what, and the asker's link address; `None` unless it is a good solicitation.
fn solicitation(packet: &Packet) -> Option<(Ipv6Addr, Ipv6Addr, Mac)> {
    let link = ethernet::View::new(packet.head())?;
    let view = ipv6::View::new(link.payload())?;
    let icmp = link.payload().get(ipv6::HEADER_LEN..ipv6::HEADER_LEN + view.payload_len())?;
    let message = Icmpv6Packet::new_checked(icmp).ok()?;
    // RFC 4861 7.1.1: hop limit 255, code 0, right checksum, at least 24 bytes.
    let valid = view.next_header() == protocol::ICMPV6
        && view.hop_limit() == 255
        && message.msg_type() == Icmpv6Message::NeighborSolicit
        && message.msg_code() == 0
        && icmp.len() >= 24
        && message.verify_checksum(&view.src(), &view.dst());
    if !valid {
        return None;
    }
    let (asker, wanted) = (view.src(), message.target_addr());
    let is_question = !asker.is_unspecified() && !wanted.is_multicast() && asker != wanted;
    is_question.then_some((asker, wanted, link.src()))
}
