//! From a block of raw attributes to [`Attributes`], with every error on its way weighed by the
//! table of [`super::super::treatment`]: one bad attribute seldom costs more than its routes.

use super::{AS_TRANS, EXTENDED_LENGTH, OPTIONAL, TRANSITIVE, code};
use super::{Aggregator, Attributes, NextHop, Origin, Raw, RawAttributes, UnknownAttribute};
use crate::wire::Negotiated;
use crate::wire::as_path::{AsPath, AsPathError, SegmentKind};
use crate::wire::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::wire::treatment::{AttributeError, Fault, Treatment};
use crate::wire::update::{Block, Reach};
use std::net::Ipv4Addr;

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The attributes that are sound. Not to be used with a stronger treatment than
    /// [`Treatment::AttributeDiscard`].
    pub attributes: Attributes,
    /// The strongest treatment of all errors.
    pub treatment: Treatment,
    /// The errors in the order of the block; missing attributes last.
    pub errors: Vec<AttributeError>,
}

impl Attributes {
    /// Decodes `block`.
    pub fn decode(block: &Block<'_>, negotiated: &Negotiated) -> Decoded {
        let mut reader = Reader::new(negotiated);
        if let Reach::Multiprotocol { next_hop, .. } = block.reach {
            match NextHop::from_bytes(next_hop) {
                Ok(next_hop) => reader.attributes.next_hop = Some(next_hop),
                Err(_) => reader.fail(code::MP_REACH_NLRI, Fault::Value, next_hop),
            }
        }
        let is_plain = block.reach == Reach::Plain;
        for attribute in block.pieces.iter().flat_map(|piece| RawAttributes::new(piece)) {
            match attribute {
                // RFC 4760 section 3: of no meaning without prefixes in the NLRI field.
                Ok(raw) if raw.code == code::NEXT_HOP && !is_plain => (),
                Ok(raw) => reader.read(&raw),
                Err(overrun) => reader.fail(overrun.code, Fault::Overrun, overrun.bytes),
            }
        }
        reader.finish(block.reach)
    }
}

struct Reader<'n> {
    negotiated: &'n Negotiated,
    attributes: Attributes,
    errors: Vec<AttributeError>,
    /// One bit for each type code.
    seen: [u128; 2],
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

impl<'n> Reader<'n> {
    fn new(negotiated: &'n Negotiated) -> Reader<'n> {
        let (attributes, errors) = (Attributes::default(), Vec::new());
        let (seen, as4_path, as4_aggregator) = ([0; 2], None, None);
        Reader { negotiated, attributes, errors, seen, as4_path, as4_aggregator }
    }

    #[cold]
    fn fail(&mut self, code: u8, fault: Fault, bytes: &[u8]) {
        self.errors.push(AttributeError::new(code, fault, bytes));
    }

    fn has_seen(&self, code: u8) -> bool {
        self.seen[usize::from(code >> 7)] & 1 << (code & 0x7f) != 0
    }

    fn read(&mut self, raw: &Raw<'_>) {
        // RFC 7606 section 3 g: the first one counts.
        let fault = if self.has_seen(raw.code) {
            Err(Fault::Duplicate)
        } else if raw.has_flags_of_its_type() {
            self.read_value(raw)
        } else {
            Err(Fault::Flags(raw.flags))
        };
        self.seen[usize::from(raw.code >> 7)] |= 1 << (raw.code & 0x7f);
        if let Err(fault) = fault {
            self.fail(raw.code, fault, raw.bytes);
        }
    }

    fn read_value(&mut self, raw: &Raw<'_>) -> Result<(), Fault> {
        let attributes = &mut self.attributes;
        let (value, negotiated) = (raw.value, self.negotiated);
        let internal_only =
            matches!(raw.code, code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST);
        if internal_only && !negotiated.ibgp {
            return Err(Fault::External);
        }
        match raw.code {
            code::ORIGIN => {
                let [value] = exactly(value)?;
                attributes.origin = Origin::from_value(value).ok_or(Fault::Value)?;
            }
            code::AS_PATH => attributes.as_path = as_path(value, negotiated)?,
            code::NEXT_HOP => {
                exactly::<4>(value)?;
                let next_hop = NextHop::from_bytes(value).map_err(|_| Fault::Value)?;
                attributes.next_hop = Some(next_hop);
            }
            code::MULTI_EXIT_DISC => {
                attributes.med = Some(u32::from_be_bytes(exactly(value)?));
            }
            code::LOCAL_PREF => {
                attributes.local_pref = Some(u32::from_be_bytes(exactly(value)?));
            }
            code::ATOMIC_AGGREGATE => {
                exactly::<0>(value)?;
                attributes.atomic_aggregate = true;
            }
            code::AGGREGATOR => {
                attributes.aggregator = Some(aggregator(value, negotiated.asn4)?);
            }
            code::COMMUNITIES => {
                attributes.communities = list(value, |bytes| Community(u32::from_be_bytes(bytes)))?;
            }
            code::ORIGINATOR_ID => {
                attributes.originator_id = Some(Ipv4Addr::from(exactly::<4>(value)?));
            }
            code::CLUSTER_LIST => {
                attributes.cluster_list = list(value, |bytes: [u8; 4]| Ipv4Addr::from(bytes))?;
            }
            code::EXTENDED_COMMUNITIES => {
                attributes.extended_communities = list(value, ExtendedCommunity)?;
            }
            code::LARGE_COMMUNITIES => {
                attributes.large_communities = list(value, LargeCommunity::from_bytes)?;
            }
            // RFC 6793 section 4.1: nothing that a four-octet speaker may send.
            code::AS4_PATH | code::AS4_AGGREGATOR if negotiated.asn4 => (),
            code::AS4_PATH => self.as4_path = Some(four_octet_path(value)?),
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(value, true)?),
            _ => self.keep_unknown(raw)?,
        }
        Ok(())
    }

    /// RFC 4271 section 5: unknown optional attributes pass if they are transitive.
    fn keep_unknown(&mut self, raw: &Raw<'_>) -> Result<(), Fault> {
        if raw.flags & OPTIONAL == 0 {
            return Err(Fault::Unrecognized);
        }
        if raw.flags & TRANSITIVE != 0 {
            let flags = raw.flags & !EXTENDED_LENGTH & 0xf0;
            let unknown = UnknownAttribute { flags, code: raw.code, value: raw.value.into() };
            self.attributes.unknown.push(unknown);
        }
        Ok(())
    }

    fn finish(mut self, reach: Reach<'_>) -> Decoded {
        self.merge_as4();
        self.attributes.unknown.sort_by_key(|unknown| unknown.code);
        if reach != Reach::Nothing {
            // RFC 7606 section 3 d.
            let mandatory = [code::ORIGIN, code::AS_PATH, code::NEXT_HOP];
            let asked = if reach == Reach::Plain { &mandatory[..] } else { &mandatory[..2] };
            for code in asked {
                if !self.has_seen(*code) {
                    self.fail(*code, Fault::Missing, &[]);
                }
            }
        }
        let treatments = self.errors.iter().map(|error| error.treatment);
        let mut treatment = treatments.max().unwrap_or(Treatment::Accept);
        // RFC 7606 section 5.2: the routes to withdraw may be what was not understood.
        if reach == Reach::Nothing && treatment > Treatment::AttributeDiscard {
            treatment = Treatment::SessionReset;
        }
        Decoded { attributes: self.attributes, treatment, errors: self.errors }
    }

    /// RFC 6793 section 4.2.3: what a two-octet speaker could not say in the old attributes.
    fn merge_as4(&mut self) {
        let attributes = &mut self.attributes;
        let old = attributes.aggregator;
        if old.is_some_and(|old| old.asn != u32::from(AS_TRANS)) && self.as4_aggregator.is_some() {
            return;
        }
        if old.is_some() && self.as4_aggregator.is_some() {
            attributes.aggregator = self.as4_aggregator;
        }
        if let Some(as4_path) = &self.as4_path {
            attributes.as_path = attributes.as_path.merged(as4_path);
        }
    }
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Fault> {
    value.try_into().map_err(|_| Fault::Length(value.len()))
}

/// A list of at least one (RFC 7606 sections 7.8, 7.10, 7.14; RFC 8092 section 6).
fn list<const N: usize, T>(value: &[u8], element: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Fault> {
    match value.as_chunks() {
        ([], _) => Err(Fault::Length(value.len())),
        (chunks, []) => Ok(chunks.iter().map(|chunk| element(*chunk)).collect()),
        _ => Err(Fault::Length(value.len())),
    }
}

fn as_path(value: &[u8], negotiated: &Negotiated) -> Result<AsPath, Fault> {
    let path = AsPath::from_wire(value, negotiated.asn4).map_err(path_fault)?;
    let is_confed = |kind| matches!(kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet);
    // RFC 5065 section 4: never from outside the confederation.
    if !negotiated.ibgp && path.segments().any(|segment| is_confed(segment.kind)) {
        return Err(Fault::Value);
    }
    Ok(path)
}

fn four_octet_path(value: &[u8]) -> Result<AsPath, Fault> {
    if value.is_empty() || !value.len().is_multiple_of(2) {
        return Err(Fault::Length(value.len()));
    }
    AsPath::from_wire(value, true).map_err(path_fault)
}

fn path_fault(_: AsPathError) -> Fault {
    Fault::Value
}

fn aggregator(value: &[u8], asn4: bool) -> Result<Aggregator, Fault> {
    let (asn, router_id) = if asn4 {
        let [a, b, c, d, address @ ..] = exactly::<8>(value)?;
        (u32::from_be_bytes([a, b, c, d]), address)
    } else {
        let [a, b, address @ ..] = exactly::<6>(value)?;
        (u32::from(u16::from_be_bytes([a, b])), address)
    };
    // RFC 7607 section 2.
    if asn == 0 {
        return Err(Fault::Value);
    }
    Ok(Aggregator { asn, router_id: router_id.into() })
}
