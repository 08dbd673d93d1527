//! Which way a packet goes through translation, by the classes of its addresses.

use crate::flow::{Signal, Tuple};
use crate::nat::rules::{Class, Rules};

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From inside to outside.
    Out,
    /// To an outside address.
    In,
    /// From outside to an inside address.
    Through,
    /// To a service.
    Service,
    /// Perhaps the answer of a service's endpoint, or of a flow to a service that is gone.
    Back,
    /// From or to an endpoint with policy, and not translated.
    Policed,
}

/// `None` for packets that are neither translated nor answered by ones that are.
#[inline]
pub(super) fn way_of(rules: &Rules, src: Class, dst: Class) -> Option<Way> {
    if dst.has(Class::OUTSIDE) {
        return Some(if src.is_pod() { Way::Out } else { Way::In });
    }
    if rules.is_translated(src, dst) {
        return Some(Way::Out);
    }
    rules.is_translated(dst, src).then_some(Way::Through)
}

/// An error goes the way of the answers to the packet that it quotes, also when a router tells it
/// whose own address is not translated (RFC 5508 REQ-5).
#[cold]
pub(super) fn way_of_error(rules: &Rules, quoted: &Tuple) -> Option<Way> {
    way_of(rules, rules.ranges.class(quoted.dst), rules.ranges.class(quoted.src))
}

/// Whether a packet to an outside address may be for a mapping: questions of ICMP never are, and of
/// the host's own address only some ports.
pub(super) fn is_for_nat(rules: &Rules, dst: Class, tuple: &Tuple, signal: Signal) -> bool {
    match signal {
        Signal::Query { asks: true } => !dst.has(Class::LOCAL),
        _ => rules.is_for_nat(dst, tuple.dst_port),
    }
}
