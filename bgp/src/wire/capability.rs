//! Capabilities of OPEN (RFC 5492): what a speaker says that it can do.
//!
//! Those that margay does not know, or that stand against their own RFC in a way that the RFC asks
//! to ignore, are kept as bytes. Long-lived restart (RFC 9494) is read, not done.

use super::notification::{Notification, OPEN_MESSAGE};
use crate::family::Family;

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Code 1 (RFC 4760): a family, known or not, by its numbers.
    Multiprotocol(u16, u8),
    /// Code 2 (RFC 2918).
    RouteRefresh,
    /// Code 5 (RFC 8950): families that may have next hops of another address family.
    ExtendedNextHop(Vec<NextHopFamily>),
    /// Code 6 (RFC 8654).
    ExtendedMessage,
    /// Code 64 (RFC 4724, RFC 8538).
    GracefulRestart(GracefulRestart),
    /// Code 65 (RFC 6793): the speaker's AS number.
    FourOctetAs(u32),
    /// Code 69 (RFC 7911).
    AddPath(Vec<AddPath>),
    /// Code 70 (RFC 7313).
    EnhancedRouteRefresh,
    /// Code 71 (RFC 9494).
    LongLivedRestart(Vec<LongLived>),
    /// Any other.
    Unknown(u8, Vec<u8>),
}

/// A family of RFC 8950, and the address family that its next hops may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHopFamily {
    /// Address family identifier of the routes.
    pub afi: u16,
    /// Subsequent address family identifier of the routes.
    pub safi: u16,
    /// Address family identifier of the next hops.
    pub next_hop_afi: u16,
}

/// What RFC 4724 section 3 says about restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// The R bit: the speaker has just restarted.
    pub restarted: bool,
    /// The N bit (RFC 8538): NOTIFICATIONs too leave the routes in place.
    pub notification: bool,
    /// How long the speaker may be away, in seconds; 12 bits.
    pub time_s: u16,
    /// The families whose routes may be kept meanwhile.
    pub families: Vec<RestartFamily>,
}

/// One family of [`GracefulRestart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartFamily {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// The F bit: its forwarding state has outlived the restart.
    pub forwarding: bool,
}

/// One family of ADD-PATH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddPath {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// The speaker can read several paths.
    pub receive: bool,
    /// The speaker is going to send several paths.
    pub send: bool,
}

/// One family of long-lived restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongLived {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// The F bit.
    pub forwarding: bool,
    /// How long stale routes may stay, in seconds; 24 bits.
    pub stale_time_s: u32,
}

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED_RESTART: u8 = 71;

const RESTARTED: u8 = 0x80;
const NOTIFICATION: u8 = 0x40;
const FORWARDING: u8 = 0x80;

impl Capability {
    /// The capability of carrying `family`.
    pub fn family(family: Family) -> Capability {
        Capability::Multiprotocol(family.afi(), family.safi())
    }

    /// Reads all of one optional parameter (RFC 5492 section 4) onto `out`. One that is cut off,
    /// or that has a length its RFC rules out, makes the parameter malformed: RFC 4271 section 6.2.
    pub fn decode_all(mut bytes: &[u8], out: &mut Vec<Capability>) -> Result<(), Notification> {
        let malformed = || Notification::new(OPEN_MESSAGE, 0);
        while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
            let value = rest.get(..usize::from(head[1])).ok_or_else(malformed)?;
            out.push(Capability::decode(head[0], value).ok_or_else(malformed)?);
            bytes = &rest[value.len()..];
        }
        if bytes.is_empty() { Ok(()) } else { Err(malformed()) }
    }

    /// Reads one; `None` when its length is impossible.
    fn decode(code: u8, value: &[u8]) -> Option<Capability> {
        let flag = |capability| value.is_empty().then_some(capability);
        match code {
            MULTIPROTOCOL => {
                let [high, low, _, safi] = *value.as_array::<4>()?;
                Some(Capability::Multiprotocol(u16::from_be_bytes([high, low]), safi))
            }
            ROUTE_REFRESH => flag(Capability::RouteRefresh),
            EXTENDED_NEXT_HOP => {
                Some(Capability::ExtendedNextHop(records(value, NextHopFamily::decode)?))
            }
            EXTENDED_MESSAGE => flag(Capability::ExtendedMessage),
            GRACEFUL_RESTART => GracefulRestart::decode(value).map(Capability::GracefulRestart),
            FOUR_OCTET_AS => {
                Some(Capability::FourOctetAs(u32::from_be_bytes(*value.as_array::<4>()?)))
            }
            ADD_PATH => {
                // RFC 7911 section 4: another value than 1, 2 or 3 makes the capability one that
                // is not understood.
                let understood = value.chunks(4).all(|family| matches!(family.last(), Some(1..=3)));
                let families = records(value, AddPath::decode)?;
                Some(match understood {
                    true => Capability::AddPath(families),
                    false => Capability::Unknown(code, value.to_vec()),
                })
            }
            ENHANCED_ROUTE_REFRESH => flag(Capability::EnhancedRouteRefresh),
            LONG_LIVED_RESTART => {
                Some(Capability::LongLivedRestart(records(value, LongLived::decode)?))
            }
            _ => Some(Capability::Unknown(code, value.to_vec())),
        }
    }

    /// Writes it. A value over 255 bytes is cut at the last family that fits.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[self.code(), 0]);
        match self {
            Capability::Multiprotocol(afi, safi) => {
                let [high, low] = afi.to_be_bytes();
                out.extend_from_slice(&[high, low, 0, *safi]);
            }
            Capability::RouteRefresh
            | Capability::ExtendedMessage
            | Capability::EnhancedRouteRefresh => (),
            Capability::ExtendedNextHop(families) => {
                families.iter().take(255 / 6).for_each(|family| family.encode(out));
            }
            Capability::GracefulRestart(restart) => restart.encode(out),
            Capability::FourOctetAs(asn) => out.extend_from_slice(&asn.to_be_bytes()),
            Capability::AddPath(families) => {
                families.iter().take(255 / 4).for_each(|family| family.encode(out));
            }
            Capability::LongLivedRestart(families) => {
                families.iter().take(255 / 7).for_each(|family| family.encode(out));
            }
            Capability::Unknown(_, value) => {
                out.extend_from_slice(&value[..value.len().min(255)]);
            }
        }
        out[at + 1] = u8::try_from(out.len() - at - 2).unwrap_or(u8::MAX);
    }

    /// Its number in the IANA registry.
    pub fn code(&self) -> u8 {
        match self {
            Capability::Multiprotocol(..) => MULTIPROTOCOL,
            Capability::RouteRefresh => ROUTE_REFRESH,
            Capability::ExtendedNextHop(_) => EXTENDED_NEXT_HOP,
            Capability::ExtendedMessage => EXTENDED_MESSAGE,
            Capability::GracefulRestart(_) => GRACEFUL_RESTART,
            Capability::FourOctetAs(_) => FOUR_OCTET_AS,
            Capability::AddPath(_) => ADD_PATH,
            Capability::EnhancedRouteRefresh => ENHANCED_ROUTE_REFRESH,
            Capability::LongLivedRestart(_) => LONG_LIVED_RESTART,
            Capability::Unknown(code, _) => *code,
        }
    }
}

/// Records of `N` bytes that fill `value`; `None` when they don't.
fn records<const N: usize, T>(value: &[u8], decode: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (chunks, rest) = value.as_chunks::<N>();
    rest.is_empty().then(|| chunks.iter().map(|chunk| decode(*chunk)).collect())
}

impl NextHopFamily {
    fn decode([a, b, c, d, e, f]: [u8; 6]) -> NextHopFamily {
        let [afi, safi, next_hop_afi] = [[a, b], [c, d], [e, f]].map(u16::from_be_bytes);
        NextHopFamily { afi, safi, next_hop_afi }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.afi, self.safi, self.next_hop_afi] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

impl GracefulRestart {
    fn decode(value: &[u8]) -> Option<GracefulRestart> {
        let ([high, low], families) = value.split_first_chunk::<2>()?;
        Some(GracefulRestart {
            restarted: high & RESTARTED != 0,
            notification: high & NOTIFICATION != 0,
            time_s: u16::from_be_bytes([high & 0x0f, *low]),
            families: records(families, RestartFamily::decode)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let [high, low] = self.time_s.min(0x0fff).to_be_bytes();
        let restarted = if self.restarted { RESTARTED } else { 0 };
        let notification = if self.notification { NOTIFICATION } else { 0 };
        out.extend_from_slice(&[high | restarted | notification, low]);
        for family in self.families.iter().take(253 / 4) {
            let [high, low] = family.afi.to_be_bytes();
            let flags = if family.forwarding { FORWARDING } else { 0 };
            out.extend_from_slice(&[high, low, family.safi, flags]);
        }
    }
}

impl RestartFamily {
    fn decode([high, low, safi, flags]: [u8; 4]) -> RestartFamily {
        let afi = u16::from_be_bytes([high, low]);
        RestartFamily { afi, safi, forwarding: flags & FORWARDING != 0 }
    }
}

impl AddPath {
    fn decode([high, low, safi, directions]: [u8; 4]) -> AddPath {
        let afi = u16::from_be_bytes([high, low]);
        AddPath { afi, safi, receive: directions & 1 != 0, send: directions & 2 != 0 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let [high, low] = self.afi.to_be_bytes();
        out.extend_from_slice(&[
            high,
            low,
            self.safi,
            u8::from(self.receive) | u8::from(self.send) << 1,
        ]);
    }
}

impl LongLived {
    fn decode([high, low, safi, flags, a, b, c]: [u8; 7]) -> LongLived {
        LongLived {
            afi: u16::from_be_bytes([high, low]),
            safi,
            forwarding: flags & FORWARDING != 0,
            stale_time_s: u32::from_be_bytes([0, a, b, c]),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let [high, low] = self.afi.to_be_bytes();
        let flags = if self.forwarding { FORWARDING } else { 0 };
        let [_, a, b, c] = self.stale_time_s.min(0x00ff_ffff).to_be_bytes();
        out.extend_from_slice(&[high, low, self.safi, flags, a, b, c]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Capability>, Notification> {
        let mut out = Vec::new();
        Capability::decode_all(bytes, &mut out).map(|()| out)
    }

    /// Each capability as its RFC draws it.
    fn drawn() -> Vec<(Capability, Vec<u8>)> {
        let families = vec![RestartFamily { afi: 1, safi: 1, forwarding: true }];
        let restart =
            GracefulRestart { restarted: true, notification: true, time_s: 0xabc, families };
        vec![
            (Capability::Multiprotocol(2, 1), vec![1, 4, 0, 2, 0, 1]),
            (Capability::RouteRefresh, vec![2, 0]),
            (
                Capability::ExtendedNextHop(vec![NextHopFamily {
                    afi: 1,
                    safi: 1,
                    next_hop_afi: 2,
                }]),
                vec![5, 6, 0, 1, 0, 1, 0, 2],
            ),
            (Capability::ExtendedMessage, vec![6, 0]),
            (Capability::GracefulRestart(restart), vec![64, 6, 0xca, 0xbc, 0, 1, 1, 0x80]),
            (Capability::FourOctetAs(0x0102_0304), vec![65, 4, 1, 2, 3, 4]),
            (
                Capability::AddPath(vec![AddPath { afi: 2, safi: 1, receive: true, send: true }]),
                vec![69, 4, 0, 2, 1, 3],
            ),
            (Capability::EnhancedRouteRefresh, vec![70, 0]),
            (
                Capability::LongLivedRestart(vec![LongLived {
                    afi: 1,
                    safi: 1,
                    forwarding: false,
                    stale_time_s: 3600,
                }]),
                vec![71, 7, 0, 1, 1, 0, 0, 0x0e, 0x10],
            ),
            (Capability::Unknown(9, vec![3]), vec![9, 1, 3]),
        ]
    }

    #[test]
    fn capabilities_read_and_write_as_drawn() {
        for (capability, bytes) in drawn() {
            assert_eq!(decode(&bytes).as_deref(), Ok(&[capability.clone()][..]));
            let mut out = Vec::new();
            capability.encode(&mut out);
            assert_eq!(out, bytes, "{capability:?}");
        }
        let all: Vec<u8> = drawn().into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(decode(&all).unwrap().len(), drawn().len());
    }

    /// RFC 4271 section 6.2: a malformed optional parameter has subcode 0.
    #[test]
    fn a_cut_off_capability_is_malformed() {
        for (_, bytes) in drawn() {
            for length in 1..bytes.len() {
                assert_eq!(decode(&bytes[..length]), Err(Notification::new(2, 0)), "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_wrong_length_is_malformed() {
        let wrong: [&[u8]; 8] = [
            &[1, 3, 0, 1, 1],
            &[2, 1, 0],
            &[5, 5, 0, 1, 0, 1, 0],
            &[6, 1, 0],
            &[64, 1, 0],
            &[64, 5, 0, 0, 0, 1, 1],
            &[65, 2, 0, 1],
            &[69, 3, 0, 1, 1],
        ];
        for bytes in wrong {
            assert_eq!(decode(bytes), Err(Notification::new(2, 0)), "{bytes:?}");
        }
    }

    /// RFC 7911 section 4: other values than 1 to 3 SHOULD make it one that is not understood.
    #[test]
    fn add_path_with_an_unknown_direction_is_ignored() {
        for direction in [0, 4, 7] {
            let value = [0, 1, 1, 3, 0, 2, 1, direction];
            let bytes = [&[69, 8][..], &value].concat();
            assert_eq!(decode(&bytes), Ok(vec![Capability::Unknown(69, value.to_vec())]));
        }
    }

    #[test]
    fn no_value_grows_over_its_length_byte() {
        let family = AddPath { afi: 1, safi: 1, receive: true, send: false };
        let mut out = Vec::new();
        Capability::AddPath(vec![family; 100]).encode(&mut out);
        assert_eq!((out.len(), out[1]), (254, 252));
        assert!(decode(&out).is_ok());
    }
}
