//! Writing UPDATE messages: as many prefixes of one attribute set as a message holds, then the
//! next one (RFC 4271 section 4.3, RFC 4760, RFC 8950). Sizes count path identifiers.

use super::attribute::{Attributes, EXTENDED_LENGTH, NextHop, OPTIONAL, code};
use super::negotiated::Negotiated;
use super::nlri::{Nlri, Prefix};
use crate::family::Family;

/// Message type 2.
const UPDATE: u8 = 2;
/// Header, and both length fields of an UPDATE.
const FIXED_LEN: usize = super::HEADER_LEN + 4;
/// Flags, type and extended length of a multiprotocol attribute, its AFI and SAFI.
const MP_HEAD_LEN: usize = 4 + 3;

/// Routes that cannot be announced in this session; the peer is to lose them, not the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The attributes leave no room for a prefix in the longest message.
    #[error("an UPDATE of {length} bytes, at most {limit} may be sent")]
    TooLong {
        /// Length of the message with one prefix.
        length: usize,
        /// The longest message that the peer takes.
        limit: usize,
    },
    /// The family does not go with this next hop in this session, or it is no host's address.
    #[error("{family:?} routes cannot be sent with next hop {next_hop}")]
    NextHop {
        /// The family of the routes.
        family: Family,
        /// The next hop.
        next_hop: NextHop,
    },
}

/// Appends UPDATE messages that announce all of `prefixes` with `attributes` and `next_hop` (the
/// one in `attributes` does not count). Answers how many; 0 if there is no prefix. After an error
/// `out` is as it was.
pub fn encode_update<P: Prefix>(
    attributes: &Attributes,
    next_hop: NextHop,
    prefixes: impl IntoIterator<Item = Nlri<P>>,
    negotiated: &Negotiated,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let is_plain = match (P::FAMILY, next_hop) {
        (Family::Ipv4Unicast, NextHop::V4(_)) => true,
        (Family::Ipv4Unicast, _) if negotiated.extended_next_hop => false,
        (Family::Ipv6Unicast, NextHop::V6(_) | NextHop::V6Pair { .. }) => false,
        (family, next_hop) => return Err(EncodeError::NextHop { family, next_hop }),
    };
    if !next_hop.is_sendable() {
        return Err(EncodeError::NextHop { family: P::FAMILY, next_hop });
    }
    let mut block = Vec::with_capacity(256);
    let in_block = is_plain.then_some(next_hop);
    attributes.encode_with(in_block, negotiated, &mut block);
    let form = if is_plain { Form::Nlri } else { Form::MpReach(next_hop) };
    Packer { form, block: &block, negotiated, out }.pack(prefixes)
}

/// Appends UPDATE messages that withdraw all of `prefixes`. Answers how many.
pub fn encode_withdrawal<P: Prefix>(
    prefixes: impl IntoIterator<Item = Nlri<P>>,
    negotiated: &Negotiated,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let form = match P::FAMILY {
        Family::Ipv4Unicast => Form::Withdrawn,
        Family::Ipv6Unicast => Form::MpUnreach,
    };
    Packer { form, block: &[], negotiated, out }.pack(prefixes)
}

/// Appends the UPDATE that says: these were all routes of `family` (RFC 4724 section 2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let start = begin_message(out);
    out.extend_from_slice(&[0, 0]);
    match family {
        Family::Ipv4Unicast => out.extend_from_slice(&[0, 0]),
        Family::Ipv6Unicast => {
            let [high, low] = family.afi().to_be_bytes();
            let flags = OPTIONAL;
            out.extend_from_slice(&[0, 6, flags, code::MP_UNREACH_NLRI, 3]);
            out.extend_from_slice(&[high, low, family.safi()]);
        }
    }
    end_message(start, out);
}

/// Where the prefixes of a message stand.
#[derive(Clone, Copy)]
enum Form {
    Nlri,
    Withdrawn,
    MpReach(NextHop),
    MpUnreach,
}

struct Packer<'a> {
    form: Form,
    block: &'a [u8],
    negotiated: &'a Negotiated,
    out: &'a mut Vec<u8>,
}

impl Packer<'_> {
    /// Bytes of a message without its prefixes.
    fn overhead(&self) -> usize {
        let form = match self.form {
            Form::Nlri | Form::Withdrawn => 0,
            // The length of the next hop and a reserved octet come with it.
            Form::MpReach(next_hop) => MP_HEAD_LEN + 1 + next_hop.wire_len() + 1,
            Form::MpUnreach => MP_HEAD_LEN,
        };
        FIXED_LEN + self.block.len() + form
    }

    fn pack<P: Prefix>(
        mut self,
        prefixes: impl IntoIterator<Item = Nlri<P>>,
    ) -> Result<usize, EncodeError> {
        let add_path = self.negotiated.add_path_tx.contains(P::FAMILY);
        let (limit, overhead) = (self.negotiated.max_tx, self.overhead());
        let start = self.out.len();
        let mut messages = 0;
        let mut prefixes = prefixes.into_iter();
        let mut next = prefixes.next();
        while let Some(first) = next {
            let length = overhead + first.wire_len(add_path);
            // The length field of the block is the other limit.
            if length > limit || length > super::MAX_EXTENDED_LEN {
                self.out.truncate(start);
                return Err(EncodeError::TooLong { length, limit });
            }
            let message = begin_message(self.out);
            let open = self.open(P::FAMILY);
            let room = limit.min(super::MAX_EXTENDED_LEN) - overhead;
            let filled_to = self.out.len() + room;
            first.write(add_path, self.out);
            next = None;
            for nlri in prefixes.by_ref() {
                if self.out.len() + nlri.wire_len(add_path) > filled_to {
                    next = Some(nlri);
                    break;
                }
                nlri.write(add_path, self.out);
            }
            self.close(open);
            end_message(message, self.out);
            messages += 1;
        }
        Ok(messages)
    }

    /// Writes what stands before the prefixes. Answers where that begins.
    fn open(&mut self, family: Family) -> usize {
        let at = self.out.len();
        match self.form {
            Form::Nlri => {
                self.out.extend_from_slice(&[0, 0]);
                self.out.extend_from_slice(&(self.block.len() as u16).to_be_bytes());
                self.out.extend_from_slice(self.block);
            }
            Form::Withdrawn => self.out.extend_from_slice(&[0, 0]),
            Form::MpReach(next_hop) => {
                self.open_mp(code::MP_REACH_NLRI, family);
                self.out.push(next_hop.wire_len() as u8);
                next_hop.write(self.out);
                self.out.push(0);
            }
            Form::MpUnreach => self.open_mp(code::MP_UNREACH_NLRI, family),
        }
        at
    }

    /// RFC 7606 section 5.1: the multiprotocol attribute comes first.
    fn open_mp(&mut self, code: u8, family: Family) {
        self.out.extend_from_slice(&[0, 0, 0, 0]);
        self.out.extend_from_slice(&[OPTIONAL | EXTENDED_LENGTH, code, 0, 0]);
        self.out.extend_from_slice(&family.afi().to_be_bytes());
        self.out.push(family.safi());
    }

    /// Writes what stands behind the prefixes, and the lengths of what begins at `at`.
    fn close(&mut self, at: usize) {
        match self.form {
            Form::Nlri => (),
            Form::Withdrawn => {
                let length = (self.out.len() - at - 2) as u16;
                self.out[at..at + 2].copy_from_slice(&length.to_be_bytes());
                self.out.extend_from_slice(&[0, 0]);
            }
            Form::MpReach(_) | Form::MpUnreach => {
                let head = at + 4;
                let length = self.out.len() - head - 4;
                if let Ok(length) = u8::try_from(length) {
                    self.out[head] = OPTIONAL;
                    self.out.remove(head + 2);
                    self.out[head + 2] = length;
                } else {
                    self.out[head + 2..head + 4].copy_from_slice(&(length as u16).to_be_bytes());
                }
                self.out.extend_from_slice(self.block);
                let length = (self.out.len() - head) as u16;
                self.out[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
            }
        }
    }
}

/// Writes a header without its length. Answers where it begins.
fn begin_message(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, UPDATE]);
    start
}

fn end_message(start: usize, out: &mut [u8]) {
    let length = (out.len() - start) as u16;
    out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests;
