//! Packets to the host's own address that may be answers to translated ones.
//!
//! TCP, UDP and echo replies go to the workers when their port (or identifier) is in the address's
//! range, which the host itself does not use. Fragments and ICMP errors cannot be judged here, so
//! they go to the workers as well, which give the host what is its own. An address whose range is
//! empty is all the host's.

use super::{CTX_DATA, CTX_DATA_END, IP, IPV4_END, IPV6_END, IPV6_NEXT, need, network_order};
use crate::sys::bpf::asm::{Assembler, If, Reg, Size};
use Reg::{R0, R1, R2, R3, R4, R5, R6};

const TCP: i32 = 6;
const UDP: i32 = 17;

/// R0 points to the range: R1 and R5 become its ends, R2 and R3 the packet's again.
fn range(asm: &mut Assembler) {
    asm.load(Size::H, R1, R0, 4);
    asm.load(Size::H, R5, R0, 6);
    asm.jump_if(If::Gt, R1, R5, "pass");
    asm.load(Size::W, R2, R6, CTX_DATA);
    asm.load(Size::W, R3, R6, CTX_DATA_END);
}

pub(super) fn ipv4(asm: &mut Assembler) {
    const TRANSPORT: i16 = IPV4_END as i16;
    asm.label("translated_v4");
    range(asm);
    need(asm, IPV4_END + 8);
    // Options.
    asm.load(Size::B, R4, R2, IP);
    asm.jump_if(If::Ne, R4, 0x45, "redirect");
    asm.load(Size::H, R4, R2, IP + 6);
    asm.jump_if(If::Set, R4, network_order(0x3fff), "redirect");
    asm.load(Size::B, R4, R2, IP + 9);
    asm.jump_if(If::Eq, R4, TCP, "port_v4");
    asm.jump_if(If::Eq, R4, UDP, "port_v4");
    asm.jump_if(If::Ne, R4, 1, "pass");
    asm.load(Size::B, R4, R2, TRANSPORT);
    for error in [3, 4, 11, 12] {
        asm.jump_if(If::Eq, R4, error, "redirect");
    }
    // All but the answers to a ping.
    asm.jump_if(If::Ne, R4, 0, "pass");
    asm.load(Size::H, R4, R2, TRANSPORT + 4);
    asm.jump("judge");
    asm.label("port_v4");
    asm.load(Size::H, R4, R2, TRANSPORT + 2);
    asm.jump("judge");
}

pub(super) fn ipv6(asm: &mut Assembler) {
    const TRANSPORT: i16 = IPV6_END as i16;
    const FRAGMENT: i32 = 44;
    const ICMPV6: i32 = 58;
    const FIRST_QUERY: i32 = 128;
    const ECHO_REPLY: i32 = 129;
    asm.label("translated_v6");
    range(asm);
    need(asm, IPV6_END + 8);
    asm.load(Size::B, R4, R2, IPV6_NEXT);
    asm.jump_if(If::Eq, R4, FRAGMENT, "redirect");
    asm.jump_if(If::Eq, R4, TCP, "port_v6");
    asm.jump_if(If::Eq, R4, UDP, "port_v6");
    asm.jump_if(If::Ne, R4, ICMPV6, "pass");
    asm.load(Size::B, R4, R2, TRANSPORT);
    asm.jump_if(If::Lt, R4, FIRST_QUERY, "redirect");
    asm.jump_if(If::Ne, R4, ECHO_REPLY, "pass");
    asm.load(Size::H, R4, R2, TRANSPORT + 4);
    asm.jump("judge");
    asm.label("port_v6");
    asm.load(Size::H, R4, R2, TRANSPORT + 2);
    asm.jump("judge");
}

/// R4 is a port as it stands in the packet: `goto redirect` if it is from R1 to R5.
pub(super) fn judge(asm: &mut Assembler) {
    asm.label("judge");
    asm.to_be(R4, 16);
    asm.jump_if(If::Lt, R4, R1, "pass");
    asm.jump_if(If::Gt, R4, R5, "pass");
}
