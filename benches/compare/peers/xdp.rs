//! The least that an XDP program must do to forward: look the destination's /24 up in a hash, take
//! one off the TTL, write new link addresses, redirect. No checks beyond IPv4 with a TTL to spare,
//! no policy, no counters, and the kernel carries what is not in the hash.

use crate::peers::forwarder;
use crate::rig::{OUT_MAC, Rig, SINK_MAC};
use anyhow::{Context, Result};
use margay_fastpath::sys::bpf::asm::{Alu, Assembler, Helper, If, Reg, Size};
use margay_fastpath::sys::bpf::{AttachMode, Link, Map, MapKind, Program};
use margay_tunnels::wire::ethernet;
use nix::net::if_::if_nametoindex;

/// A hop: link addresses of destination and source, two bytes of nothing, number of the device.
const HOP: usize = 20;
const DEVICE: i16 = 16;
const IP: i16 = ethernet::HEADER_LEN as i16;
const XDP_PASS: i32 = 2;

/// The attached program; it leaves the device when this is dropped.
pub(crate) struct Forwarder {
    _hops: Map,
    _program: Program,
    _link: Link,
}

impl Forwarder {
    /// Forwards what comes in by the rig's first device, on the router's core.
    pub(crate) fn attach(rig: &Rig) -> Result<Forwarder> {
        let routes = forwarder::routes()?;
        let hops = Map::new(MapKind::Hash, "mgy_hops", 4, HOP, routes.len() as u32)?;
        let program = Program::load_xdp("mgy_forwarder", &program(&hops).finish()?)?;
        let link = rig.router.enter(|| {
            let out = if_nametoindex("out0").context("out0")?;
            let mut hop = [SINK_MAC.0.as_slice(), &OUT_MAC.0, &[0; 4]].concat();
            hop.extend(out.to_ne_bytes());
            for net in &routes {
                hops.update(&net.network().octets(), &hop)?;
            }
            let device = if_nametoindex("in0").context("in0")?;
            Ok(Link::attach_xdp(&program, device, AttachMode::Native)?)
        })?;
        rig.pin_receive()?;
        Ok(Forwarder { _hops: hops, _program: program, _link: link })
    }
}

/// R6 context, R7 the frame.
fn program(hops: &Map) -> Assembler {
    let mut asm = Assembler::new();
    asm.mov(Reg::R6, Reg::R1);
    asm.load(Size::W, Reg::R7, Reg::R6, 0);
    asm.load(Size::W, Reg::R1, Reg::R6, 4);
    asm.mov(Reg::R2, Reg::R7);
    asm.alu(Alu::Add, Reg::R2, i32::from(IP) + 20);
    asm.jump_if(If::Gt, Reg::R2, Reg::R1, "pass");
    asm.load(Size::H, Reg::R1, Reg::R7, IP - 2);
    asm.jump_if(If::Ne, Reg::R1, i32::from(ethernet::IPV4.to_be()), "pass");
    asm.load(Size::B, Reg::R1, Reg::R7, IP + 8);
    asm.jump_if(If::Le, Reg::R1, 1, "pass");
    asm.load(Size::W, Reg::R1, Reg::R7, IP + 16);
    asm.alu(Alu::And, Reg::R1, i32::from_ne_bytes([255, 255, 255, 0]));
    asm.store(Size::W, Reg::R10, -4, Reg::R1);
    asm.load_map(Reg::R1, hops, "hops");
    asm.mov(Reg::R2, Reg::R10);
    asm.alu(Alu::Add, Reg::R2, -4);
    asm.call(Helper::MapLookup);
    asm.jump_if(If::Eq, Reg::R0, 0, "pass");
    rewrite(&mut asm);
    asm.load(Size::W, Reg::R1, Reg::R0, DEVICE);
    asm.mov(Reg::R2, 0);
    asm.call(Helper::Redirect);
    asm.exit();
    asm.label("pass");
    asm.mov(Reg::R0, XDP_PASS);
    asm.exit();
    asm
}

/// Writes TTL, checksum and link addresses of the frame at R7; the hop is at R0.
fn rewrite(asm: &mut Assembler) {
    asm.load(Size::B, Reg::R1, Reg::R7, IP + 8);
    asm.alu(Alu::Sub, Reg::R1, 1);
    asm.store(Size::B, Reg::R7, IP + 8, Reg::R1);
    // The TTL is the high byte of its word: the checksum rises by what the word fell (RFC 1624).
    asm.load(Size::H, Reg::R1, Reg::R7, IP + 10);
    asm.alu(Alu::Add, Reg::R1, i32::from(0x0100u16.to_be()));
    asm.mov(Reg::R2, Reg::R1);
    asm.alu(Alu::Rsh, Reg::R2, 16);
    asm.alu(Alu::Add, Reg::R1, Reg::R2);
    asm.store(Size::H, Reg::R7, IP + 10, Reg::R1);
    asm.load(Size::D, Reg::R1, Reg::R0, 0);
    asm.store(Size::D, Reg::R7, 0, Reg::R1);
    asm.load(Size::W, Reg::R1, Reg::R0, 8);
    asm.store(Size::W, Reg::R7, 8, Reg::R1);
}
