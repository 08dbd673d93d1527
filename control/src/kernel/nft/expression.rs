//! Conditions and actions as expressions of the kernel's (linux/netfilter/nf_tables.h): each loads,
//! changes or compares a register.

use super::attributes::Attributes;
use super::rule::{Act, Match, Side};
use super::wire::device;
use margay_acl::model::Family;

/// `NFT_REG_1`, of 16 bytes, and `NFT_REG32_00`, the first of those of 4, in the same place.
const REG: u32 = 1;
const REG32: u32 = 8;
const REG_VERDICT: u32 = 0;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

impl Attributes {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes)) {
        self.nest(1, |to| {
            to.text(1, name);
            to.nest(2, fill);
        });
    }

    /// A field of the packet's meta data into a register.
    fn meta(&mut self, key: u32, register: u32) {
        self.expression("meta", |to| {
            to.number(2, key);
            to.number(1, register);
        });
    }

    /// Bytes of a header into a register; base 0 is the link's, 1 the network's, 2 the transport's.
    fn payload(&mut self, base: u32, (offset, len): (u32, u32), register: u32) {
        self.expression("payload", |to| {
            to.number(1, register);
            to.number(2, base);
            to.number(3, offset);
            to.number(4, len);
        });
    }

    fn compare(&mut self, operation: u32, value: &[u8]) {
        self.expression("cmp", |to| {
            to.number(1, REG);
            to.number(2, operation);
            to.nest(3, |to| to.bytes(1, value));
        });
    }

    /// Register = (register & mask) ^ flip.
    fn bits(&mut self, mask: [u8; 4], flip: [u8; 4]) {
        self.expression("bitwise", |to| {
            to.number(1, REG);
            to.number(2, REG);
            to.number(3, 4);
            to.nest(4, |to| to.bytes(1, &mask));
            to.nest(5, |to| to.bytes(1, &flip));
        });
    }

    fn look_up(&mut self, set: &str, register: u32, not: bool) {
        self.expression("lookup", |to| {
            to.text(1, set);
            to.number(2, register);
            if not {
                to.number(5, 1);
            }
        });
    }

    pub(super) fn condition(&mut self, condition: &Match) {
        const IIFNAME: u32 = 6;
        let equal = |not: bool| if not { CMP_NEQ } else { CMP_EQ };
        match condition {
            Match::Device { out, name, prefix, not } => {
                self.meta(IIFNAME + u32::from(*out), REG);
                let length = if *prefix { name.len().min(15) } else { 16 };
                self.compare(equal(*not), &device(name)[..length]);
            }
            Match::SourceLink { at, bytes, not } => {
                // Offset of the source in Ethernet's header.
                const SOURCE: u32 = 6;
                self.payload(0, (SOURCE + at, bytes.len() as u32), REG);
                self.compare(equal(*not), bytes);
            }
            Match::KnownDevice(set) | Match::NoKnownDevice(set) => {
                self.meta(IIFNAME, REG);
                self.look_up(set, REG, matches!(condition, Match::NoKnownDevice(_)));
            }
            Match::Family(family) => {
                const NFPROTO: u32 = 15;
                self.meta(NFPROTO, REG);
                self.compare(CMP_EQ, &[if *family == Family::V4 { 2 } else { 10 }]);
            }
            Match::Protocol { number, not } => {
                self.protocol(REG);
                self.compare(equal(*not), &[*number]);
            }
            Match::Icmp { kind, code: None, not } => {
                self.payload(2, (0, 1), REG);
                self.compare(equal(*not), &[*kind]);
            }
            Match::Icmp { kind, code: Some(code), not } => {
                self.payload(2, (0, 2), REG);
                self.compare(equal(*not), &[*kind, *code]);
            }
            Match::Address { side, family, set, not } => {
                self.payload(1, address(*side, *family), REG);
                self.look_up(set, REG, *not);
            }
            Match::Socket { side, family, set, not } => self.socket((*side, *family), set, *not),
            Match::Port { side, range, not } => self.port(*side, *range, *not),
            Match::Discovery => {
                const ICMPV6: u8 = 58;
                self.condition(&Match::Family(Family::V6));
                self.condition(&Match::Protocol { number: ICMPV6, not: false });
                self.payload(2, (0, 1), REG);
                self.range((&[133], &[137]), false);
            }
            Match::State(mask) => {
                // NFT_CT_STATE is key 0.
                self.expression("ct", |to| {
                    to.number(2, 0);
                    to.number(1, REG);
                });
                self.has_bits(*mask);
            }
            Match::Mark(bit) => {
                self.meta(3, REG);
                self.has_bits(*bit);
            }
        }
    }

    fn protocol(&mut self, register: u32) {
        const L4PROTO: u32 = 16;
        self.meta(L4PROTO, register);
    }

    /// Some of these bits are in the register.
    fn has_bits(&mut self, mask: u32) {
        self.bits(mask.to_ne_bytes(), [0; 4]);
        self.compare(CMP_NEQ, &[0; 4]);
    }

    fn socket(&mut self, (side, family): (Side, Family), set: &str, not: bool) {
        let (offset, len) = address(side, family);
        let words = len / 4;
        self.payload(1, (offset, len), REG32);
        self.protocol(REG32 + words);
        self.payload(2, (port(side), 2), REG32 + words + 1);
        self.look_up(set, REG32, not);
    }

    fn port(&mut self, side: Side, (first, last): (u16, u16), not: bool) {
        self.payload(2, (port(side), 2), REG);
        if first == last {
            return self.compare(if not { CMP_NEQ } else { CMP_EQ }, &first.to_be_bytes());
        }
        self.range((&first.to_be_bytes(), &last.to_be_bytes()), not);
    }

    fn range(&mut self, (first, last): (&[u8], &[u8]), not: bool) {
        self.expression("range", |to| {
            to.number(1, REG);
            to.number(2, u32::from(not));
            to.nest(3, |to| to.bytes(1, first));
            to.nest(4, |to| to.bytes(1, last));
        });
    }

    pub(super) fn act(&mut self, act: &Act) {
        const JUMP: i32 = -3;
        const RETURN: i32 = -5;
        match act {
            Act::Drop => self.verdict(0, None),
            Act::Accept => self.verdict(1, None),
            Act::Return => self.verdict(RETURN, None),
            Act::Jump(chain) => self.verdict(JUMP, Some(chain)),
            Act::Untrack => self.expression("notrack", |_| ()),
            Act::Limit { count, unit_s, burst } => self.expression("limit", |to| {
                to.bytes(1, &u64::from(*count).to_be_bytes());
                to.bytes(2, &unit_s.to_be_bytes());
                to.number(3, u32::from(*burst));
                // NFT_LIMIT_PKTS.
                to.number(4, 0);
            }),
            Act::Log(prefix) => self.expression("log", |to| {
                const INFO: u32 = 6;
                to.text(2, prefix);
                to.number(5, INFO);
            }),
            Act::SetMark(bit) => {
                self.meta(3, REG);
                self.bits((!bit).to_ne_bytes(), bit.to_ne_bytes());
                self.expression("meta", |to| {
                    to.number(2, 3);
                    to.number(3, REG);
                });
            }
        }
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |to| {
            to.number(1, REG_VERDICT);
            to.nest(2, |to| {
                to.nest(2, |to| {
                    to.bytes(1, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        to.text(2, chain);
                    }
                });
            });
        });
    }
}

/// Offset and length of an address in its header.
fn address(side: Side, family: Family) -> (u32, u32) {
    match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    }
}

fn port(side: Side) -> u32 {
    if side == Side::Source { 0 } else { 2 }
}
