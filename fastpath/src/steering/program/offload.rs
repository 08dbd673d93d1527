//! The part that carries offloaded flows by itself: look-up, checks, rewrite, redirect.
//!
//! Nothing is written before all checks are done, so that a packet that fails one goes on to be
//! steered as it came. What the checks ask is what the pipeline asks of a packet that it forwards
//! without further ado; [`crate::offload`] tells who fills the maps, and when an entry is void.

use super::family::{Family, Labels, V4, V6};
use super::order::{settle, to_worker};
use super::{CTX_DATA_END, Carrier, Hook, IP, LINK_LEN, XDP_DROP, look_up, need_or, network_order};
use super::{limits, skb, wrap};
use crate::offload::TCP_TURNING;
use crate::offload::layout::{self, IPIP, LIMITED, MAYBE_PARTIAL, ON_WIRE, TRANSLATED, VXLAN};
use crate::port::PortId;
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size};
use crate::sys::bpf::checksum::{self, fold};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};

pub(super) const TCP: i32 = 6;
const UDP: i32 = 17;
pub(super) const TCP_LEN: i32 = 20;
const UDP_LEN: i32 = 8;
const TCP_FLAGS: i16 = 13;
pub(super) const TCP_CHECKSUM: i16 = 16;
pub(super) const UDP_CHECKSUM: i16 = 6;
const IPV4_CHECKSUM: i16 = IP + 10;
/// Where the row's number lies on the stack, behind the key.
const ROW: i16 = -4;

/// IPv4 in a unicast frame: R2 is the packet's start, R3 its end, R6 the context.
pub(super) fn ipv4(asm: &mut Assembler, carrier: Carrier<'_>) {
    let family = &V4;
    let not = family.labels.not;
    asm.mov(R8, R2);
    need_or(asm, LINK_LEN + family.header + UDP_LEN, not);
    asm.load(Size::B, R4, R8, IP);
    asm.jump_if(If::Ne, R4, 0x45, not);
    // A fragment.
    asm.load(Size::H, R4, R8, IP + 6);
    asm.jump_if(If::Set, R4, network_order(0x3fff), not);
    // RFC 1812 5.2.2.
    checksum::ipv4_header(asm, (R8, IP), [R1, R4]);
    asm.jump_if(If::Ne, R1, 0xffff, not);
    asm.load(Size::H, R9, R8, IP + 2);
    asm.to_be(R9, 16);
    asm.alu(Alu::And, R9, 0xffff);
    carry(asm, carrier, family);
}

/// The same for IPv6.
pub(super) fn ipv6(asm: &mut Assembler, carrier: Carrier<'_>) {
    let family = &V6;
    let not = family.labels.not;
    asm.mov(R8, R2);
    need_or(asm, LINK_LEN + family.header + UDP_LEN, not);
    asm.load(Size::B, R4, R8, IP);
    asm.alu(Alu::And, R4, 0xf0);
    asm.jump_if(If::Ne, R4, 0x60, not);
    asm.load(Size::H, R9, R8, IP + 4);
    asm.to_be(R9, 16);
    asm.alu(Alu::And, R9, 0xffff);
    asm.alu(Alu::Add, R9, family.header);
    carry(asm, carrier, family);
}

/// R8 is the packet, R9 the length of the IP packet.
fn carry(asm: &mut Assembler, carrier: Carrier<'_>, family: &Family) {
    let Carrier { map, port, hook, .. } = carrier;
    let not = family.labels.not;
    let (flows, records) = map.maps(family.header == 20);
    asm.load(Size::B, R4, R8, family.ttl);
    asm.jump_if(If::Le, R4, 1, not);
    if let Hook::Tc = hook {
        skb::own(asm, not);
    }
    transport(asm, family);
    key(asm, port, family);
    look_up(asm, flows, family.flows, i32::from(family.key));
    asm.jump_if(If::Eq, R0, 0, not);
    asm.load(Size::W, R4, R0, 0);
    asm.store(Size::W, R10, ROW, R4);
    look_up(asm, records, "flows", i32::from(ROW));
    asm.jump_if(If::Eq, R0, 0, not);
    asm.mov(R7, R0);
    asm.load_map_value(R1, map.generation_map(), "generation");
    asm.load(Size::D, R1, R1, 0);
    asm.load(Size::D, R4, R7, word(layout::GENERATION));
    asm.jump_if(If::Ne, R1, R4, not);
    match hook {
        Hook::Xdp => by_xdp(asm, carrier, family),
        Hook::Tc => by_tc(asm, carrier, family),
    }
}

/// Goes to the label unless all of the packet is here: what is not linear counts as missing.
fn all_here(asm: &mut Assembler, label: &'static str) {
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, R9);
    asm.alu(Alu::Add, R4, LINK_LEN);
    asm.jump_if(If::Gt, R4, R3, label);
}

/// R1 is the generation, R7 the record, R8 the packet.
fn by_xdp(asm: &mut Assembler, carrier: Carrier<'_>, family: &Family) {
    let Carrier { map, arrivals, .. } = carrier;
    settle(asm, arrivals, &family.labels);
    all_here(asm, family.labels.worker);
    is_for_station(asm, family);
    asm.load(Size::H, R4, R7, layout::MAX_LEN);
    asm.jump_if(If::Gt, R9, R4, family.labels.worker);
    asm.load(Size::H, R5, R7, layout::FLAGS);
    unless_partial(asm, family);
    asm.jump_if(If::Set, R5, LIMITED | IPIP | VXLAN, family.labels.special);
    asm.label(family.labels.ordinary);
    translate(asm, Hook::Xdp, family);
    route(asm, family);
    count(asm);
    cut_padding(asm, family);
    asm.load(Size::H, R5, R7, layout::FLAGS);
    asm.jump_if(If::Set, R5, IPIP | VXLAN, family.labels.wrap);
    asm.label(family.labels.plain);
    asm.load_map(R1, map.devices_map(), "devices");
    asm.load(Size::H, R2, R7, layout::EGRESS);
    // What happens when the egress device has just gone.
    asm.mov(R3, XDP_DROP as i32);
    asm.call(Helper::RedirectMap);
    asm.exit();
    asm.label(family.labels.special);
    wrap::need_room(asm, family);
    limits::take(asm, Hook::Xdp, &family.labels);
    asm.jump(family.labels.ordinary);
    wrap::wrap(asm, map, family);
    to_worker(asm, arrivals, &family.labels);
}

/// The same behind the driver.
fn by_tc(asm: &mut Assembler, carrier: Carrier<'_>, family: &Family) {
    skb::settle(asm, carrier.arrivals, family);
    is_for_station(asm, family);
    skb::valid(asm, carrier.map, family);
    asm.load(Size::H, R5, R7, layout::FLAGS);
    asm.jump_if(If::Set, R5, LIMITED | ON_WIRE, family.labels.special);
    asm.label(family.labels.ordinary);
    translate(asm, carrier.hook, family);
    route(asm, family);
    count(asm);
    skb::leave(asm, carrier, family);
    asm.label(family.labels.special);
    skb::parts(asm, family);
    asm.load(Size::H, R5, R7, layout::FLAGS);
    limits::take(asm, carrier.hook, &family.labels);
    asm.jump(family.labels.ordinary);
    asm.label(family.labels.worker);
    asm.jump("to_tap");
}

/// The byte offset of a word of a record.
pub(super) const fn word(number: usize) -> i16 {
    8 * number as i16
}

/// Leaves the protocol in R5.
fn transport(asm: &mut Assembler, family: &Family) {
    let Labels { not, tcp, .. } = family.labels;
    let at = LINK_LEN + family.header;
    asm.load(Size::B, R5, R8, family.protocol);
    asm.jump_if(If::Eq, R5, TCP, tcp);
    asm.jump_if(If::Ne, R5, UDP, not);
    asm.jump_if(If::Lt, R9, family.header + UDP_LEN, not);
    asm.jump(key_label(family));
    asm.label(tcp);
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, at + TCP_LEN);
    asm.jump_if(If::Gt, R4, R3, not);
    asm.jump_if(If::Lt, R9, family.header + TCP_LEN, not);
    asm.load(Size::B, R4, R8, at as i16 + TCP_FLAGS);
    asm.jump_if(If::Set, R4, i32::from(TCP_TURNING), not);
}

fn key_label(family: &Family) -> &'static str {
    if family.header == 20 { "offload_key_v4" } else { "offload_key_v6" }
}

/// Puts the key on the stack.
fn key(asm: &mut Assembler, port: PortId, family: &Family) {
    asm.label(key_label(family));
    let mut at = family.key;
    for word in 0..family.address_words {
        asm.load(Size::D, R4, R8, family.addresses + 8 * word);
        asm.store(Size::D, R10, at, R4);
        at += 8;
    }
    asm.load(Size::W, R4, R8, (LINK_LEN + family.header) as i16);
    asm.store(Size::W, R10, at, R4);
    asm.alu(Alu::Lsh, R5, 16);
    asm.alu(Alu::Or, R5, i32::from(port.0));
    asm.store(Size::W, R10, at + 4, R5);
}

/// Goes to the worker unless the packet is for the station that the entry is for.
fn is_for_station(asm: &mut Assembler, family: &Family) {
    let worker = family.labels.worker;
    asm.load(Size::W, R1, R8, 0);
    asm.load(Size::W, R4, R7, layout::IN_MAC);
    asm.jump_if(If::Ne, R1, R4, worker);
    asm.load(Size::H, R1, R8, 4);
    asm.load(Size::H, R4, R7, layout::IN_MAC + 4);
    asm.jump_if(If::Ne, R1, R4, worker);
}

/// Goes to the label unless the packet has a whole TCP header; R3 is its end again.
fn need_tcp(asm: &mut Assembler, family: &Family) {
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, LINK_LEN + family.header + TCP_LEN);
    asm.jump_if(If::Gt, R4, R3, family.labels.worker);
}

/// A checksum field that holds the sum of the pseudo-header waits to be finished, if the sender is
/// one that leaves it so; the same test as [`crate::segment::detect_partial`].
fn unless_partial(asm: &mut Assembler, family: &Family) {
    let Labels { worker, complete, partial_tcp, partial, .. } = family.labels;
    let at = (LINK_LEN + family.header) as i16;
    asm.mov(R4, R5);
    asm.alu(Alu::And, R4, MAYBE_PARTIAL);
    asm.jump_if(If::Eq, R4, 0, complete);
    asm.load(Size::B, R2, R8, family.protocol);
    pseudo_sum(asm, family);
    asm.jump_if(If::Eq, R2, TCP, partial_tcp);
    asm.load(Size::H, R4, R8, at + UDP_CHECKSUM);
    asm.jump(partial);
    asm.label(partial_tcp);
    need_tcp(asm, family);
    asm.load(Size::H, R4, R8, at + TCP_CHECKSUM);
    asm.label(partial);
    asm.jump_if(If::Eq, R1, R4, worker);
    asm.label(complete);
}

/// R2 is the protocol, and stays it: R1 is the sum of the pseudo-header.
pub(super) fn pseudo_sum(asm: &mut Assembler, family: &Family) {
    asm.mov(R1, R9);
    asm.alu(Alu::Sub, R1, family.header);
    asm.to_be(R1, 16);
    for word in 0..2 * family.address_words {
        asm.load(Size::W, R4, R8, family.addresses + 4 * word);
        asm.alu(Alu::Add, R1, R4);
    }
    asm.mov(R4, R2);
    asm.to_be(R4, 16);
    asm.alu(Alu::Add, R1, R4);
    fold(asm, R1, R4, 3);
}

/// R1 is a checksum field, R2 what its sum changes by: R1 is the field afterwards (RFC 1624).
fn change_checksum(asm: &mut Assembler) {
    asm.alu(Alu::Xor, R1, 0xffff);
    asm.alu(Alu::Add, R1, R2);
    fold(asm, R1, R4, 1);
    asm.alu(Alu::Xor, R1, 0xffff);
}

/// Writes ports and addresses anew, and brings both checksums along. The last check is in here:
/// from the first store on the packet is carried.
fn translate(asm: &mut Assembler, hook: Hook, family: &Family) {
    let Labels { transport_done, translate_udp, routed, linked, .. } = family.labels;
    let at = (LINK_LEN + family.header) as i16;
    asm.alu(Alu::And, R5, TRANSLATED);
    asm.jump_if(If::Eq, R5, 0, routed);
    match hook {
        Hook::Xdp => translate_tcp(asm, family),
        Hook::Tc => skb::transport_checksum(asm, family),
    }
    asm.label(translate_udp);
    asm.load(Size::H, R2, R7, layout::TRANSPORT_CHANGE);
    asm.load(Size::H, R1, R8, at + UDP_CHECKSUM);
    // RFC 768: 0 says that there is none, and is never the checksum's value.
    asm.jump_if(If::Eq, R1, 0, transport_done);
    change_checksum(asm);
    asm.jump_if(If::Ne, R1, 0, non_zero(family));
    asm.mov(R1, 0xffff);
    asm.label(non_zero(family));
    asm.store(Size::H, R8, at + UDP_CHECKSUM, R1);
    asm.label(transport_done);
    asm.load(Size::W, R1, R7, layout::PORTS);
    asm.store(Size::W, R8, at, R1);
    for word in 0..family.address_words {
        asm.load(Size::D, R1, R7, layout::ADDRESSES + 8 * word);
        asm.store(Size::D, R8, family.addresses + 8 * word, R1);
    }
    if family.header == 20 {
        // With the TTL's part.
        asm.load(Size::H, R1, R8, IPV4_CHECKSUM);
        asm.load(Size::H, R2, R7, layout::IP_CHANGE);
        change_checksum(asm);
        asm.store(Size::H, R8, IPV4_CHECKSUM, R1);
        lives_less(asm, family);
        asm.jump(linked);
    }
    asm.label(routed);
}

/// Goes on at a label with what is no TCP.
fn translate_tcp(asm: &mut Assembler, family: &Family) {
    let at = (LINK_LEN + family.header) as i16;
    asm.load(Size::B, R4, R8, family.protocol);
    asm.jump_if(If::Ne, R4, TCP, family.labels.translate_udp);
    asm.load(Size::H, R2, R7, layout::TRANSPORT_CHANGE);
    need_tcp(asm, family);
    asm.load(Size::H, R1, R8, at + TCP_CHECKSUM);
    change_checksum(asm);
    asm.store(Size::H, R8, at + TCP_CHECKSUM, R1);
    asm.jump(family.labels.transport_done);
}

fn non_zero(family: &Family) -> &'static str {
    if family.header == 20 { "offload_nonzero_v4" } else { "offload_nonzero_v6" }
}

fn lives_less(asm: &mut Assembler, family: &Family) {
    asm.load(Size::B, R1, R8, family.ttl);
    asm.alu(Alu::Sub, R1, 1);
    asm.store(Size::B, R8, family.ttl, R1);
}

/// One less to live, and the next hop's link addresses.
fn route(asm: &mut Assembler, family: &Family) {
    lives_less(asm, family);
    if family.header == 20 {
        // The TTL is the high byte of its word: the sum rises by what the word fell.
        asm.load(Size::H, R1, R8, IPV4_CHECKSUM);
        asm.alu(Alu::Add, R1, network_order(0x0100));
        fold(asm, R1, R4, 1);
        asm.store(Size::H, R8, IPV4_CHECKSUM, R1);
    }
    asm.label(family.labels.linked);
    asm.load(Size::D, R1, R7, layout::LINK);
    asm.store(Size::D, R8, 0, R1);
    asm.load(Size::W, R1, R7, layout::LINK + 8);
    asm.store(Size::W, R8, 8, R1);
}

fn count(asm: &mut Assembler) {
    asm.mov(R1, 1);
    asm.atomic_add(R7, word(layout::PACKETS), R1);
    asm.atomic_add(R7, word(layout::BYTES), R9);
    asm.call(Helper::KtimeGetCoarseNs);
    asm.store(Size::D, R7, word(layout::USED_NS), R0);
}

/// Bytes behind the IP packet are the link's, and end here.
fn cut_padding(asm: &mut Assembler, family: &Family) {
    let fits = family.labels.fits;
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, R9);
    asm.alu(Alu::Add, R4, LINK_LEN);
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.jump_if(If::Ge, R4, R3, fits);
    asm.mov(R1, R6);
    asm.call(Helper::XdpGetBuffLen);
    asm.mov(R2, R9);
    asm.alu(Alu::Add, R2, LINK_LEN);
    asm.alu(Alu::Sub, R2, R0);
    asm.mov(R1, R6);
    // Padding that cannot be cut does no harm.
    asm.call(Helper::XdpAdjustTail);
    asm.label(fits);
}

/// Where steering goes on with what is not offloaded: R2 and R3 are the packet again.
pub(super) fn steer(asm: &mut Assembler, hook: Hook, label: &'static str) {
    asm.label(label);
    hook.packet(asm);
}
