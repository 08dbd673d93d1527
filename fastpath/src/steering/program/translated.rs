//! Packets to the host's own address that are for services, or may be answers to translated ones.
//!
//! TCP, UDP and echo replies go to the workers when their port (or identifier) is in the address's
//! range for translation, which the host itself does not use; TCP, UDP and SCTP when the map of
//! services has their address and port. Fragments and ICMP errors cannot be judged here, so they go
//! to the workers as well, which give the host what is its own. An address of which the workers
//! have nothing is all the host's.

use super::{Hook, WORKERS, look_up, need, network_order, value};
use super::{IP, IPV4_DST, IPV4_END, IPV6_DST, IPV6_END, IPV6_NEXT};
use crate::sys::bpf::Map;
use crate::sys::bpf::asm::{Alu, Assembler, If, Reg, Size};
use Reg::{R0, R1, R2, R4, R5, R10};

const TCP: i32 = 6;
const UDP: i32 = 17;
const SCTP: i32 = 132;
const IPV4_PROTOCOL: i16 = IP + 9;
/// Where keys for the maps of services lie on the stack: the address, the port, the protocol, 0.
const KEY_V4: i16 = -8;
const KEY_V6: i16 = -24;

/// R0 points to what is known of the address: goes to `pass` if the workers have nothing of it, and
/// else R2 and R3 are the packet's again.
fn unless_the_hosts(asm: &mut Assembler, hook: Hook) {
    asm.load(Size::W, R4, R0, value::FLAGS);
    asm.alu(Alu::And, R4, WORKERS as i32);
    asm.jump_if(If::Eq, R4, 0, "pass");
    hook.packet(asm);
}

pub(super) fn ipv4(asm: &mut Assembler, services: &Map, hook: Hook) {
    const TRANSPORT: i16 = IPV4_END as i16;
    asm.label("translated_v4");
    unless_the_hosts(asm, hook);
    need(asm, IPV4_END + 8);
    // Options.
    asm.load(Size::B, R4, R2, IP);
    asm.jump_if(If::Ne, R4, 0x45, "redirect");
    asm.load(Size::H, R4, R2, IP + 6);
    asm.jump_if(If::Set, R4, network_order(0x3fff), "redirect");
    asm.load(Size::B, R5, R2, IPV4_PROTOCOL);
    asm.jump_if(If::Eq, R5, TCP, "port_v4");
    asm.jump_if(If::Eq, R5, UDP, "port_v4");
    asm.jump_if(If::Eq, R5, SCTP, "service_v4");
    asm.jump_if(If::Ne, R5, 1, "pass");
    asm.load(Size::B, R4, R2, TRANSPORT);
    for error in [3, 4, 11, 12] {
        asm.jump_if(If::Eq, R4, error, "redirect");
    }
    // All but the answers to a ping.
    asm.jump_if(If::Ne, R4, 0, "pass");
    asm.load(Size::H, R4, R2, TRANSPORT + 4);
    in_range(asm, "pass");
    asm.label("port_v4");
    asm.load(Size::H, R4, R2, TRANSPORT + 2);
    in_range(asm, "service_v4");
    asm.label("service_v4");
    asm.load(Size::W, R4, R2, IPV4_DST);
    asm.store(Size::W, R10, KEY_V4, R4);
    is_service(asm, services, ("services_v4", KEY_V4 + 4), TRANSPORT, KEY_V4);
}

pub(super) fn ipv6(asm: &mut Assembler, services: &Map, hook: Hook) {
    const TRANSPORT: i16 = IPV6_END as i16;
    const FRAGMENT: i32 = 44;
    const ICMPV6: i32 = 58;
    const FIRST_QUERY: i32 = 128;
    const ECHO_REPLY: i32 = 129;
    asm.label("translated_v6");
    unless_the_hosts(asm, hook);
    need(asm, IPV6_END + 8);
    asm.load(Size::B, R5, R2, IPV6_NEXT);
    asm.jump_if(If::Eq, R5, FRAGMENT, "redirect");
    asm.jump_if(If::Eq, R5, TCP, "port_v6");
    asm.jump_if(If::Eq, R5, UDP, "port_v6");
    asm.jump_if(If::Eq, R5, SCTP, "service_v6");
    asm.jump_if(If::Ne, R5, ICMPV6, "pass");
    asm.load(Size::B, R4, R2, TRANSPORT);
    asm.jump_if(If::Lt, R4, FIRST_QUERY, "redirect");
    asm.jump_if(If::Ne, R4, ECHO_REPLY, "pass");
    asm.load(Size::H, R4, R2, TRANSPORT + 4);
    in_range(asm, "pass");
    asm.label("port_v6");
    asm.load(Size::H, R4, R2, TRANSPORT + 2);
    in_range(asm, "service_v6");
    asm.label("service_v6");
    for at in [0, 8] {
        asm.load(Size::D, R4, R2, IPV6_DST + at);
        asm.store(Size::D, R10, KEY_V6 + at, R4);
    }
    is_service(asm, services, ("services_v6", KEY_V6 + 16), TRANSPORT, KEY_V6);
}

/// R4 is a port or identifier as it stands in the packet, R0 what is known of the address: `goto
/// redirect` if the number is in the range for translation, else to the label.
fn in_range(asm: &mut Assembler, label: &'static str) {
    asm.to_be(R4, 16);
    asm.load(Size::H, R1, R0, value::FIRST_PORT);
    asm.jump_if(If::Lt, R4, R1, label);
    asm.load(Size::H, R1, R0, value::LAST_PORT);
    asm.jump_if(If::Le, R4, R1, "redirect");
    asm.jump(label);
}

/// R2 is the packet, R5 its protocol, and the key has the address: `goto redirect` if the map has
/// the key, else to `pass`. `port` is where in the key the port is to be.
fn is_service(
    asm: &mut Assembler,
    services: &Map,
    (name, port): (&'static str, i16),
    transport: i16,
    key: i16,
) {
    asm.load(Size::H, R4, R2, transport + 2);
    asm.store(Size::H, R10, port, R4);
    // The protocol as a number of two bytes, so that the last byte of the key is set too.
    asm.store(Size::H, R10, port + 2, R5);
    look_up(asm, services, name, i32::from(key));
    asm.jump_if(If::Ne, R0, 0, "redirect");
    asm.jump("pass");
}
