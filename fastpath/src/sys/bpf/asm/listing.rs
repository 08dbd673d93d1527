//! Programs as text, for people to read and compare.

use super::*;
use std::fmt::Write;

impl Assembler {
    /// The program as text, one instruction a line, for people to read and compare.
    pub fn listing(&self) -> String {
        let mut text = String::new();
        let mut at = 0;
        while at < self.insns.len() {
            for (name, _) in self.labels.iter().filter(|(_, place)| **place == at) {
                let _ = writeln!(text, "{name}:");
            }
            let mut targets = self.jumps.iter().chain(&self.calls);
            let target = targets.find(|(place, _)| *place == at).map(|(_, name)| *name);
            let map = self.maps.iter().find(|(place, _)| *place == at).map(|(_, name)| *name);
            let following = self.insns.get(at + 1).map_or(0, |insn| insn.imm);
            let _ = writeln!(text, "    {}", self.insns[at].text(target, map, following));
            at += if self.insns[at].code == LD_IMM64 { 2 } else { 1 };
        }
        text
    }
}

impl Insn {
    fn text(&self, target: Option<&str>, map: Option<&str>, following: i32) -> String {
        let (dst, src) = (self.regs & 15, self.regs >> 4);
        let size = match self.code & 0x18 {
            0x10 => "u8",
            0x08 => "u16",
            0x00 => "u32",
            _ => "u64",
        };
        let second =
            if self.code & SRC_REG == 0 { self.imm.to_string() } else { format!("r{src}") };
        match (self.code, target, map) {
            (LD_IMM64, _, Some(map)) if src == PSEUDO_MAP_VALUE => {
                format!("r{dst} = value of {map}")
            }
            (LD_IMM64, _, Some(map)) => format!("r{dst} = map {map}"),
            (ATOMIC, ..) if self.imm == COMPARE_EXCHANGE => {
                format!("r0 = lock cmpxchg(*(u64 *)(r{dst} {:+}), r0, r{src})", self.off)
            }
            (ATOMIC, ..) if self.imm == EXCHANGE => {
                format!("r{src} = xchg(*(u64 *)(r{dst} {:+}), r{src})", self.off)
            }
            (ATOMIC, ..) => format!("lock *(u64 *)(r{dst} {:+}) += r{src}", self.off),
            (LD_IMM64, ..) => {
                let value = u64::from(following as u32) << 32 | u64::from(self.imm as u32);
                format!("r{dst} = {value:#x}")
            }
            (CALL, Some(label), _) => format!("call own {label}"),
            (CALL, ..) => format!("call {}", helper_name(self.imm)),
            (EXIT, ..) => "exit".to_string(),
            (TO_BE, ..) => format!("r{dst} = be{}(r{dst})", self.imm),
            (JMP, Some(label), _) => format!("goto {label}"),
            (code, Some(label), _) => {
                format!("if r{dst} {} {second} goto {label}", condition_text(code & 0xf0))
            }
            (code, ..) => match code & 0x07 {
                0x01 => format!("r{dst} = *({size} *)(r{src} {:+})", self.off),
                0x02 => format!("*({size} *)(r{dst} {:+}) = {}", self.off, self.imm),
                0x03 => format!("*({size} *)(r{dst} {:+}) = r{src}", self.off),
                _ => format!("r{dst} {} {second}", operation_text(code & 0xf0)),
            },
        }
    }
}

fn helper_name(number: i32) -> &'static str {
    match number {
        1 => "map_lookup_elem",
        5 => "ktime_get_ns",
        7 => "get_prandom_u32",
        23 => "redirect",
        39 => "skb_pull_data",
        44 => "xdp_adjust_head",
        51 => "redirect_map",
        65 => "xdp_adjust_tail",
        155 => "redirect_peer",
        160 => "ktime_get_coarse_ns",
        188 => "xdp_get_buff_len",
        190 => "xdp_store_bytes",
        _ => "unknown",
    }
}

fn condition_text(code: u8) -> &'static str {
    match code {
        0x10 => "==",
        0x20 => ">",
        0x30 => ">=",
        0x40 => "&",
        0x50 => "!=",
        0xa0 => "<",
        _ => "<=",
    }
}

fn operation_text(code: u8) -> &'static str {
    match code {
        0x00 => "+=",
        0x10 => "-=",
        0x20 => "*=",
        0x40 => "|=",
        0x50 => "&=",
        0x60 => "<<=",
        0x70 => ">>=",
        0x90 => "%=",
        0xa0 => "^=",
        _ => "=",
    }
}
