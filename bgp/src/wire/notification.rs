//! NOTIFICATION messages (RFC 4271 sections 4.5 and 6): why a session ends, in numbers and in
//! words, with the text of a shutdown (RFC 9003) and the Hard Reset (RFC 8538) around another one.

use std::fmt;

use super::frame::{self, Kind};
use super::{HEADER_LEN, MAX_LEN};
use crate::family::Family;

/// Error code 1: the message header.
pub const MESSAGE_HEADER: u8 = 1;
/// Error code 2: the OPEN message.
pub const OPEN_MESSAGE: u8 = 2;
/// Error code 3: the UPDATE message.
pub const UPDATE_MESSAGE: u8 = 3;
/// Error code 4: nothing was heard for the hold time.
pub const HOLD_TIMER_EXPIRED: u8 = 4;
/// Error code 5: a message that the state does not allow (subcodes of RFC 6608).
pub const FSM_ERROR: u8 = 5;
/// Error code 6: one side ends the session (subcodes of RFC 4486).
pub const CEASE: u8 = 6;
/// Error code 7: the ROUTE-REFRESH message (RFC 7313).
pub const ROUTE_REFRESH: u8 = 7;
/// Error code 8: the peer took nothing for the send hold time (RFC 9687).
pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode; 0 when there is none.
    pub subcode: u8,
    /// What the code and subcode call for; may be empty.
    pub data: Vec<u8>,
}

impl Notification {
    /// One without data.
    pub fn new(code: u8, subcode: u8) -> Notification {
        Notification { code, subcode, data: Vec::new() }
    }

    /// One with data.
    pub fn with_data(code: u8, subcode: u8, data: &[u8]) -> Notification {
        Notification { code, subcode, data: data.to_vec() }
    }

    /// One that ends a session for a person's reason, with a text for the person at the other end
    /// (RFC 9003 section 2): valid UTF-8, cut to 255 bytes between characters.
    pub fn with_communication(subcode: u8, text: &str) -> Notification {
        let text = &text[..text.floor_char_boundary(COMMUNICATION_LEN)];
        let mut data = Vec::with_capacity(1 + text.len());
        if let Ok(length) = u8::try_from(text.len())
            && length > 0
        {
            data.push(length);
            data.extend_from_slice(text.as_bytes());
        }
        Notification { code: CEASE, subcode, data }
    }

    /// One that ends a session for too many prefixes (RFC 4486 section 4): the data field is the
    /// family and the limit.
    pub fn maximum_prefixes(family: Family, limit: u32) -> Notification {
        let mut data = family.afi().to_be_bytes().to_vec();
        data.push(family.safi());
        data.extend_from_slice(&limit.to_be_bytes());
        Notification { code: CEASE, subcode: MAXIMUM_PREFIXES, data }
    }

    /// The text of a shutdown or reset. Bytes that are not UTF-8 are shown as U+FFFD and control
    /// characters as blanks, so that the text is fit for a log.
    pub fn communication(&self) -> Option<String> {
        if self.code != CEASE
            || !matches!(self.subcode, ADMINISTRATIVE_SHUTDOWN | ADMINISTRATIVE_RESET)
        {
            return None;
        }
        let (length, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(*length)).filter(|text| !text.is_empty())?;
        let shown = |letter: char| if letter.is_control() { ' ' } else { letter };
        Some(String::from_utf8_lossy(text).chars().map(shown).collect())
    }

    /// The same reason, with the word that routes are not to be kept (RFC 8538 section 3).
    #[must_use]
    pub fn into_hard_reset(self) -> Notification {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Notification { code: CEASE, subcode: HARD_RESET, data }
    }

    /// True for a Hard Reset.
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (CEASE, HARD_RESET)
    }

    /// The reason within a Hard Reset; `None` for any other, or when it holds none.
    pub fn inner(&self) -> Option<Notification> {
        let (&[code, subcode], data) =
            self.data.split_first_chunk::<2>().filter(|_| self.is_hard_reset())?;
        Some(Notification::with_data(code, subcode, data))
    }

    /// Reads a body; `None` when it is too short, which nobody is told (RFC 4271 section 6.4).
    pub fn decode(body: &[u8]) -> Option<Notification> {
        let (&[code, subcode], data) = body.split_first_chunk::<2>()?;
        Some(Notification::with_data(code, subcode, data))
    }

    /// The whole message; data that does not fit 4,096 bytes is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.code, self.subcode];
        body.extend_from_slice(&self.data[..self.data.len().min(MAX_LEN - HEADER_LEN - 2)]);
        frame::message(Kind::Notification, &body)
    }

    /// The words of the IANA registry for code and subcode; `?` for what is not in it.
    pub fn names(&self) -> (&'static str, &'static str) {
        let (name, subcodes): (&str, &[&str]) = match self.code {
            MESSAGE_HEADER => ("Message Header Error", HEADER_SUBCODES),
            OPEN_MESSAGE => ("OPEN Message Error", OPEN_SUBCODES),
            UPDATE_MESSAGE => ("UPDATE Message Error", UPDATE_SUBCODES),
            HOLD_TIMER_EXPIRED => ("Hold Timer Expired", &[""]),
            FSM_ERROR => ("Finite State Machine Error", FSM_SUBCODES),
            CEASE => ("Cease", CEASE_SUBCODES),
            ROUTE_REFRESH => ("ROUTE-REFRESH Message Error", &["", "Invalid Message Length"]),
            SEND_HOLD_TIMER_EXPIRED => ("Send Hold Timer Expired", &[""]),
            _ => ("?", &[""]),
        };
        (name, subcodes.get(usize::from(self.subcode)).copied().unwrap_or("?"))
    }
}

/// As in `Cease/Administrative Shutdown: for the new disk`.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            ("?", _) => write!(f, "code {}, subcode {}", self.code, self.subcode)?,
            (name, "") => f.write_str(name)?,
            (name, "?") => write!(f, "{name}/subcode {}", self.subcode)?,
            (name, subcode) => write!(f, "{name}/{subcode}")?,
        }
        if let Some(inner) = self.inner().filter(|inner| !inner.is_hard_reset()) {
            write!(f, " ({inner})")?;
        }
        match self.communication() {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// Cease: the peer sent more prefixes than it may.
pub const MAXIMUM_PREFIXES: u8 = 1;
/// Cease: a person stopped the session; with a text.
pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
/// Cease: the peer is not configured any more.
pub const PEER_DECONFIGURED: u8 = 3;
/// Cease: a person asked for a fresh start; with a text.
pub const ADMINISTRATIVE_RESET: u8 = 4;
/// Cease: no connection is wanted now.
pub const CONNECTION_REJECTED: u8 = 5;
/// Cease: the configuration has changed in another way.
pub const OTHER_CONFIGURATION_CHANGE: u8 = 6;
/// Cease: the other of two connections stays.
pub const CONNECTION_COLLISION: u8 = 7;
/// Cease: no memory left for this session.
pub const OUT_OF_RESOURCES: u8 = 8;
/// Cease: end the session without keeping routes (RFC 8538).
pub const HARD_RESET: u8 = 9;
/// Cease: BFD says that the path is dead (RFC 9384).
pub const BFD_DOWN: u8 = 10;

/// Longest text of a shutdown, in bytes (RFC 9003).
pub const COMMUNICATION_LEN: usize = 255;

const HEADER_SUBCODES: &[&str] =
    &["", "Connection Not Synchronized", "Bad Message Length", "Bad Message Type"];
const OPEN_SUBCODES: &[&str] = &[
    "Unspecific",
    "Unsupported Version Number",
    "Bad Peer AS",
    "Bad BGP Identifier",
    "Unsupported Optional Parameter",
    "Authentication Failure",
    "Unacceptable Hold Time",
    "Unsupported Capability",
    "?",
    "?",
    "?",
    "Role Mismatch",
];
const UPDATE_SUBCODES: &[&str] = &[
    "",
    "Malformed Attribute List",
    "Unrecognized Well-known Attribute",
    "Missing Well-known Attribute",
    "Attribute Flags Error",
    "Attribute Length Error",
    "Invalid ORIGIN Attribute",
    "AS Routing Loop",
    "Invalid NEXT_HOP Attribute",
    "Optional Attribute Error",
    "Invalid Network Field",
    "Malformed AS_PATH",
];
const FSM_SUBCODES: &[&str] = &[
    "Unspecified Error",
    "Receive Unexpected Message in OpenSent State",
    "Receive Unexpected Message in OpenConfirm State",
    "Receive Unexpected Message in Established State",
];
const CEASE_SUBCODES: &[&str] = &[
    "",
    "Maximum Number of Prefixes Reached",
    "Administrative Shutdown",
    "Peer De-configured",
    "Administrative Reset",
    "Connection Rejected",
    "Other Configuration Change",
    "Connection Collision Resolution",
    "Out of Resources",
    "Hard Reset",
    "BFD Down",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_reads_and_writes_as_drawn() {
        let notification = Notification::with_data(2, 1, &[0, 4]);
        let bytes = notification.encode();
        assert_eq!(bytes, frame::message(Kind::Notification, &[2, 1, 0, 4]));
        assert_eq!(Notification::decode(&bytes[HEADER_LEN..]), Some(notification));
        assert_eq!(Notification::decode(&[6]), None);
    }

    #[test]
    fn data_that_does_not_fit_is_cut() {
        let long = Notification::with_data(7, 1, &[1; 5000]);
        assert_eq!(long.encode().len(), MAX_LEN);
    }

    #[test]
    fn every_code_and_subcode_has_its_words() {
        let words = |code, subcode| Notification::new(code, subcode).to_string();
        assert_eq!(words(1, 1), "Message Header Error/Connection Not Synchronized");
        assert_eq!(words(2, 0), "OPEN Message Error/Unspecific");
        assert_eq!(words(2, 7), "OPEN Message Error/Unsupported Capability");
        assert_eq!(words(2, 9), "OPEN Message Error/subcode 9");
        assert_eq!(words(3, 11), "UPDATE Message Error/Malformed AS_PATH");
        assert_eq!(words(4, 0), "Hold Timer Expired");
        let confirm = "Receive Unexpected Message in OpenConfirm State";
        assert_eq!(words(5, 2), format!("Finite State Machine Error/{confirm}"));
        assert_eq!(words(6, 6), "Cease/Other Configuration Change");
        assert_eq!(words(6, 10), "Cease/BFD Down");
        assert_eq!(words(7, 1), "ROUTE-REFRESH Message Error/Invalid Message Length");
        assert_eq!(words(8, 0), "Send Hold Timer Expired");
        assert_eq!(words(99, 3), "code 99, subcode 3");
    }

    /// RFC 9003 section 2: at most 255 bytes of UTF-8 behind a length.
    #[test]
    fn a_shutdown_has_a_text() {
        let shutdown = Notification::with_communication(ADMINISTRATIVE_SHUTDOWN, "bye");
        assert_eq!(shutdown.data, [3, b'b', b'y', b'e']);
        assert_eq!(shutdown.to_string(), "Cease/Administrative Shutdown: bye");
        let long = "\u{e4}".repeat(200);
        let reset = Notification::with_communication(ADMINISTRATIVE_RESET, &long);
        assert_eq!((reset.data.len(), reset.data[0]), (255, 254));
        assert_eq!(reset.communication().as_deref(), Some(&long[..254]));
        let silent = Notification::with_communication(ADMINISTRATIVE_SHUTDOWN, "");
        assert_eq!((silent.communication(), silent.data), (None, vec![]));
    }

    /// RFC 4486 section 4.
    #[test]
    fn too_many_prefixes_are_told_with_their_family_and_limit() {
        let found = Notification::maximum_prefixes(Family::Ipv6Unicast, 1000);
        assert_eq!((found.code, found.subcode), (6, 1));
        assert_eq!(found.data, [0, 2, 1, 0, 0, 3, 0xe8]);
    }

    #[test]
    fn a_text_from_outside_is_fit_for_a_log() {
        let text = |data: &[u8]| Notification::with_data(6, 2, data).communication();
        assert_eq!(text(&[4, b'a', b'\n', 0x1b, b'b']).as_deref(), Some("a  b"));
        assert_eq!(text(&[2, 0xff, b'a']).as_deref(), Some("\u{fffd}a"));
        assert_eq!(text(&[3, b'a']), None);
        assert_eq!(text(&[0, b'a']), None);
        assert_eq!(Notification::with_data(6, 7, &[1, b'a']).communication(), None);
    }

    /// RFC 8538 section 3.1.
    #[test]
    fn a_hard_reset_carries_the_reason() {
        let reason = Notification::with_communication(ADMINISTRATIVE_SHUTDOWN, "bye");
        let hard = reason.clone().into_hard_reset();
        assert_eq!(hard.data, [6, 2, 3, b'b', b'y', b'e']);
        assert_eq!(hard.inner(), Some(reason));
        assert_eq!(hard.to_string(), "Cease/Hard Reset (Cease/Administrative Shutdown: bye)");
        assert_eq!(Notification::new(6, 9).inner(), None);
        assert_eq!(Notification::new(6, 2).inner(), None);
    }
}
