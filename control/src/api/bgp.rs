//! `show bgp peers` and `show bgp routes`.

use crate::bgp::{BgpStatus, Direction, PeerStatus, RouteQuery, RouteView};
use crate::clock;
use crate::resolve::bgp::{PeerKind, Session};
use crate::resource::bgp_peer::{Bfd, Hops};
use crate::status::{Snapshot, Status};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use margay_bgp::session;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Most routes in one answer.
pub const ROUTES_MAX: usize = 100_000;

/// A BGP peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAnswer {
    /// Its name, as Calico names its session.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// `node-to-node mesh`, `global`, `node specific` or `local workload`.
    pub peer_type: String,
    /// `up`, `start`, or `down` when there can be no session.
    pub state: String,
    /// When that began: time of day, or the date if it is long ago.
    pub since: String,
    /// The same in seconds since 1970.
    pub since_unix: u64,
    /// State of the session: `Established`, `Active`, ...; then what is wrong.
    pub info: String,
    /// State of the session alone.
    pub session: String,
    /// What ended the last session, or keeps one from starting.
    pub error: Option<String>,
    /// Its AS.
    pub remote_as: u32,
    /// Our AS towards it.
    pub local_as: u32,
    /// Its BGP identifier.
    pub router_id: Option<String>,
    /// Our address on the session.
    pub local_address: Option<IpAddr>,
    /// Paths that it has announced.
    pub received: u64,
    /// Those that the import policy has taken.
    pub accepted: u64,
    /// UPDATE messages received.
    pub updates_received: u64,
    /// Bytes received and sent.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Hold time in force, in seconds.
    pub hold_time_seconds: Option<u64>,
    /// Time between KEEPALIVEs, in seconds.
    pub keepalive_seconds: Option<u64>,
    /// Sessions that have come up since the start.
    pub established_count: u64,
    /// BFD, where it is configured.
    pub bfd: Option<BfdAnswer>,
}

/// BFD of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdAnswer {
    /// `AdminDown`, `Down`, `Init` or `Up`; `None` before the first BGP session, which tells our
    /// address.
    pub state: String,
    /// What the peer has last said of its own; none when it says nothing.
    pub remote_state: Option<String>,
    /// The peer may be more than a hop away: UDP port 4784 instead of 3784.
    pub multihop: bool,
    /// Configured time between packets, in milliseconds.
    pub interval_ms: u32,
    /// Configured number of packets that may be lost in a row, and one more.
    pub multiplier: u8,
    /// Time between our packets as agreed on, in milliseconds.
    pub transmit_ms: Option<u64>,
    /// So long without the peer's packets is a dead path, in milliseconds.
    pub detection_ms: Option<u64>,
    /// Why it last left Up.
    pub diagnostic: String,
    /// The same as the peer says it.
    pub remote_diagnostic: Option<String>,
}

impl BfdAnswer {
    /// In a few words: the state, the peer's if it is another, and why it is not up.
    pub fn brief(&self) -> String {
        let mut text = self.state.clone();
        let other = self.remote_state.as_ref().filter(|other| **other != self.state);
        text += &other.map_or_else(String::new, |other| format!(" (peer {other})"));
        if self.state != "Up" && self.diagnostic != "none" {
            text += &format!(" {}", self.diagnostic);
        }
        text
    }
}

/// A path of a route.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathAnswer {
    /// The destination.
    pub prefix: IpNet,
    /// Who told it; none for a route of this node.
    pub peer: Option<String>,
    /// It is the best.
    pub best: bool,
    /// It carries traffic.
    pub used: bool,
    /// Why it won, lost, or was not in the race.
    pub why: String,
    /// Its next hop can be reached.
    pub reachable: bool,
    /// Kept for a peer that is away.
    pub stale: bool,
    /// Next hop.
    pub next_hop: Option<IpAddr>,
    /// AS path.
    pub as_path: String,
    /// ORIGIN.
    pub origin: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities of all kinds.
    pub communities: Vec<String>,
    /// Path identifier.
    pub path_id: u32,
}

pub(crate) fn peers(status: &Status) -> Vec<PeerAnswer> {
    let (snapshot, bgp) = (status.snapshot(), status.bgp().map(|bgp| bgp.status()));
    let sessions = snapshot.bgp_plan.sessions.iter();
    sessions
        .filter(|_| bgp.is_some())
        .map(|(name, session)| {
            let peer = bgp.as_ref().and_then(|bgp| bgp.peers.get(name));
            of_peer(name, session, peer)
        })
        .collect()
}

fn of_peer(name: &str, session: &Session, peer: Option<&PeerStatus>) -> PeerAnswer {
    let error = session
        .blocked
        .clone()
        .or_else(|| peer.and_then(|peer| peer.blocked.clone().or(peer.last_error.clone())));
    let is_blocked = session.blocked.is_some() || peer.is_some_and(|peer| peer.blocked.is_some());
    let state = peer.map_or(session::State::Idle, |peer| peer.state);
    let word = format!("{state:?}");
    let is_up = state == session::State::Established;
    let since = peer.and_then(|peer| peer.since.duration_since(UNIX_EPOCH).ok());
    let since = since.map_or(0, |since| since.as_secs());
    let counts = peer.map(|peer| peer.counts).unwrap_or_default();
    let (received, sent) = peer.map_or((0, 0), |peer| peer.bytes);
    let times = peer.and_then(|peer| peer.times_s);
    let wrong = error.as_ref().filter(|_| !is_up).map(|error| format!(" {error}"));
    PeerAnswer {
        name: name.to_owned(),
        address: session.address,
        peer_type: type_of(session.kind).to_owned(),
        state: if is_up {
            "up"
        } else if is_blocked {
            "down"
        } else {
            "start"
        }
        .to_owned(),
        since: clock::short(since, clock::now()),
        since_unix: since,
        info: word.clone() + wrong.as_deref().unwrap_or_default(),
        session: word,
        error,
        remote_as: session.remote_as,
        local_as: session.local_as,
        router_id: peer.and_then(PeerStatus::router_id).map(|id| id.to_string()),
        local_address: peer.and_then(|peer| peer.local).or(session.source),
        received: counts.received,
        accepted: counts.accepted,
        updates_received: counts.updates_in,
        bytes_received: received,
        bytes_sent: sent,
        hold_time_seconds: times.map(|(hold, _)| hold),
        keepalive_seconds: times.map(|(_, keepalive)| keepalive),
        established_count: peer.map_or(0, |peer| peer.ups),
        bfd: session.bfd.map(|bfd| of_bfd(bfd, peer)),
    }
}

fn of_bfd(configured: Bfd, peer: Option<&PeerStatus>) -> BfdAnswer {
    let status = peer.and_then(|peer| peer.bfd);
    let ms = |us: u64| us / 1000;
    let word = |state: margay_bgp::bfd::State| format!("{state:?}");
    BfdAnswer {
        state: status.map_or_else(|| "None".to_owned(), |status| word(status.state)),
        remote_state: status.and_then(|status| status.remote).map(word),
        multihop: status.map_or(configured.hops == Hops::Multi, |status| status.multihop),
        interval_ms: configured.interval_ms,
        multiplier: configured.multiplier,
        transmit_ms: status.and_then(|status| status.tx_us).map(ms),
        detection_ms: status.and_then(|status| status.detection_us).map(ms),
        diagnostic: status.map_or_else(|| "none".to_owned(), |one| one.diagnostic.to_string()),
        remote_diagnostic: status.and_then(|one| Some(one.remote_diagnostic?.to_string())),
    }
}

fn type_of(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Mesh => "node-to-node mesh",
        PeerKind::Global => "global",
        PeerKind::Node => "node specific",
        PeerKind::LocalWorkload => "local workload",
    }
}

/// What `show bgp routes` asks for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RoutesQuery {
    /// A prefix, or an address whose longest match is wanted.
    pub prefix: Option<String>,
    /// A peer, by name or address.
    pub peer: Option<String>,
    /// `in`: what the peer has announced; `out`: what it has been told.
    pub direction: Option<String>,
}

pub(crate) async fn show_routes(
    State(status): State<Arc<Status>>,
    Query(query): Query<RoutesQuery>,
) -> Response {
    let Some(bgp) = status.bgp() else { return Json(Vec::<PathAnswer>::new()).into_response() };
    let asked = match parse(&status.snapshot(), &bgp.status(), &query) {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    let Some(views) = bgp.query_routes(asked).await else {
        let busy = "BGP has too many questions to answer";
        return (StatusCode::SERVICE_UNAVAILABLE, busy).into_response();
    };
    let names = bgp.status();
    let answer: Vec<PathAnswer> = views.iter().map(|view| of_path(view, &names)).collect();
    Json(answer).into_response()
}

fn parse(snapshot: &Snapshot, bgp: &BgpStatus, query: &RoutesQuery) -> Result<RouteQuery, String> {
    let prefix = match &query.prefix {
        None => None,
        Some(text) => Some(match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
            (Ok(address), _) => longest(snapshot, address),
            (_, Ok(prefix)) => prefix.trunc(),
            _ => return Err(format!("'{text}' is neither an address nor a prefix")),
        }),
    };
    let peer = match &query.peer {
        None => None,
        Some(text) => {
            let address: Option<IpAddr> = text.parse().ok();
            let mut peers = bgp.peers.iter();
            let found = peers.find(|(name, peer)| *name == text || Some(peer.address) == address);
            let known = || bgp.peers.keys().cloned().collect::<Vec<_>>().join(", ");
            Some(
                found.ok_or_else(|| format!("no peer '{text}'; there are: {}", known()))?.0.clone(),
            )
        }
    };
    let direction = match (query.direction.as_deref(), &peer) {
        (None, None) => Direction::All,
        (None | Some("in"), Some(_)) => Direction::In,
        (Some("out"), Some(_)) => Direction::Out,
        (Some(_), None) => return Err("in and out are said of a peer: name one".to_owned()),
        (Some(other), _) => return Err(format!("'{other}' is neither in nor out")),
    };
    let longer = false;
    Ok(RouteQuery { prefix, longer, peer, direction, most: ROUTES_MAX })
}

/// The learned or own prefix that an address is in, or the address itself.
fn longest(snapshot: &Snapshot, address: IpAddr) -> IpNet {
    let learned = crate::router::bgp::read(&snapshot.learned);
    let own = &snapshot.bgp_plan.advertisements;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefixes =
        (0..=bits).rev().filter_map(|bits| Some(IpNet::new(address, bits).ok()?.trunc()));
    let mut prefixes = prefixes.filter(|prefix| learned.knows(prefix) || own.contains_key(prefix));
    prefixes.next().unwrap_or(IpNet::from(address))
}

fn of_path(view: &RouteView, names: &BgpStatus) -> PathAnswer {
    let attributes = &view.attributes;
    let communities = attributes.communities.iter().map(ToString::to_string);
    let large = attributes.large_communities.iter().map(ToString::to_string);
    let extended = attributes.extended_communities.iter().map(ToString::to_string);
    let why = match (view.refused, view.reachable, view.step) {
        (true, ..) => "refused by policy, or looped".to_owned(),
        (_, false, _) => "next hop is not reachable".to_owned(),
        (_, _, None) => String::new(),
        (_, _, Some(step)) if view.best => format!("best: {}", step.name()),
        (_, _, Some(step)) if view.used => format!("equal; then {}", step.name()),
        (_, _, Some(step)) => format!("worse: {}", step.name()),
    };
    PathAnswer {
        prefix: view.prefix,
        peer: view.peer.map(|id| names.name_of(id).unwrap_or("(gone)").to_owned()),
        best: view.best,
        used: view.used,
        why,
        reachable: view.reachable,
        stale: view.stale,
        next_hop: attributes.next_hop.map(|next_hop| next_hop.address()),
        as_path: attributes.as_path.to_string(),
        origin: attributes.origin.to_string(),
        local_pref: attributes.local_pref,
        med: attributes.med,
        communities: communities.chain(large).chain(extended).collect(),
        path_id: view.path_id,
    }
}
