//! Packets made by proptest, through the program and through the pipeline: what the program carries
//! is, byte for byte, what the pipeline would have sent.

use super::*;
use crate::tunnel::TunnelKind;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;

/// What is done to an ordinary packet.
#[derive(Debug, Clone)]
enum Change {
    Ttl(u8),
    /// A byte of the IP header, with the checksum made right.
    Header(usize, u8),
    /// A byte of the packet, and nothing made right.
    Any(usize, u8),
    /// IPv4 with a word of options.
    Options,
    NoChecksum,
    Partial,
    Checksum(u16),
    Padding(usize),
    Flags(u8),
    Truncated(usize),
    OtherStation,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        any::<u8>().prop_map(Change::Ttl),
        (0usize..40, any::<u8>()).prop_map(|(at, value)| Change::Header(at, value)),
        (0usize..80, any::<u8>()).prop_map(|(at, value)| Change::Any(at, value)),
        Just(Change::Options),
        Just(Change::NoChecksum),
        Just(Change::Partial),
        any::<u16>().prop_map(Change::Checksum),
        (1usize..40).prop_map(Change::Padding),
        any::<u8>().prop_map(Change::Flags),
        (1usize..60).prop_map(Change::Truncated),
        Just(Change::OtherStation),
    ];
    prop_oneof![
        2 => Just(Vec::new()),
        4 => change.clone().prop_map(|change| vec![change]),
        2 => prop::collection::vec(change, 2..4),
    ]
}

fn fix_header(frame: &mut [u8], flow: &Flow) {
    if !flow.v6 && frame.len() >= 34 {
        frame[14] = frame[14].clamp(0x45, 0x4f);
        if frame.len() >= 14 + usize::from(frame[14] & 15) * 4 {
            ipv4::fill_checksum(&mut frame[14..]);
        }
    }
}

/// What an unfinished checksum field holds.
fn pseudo_sum(frame: &[u8], flow: &Flow) -> u16 {
    let (ip, length) = (&frame[14..], frame.len() - if flow.v6 { 54 } else { 34 });
    let sum = match flow.v6 {
        false => ipv4::View::new(ip)
            .map(|view| checksum::pseudo_v4(view.src(), view.dst(), flow.protocol, length)),
        true => ipv6::View::new(ip)
            .map(|view| checksum::pseudo_v6(view.src(), view.dst(), flow.protocol, length)),
    };
    checksum::fold(sum.unwrap())
}

/// One packet in 65,536 is not told from an unfinished one.
fn looks_partial(frame: &[u8], flow: &Flow) -> bool {
    let field = if flow.v6 { 54 } else { 34 } + if flow.protocol == protocol::TCP { 16 } else { 6 };
    frame[field..field + 2] == pseudo_sum(frame, flow).to_be_bytes()
}

fn apply(frame: &mut Vec<u8>, change: &Change, flow: &Flow) {
    let l4 = if flow.v6 { 54 } else { 34 };
    let field = l4 + if flow.protocol == protocol::TCP { 16 } else { 6 };
    if frame.len() < field + 2 {
        return;
    }
    match *change {
        Change::Ttl(ttl) => frame[if flow.v6 { 21 } else { 22 }] = ttl,
        Change::Header(at, value) if at < l4 - 14 => frame[14 + at] = value,
        Change::Any(at, value) if at < frame.len() => {
            frame[at] = value;
            return;
        }
        Change::Options if !flow.v6 => {
            frame[14] = 0x46;
            frame.splice(34..34, [1, 1, 1, 0]);
            let length = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
        }
        Change::NoChecksum => frame[field..field + 2].fill(0),
        Change::Partial => {
            let sum = pseudo_sum(frame, flow);
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Change::Checksum(value) => frame[field..field + 2].copy_from_slice(&value.to_be_bytes()),
        Change::Padding(count) => frame.extend(std::iter::repeat_n(0xaa, count)),
        Change::Flags(flags) if flow.protocol == protocol::TCP => frame[l4 + 13] = flags,
        Change::Truncated(count) => frame.truncate(frame.len().saturating_sub(count).max(60)),
        Change::OtherStation => frame[5] ^= 0x40,
        _ => {}
    }
    fix_header(frame, flow);
}

/// Both ways of a packet; true when the program carried it. What it did not carry has come out as
/// it went in, and is not shown to the pipeline: it may end the session of the packets after it.
fn check(rig: &mut Rig, from: PortId, frame: &[u8]) -> bool {
    let Some(carried) = rig.carry(from, frame) else { return false };
    if rig.tables.limits.is_some() {
        rig.now_ns = crate::sys::clock::monotonic_ns() - rig.clock_ns;
    }
    let sent = rig.feed(from, std::slice::from_ref(&frame.to_vec()));
    let to = if from == POD { UPLINK } else { POD };
    assert_eq!(sent, [(to, carried)]);
    true
}

/// What there is beside routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    Nothing,
    /// The pod has limits that are not reached.
    Limits,
    /// The pod's packets leave through a tunnel.
    Tunnel(TunnelKind),
}

fn compare(flow: Flow, translated: bool, beside: Beside) {
    compare_by(Hook::Xdp, flow, translated, beside);
}

pub(super) fn compare_by(hook: Hook, flow: Flow, translated: bool, beside: Beside) {
    let by_tc = matches!(hook, Hook::Tc);
    let mut rig = Rig::by(hook, translated);
    if let Beside::Tunnel(kind) = beside {
        rig.tunnel(kind);
    }
    if beside != Beside::Nothing {
        let rate = |per_second| Some(limit::Rate { per_second, burst: 1_000_000_000 });
        let (bits, packets) = (rate(40_000_000_000), rate(1_000_000_000));
        let rates = limit::Rates { bits, peak: rate(50_000_000_000), packets };
        let way = |shaped| limit::WayLimits { rates, shaped };
        rig.limit(&[(POD, [way(true), way(false)])]);
    }
    rig.offload(&flow);
    let rig = RefCell::new(rig);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let carried = RefCell::new(0);
    let packets = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..1450), changes());
    let outcome = runner.run(&packets, |(from_pod, payload, changes)| {
        let mut rig = rig.borrow_mut();
        let from = if from_pod { POD } else { UPLINK };
        let mut frame = rig.ordinary(&flow, from, &payload);
        let largest = match beside {
            _ if !from_pod => POD_MTU,
            Beside::Tunnel(kind) => tunnels::room(kind),
            _ => UPLINK_MTU,
        };
        let fits = frame.len() - 14 <= usize::from(largest);
        changes.iter().for_each(|change| apply(&mut frame, change, &flow));
        let was_carried = check(&mut rig, from, &frame);
        if changes.is_empty() {
            let is_clear = by_tc || !from_pod || !looks_partial(&frame, &flow);
            prop_assert_eq!(
                was_carried,
                fits && is_clear,
                "an ordinary packet of {} bytes",
                frame.len()
            );
        }
        if matches!(changes[..], [Change::Flags(flags)] if flags & TCP_TURNING != 0)
            && flow.protocol == protocol::TCP
        {
            prop_assert!(!was_carried, "a packet with SYN, FIN or RST was carried");
        }
        if matches!(changes[..], [Change::Partial]) && from_pod && !by_tc {
            prop_assert!(!was_carried, "its checksum is not finished");
        }
        *carried.borrow_mut() += u32::from(was_carried);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{flow:?}, translated: {translated}: {error}"));
    assert!(*carried.borrow() > 20, "{flow:?}: too few were carried to say anything");
}

#[test]
fn carried_packets_are_what_the_pipeline_sends_routed() {
    in_namespace(|| {
        [UDP4, TCP4, UDP6, TCP6].into_iter().for_each(|flow| compare(flow, false, Beside::Nothing))
    });
}

#[test]
fn carried_packets_are_what_the_pipeline_sends_translated() {
    in_namespace(|| {
        [UDP4, TCP4, UDP6, TCP6].into_iter().for_each(|flow| compare(flow, true, Beside::Nothing))
    });
}

#[test]
fn carried_packets_are_what_the_pipeline_sends_limited() {
    in_namespace(|| [UDP4, TCP6].into_iter().for_each(|flow| compare(flow, true, Beside::Limits)));
}

#[test]
fn carried_packets_are_what_the_pipeline_puts_into_vxlan() {
    let kind = Beside::Tunnel(TunnelKind::Vxlan);
    in_namespace(|| {
        [UDP4, TCP4, UDP6, TCP6].into_iter().for_each(|flow| compare(flow, false, kind))
    });
    in_namespace(|| compare(UDP4, true, kind));
}

#[test]
fn carried_packets_are_what_the_pipeline_puts_into_ipip() {
    let kind = Beside::Tunnel(TunnelKind::Ipip);
    in_namespace(|| [UDP4, TCP4].into_iter().for_each(|flow| compare(flow, false, kind)));
    in_namespace(|| compare(TCP4, true, kind));
}

#[test]
fn every_checksum_comes_out_as_the_pipelines() {
    in_namespace(|| {
        for (flow, translated) in [(UDP4, true), (TCP4, true), (UDP6, true), (UDP4, false)] {
            let mut rig = Rig::new(translated);
            rig.offload(&flow);
            let l4 = if flow.v6 { 54 } else { 34 };
            let field = l4 + if flow.protocol == protocol::TCP { 16 } else { 6 };
            for value in (0..=u16::MAX).step_by(97).chain([1, 0xfffe, 0xffff]) {
                let mut frame = rig.ordinary(&flow, UPLINK, b"checked");
                frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
                // The identification moves the header's own checksum.
                if !flow.v6 {
                    frame[18..20].copy_from_slice(&value.to_be_bytes());
                    ipv4::fill_checksum(&mut frame[14..]);
                }
                assert!(check(&mut rig, UPLINK, &frame), "{flow:?}, checksum {value:#x}");
            }
        }
    });
}
