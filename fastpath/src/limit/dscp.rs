//! Differentiated services (RFC 2474): the six bits that say how a packet wants to be treated.

use margay_tunnels::wire::checksum;

/// Bits of congestion notification (RFC 3168), which marking leaves alone.
const ECN_MASK: u8 = 3;

/// A code point, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dscp(u8);

impl Dscp {
    /// `None` beyond 63.
    pub const fn new(value: u8) -> Option<Dscp> {
        if value < 64 { Some(Dscp(value)) } else { None }
    }

    /// The code point of a name: CS0 to CS7, AF11 to AF43 (RFC 2597), EF (RFC 3246), VA (RFC 5865),
    /// LE (RFC 8622) or DF, in letters of any case.
    pub fn named(name: &str) -> Option<Dscp> {
        let name = name.to_ascii_uppercase();
        let digit = |at: usize| name.as_bytes().get(at).map(|one| one.wrapping_sub(b'0'));
        let value = match (name.as_str(), name.len()) {
            ("DF", _) => 0,
            ("EF", _) => 46,
            ("VA", _) => 44,
            ("LE", _) => 1,
            (text, 3) if text.starts_with("CS") => digit(2).filter(|class| *class < 8)? * 8,
            (text, 4) if text.starts_with("AF") => {
                let class = digit(2).filter(|class| (1..=4).contains(class))?;
                class * 8 + digit(3).filter(|drop| (1..=3).contains(drop))? * 2
            }
            _ => return None,
        };
        Dscp::new(value)
    }

    /// The number.
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// Marks a packet that begins with its IPv4 or IPv6 header; ECN stays (RFC 2474 section 3), and
/// the checksum of IPv4 follows. Anything else is left as it is.
#[inline]
pub fn mark(packet: &mut [u8], dscp: Dscp) {
    let Some(header) = packet.first_chunk_mut::<20>() else { return };
    match header[0] >> 4 {
        4 => {
            let old = u16::from_be_bytes([header[0], header[1]]);
            header[1] = dscp.0 << 2 | header[1] & ECN_MASK;
            let new = u16::from_be_bytes([header[0], header[1]]);
            let field = u16::from_be_bytes([header[10], header[11]]);
            let field = checksum::update16(field, old, new);
            header[10..12].copy_from_slice(&field.to_be_bytes());
        }
        6 => {
            header[0] = 0x60 | dscp.0 >> 2;
            header[1] = (dscp.0 & 3) << 6 | header[1] & 0x3f;
        }
        _ => {}
    }
}
