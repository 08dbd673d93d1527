//! A rule set as netlink messages: linux/netfilter/nfnetlink.h and nf_tables.h.
//!
//! Numbers in attributes are big endian; what registers hold is as the packet has it, or, for
//! marks and states, in the machine's order.

use super::attributes::Attributes;
use super::rule::{Chain, Members, Rule, Ruleset, Set};
use super::{Stamp, TABLE};

/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = (SUBSYSTEM << 8) | 1;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const NEW_SET: u16 = (SUBSYSTEM << 8) | 9;
const NEW_ELEMENTS: u16 = (SUBSYSTEM << 8) | 12;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Elements of one message: a list is an attribute, whose length has 16 bits.
const ELEMENTS: usize = 500;

/// Messages, and what each is about.
pub(super) struct Batch {
    bytes: Vec<u8>,
    parts: Vec<String>,
}

impl Batch {
    fn new() -> Batch {
        let mut batch = Batch { bytes: Vec::new(), parts: Vec::new() };
        batch.message((BATCH_BEGIN, 0), "the batch", |_| ());
        batch
    }

    fn message(
        &mut self,
        (kind, flags): (u16, u16),
        what: &str,
        fill: impl FnOnce(&mut Attributes),
    ) {
        let start = self.bytes.len();
        let is_frame = kind < SUBSYSTEM << 8;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend((self.parts.len() as u32).to_ne_bytes());
        self.bytes.extend([0; 4]);
        let (family, resource) = if is_frame { (0, SUBSYSTEM) } else { (INET, 0) };
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        let mut attributes = Attributes(std::mem::take(&mut self.bytes));
        fill(&mut attributes);
        self.bytes = attributes.0;
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.parts.push(what.to_owned());
    }

    fn table(&mut self, kind: u16) {
        let flags = if kind == NEW_TABLE { CREATE } else { ACK };
        self.message((kind, flags), "the table", |to| to.text(1, TABLE));
    }

    /// The bytes, and what each message is about by its sequence number.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        self.message((BATCH_END, 0), "the end of the batch", |_| ());
        (self.bytes, self.parts)
    }

    fn set(&mut self, set: &Set, id: u32) {
        let (kind, len, is_interval) = key(&set.members);
        let what = format!("set {}", set.name);
        self.message((NEW_SET, CREATE), &what, |to| {
            to.text(1, TABLE);
            to.text(2, &set.name);
            // NFT_SET_INTERVAL.
            to.number(3, if is_interval { 4 } else { 0 });
            to.number(4, kind);
            to.number(5, len);
            to.number(10, id);
        });
        for part in elements(&set.members).chunks(ELEMENTS) {
            self.message((NEW_ELEMENTS, CREATE), &what, |to| {
                to.text(1, TABLE);
                to.text(2, &set.name);
                to.nest(3, |list| part.iter().for_each(|element| list.element(element)));
            });
        }
    }

    fn chain(&mut self, chain: &Chain) {
        self.message((NEW_CHAIN, CREATE), &format!("chain {}", chain.name), |to| {
            to.text(1, TABLE);
            to.text(3, &chain.name);
            if let Some((hook, priority)) = chain.hook {
                to.nest(4, |to| {
                    to.number(1, hook as u32);
                    to.bytes(2, &priority.to_be_bytes());
                });
                to.text(7, "filter");
            }
        });
    }

    fn rule(&mut self, chain: &Chain, at: usize, rule: &Rule) {
        let what = format!("rule {at} of chain {}", chain.name);
        self.message((NEW_RULE, CREATE | APPEND), &what, |to| {
            to.text(1, TABLE);
            to.text(2, &chain.name);
            to.nest(4, |list| {
                rule.matches.iter().for_each(|one| list.condition(one));
                rule.acts.iter().for_each(|act| list.act(act));
            });
        });
    }
}

/// The table goes, if it is there: making it first is no error when it is.
pub(super) fn removal() -> Batch {
    let mut batch = Batch::new();
    batch.table(NEW_TABLE);
    batch.table(DELETE_TABLE);
    batch
}

/// The table goes and comes again, at once.
pub(super) fn replacement(ruleset: &Ruleset) -> Batch {
    let mut batch = removal();
    batch.table(NEW_TABLE);
    for (at, set) in ruleset.sets.iter().enumerate() {
        batch.set(set, at as u32 + 1);
    }
    ruleset.chains.iter().for_each(|chain| batch.chain(chain));
    for chain in &ruleset.chains {
        for (at, rule) in chain.rules.iter().enumerate() {
            batch.rule(chain, at, rule);
        }
    }
    batch
}

/// Asks for the table itself, without what is in it; no part of a batch.
pub(super) fn question() -> Vec<u8> {
    let mut batch = Batch { bytes: Vec::new(), parts: Vec::new() };
    batch.message((GET_TABLE, 0), "the table", |to| to.text(1, TABLE));
    batch.bytes
}

/// What the kernel says of the table; `None` for any other answer.
pub(super) fn told(answer: &[u8]) -> Option<Stamp> {
    // `struct nfgenmsg` has four bytes.
    const ATTRIBUTES: usize = HEADER + 4;
    const USE: u16 = 3;
    const HANDLE: u16 = 4;
    if answer.get(4..6)? != NEW_TABLE.to_ne_bytes() {
        return None;
    }
    let (mut handle, mut parts) = (None, None);
    let mut rest = answer.get(ATTRIBUTES..)?;
    while let Some(head) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([head[2], head[3]]) {
            USE => parts = Some(u32::from_be_bytes(value.try_into().ok()?)),
            HANDLE => handle = Some(u64::from_be_bytes(value.try_into().ok()?)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Stamp { handle: handle?, parts: parts? })
}

/// Sequence numbers and error codes, 0 for none, of the kernel's answers.
pub(super) fn outcomes(answer: &[u8]) -> Vec<(u32, i32)> {
    let word =
        |bytes: &[u8], at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let mut outcomes = Vec::new();
    let mut rest = answer;
    while let Some(length) = word(rest, 0).map(|bytes| u32::from_ne_bytes(bytes) as usize) {
        let kind = rest.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
        if let (ERROR, Some(code), Some(sequence)) = (kind, word(rest, HEADER), word(rest, 8)) {
            outcomes.push((u32::from_ne_bytes(sequence), i32::from_ne_bytes(code)));
        }
        if length < HEADER {
            break;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    outcomes
}

/// Data type (as nft shows it), length and whether members are ranges.
fn key(members: &Members) -> (u32, u32, bool) {
    const V4: u32 = 7;
    const V6: u32 = 8;
    const PROTOCOL: u32 = 12;
    const SERVICE: u32 = 13;
    const DEVICE: u32 = 41;
    let socket = |address: u32| (address << 12) | (PROTOCOL << 6) | SERVICE;
    match members {
        Members::V4(_) => (V4, 4, true),
        Members::V6(_) => (V6, 16, true),
        Members::Sockets4(_) => (socket(V4), 12, false),
        Members::Sockets6(_) => (socket(V6), 24, false),
        Members::Devices(_) => (DEVICE, 16, false),
    }
}

/// Keys, and whether each is the end of a range.
fn elements(members: &Members) -> Vec<(Vec<u8>, bool)> {
    fn socket(address: &[u8], protocol: u8, port: u16) -> (Vec<u8>, bool) {
        let port = port.to_be_bytes();
        ([address, &[protocol, 0, 0, 0], &port, &[0, 0]].concat(), false)
    }
    // The end is the first address that is no longer in; behind the last one there is none.
    let v4 = |(first, last): &(std::net::Ipv4Addr, std::net::Ipv4Addr)| {
        let end = last.to_bits().checked_add(1).map(|end| (end.to_be_bytes().to_vec(), true));
        [Some((first.octets().to_vec(), false)), end].into_iter().flatten()
    };
    let v6 = |(first, last): &(std::net::Ipv6Addr, std::net::Ipv6Addr)| {
        let end = last.to_bits().checked_add(1).map(|end| (end.to_be_bytes().to_vec(), true));
        [Some((first.octets().to_vec(), false)), end].into_iter().flatten()
    };
    match members {
        Members::V4(ranges) => ranges.iter().flat_map(v4).collect(),
        Members::V6(ranges) => ranges.iter().flat_map(v6).collect(),
        Members::Sockets4(all) => all
            .iter()
            .map(|(address, number, port)| socket(&address.octets(), *number, *port))
            .collect(),
        Members::Sockets6(all) => all
            .iter()
            .map(|(address, number, port)| socket(&address.octets(), *number, *port))
            .collect(),
        Members::Devices(names) => {
            names.iter().map(|name| (device(name).to_vec(), false)).collect()
        }
    }
}

/// A device's name as registers hold it.
pub(super) fn device(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
