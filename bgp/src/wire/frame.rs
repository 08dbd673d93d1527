//! Where one message ends and the next begins (RFC 4271 section 4.1), and the errors of section
//! 6.1 in that. Bodies are handed out as they stand in the receive buffer.
//!
//! The longest message that may arrive is the caller's, because each session has its own
//! (RFC 8654); an OPEN never passes 4,096 bytes.

use super::notification::{MESSAGE_HEADER, Notification};
use super::{HEADER_LEN, MAX_LEN};

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Type 1: who we are and what we can do.
    Open = 1,
    /// Type 2: routes.
    Update = 2,
    /// Type 3: why the session ends.
    Notification = 3,
    /// Type 4: still here.
    Keepalive = 4,
    /// Type 5: send the routes again (RFC 2918).
    RouteRefresh = 5,
}

impl Kind {
    fn from_type(number: u8) -> Option<Kind> {
        match number {
            1 => Some(Kind::Open),
            2 => Some(Kind::Update),
            3 => Some(Kind::Notification),
            4 => Some(Kind::Keepalive),
            5 => Some(Kind::RouteRefresh),
            _ => None,
        }
    }

    /// The lengths that RFC 4271 section 6.1 (and RFC 8654 section 4) allow, header included.
    fn lengths(self, max_rx: usize) -> std::ops::RangeInclusive<usize> {
        match self {
            Kind::Open => 29..=MAX_LEN,
            Kind::Update => 23..=max_rx,
            Kind::Notification => 21..=max_rx,
            Kind::Keepalive => HEADER_LEN..=HEADER_LEN,
            Kind::RouteRefresh => 23..=max_rx,
        }
    }
}

/// A message whose body nobody has looked into yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Its type.
    pub kind: Kind,
    /// All behind the header.
    pub body: &'a [u8],
}

impl Raw<'_> {
    /// Length on the wire, in bytes.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }
}

/// Subcode of a marker that is not all ones.
pub const NOT_SYNCHRONIZED: u8 = 1;
/// Subcode of a length that the type does not allow.
pub const BAD_LENGTH: u8 = 2;
/// Subcode of an unknown type.
pub const BAD_TYPE: u8 = 3;

const MARKER: [u8; 16] = [0xff; 16];

/// A whole KEEPALIVE.
pub const KEEPALIVE: [u8; HEADER_LEN] =
    [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4];

/// The first message in `buffer`; `None` while it is incomplete. An error ends the session.
///
/// A header is judged as soon as it is whole, so that nobody waits for the body of nonsense.
pub fn first(buffer: &[u8], max_rx: usize) -> Result<Option<Raw<'_>>, Notification> {
    let Some(header) = buffer.get(..HEADER_LEN) else { return Ok(None) };
    if header[..16] != MARKER {
        return Err(Notification::new(MESSAGE_HEADER, NOT_SYNCHRONIZED));
    }
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let bad_length = || Notification::with_data(MESSAGE_HEADER, BAD_LENGTH, &header[16..18]);
    if length < HEADER_LEN || length > max_rx.max(MAX_LEN) {
        return Err(bad_length());
    }
    let Some(kind) = Kind::from_type(header[18]) else {
        return Err(Notification::with_data(MESSAGE_HEADER, BAD_TYPE, &header[18..]));
    };
    if !kind.lengths(max_rx).contains(&length) {
        return Err(bad_length());
    }
    Ok(buffer.get(HEADER_LEN..length).map(|body| Raw { kind, body }))
}

/// The header of a message with `body_len` bytes behind it, which must fit 16 bits together.
pub fn header(kind: Kind, body_len: usize) -> [u8; HEADER_LEN] {
    let length = u16::try_from(HEADER_LEN + body_len).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = KEEPALIVE;
    header[16..18].copy_from_slice(&length);
    header[18] = kind as u8;
    header
}

/// A whole message.
pub fn message(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + body.len());
    message.extend_from_slice(&header(kind, body.len()));
    message.extend_from_slice(body);
    message
}

#[cfg(test)]
mod tests {
    use super::super::MAX_EXTENDED_LEN;
    use super::*;

    fn with_length(kind: Kind, length: usize) -> Vec<u8> {
        message(kind, &vec![0; length - HEADER_LEN])
    }

    #[test]
    fn a_message_is_found_when_it_is_whole() {
        let mut two = message(Kind::Update, &[0, 0, 0, 0]);
        two.extend_from_slice(&KEEPALIVE);
        for length in 0..23 {
            assert_eq!(first(&two[..length], MAX_LEN), Ok(None), "{length}");
        }
        let raw = first(&two, MAX_LEN).unwrap().unwrap();
        assert_eq!((raw.kind, raw.body, raw.wire_len()), (Kind::Update, &[0u8; 4][..], 23));
        let raw = first(&two[23..], MAX_LEN).unwrap().unwrap();
        assert_eq!((raw.kind, raw.wire_len()), (Kind::Keepalive, 19));
    }

    #[test]
    fn every_byte_of_the_marker_must_be_ones() {
        for at in 0..16 {
            let mut bytes = KEEPALIVE;
            bytes[at] = 0xfe;
            assert_eq!(first(&bytes, MAX_LEN), Err(Notification::new(1, 1)));
        }
    }

    /// RFC 4271 section 6.1: the data field MUST contain the erroneous length.
    #[test]
    fn lengths_of_each_type_at_their_limits() {
        let cases = [
            (Kind::Open, 29, 4096),
            (Kind::Update, 23, 4096),
            (Kind::Notification, 21, 4096),
            (Kind::Keepalive, 19, 19),
            (Kind::RouteRefresh, 23, 4096),
        ];
        for (kind, least, most) in cases {
            for length in [least, most] {
                assert!(first(&with_length(kind, length), MAX_LEN).unwrap().is_some(), "{kind:?}");
            }
            for length in [least - 1, most + 1] {
                let mut bytes = header(kind, 0);
                let field = u16::try_from(length).unwrap().to_be_bytes();
                bytes[16..18].copy_from_slice(&field);
                let expected = Notification::with_data(1, 2, &field);
                assert_eq!(first(&bytes, MAX_LEN), Err(expected), "{kind:?} {length}");
            }
        }
    }

    /// RFC 8654 section 4: OPEN and KEEPALIVE stay as they are.
    #[test]
    fn extended_messages_are_for_the_other_types() {
        for kind in [Kind::Update, Kind::Notification, Kind::RouteRefresh] {
            for length in [4097, MAX_EXTENDED_LEN] {
                let bytes = with_length(kind, length);
                assert!(first(&bytes, MAX_EXTENDED_LEN).unwrap().is_some(), "{kind:?}");
            }
        }
        let expected = Notification::with_data(1, 2, &4097u16.to_be_bytes());
        assert_eq!(first(&with_length(Kind::Open, 4097), MAX_EXTENDED_LEN), Err(expected));
        let expected = Notification::with_data(1, 2, &20u16.to_be_bytes());
        assert_eq!(first(&with_length(Kind::Keepalive, 20), MAX_EXTENDED_LEN), Err(expected));
    }

    #[test]
    fn an_unknown_type_is_named() {
        for number in [0, 6, 255] {
            let mut bytes = KEEPALIVE;
            bytes[18] = number;
            assert_eq!(first(&bytes, MAX_LEN), Err(Notification::with_data(1, 3, &[number])));
        }
    }
}
