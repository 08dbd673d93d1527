//! The form in which attribute sets are kept by the hundred thousand: equal sets have equal bytes,
//! whatever session they came from. Two octets say what is there, then the fields follow, lists
//! with a length in front (seven bits an octet, the low ones first).

use super::{Aggregator, Attributes, NextHop, Origin, UnknownAttribute};
use crate::wire::as_path::AsPath;
use crate::wire::community::{Community, ExtendedCommunity, LargeCommunity};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes that [`Attributes::to_canonical`] has not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the canonical form of path attributes")]
pub struct BadCanonical;

const ORIGIN_MASK: u16 = 0b11;
const NEXT_HOP_SHIFT: u32 = 2;
const MED: u16 = 1 << 4;
const LOCAL_PREF: u16 = 1 << 5;
const ATOMIC_AGGREGATE: u16 = 1 << 6;
const AGGREGATOR: u16 = 1 << 7;
const COMMUNITIES: u16 = 1 << 8;
const EXTENDED: u16 = 1 << 9;
const LARGE: u16 = 1 << 10;
const ORIGINATOR_ID: u16 = 1 << 11;
const CLUSTER_LIST: u16 = 1 << 12;
const UNKNOWN: u16 = 1 << 13;

impl Attributes {
    /// The session-independent form.
    pub fn to_canonical(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&self.presence().to_be_bytes());
        if let Some(next_hop) = self.next_hop {
            next_hop.write(&mut out);
        }
        put_length(self.as_path.as_bytes().len(), &mut out);
        out.extend_from_slice(self.as_path.as_bytes());
        for number in [self.med, self.local_pref].into_iter().flatten() {
            out.extend_from_slice(&number.to_be_bytes());
        }
        if let Some(aggregator) = self.aggregator {
            out.extend_from_slice(&aggregator.asn.to_be_bytes());
            out.extend_from_slice(&aggregator.router_id.octets());
        }
        put_list(&self.communities, &mut out, |community| community.0.to_be_bytes());
        put_list(&self.extended_communities, &mut out, |community| community.0);
        put_list(&self.large_communities, &mut out, |community| community.to_bytes());
        if let Some(id) = self.originator_id {
            out.extend_from_slice(&id.octets());
        }
        put_list(&self.cluster_list, &mut out, |id| id.octets());
        for unknown in &self.unknown {
            out.extend_from_slice(&[unknown.flags, unknown.code]);
            put_length(unknown.value.len(), &mut out);
            out.extend_from_slice(&unknown.value);
        }
        out.into_boxed_slice()
    }

    fn presence(&self) -> u16 {
        let next_hop = match self.next_hop {
            None => 0,
            Some(NextHop::V4(_)) => 1,
            Some(NextHop::V6(_)) => 2,
            Some(NextHop::V6Pair { .. }) => 3u16,
        };
        let flags = [
            (self.med.is_some(), MED),
            (self.local_pref.is_some(), LOCAL_PREF),
            (self.atomic_aggregate, ATOMIC_AGGREGATE),
            (self.aggregator.is_some(), AGGREGATOR),
            (!self.communities.is_empty(), COMMUNITIES),
            (!self.extended_communities.is_empty(), EXTENDED),
            (!self.large_communities.is_empty(), LARGE),
            (self.originator_id.is_some(), ORIGINATOR_ID),
            (!self.cluster_list.is_empty(), CLUSTER_LIST),
            (!self.unknown.is_empty(), UNKNOWN),
        ];
        let set = flags.iter().filter(|(is_there, _)| *is_there).map(|(_, bit)| bit);
        u16::from(self.origin.value()) | next_hop << NEXT_HOP_SHIFT | set.sum::<u16>()
    }

    /// The set that `bytes` is the canonical form of.
    pub fn from_canonical(bytes: &[u8]) -> Result<Attributes, BadCanonical> {
        let mut bytes = Bytes { rest: bytes };
        let there = u16::from_be_bytes(bytes.take()?);
        let has = |bit: u16| there & bit != 0;
        let mut attributes = Attributes {
            origin: Origin::from_value((there & ORIGIN_MASK) as u8).ok_or(BadCanonical)?,
            next_hop: bytes.next_hop(there >> NEXT_HOP_SHIFT & 0b11)?,
            atomic_aggregate: has(ATOMIC_AGGREGATE),
            ..Attributes::default()
        };
        let path = bytes.counted()?;
        attributes.as_path = AsPath::from_wire(path, true).map_err(|_| BadCanonical)?;
        if has(MED) {
            attributes.med = Some(u32::from_be_bytes(bytes.take()?));
        }
        if has(LOCAL_PREF) {
            attributes.local_pref = Some(u32::from_be_bytes(bytes.take()?));
        }
        if has(AGGREGATOR) {
            let (asn, router_id) = (u32::from_be_bytes(bytes.take()?), bytes.address()?);
            attributes.aggregator = Some(Aggregator { asn, router_id });
        }
        if has(COMMUNITIES) {
            attributes.communities = bytes.list(|bytes| Community(u32::from_be_bytes(bytes)))?;
        }
        if has(EXTENDED) {
            attributes.extended_communities = bytes.list(ExtendedCommunity)?;
        }
        if has(LARGE) {
            attributes.large_communities = bytes.list(LargeCommunity::from_bytes)?;
        }
        if has(ORIGINATOR_ID) {
            attributes.originator_id = Some(bytes.address()?);
        }
        if has(CLUSTER_LIST) {
            attributes.cluster_list = bytes.list(|bytes: [u8; 4]| Ipv4Addr::from(bytes))?;
        }
        while has(UNKNOWN) && !bytes.rest.is_empty() {
            let [flags, code] = bytes.take()?;
            let value = bytes.counted()?.into();
            attributes.unknown.push(UnknownAttribute { flags, code, value });
        }
        if bytes.rest.is_empty() { Ok(attributes) } else { Err(BadCanonical) }
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let mut rest = length;
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_list<T, const N: usize>(elements: &[T], out: &mut Vec<u8>, bytes: impl Fn(&T) -> [u8; N]) {
    if elements.is_empty() {
        return;
    }
    put_length(elements.len() * N, out);
    for element in elements {
        out.extend_from_slice(&bytes(element));
    }
}

struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadCanonical> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(BadCanonical)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn address(&mut self) -> Result<Ipv4Addr, BadCanonical> {
        Ok(self.take::<4>()?.into())
    }

    /// As many bytes as the length before them says.
    fn counted(&mut self) -> Result<&'a [u8], BadCanonical> {
        let mut length = 0;
        // Three times seven bits are more than any attribute has.
        for shift in [0, 7, 14] {
            let [octet] = self.take()?;
            length |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                let (taken, rest) = self.rest.split_at_checked(length).ok_or(BadCanonical)?;
                self.rest = rest;
                return Ok(taken);
            }
        }
        Err(BadCanonical)
    }

    fn list<const N: usize, T>(
        &mut self,
        element: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, BadCanonical> {
        match self.counted()?.as_chunks() {
            ([], _) => Err(BadCanonical),
            (chunks, []) => Ok(chunks.iter().map(|chunk| element(*chunk)).collect()),
            _ => Err(BadCanonical),
        }
    }

    fn next_hop(&mut self, form: u16) -> Result<Option<NextHop>, BadCanonical> {
        Ok(match form {
            0 => None,
            1 => Some(NextHop::V4(self.address()?)),
            2 => Some(NextHop::V6(self.take::<16>()?.into())),
            _ => {
                let global = Ipv6Addr::from(self.take::<16>()?);
                let link_local = Ipv6Addr::from(self.take::<16>()?);
                Some(NextHop::V6Pair { global, link_local })
            }
        })
    }
}
