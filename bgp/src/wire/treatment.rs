//! What becomes of an UPDATE with a bad path attribute (RFC 7606), as one table: attribute by
//! fault. RFC 4271 ends the session for nearly all of them, RFC 7606 for as few as possible.
//! A LOCAL_PREF missing from an internal peer is no fault here: the default stands in for it, as
//! in every other router.

use super::attribute::code;
use super::notification::{self, Notification};

/// What an error does, from the mildest to the strongest (RFC 7606 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Treatment {
    /// Nothing is wrong.
    Accept,
    /// The attribute goes, the routes stay.
    AttributeDiscard,
    /// All routes of the UPDATE count as withdrawn.
    TreatAsWithdraw,
    /// The session ends with a NOTIFICATION.
    SessionReset,
}

impl Treatment {
    /// A stable word for scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Treatment::Accept => "ok",
            Treatment::AttributeDiscard => "attribute-discard",
            Treatment::TreatAsWithdraw => "treat-as-withdraw",
            Treatment::SessionReset => "session-reset",
        }
    }
}

/// What is wrong with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The Optional or Transitive bit is not as specified; the flags that came.
    Flags(u8),
    /// Not a length that the attribute can have; the length that came.
    Length(usize),
    /// A value that is not allowed: an undefined origin, a bad segment, AS 0 (RFC 7607), ...
    Value,
    /// It came before in the same UPDATE.
    Duplicate,
    /// Mandatory, and not there.
    Missing,
    /// Only internal peers may send it.
    External,
    /// Longer than the attributes altogether (RFC 7606 section 4).
    Overrun,
    /// Said to be well-known, and unknown here.
    Unrecognized,
}

const A: Treatment = Treatment::Accept;
const D: Treatment = Treatment::AttributeDiscard;
const W: Treatment = Treatment::TreatAsWithdraw;
const R: Treatment = Treatment::SessionReset;

/// Columns: flags, length, value, duplicate, missing, external. `A`: cannot happen.
const TABLE: [(u8, [Treatment; 6]); 16] = [
    (code::ORIGIN, [W, W, W, D, W, A]),
    (code::AS_PATH, [W, W, W, D, W, A]),
    (code::NEXT_HOP, [W, W, W, D, W, A]),
    (code::MULTI_EXIT_DISC, [W, W, A, D, A, A]),
    (code::LOCAL_PREF, [W, W, A, D, A, D]),
    (code::ATOMIC_AGGREGATE, [W, D, A, D, A, A]),
    (code::AGGREGATOR, [W, D, D, D, A, A]),
    (code::COMMUNITIES, [W, W, A, D, A, A]),
    (code::ORIGINATOR_ID, [W, W, A, D, A, D]),
    (code::CLUSTER_LIST, [W, W, A, D, A, D]),
    (code::MP_REACH_NLRI, [W, R, W, R, A, A]),
    (code::MP_UNREACH_NLRI, [W, R, A, R, A, A]),
    (code::EXTENDED_COMMUNITIES, [W, W, A, D, A, A]),
    (code::AS4_PATH, [W, D, D, D, A, A]),
    (code::AS4_AGGREGATOR, [W, D, D, D, A, A]),
    (code::LARGE_COMMUNITIES, [W, W, A, D, A, A]),
];

/// The cell of the table. Attributes that are not in it know duplicates only.
pub fn treatment(attribute: u8, fault: Fault) -> Treatment {
    let column = match fault {
        Fault::Flags(_) => 0,
        Fault::Length(_) => 1,
        Fault::Value => 2,
        Fault::Duplicate => 3,
        Fault::Missing => 4,
        Fault::External => 5,
        // RFC 7606 section 5.3: the prefixes of such an attribute cannot be told.
        Fault::Overrun if matches!(attribute, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI) => {
            return R;
        }
        Fault::Overrun => return W,
        Fault::Unrecognized => return R,
    };
    let row = TABLE.iter().find(|(code, _)| *code == attribute);
    row.map_or(D, |(_, cells)| cells[column])
}

/// One bad attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeError {
    /// Attribute type code; 0 when not even that could be read.
    pub code: u8,
    /// What is wrong.
    pub fault: Fault,
    /// What that does, by the table.
    pub treatment: Treatment,
    /// The attribute from its flags on, as far as it is there.
    pub bytes: Box<[u8]>,
}

/// Most bytes of an attribute in a NOTIFICATION, which may have 4096 in all.
const MAX_NOTIFICATION_DATA: usize = 4096 - 21;

impl AttributeError {
    /// An error of the attribute with these bytes.
    pub fn new(code: u8, fault: Fault, bytes: &[u8]) -> AttributeError {
        AttributeError { code, fault, treatment: treatment(code, fault), bytes: bytes.into() }
    }

    /// What the peer is told when the session ends for it (RFC 4271 section 6.3).
    pub fn notification(&self) -> Notification {
        let missing = [self.code];
        let (subcode, data): (u8, &[u8]) = match self.fault {
            Fault::Duplicate | Fault::Overrun => (1, &[]),
            Fault::Unrecognized => (2, &self.bytes),
            Fault::Missing => (3, &missing),
            Fault::Flags(_) => (4, &self.bytes),
            Fault::Length(_) => (5, &self.bytes),
            Fault::Value if self.code == code::ORIGIN => (6, &self.bytes),
            Fault::Value if self.code == code::NEXT_HOP => (8, &self.bytes),
            Fault::Value if self.code == code::AS_PATH => (11, &[]),
            Fault::Value | Fault::External => (9, &self.bytes),
        };
        let data = &data[..data.len().min(MAX_NOTIFICATION_DATA)];
        Notification::with_data(notification::UPDATE_MESSAGE, subcode, data)
    }
}

impl std::fmt::Display for AttributeError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match code::name(self.code) {
            Some(name) => out.write_str(name)?,
            None => write!(out, "attribute {}", self.code)?,
        }
        match self.fault {
            Fault::Flags(flags) => write!(out, ": flags {flags:#04x}"),
            Fault::Length(length) => write!(out, ": length {length}"),
            Fault::Value => out.write_str(": invalid value"),
            Fault::Duplicate => out.write_str(": more than once"),
            Fault::Missing => out.write_str(": missing"),
            Fault::External => out.write_str(": from an external peer"),
            Fault::Overrun => out.write_str(": runs over the end of the attributes"),
            Fault::Unrecognized => out.write_str(": well-known but not known"),
        }
    }
}

impl std::error::Error for AttributeError {}

#[cfg(test)]
mod tests;
