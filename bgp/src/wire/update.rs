//! The parts of an UPDATE message (RFC 4271 section 4.3, RFC 4760), found in one pass that reads
//! no attribute but MP_REACH_NLRI and MP_UNREACH_NLRI. A receiver hashes the rest of the block
//! ([`Block::material`]) and decodes it only when it is new: most blocks of a table come again.

use super::attribute::{Raw, RawAttributes, code};
use super::negotiated::Negotiated;
use super::nlri::NlriError;
use super::notification::{self, Notification};
use super::treatment::{AttributeError, Fault, Treatment};
use crate::family::Family;

/// An UPDATE that ends the session (RFC 7606 sections 3, 4, 5.3, 7.11, 7.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The body ends before its lengths do.
    #[error("{section} of {length} bytes where {left} are left")]
    Lengths {
        /// Which section does not fit.
        section: &'static str,
        /// Its length field.
        length: usize,
        /// Bytes behind that field.
        left: usize,
    },
    /// MP_REACH_NLRI or MP_UNREACH_NLRI came more than once.
    #[error("attribute {code} more than once")]
    Duplicate {
        /// Attribute type code.
        code: u8,
    },
    /// MP_REACH_NLRI or MP_UNREACH_NLRI is cut off.
    #[error("attribute {code} has {length} bytes, too few")]
    MpLength {
        /// Attribute type code.
        code: u8,
        /// Length of its value, as far as it is there.
        length: usize,
    },
    /// A next hop of a length that the family does not have.
    #[error("next hop of {length} bytes for {family:?}")]
    NextHopLength {
        /// The family of the routes.
        family: Family,
        /// The length that came.
        length: usize,
    },
    /// A prefix cannot be read.
    #[error(transparent)]
    Nlri(#[from] NlriError),
}

impl UpdateError {
    /// What the peer is told.
    pub fn notification(&self) -> Notification {
        let subcode = match self {
            UpdateError::Lengths { .. } | UpdateError::Duplicate { .. } => 1,
            UpdateError::MpLength { .. } | UpdateError::NextHopLength { .. } => 9,
            UpdateError::Nlri(error) => return error.notification(),
        };
        Notification::new(notification::UPDATE_MESSAGE, subcode)
    }
}

/// MP_REACH_NLRI (RFC 4760 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpReach<'a> {
    /// The family of the prefixes.
    pub family: Family,
    /// 4, 16 or 32 bytes.
    pub next_hop: &'a [u8],
    /// The prefixes.
    pub nlri: &'a [u8],
}

/// MP_UNREACH_NLRI (RFC 4760 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpUnreach<'a> {
    /// The family of the prefixes.
    pub family: Family,
    /// The prefixes.
    pub nlri: &'a [u8],
}

/// Families that a message speaks of and the session does not carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
}

/// The parts of one UPDATE. Prefixes are not checked yet: [`super::nlri::Prefixes`] does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections<'a> {
    /// IPv4 prefixes of the Withdrawn Routes field.
    pub withdrawn: &'a [u8],
    /// IPv4 prefixes of the Network Layer Reachability Information field.
    pub nlri: &'a [u8],
    /// Announced prefixes of a family that the session carries.
    pub mp_reach: Option<MpReach<'a>>,
    /// Withdrawn prefixes of a family that the session carries.
    pub mp_unreach: Option<MpUnreach<'a>>,
    /// What was passed over: the last family that the session does not carry.
    pub skipped: Option<Skipped>,
    /// Bad flags of the two attributes above (RFC 7606 section 3 c).
    pub errors: Vec<AttributeError>,
    /// The attributes without those two.
    pieces: [&'a [u8]; 3],
    /// The session's properties that change how attributes read.
    session: u8,
}

/// Finds the sections of `body`, which is an UPDATE behind its header.
pub fn split<'a>(body: &'a [u8], negotiated: &Negotiated) -> Result<Sections<'a>, UpdateError> {
    let (withdrawn, behind) = section(body, "withdrawn routes")?;
    let (block, nlri) = section(behind, "path attributes")?;
    let mut sections = Sections {
        withdrawn,
        nlri,
        mp_reach: None,
        mp_unreach: None,
        skipped: None,
        errors: Vec::new(),
        pieces: [&[]; 3],
        session: u8::from(negotiated.asn4) | u8::from(negotiated.ibgp) << 1,
    };
    let has_ipv4 = !withdrawn.is_empty() || !nlri.is_empty();
    if has_ipv4 && !negotiated.families.contains(Family::Ipv4Unicast) {
        sections.skip(Family::Ipv4Unicast.afi(), Family::Ipv4Unicast.safi());
        (sections.withdrawn, sections.nlri) = (&[], &[]);
    }
    sections.cut_out(block, negotiated)?;
    Ok(sections)
}

/// Splits a field with a length of two octets off.
fn section<'a>(
    bytes: &'a [u8],
    section: &'static str,
) -> Result<(&'a [u8], &'a [u8]), UpdateError> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Err(UpdateError::Lengths { section, length: 2, left: bytes.len() });
    };
    let length = usize::from(u16::from_be_bytes(*length));
    let left = rest.len();
    rest.split_at_checked(length).ok_or(UpdateError::Lengths { section, length, left })
}

impl<'a> Sections<'a> {
    /// Takes the two multiprotocol attributes out of `block`, and keeps what is around them.
    fn cut_out(&mut self, block: &'a [u8], negotiated: &Negotiated) -> Result<(), UpdateError> {
        let mut seen = [false; 2];
        let (mut piece, mut start) = (0, 0);
        let mut attributes = RawAttributes::new(block);
        loop {
            let at = attributes.offset();
            let Some(attribute) = attributes.next() else { break };
            let attribute = match attribute {
                Ok(attribute) => attribute,
                Err(overrun) if overrun.is_multiprotocol() => {
                    let length = overrun.bytes.len();
                    return Err(UpdateError::MpLength { code: overrun.code, length });
                }
                // The decoder finds it again, at the end of the last piece.
                Err(_) => break,
            };
            let is_unreach = match attribute.code {
                code::MP_REACH_NLRI => false,
                code::MP_UNREACH_NLRI => true,
                _ => continue,
            };
            if std::mem::replace(&mut seen[usize::from(is_unreach)], true) {
                return Err(UpdateError::Duplicate { code: attribute.code });
            }
            if !attribute.has_flags_of_its_type() {
                let fault = Fault::Flags(attribute.flags);
                self.errors.push(AttributeError::new(attribute.code, fault, attribute.bytes));
            }
            match is_unreach {
                false => self.read_reach(&attribute, negotiated)?,
                true => self.read_unreach(&attribute, negotiated)?,
            }
            self.pieces[piece] = &block[start..at];
            (piece, start) = (piece + 1, at + attribute.bytes.len());
        }
        self.pieces[piece] = &block[start..];
        Ok(())
    }

    fn read_reach(&mut self, raw: &Raw<'a>, negotiated: &Negotiated) -> Result<(), UpdateError> {
        let error = UpdateError::MpLength { code: raw.code, length: raw.value.len() };
        let (&[high, low, safi, length], rest) = raw.value.split_first_chunk().ok_or(error)?;
        let afi = u16::from_be_bytes([high, low]);
        // One reserved octet stands between next hop and prefixes.
        let (next_hop, rest) = rest.split_at_checked(usize::from(length)).ok_or(error)?;
        let (_, nlri) = rest.split_first().ok_or(error)?;
        match Family::from_afi_safi(afi, safi) {
            Some(family) if negotiated.families.contains(family) => {
                check_next_hop(family, next_hop.len(), negotiated)?;
                self.mp_reach = Some(MpReach { family, next_hop, nlri });
            }
            _ => self.skip(afi, safi),
        }
        Ok(())
    }

    fn read_unreach(&mut self, raw: &Raw<'a>, negotiated: &Negotiated) -> Result<(), UpdateError> {
        let error = UpdateError::MpLength { code: raw.code, length: raw.value.len() };
        let (&[high, low, safi], nlri) = raw.value.split_first_chunk().ok_or(error)?;
        let afi = u16::from_be_bytes([high, low]);
        match Family::from_afi_safi(afi, safi) {
            Some(family) if negotiated.families.contains(family) => {
                self.mp_unreach = Some(MpUnreach { family, nlri });
            }
            _ => self.skip(afi, safi),
        }
        Ok(())
    }

    fn skip(&mut self, afi: u16, safi: u8) {
        self.skipped = Some(Skipped { afi, safi });
    }

    /// The family whose end of the initial routes this is (RFC 4724 section 2).
    pub fn is_end_of_rib(&self) -> Option<Family> {
        let no_routes = self.withdrawn.is_empty() && self.nlri.is_empty();
        let bare = no_routes && self.mp_reach.is_none() && self.has_no_attributes();
        match self.mp_unreach {
            _ if !bare || self.skipped.is_some() => None,
            Some(unreach) => unreach.nlri.is_empty().then_some(unreach.family),
            None => Some(Family::Ipv4Unicast),
        }
    }

    fn has_no_attributes(&self) -> bool {
        self.pieces.iter().all(|piece| piece.is_empty())
    }

    /// What is announced: family, prefixes, and the attributes that go with them. At most two.
    pub fn announced(&self) -> impl Iterator<Item = (Family, &'a [u8], Block<'a>)> {
        let plain = (!self.nlri.is_empty())
            .then(|| (Family::Ipv4Unicast, self.nlri, self.block(Reach::Plain)));
        let mp = self.mp_reach.map(|mp| {
            let reach = Reach::Multiprotocol { family: mp.family, next_hop: mp.next_hop };
            (mp.family, mp.nlri, self.block(reach))
        });
        plain.into_iter().chain(mp)
    }

    /// What is withdrawn in so many words: family and prefixes. At most two.
    pub fn withdrawals(&self) -> impl Iterator<Item = (Family, &'a [u8])> {
        let plain = (!self.withdrawn.is_empty()).then_some((Family::Ipv4Unicast, self.withdrawn));
        let mp = self.mp_unreach.map(|mp| (mp.family, mp.nlri));
        plain.into_iter().chain(mp.filter(|(_, nlri)| !nlri.is_empty()))
    }

    /// Attributes that go with no prefix at all. They are to be decoded nevertheless: an error in
    /// them ends the session, for the prefixes may be what was not understood (RFC 7606 section
    /// 5.2).
    pub fn orphans(&self) -> Option<Block<'a>> {
        let announces = !self.nlri.is_empty() || self.mp_reach.is_some() || self.skipped.is_some();
        (!announces && !self.has_no_attributes()).then(|| self.block(Reach::Nothing))
    }

    /// The strongest treatment that the errors found so far ask for.
    pub fn treatment(&self) -> Treatment {
        let treatments = self.errors.iter().map(|error| error.treatment);
        treatments.max().unwrap_or(Treatment::Accept)
    }

    fn block(&self, reach: Reach<'a>) -> Block<'a> {
        Block::new(self.pieces, reach, self.session)
    }
}

/// RFC 7606 section 7.11: behind a next hop of the wrong length the prefixes cannot be found.
fn check_next_hop(
    family: Family,
    length: usize,
    negotiated: &Negotiated,
) -> Result<(), UpdateError> {
    let fits = match (family, length) {
        (Family::Ipv4Unicast, 4) | (Family::Ipv6Unicast, 16 | 32) => true,
        (Family::Ipv4Unicast, 16 | 32) => negotiated.extended_next_hop,
        _ => false,
    };
    if fits { Ok(()) } else { Err(UpdateError::NextHopLength { family, length }) }
}

/// What a block of attributes says about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// No prefix.
    Nothing,
    /// Prefixes of the NLRI field; NEXT_HOP is theirs.
    Plain,
    /// Prefixes of MP_REACH_NLRI, which has their next hop; NEXT_HOP is passed over.
    Multiprotocol {
        /// Their family.
        family: Family,
        /// 4, 16 or 32 bytes.
        next_hop: &'a [u8],
    },
}

/// Path attributes that are not decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    pub(crate) pieces: [&'a [u8]; 3],
    pub(crate) reach: Reach<'a>,
    tag: [u8; 2],
}

impl<'a> Block<'a> {
    /// Attributes from elsewhere than an UPDATE, without multiprotocol ones among them.
    pub fn from_bytes(bytes: &'a [u8], reach: Reach<'a>, negotiated: &Negotiated) -> Block<'a> {
        let session = u8::from(negotiated.asn4) | u8::from(negotiated.ibgp) << 1;
        Block::new([bytes, &[], &[]], reach, session)
    }

    fn new(pieces: [&'a [u8]; 3], reach: Reach<'a>, session: u8) -> Block<'a> {
        let form = match reach {
            Reach::Nothing => 0xff,
            Reach::Plain => 0xfe,
            Reach::Multiprotocol { family, next_hop } => {
                (family as u8) << 6 | (next_hop.len() as u8 & 0x3f)
            }
        };
        Block { pieces, reach, tag: [session, form] }
    }

    /// All that decides how the block decodes, in order. Two blocks of the same bytes, put
    /// together, decode alike in whatever sessions they came.
    pub fn material(&self) -> [&[u8]; 5] {
        let next_hop = match self.reach {
            Reach::Multiprotocol { next_hop, .. } => next_hop,
            _ => &[],
        };
        let [first, second, third] = self.pieces;
        // The tag comes last: it says how many bytes before it are the next hop.
        [first, second, third, next_hop, &self.tag]
    }
}

#[cfg(test)]
mod tests;
