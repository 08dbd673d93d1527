//! The part for packets to an address where tunnels end: which of them are tunnels'.
//!
//! Redirected are IPIP, VXLAN by its port, fragments that may be VXLAN's, and ICMP errors that
//! quote either; whatever is not surely one of them goes on to the part for translation. IPv4
//! headers with options pass, but for IPIP, where the ports behind them do not matter; so do
//! extension headers of IPv6, but for those of fragments.

use super::{IP, IPV4_END, IPV6_END, IPV6_NEXT, need_or, network_order};
use crate::sys::bpf::asm::{Assembler, If, Reg, Size};
use Reg::{R2, R4};

const IPIP: i32 = 4;
const UDP: i32 = 17;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;
/// IPv6's header of fragments.
const FRAGMENT: i32 = 44;
const UDP_LEN: i32 = 8;
const ICMP_LEN: i32 = 8;
/// Version 4, no options.
const PLAIN: i32 = 0x45;

const IPV4_FRAGMENT: i16 = IP + 6;
const IPV4_PROTOCOL: i16 = IP + 9;
const IPV4_DST_PORT: i16 = IPV4_END as i16 + 2;
const ICMP_TYPE: i16 = IPV4_END as i16;
/// The IPv4 header that an error quotes.
const QUOTED_V4: i16 = IPV4_END as i16 + ICMP_LEN as i16;
const QUOTED_V4_PROTOCOL: i16 = QUOTED_V4 + 9;
const QUOTED_V4_DST_PORT: i16 = QUOTED_V4 + 20 + 2;
const QUOTED_V4_END: i32 = QUOTED_V4 as i32 + 20 + UDP_LEN;

const IPV6_DST_PORT: i16 = IPV6_END as i16 + 2;
const ICMPV6_TYPE: i16 = IPV6_END as i16;
const QUOTED_V6: i16 = IPV6_END as i16 + ICMP_LEN as i16;
const QUOTED_V6_NEXT: i16 = QUOTED_V6 + 6;
const QUOTED_V6_DST_PORT: i16 = QUOTED_V6 + 40 + 2;
const QUOTED_V6_END: i32 = QUOTED_V6 as i32 + 40 + UDP_LEN;

/// R2 is the packet's start, R3 its end; an IPv4 header has been seen.
pub(super) fn ipv4(asm: &mut Assembler, vxlan_port: u16) {
    need_or(asm, IPV4_END, "translated_v4");
    asm.load(Size::B, R4, R2, IPV4_PROTOCOL);
    asm.jump_if(If::Eq, R4, IPIP, "redirect");
    asm.jump_if(If::Eq, R4, UDP, "udp_v4");
    asm.jump_if(If::Ne, R4, ICMP, "translated_v4");
    asm.load(Size::B, R4, R2, IP);
    asm.jump_if(If::Ne, R4, PLAIN, "translated_v4");
    need_or(asm, QUOTED_V4_END, "translated_v4");
    // Destination unreachable, time exceeded.
    asm.load(Size::B, R4, R2, ICMP_TYPE);
    asm.jump_if(If::Eq, R4, 3, "quote_v4");
    asm.jump_if(If::Ne, R4, 11, "translated_v4");
    asm.label("quote_v4");
    asm.load(Size::B, R4, R2, QUOTED_V4);
    asm.jump_if(If::Ne, R4, PLAIN, "translated_v4");
    asm.load(Size::B, R4, R2, QUOTED_V4_PROTOCOL);
    asm.jump_if(If::Eq, R4, IPIP, "redirect");
    asm.jump_if(If::Ne, R4, UDP, "translated_v4");
    asm.load(Size::H, R4, R2, QUOTED_V4_DST_PORT);
    asm.jump_if(If::Eq, R4, network_order(vxlan_port), "redirect");
    asm.jump("translated_v4");
    asm.label("udp_v4");
    asm.load(Size::B, R4, R2, IP);
    asm.jump_if(If::Ne, R4, PLAIN, "translated_v4");
    asm.load(Size::H, R4, R2, IPV4_FRAGMENT);
    asm.jump_if(If::Set, R4, network_order(0x3fff), "redirect");
    need_or(asm, IPV4_END + UDP_LEN, "translated_v4");
    asm.load(Size::H, R4, R2, IPV4_DST_PORT);
    asm.jump_if(If::Eq, R4, network_order(vxlan_port), "redirect");
    asm.jump("translated_v4");
}

/// As [`ipv4`], where an IPv6 header has been seen.
pub(super) fn ipv6(asm: &mut Assembler, vxlan_port: u16) {
    need_or(asm, IPV6_END + UDP_LEN, "translated_v6");
    asm.load(Size::B, R4, R2, IPV6_NEXT);
    asm.jump_if(If::Eq, R4, FRAGMENT, "redirect");
    asm.jump_if(If::Eq, R4, UDP, "udp_v6");
    asm.jump_if(If::Ne, R4, ICMPV6, "translated_v6");
    need_or(asm, QUOTED_V6_END, "translated_v6");
    // Unreachable, too big, time exceeded, parameter problem.
    asm.load(Size::B, R4, R2, ICMPV6_TYPE);
    asm.jump_if(If::Eq, R4, 0, "translated_v6");
    asm.jump_if(If::Gt, R4, 4, "translated_v6");
    asm.load(Size::B, R4, R2, QUOTED_V6_NEXT);
    asm.jump_if(If::Ne, R4, UDP, "translated_v6");
    asm.load(Size::H, R4, R2, QUOTED_V6_DST_PORT);
    asm.jump_if(If::Eq, R4, network_order(vxlan_port), "redirect");
    asm.jump("translated_v6");
    asm.label("udp_v6");
    asm.load(Size::H, R4, R2, IPV6_DST_PORT);
    asm.jump_if(If::Eq, R4, network_order(vxlan_port), "redirect");
    asm.jump("translated_v6");
}
