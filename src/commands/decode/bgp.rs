//! One BGP message: what it says, and what a receiver does with an error in it.
//!
//! `session` is what the two speakers have agreed on, as far as it changes how bytes read. The
//! message is read as from an internal peer, so that nothing is hidden that an external one may
//! not send, and both families and extended messages are taken.

use super::update;
use margay_bgp::wire::capability::{AddPath, Capability, LongLived, NextHopFamily, RestartFamily};
use margay_bgp::wire::frame::{self, Kind};
use margay_bgp::wire::notification::MESSAGE_HEADER;
use margay_bgp::wire::route_refresh::Subtype;
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::{MAX_EXTENDED_LEN, Negotiated, Notification, Open, RouteRefresh};
use margay_bgp::{Family, FamilySet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The session that a message is read in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Session {
    /// AS numbers have four octets.
    asn4: bool,
    /// AFI and SAFI of the families with path identifiers.
    addpath: Vec<(u16, u8)>,
}

impl Default for Session {
    fn default() -> Session {
        Session { asn4: true, addpath: Vec::new() }
    }
}

impl Session {
    fn negotiated(&self) -> Negotiated {
        let families =
            self.addpath.iter().filter_map(|(afi, safi)| Family::from_afi_safi(*afi, *safi));
        Negotiated {
            asn4: self.asn4,
            ibgp: true,
            families: FamilySet::from_iter(Family::ALL),
            add_path_rx: families.collect(),
            extended_next_hop: true,
            max_rx: MAX_EXTENDED_LEN,
            ..Negotiated::default()
        }
    }
}

/// A message that ends the session.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Malformed {
    /// Error code and subcode of the NOTIFICATION.
    code: u8,
    subcode: u8,
    treatment: &'static str,
    detail: String,
}

impl Malformed {
    pub(super) fn new(notification: &Notification, detail: String) -> Malformed {
        let treatment = Treatment::SessionReset.name();
        let Notification { code, subcode, .. } = *notification;
        Malformed { code, subcode, treatment, detail }
    }
}

impl From<Notification> for Malformed {
    fn from(notification: Notification) -> Malformed {
        Malformed::new(&notification, notification.to_string())
    }
}

/// Decodes one whole message.
pub(super) fn decode(bytes: &[u8], session: &Session) -> Result<Value, Malformed> {
    let negotiated = session.negotiated();
    let wrong_length =
        |detail| Malformed::new(&Notification::new(MESSAGE_HEADER, frame::BAD_LENGTH), detail);
    let Some(raw) = frame::first(bytes, negotiated.max_rx)? else {
        let said = bytes.get(16..18).map(|length| u16::from_be_bytes([length[0], length[1]]));
        let said = said.map_or("a header".to_owned(), |length| format!("{length} bytes"));
        return Err(wrong_length(format!("cut off: {} bytes of {said}", bytes.len())));
    };
    if raw.wire_len() < bytes.len() {
        let behind = bytes.len() - raw.wire_len();
        return Err(wrong_length(format!("{behind} bytes behind the message")));
    }
    match raw.kind {
        Kind::Open => Ok(open(&Open::decode(raw.body)?)),
        Kind::Update => update::decode(raw.body, &negotiated),
        Kind::Notification => Notification::decode(raw.body)
            .map(|said| notification(&said))
            .ok_or_else(|| wrong_length("no error code".into())),
        Kind::Keepalive => Ok(json!({ "type": "KEEPALIVE" })),
        Kind::RouteRefresh => Ok(route_refresh(raw.body, RouteRefresh::decode(raw.body)?)),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn notification(said: &Notification) -> Value {
    let mut answer = json!({
        "type": "NOTIFICATION",
        "code": said.code,
        "subcode": said.subcode,
        "text": said.to_string(),
        "data": hex(&said.data),
    });
    if let Some(text) = said.communication() {
        answer["communication"] = json!(text);
    }
    answer
}

fn route_refresh(body: &[u8], read: Option<RouteRefresh>) -> Value {
    // The length has been checked; an unknown family or subtype is shown as it stands.
    let field = |at: usize| body.get(at).copied().unwrap_or_default();
    let subtype = match read.map(|read| read.subtype) {
        Some(Subtype::Request) => "request",
        Some(Subtype::Begin) => "begin",
        Some(Subtype::End) => "end",
        None => "ignored",
    };
    let afi = u16::from_be_bytes([field(0), field(1)]);
    json!({ "type": "ROUTE-REFRESH", "afi": afi, "safi": field(3), "subtype": subtype })
}

fn open(open: &Open) -> Value {
    json!({
        "type": "OPEN",
        "version": margay_bgp::wire::open::VERSION,
        "asn": open.asn,
        "holdTime": open.hold_time_s,
        "routerId": open.router_id,
        "capabilities": open.capabilities.iter().map(capability).collect::<Vec<_>>(),
    })
}

fn capability(capability: &Capability) -> Value {
    let (name, fields) = match capability {
        Capability::Multiprotocol(afi, safi) => {
            ("multiprotocol", json!({ "afi": afi, "safi": safi }))
        }
        Capability::RouteRefresh => ("route-refresh", json!({})),
        Capability::ExtendedNextHop(all) => ("extended-next-hop", families(all, next_hops)),
        Capability::ExtendedMessage => ("extended-message", json!({})),
        Capability::GracefulRestart(restart) => {
            let mut fields = families(&restart.families, restarting);
            fields["restarted"] = json!(restart.restarted);
            fields["notification"] = json!(restart.notification);
            fields["time"] = json!(restart.time_s);
            ("graceful-restart", fields)
        }
        Capability::FourOctetAs(asn) => ("four-octet-as", json!({ "asn": asn })),
        Capability::AddPath(all) => ("add-path", families(all, add_path)),
        Capability::EnhancedRouteRefresh => ("enhanced-route-refresh", json!({})),
        Capability::LongLivedRestart(all) => ("long-lived-restart", families(all, long_lived)),
        Capability::Unknown(_, value) => ("unknown", json!({ "value": hex(value) })),
    };
    let mut answer = json!({ "code": capability.code(), "name": name });
    if let (Some(answer), Value::Object(fields)) = (answer.as_object_mut(), fields) {
        answer.extend(fields);
    }
    answer
}

fn families<T>(all: &[T], shown: fn(&T) -> Value) -> Value {
    json!({ "families": all.iter().map(shown).collect::<Vec<_>>() })
}

fn next_hops(of: &NextHopFamily) -> Value {
    json!({ "afi": of.afi, "safi": of.safi, "nextHopAfi": of.next_hop_afi })
}

fn restarting(of: &RestartFamily) -> Value {
    json!({ "afi": of.afi, "safi": of.safi, "forwarding": of.forwarding })
}

fn add_path(of: &AddPath) -> Value {
    json!({ "afi": of.afi, "safi": of.safi, "receive": of.receive, "send": of.send })
}

fn long_lived(of: &LongLived) -> Value {
    json!({
        "afi": of.afi,
        "safi": of.safi,
        "forwarding": of.forwarding,
        "staleTime": of.stale_time_s,
    })
}

#[cfg(test)]
mod tests;
