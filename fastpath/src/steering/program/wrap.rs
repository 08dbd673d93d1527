//! The part that puts packets into tunnels over IPv4: outer headers of [`crate::offload::outer`]
//! in front, completed as [`margay_tunnels::encap::Encap::write`] does it.

use super::family::Family;
use super::{CTX_DATA, CTX_DATA_END, IP, LINK_LEN, XDP_DROP, look_up, network_order};
use crate::offload::FlowMap;
use crate::offload::layout::{FLAGS, IPIP, LINK, OUTER, SOURCE_PORT, VXLAN};
use crate::offload::outer_layout;
use crate::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size};
use crate::sys::bpf::checksum::fold;
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use margay_tunnels::encap::{IPIP_OVERHEAD, VXLAN_V4_OVERHEAD};

/// Bytes that the headers of either kind take.
const IPIP_LEN: i32 = IPIP_OVERHEAD as i32;
const VXLAN_LEN: i32 = VXLAN_V4_OVERHEAD as i32;
const OUTER_IP_LEN: i32 = 20;
/// Where the row's number lies on the stack.
const ROW: i16 = -4;

/// R5 are the record's flags, R8 the packet: goes on, and both are the same, if there is room in
/// front of it, which nothing can be done about once it is rewritten.
pub(super) fn need_room(asm: &mut Assembler, family: &Family) {
    let (worker, done) = (family.labels.worker, family.labels.has_room);
    asm.mov(R4, R5);
    asm.alu(Alu::And, R4, IPIP | VXLAN);
    asm.jump_if(If::Eq, R4, 0, done);
    for bytes in [-VXLAN_LEN, VXLAN_LEN] {
        asm.mov(R1, R6);
        asm.mov(R2, bytes);
        asm.call(Helper::XdpAdjustHead);
        asm.jump_if(If::Ne, R0, 0, worker);
    }
    asm.load(Size::W, R8, R6, CTX_DATA);
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.mov(R4, R8);
    asm.alu(Alu::Add, R4, LINK_LEN + family.header + 8);
    asm.jump_if(If::Gt, R4, R3, worker);
    asm.load(Size::H, R5, R7, FLAGS);
    asm.label(done);
}

/// Puts the packet, whose IP part has R9 bytes, into its tunnel. No register has an address in it.
pub(super) fn wrap(asm: &mut Assembler, map: &FlowMap, family: &Family) {
    let (plain, ipip) = (family.labels.plain, family.labels.ipip);
    asm.label(family.labels.wrap);
    asm.load(Size::H, R1, R7, OUTER);
    asm.store(Size::W, R10, ROW, R1);
    look_up(asm, map.outers().map(), "outers", i32::from(ROW));
    asm.jump_if(If::Eq, R0, 0, "lost");
    asm.mov(R8, R0);
    asm.load(Size::H, R5, R7, FLAGS);
    asm.alu(Alu::And, R5, IPIP);
    asm.jump_if(If::Ne, R5, 0, ipip);
    put(asm, VXLAN_LEN, family);
    vxlan(asm, family);
    asm.jump(plain);
    asm.label(ipip);
    put(asm, IPIP_LEN, family);
    asm.jump(plain);
}

/// Link and outer IP header, and all of what is behind that is the same in each packet. R8 is the
/// row; R2 is the packet.
fn put(asm: &mut Assembler, length: i32, family: &Family) {
    let inner = (LINK_LEN + length) as i16;
    asm.mov(R1, R6);
    asm.mov(R2, -length);
    asm.call(Helper::XdpAdjustHead);
    asm.jump_if(If::Ne, R0, 0, "lost");
    asm.load(Size::W, R2, R6, CTX_DATA);
    asm.load(Size::W, R3, R6, CTX_DATA_END);
    asm.mov(R4, R2);
    asm.alu(Alu::Add, R4, i32::from(inner) + family.header);
    asm.jump_if(If::Gt, R4, R3, "lost");
    asm.load(Size::D, R1, R7, LINK);
    asm.store(Size::D, R2, 0, R1);
    asm.load(Size::W, R1, R7, LINK + 8);
    asm.store(Size::W, R2, 8, R1);
    asm.store(Size::H, R2, 12, network_order(0x0800));
    let mut at = 0;
    for (size, bytes) in [(Size::D, 8), (Size::W, 4), (Size::H, 2)] {
        while at + bytes <= length as i16 {
            asm.load(size, R1, R8, outer_layout::HEADERS + at);
            asm.store(size, R2, IP + at, R1);
            at += bytes;
        }
    }
    // DSCP and ECN are the inner header's.
    match family.header {
        20 => asm.load(Size::B, R4, R2, inner + 1),
        _ => {
            asm.load(Size::H, R4, R2, inner);
            asm.to_be(R4, 16);
            asm.alu(Alu::Rsh, R4, 4);
            asm.alu(Alu::And, R4, 0xff);
        }
    }
    asm.store(Size::B, R2, IP + 1, R4);
    asm.mov(R1, R9);
    asm.alu(Alu::Add, R1, length);
    asm.load(Size::W, R5, R8, outer_layout::SUM);
    asm.alu(Alu::Add, R5, R4);
    asm.alu(Alu::Add, R5, R1);
    fold(asm, R5, R4, 2);
    asm.alu(Alu::Xor, R5, 0xffff);
    asm.to_be(R5, 16);
    asm.store(Size::H, R2, IP + 10, R5);
    asm.to_be(R1, 16);
    asm.store(Size::H, R2, IP + 2, R1);
}

/// UDP's source port and length, and the inner frame's type.
fn vxlan(asm: &mut Assembler, family: &Family) {
    const UDP: i16 = IP + OUTER_IP_LEN as i16;
    asm.load(Size::H, R1, R7, SOURCE_PORT);
    asm.store(Size::H, R2, UDP, R1);
    asm.mov(R1, R9);
    asm.alu(Alu::Add, R1, VXLAN_LEN - OUTER_IP_LEN);
    asm.to_be(R1, 16);
    asm.store(Size::H, R2, UDP + 4, R1);
    let kind = if family.header == 20 { 0x0800 } else { 0x86dd };
    asm.store(Size::H, R2, (LINK_LEN + VXLAN_LEN) as i16 - 2, network_order(kind));
}

/// What cannot be: there was room before.
pub(super) fn lose(asm: &mut Assembler) {
    asm.label("lost");
    asm.mov(R0, XDP_DROP as i32);
    asm.exit();
}
