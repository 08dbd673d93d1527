//! What a group of peers is told of a route: whether at all (RFC 4271 section 9.2, RFC 4456
//! section 6, RFC 1997), and with which attributes.

use super::attributes::{AttrId, DEFAULT_LOCAL_PREF};
use super::group::Key;
use super::path::{OURS, Path};
use super::table::Core;
use super::{NextHopMode, OwnRoutes};
use crate::family::Family;
use crate::policy::{self, Origin, RouteFacts, Verdict, evaluate};
use crate::wire::attribute::{Attributes, NextHop};
use crate::wire::community::Community;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

/// Where a path comes from, as far as it matters to those who hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum From {
    Ours,
    External,
    /// An internal peer; its BGP identifier.
    Internal {
        router_id: Ipv4Addr,
        client: bool,
    },
}

impl From {
    pub(super) fn of(core: &Core, path: &Path) -> Option<From> {
        if path.source == OURS {
            return Some(From::Ours);
        }
        let peer = core.peer(path.source)?;
        Some(match peer.is_ibgp() {
            true => From::Internal { router_id: peer.router_id, client: peer.is_client() },
            false => From::External,
        })
    }
}

/// RFC 4456 section 6: what an internal peer has said goes to internal peers only when one of both
/// is a client.
pub(super) fn may_pass(key: &Key, from: From) -> bool {
    match from {
        From::Internal { client, .. } => !key.ibgp || client || key.cluster_id.is_some(),
        From::Ours | From::External => true,
    }
}

/// The attributes with which the members of a group hear of a route; `None` when they do not.
pub(super) fn attributes_for(
    key: &Key,
    core: &Core,
    own: &OwnRoutes,
    (prefix, taken, from): (IpNet, AttrId, From),
    verdict: &mut Verdict,
) -> Option<Attributes> {
    let mut attributes = core.sets.attributes(taken);
    let has = |community: Community| attributes.communities.contains(&community);
    let stays_home = has(Community::NO_EXPORT) || has(Community::NO_EXPORT_SUBCONFED);
    if has(Community::NO_ADVERTISE) || !key.ibgp && stays_home {
        return None;
    }
    judge(key, own, (prefix, from), &attributes, verdict);
    if !verdict.accept {
        return None;
    }
    apply(verdict, &mut attributes);
    attributes.next_hop = Some(next_hop(key, from, attributes.next_hop)?);
    if key.ibgp {
        attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        if let (From::Internal { router_id, .. }, Some(cluster_id)) = (from, key.reflector_id) {
            attributes.originator_id.get_or_insert(router_id);
            attributes.cluster_list.insert(0, cluster_id);
        }
    } else {
        attributes.as_path = attributes.as_path.without_confed();
        attributes.as_path.prepend(key.local_asn, 1);
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        // RFC 4271 section 5.1.4: not of another AS to a third one.
        if from != From::Ours {
            attributes.med = None;
        }
    }
    Some(attributes)
}

fn judge(
    key: &Key,
    own: &OwnRoutes,
    (prefix, from): (IpNet, From),
    attributes: &Attributes,
    verdict: &mut Verdict,
) {
    let ours = own.get(&prefix).filter(|_| from == From::Ours);
    let origin = match from {
        From::Ours => Origin::Local { metric: ours.map(|route| route.metric) },
        From::External | From::Internal { .. } => Origin::Peer,
    };
    let interface = ours.and_then(|route| route.interface.as_deref());
    with_facts(prefix, origin, interface, attributes, |facts| {
        evaluate(&key.policy, facts, verdict);
    });
}

/// Lays out what a policy may ask.
pub(super) fn with_facts(
    prefix: IpNet,
    origin: Origin,
    interface: Option<&str>,
    attributes: &Attributes,
    ask: impl FnOnce(&RouteFacts<'_>),
) {
    let communities: Vec<u32> = attributes.communities.iter().map(|one| one.0).collect();
    let large = attributes.large_communities.iter();
    let large: Vec<[u32; 3]> = large.map(|one| [one.global, one.local1, one.local2]).collect();
    let as_path: Vec<u32> = attributes
        .as_path
        .segments()
        .next()
        .filter(|segment| segment.kind == crate::wire::as_path::SegmentKind::Sequence)
        .map(|segment| segment.asns().collect())
        .unwrap_or_default();
    ask(&RouteFacts {
        prefix,
        origin,
        interface,
        next_hop: attributes.next_hop.map(NextHop::address),
        local_pref: Some(attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
        communities: &communities,
        large_communities: &large,
        as_path: &as_path,
    });
}

/// Changes attributes as a policy wants it.
pub(super) fn apply(verdict: &Verdict, attributes: &mut Attributes) {
    attributes.local_pref = verdict.local_pref.or(attributes.local_pref);
    for community in &verdict.communities {
        match community {
            policy::Community::Standard(value) => attributes.communities.push(Community(*value)),
            policy::Community::Large([global, local1, local2]) => {
                let (global, local1, local2) = (*global, *local1, *local2);
                let large = crate::wire::community::LargeCommunity { global, local1, local2 };
                attributes.large_communities.push(large);
            }
        }
    }
    for asn in verdict.prepend.iter().rev() {
        attributes.as_path.prepend(*asn, 1);
    }
}

/// RFC 4271 section 5.1.3. `None` when this session cannot carry it.
fn next_hop(key: &Key, from: From, now: Option<NextHop>) -> Option<NextHop> {
    let keeps = match key.next_hop {
        NextHopMode::Auto => key.ibgp,
        NextHopMode::Own => false,
        NextHopMode::Keep => true,
    };
    match now {
        Some(now) if keeps || (from == From::Ours && key.next_hop != NextHopMode::Own) => Some(now),
        _ => match (key.family, key.local) {
            (_, IpAddr::V6(address)) => Some(NextHop::V6(address)),
            (Family::Ipv4Unicast, IpAddr::V4(address)) => Some(NextHop::V4(address)),
            (Family::Ipv6Unicast, IpAddr::V4(_)) => None,
        },
    }
}
