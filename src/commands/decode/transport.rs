//! TCP, UDP and ICMP inside a decoded IP packet.

use super::Malformed;
use super::layers::{Checksum, Hex, Icmp, Layer, Quoted, Tcp, Udp};
use super::packet::{Above, cut, refused};
use margay_tunnels::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, NdiscOption, NdiscOptionType};
use std::net::{IpAddr, Ipv6Addr};

const FLAGS: [(u8, &str); 8] = [
    (tcp::FIN, "FIN"),
    (tcp::SYN, "SYN"),
    (tcp::RST, "RST"),
    (tcp::PSH, "PSH"),
    (tcp::ACK, "ACK"),
    (tcp::URG, "URG"),
    (tcp::ECE, "ECE"),
    (tcp::CWR, "CWR"),
];

/// The layer that `bytes` begin with and how many of them it took; `None` when the protocol is
/// not one that is opened. `at` is where they lie in the frame.
pub(super) fn decode(
    bytes: &[u8],
    at: usize,
    above: &Above,
) -> Result<Option<(Layer, usize)>, Malformed> {
    match above.protocol {
        protocol::TCP => tcp_layer(bytes, at, above).map(Some),
        protocol::UDP => udp_layer(bytes, at, above).map(Some),
        protocol::ICMP if above.src.is_ipv4() => icmp_layer(bytes, at, above).map(Some),
        protocol::ICMPV6 => icmpv6_layer(bytes, at, above),
        _ => Ok(None),
    }
}

fn tcp_layer(bytes: &[u8], at: usize, above: &Above) -> Result<(Layer, usize), Malformed> {
    let view =
        tcp::View::new(bytes).ok_or_else(|| cut("tcp", at, bytes.len(), tcp::MIN_HEADER_LEN))?;
    let length = view.header_len();
    if length < tcp::MIN_HEADER_LEN {
        let detail = format!("header length {length}, at least {} expected", tcp::MIN_HEADER_LEN);
        return Err(refused("transport-header-invalid", "tcp", at, detail));
    }
    if length > bytes.len() {
        return Err(cut("tcp", at, bytes.len(), length));
    }
    let layer = Layer::Tcp(Tcp {
        src_port: view.src_port(),
        dst_port: view.dst_port(),
        sequence: view.sequence(),
        acknowledgement: view.acknowledgement(),
        header_length: length,
        flags: FLAGS.iter().filter(|(bit, _)| view.flags() & bit != 0).map(|it| it.1).collect(),
        window: view.window(),
        checksum: transport_checksum(bytes, view.checksum(), above),
        options: Hex(bytes[tcp::MIN_HEADER_LEN..length].to_vec()),
    });
    Ok((layer, length))
}

fn udp_layer(bytes: &[u8], at: usize, above: &Above) -> Result<(Layer, usize), Malformed> {
    let view = udp::View::new(bytes).ok_or_else(|| cut("udp", at, bytes.len(), udp::HEADER_LEN))?;
    if view.len() < udp::HEADER_LEN {
        let detail = format!("length {}, at least {} expected", view.len(), udp::HEADER_LEN);
        return Err(refused("transport-header-invalid", "udp", at, detail));
    }
    // The length of a fragmented datagram counts bytes that other fragments hold.
    if view.len() > bytes.len() && !above.fragment {
        return Err(cut("udp", at, bytes.len(), view.len()));
    }
    let covered = &bytes[..view.len().min(bytes.len())];
    let mut sum = transport_checksum(covered, view.checksum(), above);
    if view.checksum() == 0 {
        // RFC 768: no checksum. RFC 8200 8.1: over IPv6 there must be one.
        sum.checksum_valid = if above.src.is_ipv4() { None } else { Some(false) };
        sum.checksum_partial = false;
    }
    let layer = Layer::Udp(Udp {
        src_port: view.src_port(),
        dst_port: view.dst_port(),
        length: view.len(),
        checksum: sum,
    });
    Ok((layer, udp::HEADER_LEN))
}

fn pseudo(above: &Above, length: usize) -> u64 {
    match (above.src, above.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => checksum::pseudo_v4(src, dst, above.protocol, length),
        (IpAddr::V6(src), IpAddr::V6(dst)) => checksum::pseudo_v6(src, dst, above.protocol, length),
        _ => 0,
    }
}

fn transport_checksum(bytes: &[u8], field: u16, above: &Above) -> Checksum {
    let pseudo = pseudo(above, bytes.len());
    let valid = checksum::fold(pseudo + checksum::sum(bytes)) == 0xffff;
    Checksum {
        checksum: format!("{field:#06x}"),
        checksum_valid: (!above.fragment).then_some(valid),
        checksum_partial: !above.fragment && !valid && field == checksum::fold(pseudo),
    }
}

fn icmp_layer(bytes: &[u8], at: usize, above: &Above) -> Result<(Layer, usize), Malformed> {
    let packet =
        Icmpv4Packet::new_checked(bytes).map_err(|_| cut("icmp", at, bytes.len(), ICMP_LEN))?;
    if bytes.len() < ICMP_LEN {
        return Err(cut("icmp", at, bytes.len(), ICMP_LEN));
    }
    let (kind, code) = (u8::from(packet.msg_type()), packet.msg_code());
    let echo = matches!(kind, 0 | 8);
    let rest = &bytes[ICMP_LEN..];
    let word = u16::from_be_bytes([bytes[6], bytes[7]]);
    let layer = Layer::Icmp(Icmp {
        r#type: kind,
        code,
        name: icmp_name(kind),
        checksum: format!("{:#06x}", packet.checksum()),
        checksum_valid: (!above.fragment).then(|| packet.verify_checksum()),
        identifier: echo.then(|| packet.echo_ident()),
        sequence: echo.then(|| packet.echo_seq_no()),
        mtu: ((kind, code) == (3, 4)).then(|| u32::from(word)),
        quoted: matches!(kind, 3 | 4 | 5 | 11 | 12).then(|| quoted_v4(rest)).flatten(),
        ..Icmp::default()
    });
    Ok((layer, ICMP_LEN))
}

/// The part of every ICMP header that is read, of both families, in bytes.
const ICMP_LEN: usize = 8;

fn icmpv6_layer(
    bytes: &[u8],
    at: usize,
    above: &Above,
) -> Result<Option<(Layer, usize)>, Malformed> {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (above.src, above.dst) else { return Ok(None) };
    if bytes.len() < ICMP_LEN {
        return Err(cut("icmpv6", at, bytes.len(), ICMP_LEN));
    }
    let packet = Icmpv6Packet::new_unchecked(bytes);
    let (kind, code) = (bytes[0], bytes[1]);
    let discovery = matches!(kind, 135 | 136);
    let head = if discovery { ICMP_LEN + 16 } else { ICMP_LEN };
    let rest = bytes.get(head..).ok_or_else(|| cut("icmpv6", at, bytes.len(), head))?;
    let echo = matches!(kind, 128 | 129);
    let layer = Layer::Icmpv6(Icmp {
        r#type: kind,
        code,
        name: icmpv6_name(kind),
        checksum: format!("{:#06x}", packet.checksum()),
        checksum_valid: (!above.fragment).then(|| packet.verify_checksum(&src, &dst)),
        identifier: echo.then(|| packet.echo_ident()),
        sequence: echo.then(|| packet.echo_seq_no()),
        mtu: (kind == 2).then(|| packet.pkt_too_big_mtu()),
        target: discovery.then(|| packet.target_addr()),
        link_address: if discovery { link_address(rest) } else { None },
        quoted: matches!(kind, 1..=4).then(|| quoted_v6(rest)).flatten(),
    });
    Ok(Some((layer, head)))
}

/// The first link-layer address option (RFC 4861 4.6.1).
fn link_address(mut options: &[u8]) -> Option<String> {
    while let Ok(option) = NdiscOption::new_checked(options) {
        let length = usize::from(option.data_len()) * 8;
        let kind = option.option_type();
        if matches!(
            kind,
            NdiscOptionType::SourceLinkLayerAddr | NdiscOptionType::TargetLinkLayerAddr
        ) {
            return options.get(2..8).map(Hex::mac);
        }
        options = options.get(length.max(8)..)?;
    }
    None
}

fn quoted_v4(bytes: &[u8]) -> Option<Quoted> {
    let header = ipv4::View::new(bytes).filter(|header| header.version() == 4)?;
    let rest = bytes.get(header.header_len()..).filter(|_| header.fragment_offset() == 0);
    Some(quoted((header.src().into(), header.dst().into()), header.protocol(), rest))
}

fn quoted_v6(bytes: &[u8]) -> Option<Quoted> {
    let header = ipv6::View::new(bytes).filter(|header| header.version() == 6)?;
    let found = header.transport();
    let rest = found
        .filter(|found| !found.is_later_fragment())
        .and_then(|found| bytes.get(found.offset..));
    let protocol = found.map_or(header.next_header(), |found| found.protocol);
    let (src, dst): (Ipv6Addr, Ipv6Addr) = (header.src(), header.dst());
    Some(quoted((src.into(), dst.into()), protocol, rest))
}

fn quoted((src, dst): (IpAddr, IpAddr), protocol: u8, rest: Option<&[u8]>) -> Quoted {
    // TCP, UDP and SCTP have their ports in the first four bytes, all that an error must quote.
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let ports = rest.filter(|_| has_ports).and_then(|rest| rest.first_chunk::<4>());
    let port = |at: usize| ports.map(|ports| u16::from_be_bytes([ports[at], ports[at + 1]]));
    Quoted { src, dst, protocol, src_port: port(0), dst_port: port(2) }
}

fn icmp_name(kind: u8) -> &'static str {
    match kind {
        0 => "echo-reply",
        3 => "destination-unreachable",
        4 => "source-quench",
        5 => "redirect",
        8 => "echo-request",
        9 => "router-advertisement",
        10 => "router-solicitation",
        11 => "time-exceeded",
        12 => "parameter-problem",
        13 => "timestamp",
        14 => "timestamp-reply",
        _ => "other",
    }
}

fn icmpv6_name(kind: u8) -> &'static str {
    match kind {
        1 => "destination-unreachable",
        2 => "packet-too-big",
        3 => "time-exceeded",
        4 => "parameter-problem",
        128 => "echo-request",
        129 => "echo-reply",
        130 => "multicast-listener-query",
        131 => "multicast-listener-report",
        132 => "multicast-listener-done",
        133 => "router-solicitation",
        134 => "router-advertisement",
        135 => "neighbor-solicitation",
        136 => "neighbor-advertisement",
        137 => "redirect",
        143 => "multicast-listener-report-v2",
        _ => "other",
    }
}
