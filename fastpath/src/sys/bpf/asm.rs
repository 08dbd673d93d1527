//! An assembler for eBPF: one method an instruction, labels for jumps, a listing for people.
//!
//! The instruction set is that of RFC 9669, as far as XDP programs need it: loads and stores of
//! packet bytes, 64-bit arithmetic, atomic addition and comparison with exchange, conditional
//! jumps, calls of kernel functions and of own ones. Other atomic operations are left out. Whether
//! a program is safe to run is the kernel's verifier to say; the assembler only knows whether its
//! jumps and calls have a target.

mod listing;

use std::collections::BTreeMap;

use super::Map;

/// A register. R0 carries results, R1 to R5 arguments, R6 to R9 survive calls, R10 is the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes a load or store moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 1 byte.
    B = 0x10,
    /// 2 bytes.
    H = 0x08,
    /// 4 bytes.
    W = 0x00,
    /// 8 bytes.
    D = 0x18,
}

/// A 64-bit operation on a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Div = 0x30,
    Or = 0x40,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Mod = 0x90,
    Xor = 0xa0,
    Mov = 0xb0,
}

/// The condition of a jump; comparisons are unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum If {
    Eq = 0x10,
    Gt = 0x20,
    Ge = 0x30,
    /// Any bit in common.
    Set = 0x40,
    Ne = 0x50,
    Lt = 0xa0,
    Le = 0xb0,
}

/// The second operand of an operation or a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// A constant, sign-extended to 64 bits.
    Imm(i32),
}

impl From<Reg> for Src {
    fn from(reg: Reg) -> Src {
        Src::Reg(reg)
    }
}

impl From<i32> for Src {
    fn from(value: i32) -> Src {
        Src::Imm(value)
    }
}

/// A function of the kernel that programs may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Helper {
    /// R1 map, R2 pointer to the key; R0 pointer to the value, or 0.
    MapLookup = 1,
    /// R0 nanoseconds since boot.
    KtimeGetNs = 5,
    /// R0 a random number of 32 bits.
    PrandomU32 = 7,
    /// R1 context, R2 offset of a transport checksum, R3 0, R4 what its sum changes by, R5 flags;
    /// R0 0 when done. An unfinished one changes by what [`PSEUDO_HEADER`] says only. Addresses of
    /// packet bytes are lost.
    L4ChecksumReplace = 11,
    /// R1 context, R2 interface index, R3 flags: has a copy sent there at once; R0 0 when the
    /// device took it. Addresses of packet bytes are lost.
    CloneRedirect = 13,
    /// R1 interface index, R2 flags; R0 the verdict to return.
    Redirect = 23,
    /// R1 context, R2 bytes that are to be in one piece and writable; R0 0 when done. Addresses of
    /// packet bytes are lost.
    SkbPullData = 39,
    /// R1 context, R2 bytes to cut at the packet's begin, negative to add; R0 0 when done.
    XdpAdjustHead = 44,
    /// R1 map, R2 key, R3 flags: the verdict for an empty slot; R0 the verdict to return.
    RedirectMap = 51,
    /// R1 context, R2 bytes to add at the packet's end, negative to cut; R0 0 when done.
    XdpAdjustTail = 65,
    /// R1 interface index, R2 0; R0 the verdict to return: comes in by the device's peer, which is
    /// in another network namespace (Linux 5.10).
    RedirectPeer = 155,
    /// R0 nanoseconds since boot as of the last tick: cheaper than [`Helper::KtimeGetNs`].
    KtimeGetCoarseNs = 160,
    /// R1 context; R0 bytes of the packet, all its fragments together (Linux 5.18).
    XdpGetBuffLen = 188,
    /// R1 context, R2 offset, R3 pointer to bytes, R4 how many; R0 0 if written. Addresses of
    /// packet bytes are lost.
    XdpStoreBytes = 190,
}

/// Flag of [`Helper::L4ChecksumReplace`]: what changes is the pseudo-header.
pub const PSEUDO_HEADER: i32 = 0x10;
/// Flag of [`Helper::L4ChecksumReplace`]: 0 says that there is no checksum, and is never its value.
pub const ZERO_IS_NONE: i32 = 0x20;

/// One encoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u8,
    regs: u8,
    off: i16,
    imm: i32,
}

/// Why a program could not be assembled: always an author's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AsmError {
    /// A jump to a label that is not there.
    #[error("instruction {at} jumps to {label}, which is not defined")]
    UnknownLabel {
        /// Number of the instruction.
        at: usize,
        /// The label.
        label: &'static str,
    },
    /// A label that is there twice.
    #[error("label {0} is defined twice")]
    LabelTwice(&'static str),
    /// A jump over more instructions than the format can say.
    #[error("the jump to {0} is too long")]
    TooFar(&'static str),
}

/// Collects instructions; [`Assembler::finish`] resolves the labels.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    labels: BTreeMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
    calls: Vec<(usize, &'static str)>,
    maps: Vec<(usize, &'static str)>,
    twice: Option<&'static str>,
}

const LDX: u8 = 0x61;
const STX: u8 = 0x63;
const ST: u8 = 0x62;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const SRC_REG: u8 = 0x08;
const TO_BE: u8 = 0xdc;
const LD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;
const PSEUDO_CALL: u8 = 1;
const ATOMIC: u8 = 0xdb;
const ATOMIC_ADD: i32 = 0;
const EXCHANGE: i32 = 0xe1;
const COMPARE_EXCHANGE: i32 = 0xf1;

impl Assembler {
    /// No instructions yet.
    pub fn new() -> Assembler {
        Assembler::default()
    }

    fn put(&mut self, code: u8, dst: Reg, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn { code, regs: dst as u8 | src << 4, off, imm });
    }

    fn put_src(&mut self, code: u8, dst: Reg, src: Src) {
        match src {
            Src::Reg(reg) => self.put(code | SRC_REG, dst, reg as u8, 0, 0),
            Src::Imm(value) => self.put(code, dst, 0, 0, value),
        }
    }

    /// Names the next instruction.
    pub fn label(&mut self, name: &'static str) {
        if self.labels.insert(name, self.insns.len()).is_some() {
            self.twice = Some(name);
        }
    }

    /// `dst = *(base + off)`.
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.put(LDX | size as u8, dst, base as u8, off, 0);
    }

    /// `*(base + off) = src`.
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: impl Into<Src>) {
        match src.into() {
            Src::Reg(reg) => self.put(STX | size as u8, base, reg as u8, off, 0),
            Src::Imm(value) => self.put(ST | size as u8, base, 0, off, value),
        }
    }

    /// `*(base + off) += src`, all 64 bits as one step.
    pub fn atomic_add(&mut self, base: Reg, off: i16, src: Reg) {
        self.put(ATOMIC, base, src as u8, off, ATOMIC_ADD);
    }

    /// `*(base + off)` becomes `src`, and `src` what it was. 64 bits as one step (Linux 5.12).
    pub fn exchange(&mut self, base: Reg, off: i16, src: Reg) {
        self.put(ATOMIC, base, src as u8, off, EXCHANGE);
    }

    /// If `*(base + off)` is R0 it becomes `src`; R0 is what it was. 64 bits as one step (Linux
    /// 5.12).
    pub fn compare_exchange(&mut self, base: Reg, off: i16, src: Reg) {
        self.put(ATOMIC, base, src as u8, off, COMPARE_EXCHANGE);
    }

    /// `dst = dst op src`; for [`Alu::Mov`], `dst = src`.
    pub fn alu(&mut self, op: Alu, dst: Reg, src: impl Into<Src>) {
        self.put_src(ALU64 | op as u8, dst, src.into());
    }

    /// `dst = src`.
    pub fn mov(&mut self, dst: Reg, src: impl Into<Src>) {
        self.alu(Alu::Mov, dst, src);
    }

    /// Turns the low `bits` (16, 32 or 64) of `dst` between host and network order.
    pub fn to_be(&mut self, dst: Reg, bits: i32) {
        self.put(TO_BE, dst, 0, 0, bits);
    }

    /// `dst = value`, all 64 bits.
    pub fn load_u64(&mut self, dst: Reg, value: u64) {
        self.put(LD_IMM64, dst, 0, 0, value as u32 as i32);
        self.put(0, Reg::R0, 0, 0, (value >> 32) as i32);
    }

    /// `dst` = the map, for a call; `name` is for the listing.
    pub fn load_map(&mut self, dst: Reg, map: &Map, name: &'static str) {
        self.maps.push((self.insns.len(), name));
        self.put(LD_IMM64, dst, PSEUDO_MAP_FD, 0, map.raw_fd());
        self.put(0, Reg::R0, 0, 0, 0);
    }

    /// `dst` = the address of the first value of an array; `name` is for the listing.
    pub fn load_map_value(&mut self, dst: Reg, map: &Map, name: &'static str) {
        self.maps.push((self.insns.len(), name));
        self.put(LD_IMM64, dst, PSEUDO_MAP_VALUE, 0, map.raw_fd());
        self.put(0, Reg::R0, 0, 0, 0);
    }

    /// Goes on at `label` if `dst cond src`.
    pub fn jump_if(&mut self, cond: If, dst: Reg, src: impl Into<Src>, label: &'static str) {
        self.jumps.push((self.insns.len(), label));
        self.put_src(JMP | cond as u8, dst, src.into());
    }

    /// Goes on at `label`.
    pub fn jump(&mut self, label: &'static str) {
        self.jumps.push((self.insns.len(), label));
        self.put(JMP, Reg::R0, 0, 0, 0);
    }

    /// Calls a function of the kernel; R1 to R5 are lost, R0 is its result.
    pub fn call(&mut self, helper: Helper) {
        self.put(CALL, Reg::R0, 0, 0, helper as i32);
    }

    /// Calls the program's own function at `label`; R1 to R5 are lost, R0 is its result.
    pub fn call_own(&mut self, label: &'static str) {
        self.calls.push((self.insns.len(), label));
        self.put(CALL, Reg::R0, PSEUDO_CALL, 0, 0);
    }

    /// Ends the program, or the function, with R0.
    pub fn exit(&mut self) {
        self.put(EXIT, Reg::R0, 0, 0, 0);
    }

    /// The encoded program.
    pub fn finish(mut self) -> Result<Vec<Insn>, AsmError> {
        if let Some(label) = self.twice {
            return Err(AsmError::LabelTwice(label));
        }
        for &(at, label) in &self.jumps {
            let distance = self.distance(at, label)?;
            self.insns[at].off = i16::try_from(distance).map_err(|_| AsmError::TooFar(label))?;
        }
        for &(at, label) in &self.calls {
            let distance = self.distance(at, label)?;
            self.insns[at].imm = i32::try_from(distance).map_err(|_| AsmError::TooFar(label))?;
        }
        Ok(self.insns)
    }

    fn distance(&self, at: usize, label: &'static str) -> Result<isize, AsmError> {
        let target = *self.labels.get(label).ok_or(AsmError::UnknownLabel { at, label })?;
        Ok(target as isize - at as isize - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_encodings_of_rfc_9669() {
        let mut asm = Assembler::new();
        asm.load(Size::H, Reg::R3, Reg::R2, 12);
        asm.jump_if(If::Ne, Reg::R3, 8, "out");
        asm.alu(Alu::Add, Reg::R2, Reg::R4);
        asm.store(Size::D, Reg::R10, -8, Reg::R2);
        asm.load_u64(Reg::R1, 0x1122_3344_5566_7788);
        asm.label("out");
        asm.exit();
        let insns = asm.finish().unwrap();
        let expected = [
            (0x69, 0x23, 12, 0),
            (0x55, 0x03, 4, 8),
            (0x0f, 0x42, 0, 0),
            (0x7b, 0x2a, -8, 0),
            (0x18, 0x01, 0, 0x5566_7788),
            (0x00, 0x00, 0, 0x1122_3344),
            (0x95, 0x00, 0, 0),
        ];
        let got: Vec<_> = insns.iter().map(|i| (i.code, i.regs, i.off, i.imm)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn own_functions_are_called_and_words_exchanged() {
        let mut asm = Assembler::new();
        asm.call_own("own");
        asm.exit();
        asm.label("own");
        asm.compare_exchange(Reg::R6, 24, Reg::R2);
        asm.exchange(Reg::R6, 40, Reg::R9);
        asm.exit();
        let text = "    call own own\n    exit\nown:\n    \
                    r0 = lock cmpxchg(*(u64 *)(r6 +24), r0, r2)\n    \
                    r9 = xchg(*(u64 *)(r6 +40), r9)\n    exit\n";
        assert_eq!(asm.listing(), text);
        let insns = asm.finish().unwrap();
        let got: Vec<_> = insns.iter().map(|i| (i.code, i.regs, i.off, i.imm)).collect();
        let own = [(0x85, 0x10, 0, 1), (0x95, 0, 0, 0)];
        let exchanged = [(0xdb, 0x26, 24, 0xf1), (0xdb, 0x96, 40, 0xe1), (0x95, 0, 0, 0)];
        assert_eq!(got, [&own[..], &exchanged].concat());
    }

    #[test]
    fn a_wrong_label_is_named() {
        let mut asm = Assembler::new();
        asm.jump("nowhere");
        assert_eq!(asm.finish(), Err(AsmError::UnknownLabel { at: 0, label: "nowhere" }));
        let mut asm = Assembler::new();
        asm.label("here");
        asm.label("here");
        assert_eq!(asm.finish(), Err(AsmError::LabelTwice("here")));
        let mut asm = Assembler::new();
        asm.jump("end");
        (0..40_000).for_each(|_| asm.mov(Reg::R0, 0));
        asm.label("end");
        assert_eq!(asm.finish(), Err(AsmError::TooFar("end")));
    }

    #[test]
    fn the_listing_reads_like_the_program() {
        let mut asm = Assembler::new();
        asm.load(Size::B, Reg::R3, Reg::R2, 30);
        asm.jump_if(If::Ge, Reg::R3, 224, "pass");
        asm.load_u64(Reg::R4, 1 << 40);
        asm.label("pass");
        asm.mov(Reg::R0, 2);
        asm.exit();
        let text = "    r3 = *(u8 *)(r2 +30)\n    if r3 >= 224 goto pass\n    r4 = 0x10000000000\n\
                    pass:\n    r0 = 2\n    exit\n";
        assert_eq!(asm.listing(), text);
    }
}
