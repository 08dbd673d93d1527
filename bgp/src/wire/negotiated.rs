//! What two speakers have agreed on, as far as it changes how messages read.

use super::capability::Capability;
use super::notification::{Notification, OPEN_MESSAGE};
use super::open::{BAD_BGP_IDENTIFIER, BAD_PEER_AS, Open, UNSUPPORTED_CAPABILITY};
use super::{MAX_EXTENDED_LEN, MAX_LEN};
use crate::family::{Family, FamilySet};

/// The outcome of both OPENs for reading and writing messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub asn4: bool,
    /// Both speakers are in one AS.
    pub ibgp: bool,
    /// The families that the session carries (RFC 4760).
    pub families: FamilySet,
    /// Families in which the peer sends path identifiers (RFC 7911).
    pub add_path_rx: FamilySet,
    /// Families in which we send path identifiers.
    pub add_path_tx: FamilySet,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Longest message that the peer may send, in bytes: what we have advertised (RFC 8654).
    pub max_rx: usize,
    /// Longest message that we may send, in bytes.
    pub max_tx: usize,
    /// Both can be asked for their routes again (RFC 2918).
    pub route_refresh: bool,
    /// Begin and end of that are marked (RFC 7313).
    pub enhanced_refresh: bool,
    /// What the peer says about restarts, when both sides know them (RFC 4724).
    pub restart: Option<PeerRestart>,
}

/// The peer's side of graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRestart {
    /// It has just restarted: it waits for our End-of-RIB.
    pub restarted: bool,
    /// NOTIFICATIONs keep routes too; both sides have said so (RFC 8538).
    pub notification: bool,
    /// How long its routes may stay without it, in seconds.
    pub time_s: u16,
    /// Families whose routes may stay.
    pub families: FamilySet,
    /// Those of them that it has gone on forwarding in.
    pub forwarding: FamilySet,
}

impl Default for Negotiated {
    /// A session of plain RFC 4271 with four-octet AS numbers.
    fn default() -> Negotiated {
        Negotiated {
            asn4: true,
            ibgp: false,
            families: FamilySet::EMPTY.with(Family::Ipv4Unicast),
            add_path_rx: FamilySet::EMPTY,
            add_path_tx: FamilySet::EMPTY,
            extended_next_hop: false,
            max_rx: MAX_LEN,
            max_tx: MAX_LEN,
            route_refresh: false,
            enhanced_refresh: false,
            restart: None,
        }
    }
}

/// What both OPENs make together, or why they make nothing: the errors of RFC 4271 section 6.2
/// that need both sides. `remote_asn` is the AS that the peer is configured to have.
pub fn negotiate(ours: &Open, theirs: &Open, remote_asn: u32) -> Result<Negotiated, Notification> {
    if theirs.asn != remote_asn {
        return Err(Notification::new(OPEN_MESSAGE, BAD_PEER_AS));
    }
    let ibgp = ours.asn == theirs.asn;
    // RFC 6286 section 2.2: equal identifiers are an error only within one AS.
    if ibgp && ours.router_id == theirs.router_id {
        return Err(Notification::new(OPEN_MESSAGE, BAD_BGP_IDENTIFIER));
    }
    let both = |wanted| ours.has(wanted) && theirs.has(wanted);
    let set =
        |wanted: &dyn Fn(Family) -> bool| Family::ALL.into_iter().filter(|f| wanted(*f)).collect();
    let families: FamilySet = set(&|family| ours.carries(family) && theirs.carries(family));
    if families.is_empty() {
        return Err(missing_families(ours));
    }
    let receives = |open: &Open, family| open.add_path(family).0;
    let sends = |open: &Open, family| open.add_path(family).1;
    let add_path_rx: FamilySet = set(&|family| receives(ours, family) && sends(theirs, family));
    let add_path_tx: FamilySet = set(&|family| sends(ours, family) && receives(theirs, family));
    let extended = |known| if known { MAX_EXTENDED_LEN } else { MAX_LEN };
    let route_refresh = both(&Capability::RouteRefresh);
    Ok(Negotiated {
        asn4: ours.four_octet_asn().is_some() && theirs.four_octet_asn().is_some(),
        ibgp,
        families,
        add_path_rx: add_path_rx.intersection(families),
        add_path_tx: add_path_tx.intersection(families),
        extended_next_hop: ours.extended_next_hop() && theirs.extended_next_hop(),
        // RFC 8654 section 4: who says so MUST be able to receive them, whatever the other said.
        max_rx: extended(ours.has(&Capability::ExtendedMessage)),
        max_tx: extended(both(&Capability::ExtendedMessage)),
        route_refresh,
        enhanced_refresh: route_refresh && both(&Capability::EnhancedRouteRefresh),
        restart: peer_restart(ours, theirs, families),
    })
}

/// RFC 5492 section 5: the data names the capabilities that are missing, as in an OPEN.
fn missing_families(ours: &Open) -> Notification {
    let mut data = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| ours.carries(*family)) {
        Capability::family(family).encode(&mut data);
    }
    Notification::with_data(OPEN_MESSAGE, UNSUPPORTED_CAPABILITY, &data)
}

fn peer_restart(ours: &Open, theirs: &Open, agreed: FamilySet) -> Option<PeerRestart> {
    let (our, their) = (ours.graceful_restart()?, theirs.graceful_restart()?);
    let known = their.families.iter().filter_map(|entry| {
        let family = Family::from_afi_safi(entry.afi, entry.safi)?;
        agreed.contains(family).then_some((family, entry.forwarding))
    });
    Some(PeerRestart {
        restarted: their.restarted,
        notification: our.notification && their.notification,
        time_s: their.time_s,
        families: known.clone().map(|(family, _)| family).collect(),
        forwarding: known.filter(|(_, kept)| *kept).map(|(family, _)| family).collect(),
    })
}

#[cfg(test)]
mod tests;
