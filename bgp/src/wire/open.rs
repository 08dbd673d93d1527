//! OPEN (RFC 4271 section 4.2) with its optional parameters, also in the long form of RFC 9072,
//! and the errors of section 6.2 that one OPEN has by itself. What needs both sides' OPENs is in
//! [`super::negotiated`].

use std::net::Ipv4Addr;

use super::capability::{Capability, GracefulRestart};
use super::frame::{self, Kind};
use super::notification::{Notification, OPEN_MESSAGE};
use crate::family::Family;

/// The only version there is.
pub const VERSION: u8 = 4;
/// What stands for an AS number that does not fit 16 bits (RFC 6793).
pub const AS_TRANS: u16 = 23_456;

/// Subcode: another version.
pub const UNSUPPORTED_VERSION: u8 = 1;
/// Subcode: not the AS that was expected.
pub const BAD_PEER_AS: u8 = 2;
/// Subcode: zero, or our own in our own AS (RFC 6286).
pub const BAD_BGP_IDENTIFIER: u8 = 3;
/// Subcode: an optional parameter that nobody knows.
pub const UNSUPPORTED_PARAMETER: u8 = 4;
/// Subcode: a hold time of 1 or 2 s.
pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
/// Subcode: a capability that the session needs is missing (RFC 5492).
pub const UNSUPPORTED_CAPABILITY: u8 = 7;

const PARAMETER_CAPABILITIES: u8 = 2;
/// The parameter type that announces the long form (RFC 9072).
const PARAMETER_EXTENDED: u8 = 255;

/// Who a speaker is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its AS: the four-octet capability's when there is one.
    pub asn: u32,
    /// After how long without a message it gives up, in seconds; 0 for never.
    pub hold_time_s: u16,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// In the order of the message. [`Open::encode`] writes what stands here and nothing else.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Open, Notification> {
        let error = |subcode| Notification::new(OPEN_MESSAGE, subcode);
        let Some((&[version, as1, as0, hold1, hold0, a, b, c, d, length], rest)) =
            body.split_first_chunk::<10>()
        else {
            return Err(error(0));
        };
        if version != VERSION {
            let supported = u16::from(VERSION).to_be_bytes();
            return Err(Notification::with_data(OPEN_MESSAGE, UNSUPPORTED_VERSION, &supported));
        }
        let mut open = Open {
            asn: u32::from(u16::from_be_bytes([as1, as0])),
            hold_time_s: u16::from_be_bytes([hold1, hold0]),
            router_id: Ipv4Addr::new(a, b, c, d),
            capabilities: Vec::new(),
        };
        open.read_parameters(length, rest)?;
        if let Some(asn) = open.four_octet_asn() {
            open.asn = asn;
        }
        // RFC 7607: AS 0 is no one's.
        if open.asn == 0 {
            return Err(error(BAD_PEER_AS));
        }
        if open.router_id.is_unspecified() {
            return Err(error(BAD_BGP_IDENTIFIER));
        }
        if matches!(open.hold_time_s, 1 | 2) {
            return Err(error(UNACCEPTABLE_HOLD_TIME));
        }
        Ok(open)
    }

    /// RFC 9072 section 2: the long form is known by its type, and the short length is then not
    /// looked at, except that 0 means none.
    fn read_parameters(&mut self, length: u8, rest: &[u8]) -> Result<(), Notification> {
        let malformed = || Notification::new(OPEN_MESSAGE, 0);
        let (extended, parameters) = match *rest {
            [PARAMETER_EXTENDED, high, low, ref parameters @ ..] if length != 0 => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                (true, parameters.get(..length).filter(|all| all.len() == parameters.len()))
            }
            _ => (false, rest.get(..usize::from(length)).filter(|all| all.len() == rest.len())),
        };
        let mut parameters = parameters.ok_or_else(malformed)?;
        while !parameters.is_empty() {
            let (kind, length, value) = match *parameters {
                [kind, high, low, ref value @ ..] if extended => {
                    (kind, usize::from(u16::from_be_bytes([high, low])), value)
                }
                [kind, length, ref value @ ..] if !extended => (kind, usize::from(length), value),
                _ => return Err(malformed()),
            };
            let (value, behind) = value.split_at_checked(length).ok_or_else(malformed)?;
            if kind != PARAMETER_CAPABILITIES {
                return Err(Notification::new(OPEN_MESSAGE, UNSUPPORTED_PARAMETER));
            }
            Capability::decode_all(value, &mut self.capabilities)?;
            parameters = behind;
        }
        Ok(())
    }

    /// The whole message, all capabilities in one optional parameter.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        let mut body = vec![VERSION];
        body.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        body.extend_from_slice(&self.hold_time_s.to_be_bytes());
        body.extend_from_slice(&self.router_id.octets());
        match (u8::try_from(capabilities.len() + 2), u8::try_from(capabilities.len())) {
            _ if capabilities.is_empty() => body.push(0),
            (Ok(all), Ok(value)) => {
                body.extend_from_slice(&[all, PARAMETER_CAPABILITIES, value]);
            }
            _ => {
                let length = u16::try_from(capabilities.len()).unwrap_or(u16::MAX - 3);
                body.extend_from_slice(&[PARAMETER_EXTENDED, PARAMETER_EXTENDED]);
                body.extend_from_slice(&(length + 3).to_be_bytes());
                body.push(PARAMETER_CAPABILITIES);
                body.extend_from_slice(&length.to_be_bytes());
            }
        }
        body.extend_from_slice(&capabilities);
        frame::message(Kind::Open, &body)
    }

    /// The AS number of the four-octet capability.
    pub fn four_octet_asn(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// True when exactly this capability is among them.
    pub fn has(&self, wanted: &Capability) -> bool {
        self.capabilities.contains(wanted)
    }

    /// True when the speaker carries `family`. One without any family capability carries IPv4
    /// unicast, as all did before RFC 4760.
    pub fn carries(&self, family: Family) -> bool {
        let is_family =
            |capability: &Capability| matches!(capability, Capability::Multiprotocol(..));
        match self.capabilities.iter().any(is_family) {
            true => self.has(&Capability::family(family)),
            false => family == Family::Ipv4Unicast,
        }
    }

    /// What it says about restarts. RFC 4724 section 3: of several, all but the last MUST be
    /// ignored.
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    }

    /// Whether the speaker reads, and whether it sends, several paths in `family`. RFC 7911
    /// section 4: of several entries for one family, the first counts.
    pub fn add_path(&self, family: Family) -> (bool, bool) {
        let lists = self.capabilities.iter().filter_map(|capability| match capability {
            Capability::AddPath(families) => Some(families),
            _ => None,
        });
        let (afi, safi) = (family.afi(), family.safi());
        let entry = lists.flatten().find(|entry| (entry.afi, entry.safi) == (afi, safi));
        entry.map_or((false, false), |entry| (entry.receive, entry.send))
    }

    /// True when IPv4 prefixes with IPv6 next hops can be read (RFC 8950).
    pub fn extended_next_hop(&self) -> bool {
        self.capabilities.iter().any(|capability| match capability {
            Capability::ExtendedNextHop(families) => families
                .iter()
                .any(|family| (family.afi, family.safi, family.next_hop_afi) == (1, 1, 2)),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests;
