//! Communities: standard (RFC 1997), extended (RFC 4360, RFC 5668) and large (RFC 8092), and how
//! people write them. Well-known ones have names; reading takes the name or the numbers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Text that is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {wanted}")]
pub struct BadCommunity {
    /// What was written.
    pub text: String,
    /// What it should be.
    pub wanted: &'static str,
}

/// A standard community: AS number in the upper half, a value of its own in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Community(pub u32);

/// Values of the IANA registry and their names.
const WELL_KNOWN: [(Community, &str); 6] = [
    (Community::GRACEFUL_SHUTDOWN, "graceful-shutdown"),
    (Community::BLACKHOLE, "blackhole"),
    (Community::NO_EXPORT, "no-export"),
    (Community::NO_ADVERTISE, "no-advertise"),
    (Community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
    (Community::NO_PEER, "no-peer"),
];

impl Community {
    /// RFC 8326: the route will go away soon.
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);
    /// RFC 7999: discard the traffic.
    pub const BLACKHOLE: Community = Community(0xffff_029a);
    /// RFC 1997: not to be announced outside the confederation.
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// RFC 1997: not to be announced to any peer.
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// RFC 1997: not to be announced to external peers.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
    /// RFC 3765: not to be announced to bilateral peers.
    pub const NO_PEER: Community = Community(0xffff_ff04);

    /// The community `asn:value`.
    pub const fn new(asn: u16, value: u16) -> Community {
        Community((asn as u32) << 16 | value as u32)
    }

    /// The upper half.
    pub const fn asn(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The lower half.
    pub const fn value(self) -> u16 {
        self.0 as u16
    }

    /// The name of a well-known one.
    pub fn name(self) -> Option<&'static str> {
        WELL_KNOWN.iter().find(|(known, _)| *known == self).map(|(_, name)| *name)
    }
}

impl fmt::Display for Community {
    /// Always the numbers: names differ between tools, numbers don't.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.asn(), self.value())
    }
}

impl FromStr for Community {
    type Err = BadCommunity;

    fn from_str(text: &str) -> Result<Community, BadCommunity> {
        if let Some((known, _)) = WELL_KNOWN.iter().find(|(_, name)| *name == text) {
            return Ok(*known);
        }
        let parts = text
            .split_once(':')
            .and_then(|(asn, value)| Some(Community::new(asn.parse().ok()?, value.parse().ok()?)));
        parts.ok_or_else(|| bad(text, "community (ASN:VALUE, both up to 65535, or a name)"))
    }
}

fn bad(text: &str, wanted: &'static str) -> BadCommunity {
    BadCommunity { text: text.to_owned(), wanted }
}

/// A large community: an AS number and two values of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LargeCommunity {
    /// The AS that gives it its meaning.
    pub global: u32,
    /// The first value.
    pub local1: u32,
    /// The second value.
    pub local2: u32,
}

impl LargeCommunity {
    /// The community of these twelve bytes.
    pub fn from_bytes(bytes: [u8; 12]) -> LargeCommunity {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        LargeCommunity {
            global: u32::from_be_bytes([a, b, c, d]),
            local1: u32::from_be_bytes([e, f, g, h]),
            local2: u32::from_be_bytes([i, j, k, l]),
        }
    }

    /// The twelve bytes on the wire.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (to, part) in bytes.chunks_exact_mut(4).zip([self.global, self.local1, self.local2]) {
            to.copy_from_slice(&part.to_be_bytes());
        }
        bytes
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

impl FromStr for LargeCommunity {
    type Err = BadCommunity;

    fn from_str(text: &str) -> Result<LargeCommunity, BadCommunity> {
        let mut parts = text.split(':').map(|part| part.parse().ok());
        let numbers = [parts.next(), parts.next(), parts.next(), parts.next()];
        match numbers {
            [Some(Some(global)), Some(Some(local1)), Some(Some(local2)), None] => {
                Ok(LargeCommunity { global, local1, local2 })
            }
            _ => Err(bad(text, "large community (ASN:VALUE:VALUE)")),
        }
    }
}

/// An extended community: type, subtype and six bytes that depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtendedCommunity(pub [u8; 8]);

/// Type of two-octet AS number and four-octet value.
const TWO_OCTET_AS: u8 = 0;
/// Type of IPv4 address and two-octet value.
const IPV4: u8 = 1;
/// Type of four-octet AS number and two-octet value (RFC 5668).
const FOUR_OCTET_AS: u8 = 2;
/// Subtypes with a name.
const SUBTYPES: [(u8, &str); 2] = [(2, "rt"), (3, "soo")];

impl ExtendedCommunity {
    /// True when it stays within the AS (RFC 4360 section 2).
    pub const fn is_non_transitive(self) -> bool {
        self.0[0] & 0x40 != 0
    }
}

impl fmt::Display for ExtendedCommunity {
    /// `rt:65000:1`, `soo:192.0.2.1:1`, `rt:65536L:1` for four-octet AS numbers, and hex for all
    /// others.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, subtype, a, b, c, d, e, f] = self.0;
        let name = SUBTYPES.iter().find(|(known, _)| *known == subtype).map(|(_, name)| *name);
        let (wide, narrow) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f]));
        match (kind, name) {
            (TWO_OCTET_AS, Some(name)) => {
                let asn = u16::from_be_bytes([a, b]);
                write!(out, "{name}:{asn}:{}", u32::from_be_bytes([c, d, e, f]))
            }
            (IPV4, Some(name)) => write!(out, "{name}:{}:{narrow}", Ipv4Addr::from_bits(wide)),
            (FOUR_OCTET_AS, Some(name)) => write!(out, "{name}:{wide}L:{narrow}"),
            _ => write!(out, "{:#018x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl FromStr for ExtendedCommunity {
    type Err = BadCommunity;

    fn from_str(text: &str) -> Result<ExtendedCommunity, BadCommunity> {
        let error = || bad(text, "extended community (rt: or soo: and ADMIN:VALUE, or 0x and hex)");
        if let Some(hex) = text.strip_prefix("0x") {
            let is_hex = hex.len() == 16 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
            let value = is_hex.then(|| u64::from_str_radix(hex, 16).ok()).flatten();
            return value.map(|value| ExtendedCommunity(value.to_be_bytes())).ok_or_else(error);
        }
        named(text).map(ExtendedCommunity).ok_or_else(error)
    }
}

/// The eight bytes of `rt:...` and `soo:...`.
fn named(text: &str) -> Option<[u8; 8]> {
    let (name, rest) = text.split_once(':')?;
    let (admin, value) = rest.rsplit_once(':')?;
    let (subtype, _) = SUBTYPES.iter().find(|(_, known)| *known == name)?;
    let value: u32 = value.parse().ok()?;
    let wide = |kind: u8, admin: u32| {
        let ([a, b, c, d], [e, f]) =
            (admin.to_be_bytes(), u16::try_from(value).ok()?.to_be_bytes());
        Some([kind, *subtype, a, b, c, d, e, f])
    };
    if let Ok(address) = admin.parse::<Ipv4Addr>() {
        return wide(IPV4, address.to_bits());
    }
    if let Some(admin) = admin.strip_suffix('L') {
        return wide(FOUR_OCTET_AS, admin.parse().ok()?);
    }
    match admin.parse::<u16>() {
        Ok(asn) => {
            let ([a, b], [c, d, e, f]) = (asn.to_be_bytes(), value.to_be_bytes());
            Some([TWO_OCTET_AS, *subtype, a, b, c, d, e, f])
        }
        Err(_) => wide(FOUR_OCTET_AS, admin.parse().ok()?),
    }
}

#[cfg(test)]
mod tests;
