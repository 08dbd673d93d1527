//! The XDP program itself: what goes to the workers, and what stays with the host's kernel.
//!
//! Only unicast IPv4 and IPv6 that is to be forwarded is redirected, to the AF_XDP socket of the
//! queue it came in on. Everything else passes: what is too short to judge, other protocols (ARP,
//! VLAN tags), groups and broadcast, link-local and host-only destinations, neighbour discovery,
//! and the host's own addresses; but of these, where tunnels end, IPIP and VXLAN are redirected,
//! and ICMP errors that quote them; and the ports that are for translation or for services. A
//! queue without a socket passes as well. Before all that, packets of offloaded flows are carried
//! to their next hop at once (see [`offload`]); no other packet is written to.

use crate::offload::{Arrivals, FlowMap};
use crate::port::PortId;
use crate::sys::bpf::Map;
use crate::sys::bpf::asm::{Alu, AsmError, Assembler, Helper, If, Insn, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R6, R10};

mod credit;
mod family;
mod limits;
mod offload;
mod order;
mod skb;
mod tc;
mod translated;
mod tunnel;
mod wrap;

pub(super) use tc::{assemble as assemble_tc, deliver};

/// Verdict: nowhere.
pub const XDP_DROP: u32 = 1;
/// Verdict: to the host's stack. Also what an empty slot of the XSKMAP gives.
pub const XDP_PASS: u32 = 2;
/// Verdict: where the redirect said.
pub const XDP_REDIRECT: u32 = 4;

/// Offsets in the packet.
const ETHER_TYPE: i16 = 12;
const IP: i16 = 14;
/// Bytes of an Ethernet header.
const LINK_LEN: i32 = IP as i32;
const IPV4_DST: i16 = IP + 16;
const IPV4_END: i32 = IP as i32 + 20;
const IPV6_NEXT: i16 = IP + 6;
const IPV6_DST: i16 = IP + 24;
const IPV6_END: i32 = IP as i32 + 40;
const ICMPV6_TYPE: i16 = IP + 40;

/// Offsets in the kernel's `struct xdp_md`.
const CTX_DATA: i16 = 0;
const CTX_DATA_END: i16 = 4;
const CTX_RX_QUEUE: i16 = 16;

/// The maps that the program uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a> {
    /// The host's IPv4 addresses, each with a [`value`].
    pub(super) local_v4: &'a Map,
    /// The host's IPv6 addresses.
    pub(super) local_v6: &'a Map,
    /// IPv4 addresses of the host with ports and protocols of services.
    pub(super) services_v4: &'a Map,
    /// The same for IPv6.
    pub(super) services_v6: &'a Map,
    /// Where the program runs.
    pub(super) hook: Hook,
    /// UDP port of VXLAN.
    pub(super) vxlan_port: u16,
    /// What it takes to carry flows.
    pub(super) offload: Option<Carrier<'a>>,
}

/// Where in the kernel's receive path a program runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    /// In the driver: its context is `struct xdp_md`.
    Xdp,
    /// Behind it: its context is `struct __sk_buff`.
    Tc,
}

impl Hook {
    /// R6 is the context: R2 is the packet's start, R3 its end.
    fn packet(self, asm: &mut Assembler) {
        let (data, end) = match self {
            Hook::Xdp => (CTX_DATA, CTX_DATA_END),
            Hook::Tc => (tc::CTX_DATA, tc::CTX_DATA_END),
        };
        asm.load(Size::W, R2, R6, data);
        asm.load(Size::W, R3, R6, end);
    }
}

/// What it takes to carry flows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carrier<'a> {
    /// Offloaded flows.
    pub(crate) map: &'a FlowMap,
    /// The port that the program is for.
    pub(crate) port: PortId,
    /// The queues of its device.
    pub(crate) arrivals: &'a Arrivals,
    /// Where the program runs.
    pub(crate) hook: Hook,
}

/// Flag in the maps of addresses: one of the host's.
pub(super) const HOST: u32 = 1;
/// Flag: tunnels end there.
pub(super) const TUNNEL_END: u32 = 2;
/// Flag: some of its ports are for translation or services.
pub(super) const WORKERS: u32 = 4;

/// Where things are in what the maps know of an address.
pub(super) mod value {
    /// Flags, 4 bytes.
    pub(crate) const FLAGS: i16 = 0;
    /// First port for translation, 2 bytes.
    pub(crate) const FIRST_PORT: i16 = 4;
    /// Last port for translation, 2 bytes.
    pub(crate) const LAST_PORT: i16 = 6;
}

/// The encoded program, whose device's queues have these sockets.
pub(super) fn assemble(maps: Maps<'_>, xsks: &Map) -> Result<Vec<Insn>, AsmError> {
    write(maps, xsks).finish()
}

/// The program as text.
#[cfg(test)]
pub(super) fn listing(maps: Maps<'_>, xsks: &Map) -> String {
    write(maps, xsks).listing()
}

fn write(maps: Maps<'_>, xsks: &Map) -> Assembler {
    let mut asm = Assembler::new();
    ethernet(&mut asm, maps.hook);
    asm.label("ipv4");
    steer_v4(&mut asm, maps);
    asm.label("ipv6");
    steer_v6(&mut asm, maps);
    asm.label("redirect");
    if let Some(carrier) = maps.offload {
        order::give(&mut asm, carrier.arrivals, xsks);
    }
    verdicts(&mut asm, xsks);
    if let Some(carrier) = maps.offload {
        limits::refuse(&mut asm, carrier);
        wrap::lose(&mut asm);
        limits::functions(&mut asm, carrier.map);
    }
    asm
}

/// Goes to `redirect` with what is the workers', and else to `pass`, but first carries what it can.
fn steer_v4(asm: &mut Assembler, maps: Maps<'_>) {
    if let Some(carrier) = maps.offload {
        offload::ipv4(asm, carrier);
        offload::steer(asm, maps.hook, "steer_v4");
    }
    ipv4(asm, maps.local_v4, maps.hook);
    tunnel::ipv4(asm, maps.vxlan_port);
    translated::ipv4(asm, maps.services_v4, maps.hook);
}

/// The same for IPv6.
fn steer_v6(asm: &mut Assembler, maps: Maps<'_>) {
    if let Some(carrier) = maps.offload {
        offload::ipv6(asm, carrier);
        offload::steer(asm, maps.hook, "steer_v6");
    }
    ipv6(asm, maps.local_v6, maps.hook);
    tunnel::ipv6(asm, maps.vxlan_port);
    translated::ipv6(asm, maps.services_v6, maps.hook);
}

/// `goto pass` unless the packet has `bytes`. R2 is the packet's start, R3 its end.
fn need(asm: &mut Assembler, bytes: i32) {
    need_or(asm, bytes, "pass");
}

/// As [`need`], but goes to another label.
fn need_or(asm: &mut Assembler, bytes: i32, label: &'static str) {
    asm.mov(R4, R2);
    asm.alu(Alu::Add, R4, bytes);
    asm.jump_if(If::Gt, R4, R3, label);
}

/// R0 points to what is known of a host's address: goes to the label unless tunnels end at it, and
/// else R2 and R3 are the packet again.
fn unless_tunnels_end(asm: &mut Assembler, label: &'static str, hook: Hook) {
    asm.load(Size::W, R4, R0, value::FLAGS);
    asm.alu(Alu::And, R4, TUNNEL_END as i32);
    asm.jump_if(If::Eq, R4, 0, label);
    hook.packet(asm);
}

/// A number of the packet compared as the program sees it: loaded in the host's order.
fn network_order(value: u16) -> i32 {
    i32::from(value.to_be())
}

/// R1 is the context.
fn ethernet(asm: &mut Assembler, hook: Hook) {
    asm.mov(R6, R1);
    hook.packet(asm);
    need(asm, i32::from(IP));
    // A group or broadcast link address.
    asm.load(Size::B, R4, R2, 0);
    asm.jump_if(If::Set, R4, 1, "pass");
    asm.load(Size::H, R4, R2, ETHER_TYPE);
    asm.jump_if(If::Eq, R4, network_order(0x0800), "ipv4");
    asm.jump_if(If::Eq, R4, network_order(0x86dd), "ipv6");
    asm.jump("pass");
}

fn ipv4(asm: &mut Assembler, local: &Map, hook: Hook) {
    need(asm, IPV4_END);
    asm.load(Size::B, R4, R2, IPV4_DST);
    // 0/8, 127/8, groups, reserved and broadcast: 224.0.0.0 and all above.
    asm.jump_if(If::Eq, R4, 0, "pass");
    asm.jump_if(If::Eq, R4, 127, "pass");
    asm.jump_if(If::Ge, R4, 224, "pass");
    // 169.254/16.
    asm.load(Size::H, R4, R2, IPV4_DST);
    asm.jump_if(If::Eq, R4, network_order(0xa9fe), "pass");
    asm.load(Size::W, R4, R2, IPV4_DST);
    asm.store(Size::W, R10, -4, R4);
    look_up(asm, local, "local_v4", -4);
    asm.jump_if(If::Eq, R0, 0, "redirect");
    unless_tunnels_end(asm, "translated_v4", hook);
}

fn ipv6(asm: &mut Assembler, local: &Map, hook: Hook) {
    const ICMPV6: i32 = 58;
    const FIRST_ND_TYPE: i32 = 133;
    const LAST_ND_TYPE: i32 = 137;
    need(asm, IPV6_END);
    asm.load(Size::B, R4, R2, IPV6_DST);
    // ff00::/8.
    asm.jump_if(If::Eq, R4, 0xff, "pass");
    asm.jump_if(If::Ne, R4, 0xfe, "not_link_local");
    // fe80::/10.
    asm.load(Size::B, R4, R2, IPV6_DST + 1);
    asm.alu(Alu::And, R4, 0xc0);
    asm.jump_if(If::Eq, R4, 0x80, "pass");
    asm.label("not_link_local");
    asm.load(Size::B, R4, R2, IPV6_NEXT);
    asm.jump_if(If::Ne, R4, ICMPV6, "not_discovery");
    need(asm, IPV6_END + 1);
    asm.load(Size::B, R4, R2, ICMPV6_TYPE);
    asm.jump_if(If::Lt, R4, FIRST_ND_TYPE, "not_discovery");
    asm.jump_if(If::Le, R4, LAST_ND_TYPE, "pass");
    asm.label("not_discovery");
    asm.load(Size::D, R4, R2, IPV6_DST);
    asm.store(Size::D, R10, -16, R4);
    asm.load(Size::D, R4, R2, IPV6_DST + 8);
    asm.store(Size::D, R10, -8, R4);
    look_up(asm, local, "local_v6", -16);
    asm.jump_if(If::Eq, R0, 0, "redirect");
    unless_tunnels_end(asm, "translated_v6", hook);
}

/// R0 is what the map has for the key on the stack, or 0.
fn look_up(asm: &mut Assembler, map: &Map, name: &'static str, key: i32) {
    asm.load_map(R1, map, name);
    asm.mov(R2, R10);
    asm.alu(Alu::Add, R2, key);
    asm.call(Helper::MapLookup);
}

/// R0 is the verdict: to the socket of the packet's queue, or to the kernel if there is none.
fn redirect(asm: &mut Assembler, xsks: &Map) {
    asm.load_map(R1, xsks, "xsks");
    asm.load(Size::W, R2, R6, CTX_RX_QUEUE);
    asm.mov(R3, XDP_PASS as i32);
    asm.call(Helper::RedirectMap);
}

fn verdicts(asm: &mut Assembler, xsks: &Map) {
    redirect(asm, xsks);
    asm.exit();
    asm.label("pass");
    asm.mov(R0, XDP_PASS as i32);
    asm.exit();
}
