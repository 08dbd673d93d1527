//! ROUTE-REFRESH (RFC 2918), and the begin and end marks of RFC 7313. A filter list of RFC 5291
//! behind a request is not read: margay does not offer that capability.

use super::frame::{self, Kind};
use super::notification::{Notification, ROUTE_REFRESH};
use crate::family::Family;

/// Subcode: a mark with a wrong length (RFC 7313).
pub const INVALID_LENGTH: u8 = 1;

/// What one says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subtype {
    /// Send your routes again.
    Request = 0,
    /// All routes follow.
    Begin = 1,
    /// They have all been sent; what was not among them is gone.
    End = 2,
}

/// A ROUTE-REFRESH of a family that margay knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The routes that it is about.
    pub family: Family,
    /// What is about to happen to them.
    pub subtype: Subtype,
}

impl RouteRefresh {
    /// Reads a body; `None` for what MUST be ignored: an unknown subtype (RFC 7313 section 5), or
    /// a family that was never agreed on (RFC 2918 section 4).
    pub fn decode(body: &[u8]) -> Result<Option<RouteRefresh>, Notification> {
        let Some(&[high, low, subtype, safi]) = body.first_chunk::<4>() else {
            return Err(RouteRefresh::bad_length(body));
        };
        let subtype = match subtype {
            0 => Subtype::Request,
            1 | 2 if body.len() != 4 => return Err(RouteRefresh::bad_length(body)),
            1 => Subtype::Begin,
            2 => Subtype::End,
            _ => return Ok(None),
        };
        let family = Family::from_afi_safi(u16::from_be_bytes([high, low]), safi);
        Ok(family.map(|family| RouteRefresh { family, subtype }))
    }

    /// RFC 7313 section 5: the data field MUST contain the complete message.
    fn bad_length(body: &[u8]) -> Notification {
        let message = frame::message(Kind::RouteRefresh, body);
        Notification::with_data(ROUTE_REFRESH, INVALID_LENGTH, &message)
    }

    /// The whole message.
    pub fn encode(self) -> Vec<u8> {
        let [high, low] = self.family.afi().to_be_bytes();
        let body = [high, low, self.subtype as u8, self.family.safi()];
        frame::message(Kind::RouteRefresh, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HEADER_LEN;

    #[test]
    fn requests_and_marks_read_and_write_as_drawn() {
        let subtypes = [Subtype::Request, Subtype::Begin, Subtype::End];
        for (number, subtype) in (0u8..).zip(subtypes) {
            let refresh = RouteRefresh { family: Family::Ipv6Unicast, subtype };
            let bytes = refresh.encode();
            assert_eq!(bytes[HEADER_LEN..], [0, 2, number, 1]);
            assert_eq!(RouteRefresh::decode(&bytes[HEADER_LEN..]), Ok(Some(refresh)));
        }
    }

    /// RFC 7313 section 5.
    #[test]
    fn an_unknown_subtype_must_be_ignored() {
        for subtype in [3, 128, 255] {
            assert_eq!(RouteRefresh::decode(&[0, 1, subtype, 1]), Ok(None));
        }
    }

    #[test]
    fn an_unknown_family_is_ignored() {
        assert_eq!(RouteRefresh::decode(&[0, 25, 0, 70]), Ok(None));
    }

    /// RFC 7313 section 5.
    #[test]
    fn a_mark_of_wrong_length_must_be_sent_back_whole() {
        for subtype in [1, 2] {
            let body = [0, 1, subtype, 1, 9];
            let data = frame::message(Kind::RouteRefresh, &body);
            let expected = Notification::with_data(7, 1, &data);
            assert_eq!(RouteRefresh::decode(&body), Err(expected));
        }
    }

    #[test]
    fn a_request_with_filters_is_a_request() {
        let refresh = RouteRefresh { family: Family::Ipv4Unicast, subtype: Subtype::Request };
        assert_eq!(RouteRefresh::decode(&[0, 1, 0, 1, 1, 64, 0, 0]), Ok(Some(refresh)));
    }
}
