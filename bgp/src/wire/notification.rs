//! NOTIFICATION messages (RFC 4271 sections 4.5 and 6): why a session ends.

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
}
