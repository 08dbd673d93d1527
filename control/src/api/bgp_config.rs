//! The answer of `show bgp config`: a node's BGP plan. Passwords are named, never shown.

use crate::resolve::bgp::{Advertisement, AdvertisementKind, BgpPlan, Instance, PeerKind, Session};
use crate::resource::bgp_peer::{Bfd, NextHopMode};
use margay_bgp::Family;
use margay_bgp::policy::Policy;
use serde::Serialize;
use std::collections::BTreeMap;

/// A plan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigAnswer {
    /// The speaker; `null` on a node without BGP.
    pub instance: Option<InstanceAnswer>,
    /// Sessions by name.
    pub sessions: BTreeMap<String, SessionAnswer>,
    /// Own routes by prefix.
    pub advertisements: BTreeMap<String, AdvertisementAnswer>,
    /// Host routes: peer to gateway.
    pub peer_routes: BTreeMap<String, String>,
    /// Which BGP routes are programmed, `ipv4` and `ipv6`.
    pub kernel: BTreeMap<&'static str, Vec<String>>,
    /// What cannot be had.
    pub faults: Vec<String>,
}

/// The speaker.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceAnswer {
    /// Router id.
    pub router_id: Option<String>,
    /// AS.
    pub local_as: u32,
    /// Port of the listener.
    pub listen_port: u16,
    /// Addresses of the listener; none are all.
    pub listen: Vec<String>,
    /// Cluster id.
    pub cluster_id: Option<String>,
    /// Interfaces whose connected routes do not count.
    pub ignored_interfaces: Vec<String>,
}

/// A session.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAnswer {
    /// Where it comes from.
    pub kind: PeerKind,
    /// The BGPPeer.
    pub resource: Option<String>,
    /// The peer.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its AS.
    pub remote_as: u32,
    /// Ours.
    pub local_as: u32,
    /// Waits for the peer.
    pub passive: bool,
    /// Where it starts from.
    pub source: Option<String>,
    /// The peer is a client of this cluster.
    pub client_of: Option<String>,
    /// Next hops.
    pub next_hop: NextHopMode,
    /// Secret and key.
    pub password: Option<String>,
    /// Hops that are allowed.
    pub ttl_security: Option<u8>,
    /// How often the own AS may be in a path.
    pub allowed_own_as: u32,
    /// Gateway of the peer.
    pub reachable_by: Option<String>,
    /// Restart time.
    pub restart_time_seconds: u32,
    /// Keepalive time.
    pub keepalive_time_seconds: Option<u32>,
    /// Filters.
    pub filters: Vec<String>,
    /// `ipv4`, `ipv6`.
    pub families: Vec<&'static str>,
    /// BFD.
    pub bfd: Option<Bfd>,
    /// Most paths that the peer may announce.
    pub max_prefixes: Option<u32>,
    /// Rules for routes from the peer.
    pub import: Vec<String>,
    /// Rules for routes to the peer.
    pub export: Vec<String>,
    /// Why it does not start.
    pub blocked: Option<String>,
}

/// An own route.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdvertisementAnswer {
    /// What it is.
    pub kind: AdvertisementKind,
    /// Metric.
    pub metric: u32,
    /// The local preference that stands for it.
    pub local_pref: u32,
    /// Interface of a workload.
    pub interface: Option<String>,
    /// Communities.
    pub communities: Vec<String>,
    /// Sessions without filters have it.
    pub exported: bool,
}

impl From<&BgpPlan> for BgpConfigAnswer {
    fn from(plan: &BgpPlan) -> BgpConfigAnswer {
        let policies = plan.kernel.iter().flatten();
        let text = |net: &ipnet::IpNet| net.to_string();
        BgpConfigAnswer {
            instance: plan.instance.as_ref().map(InstanceAnswer::from),
            sessions: plan.sessions.iter().map(|(name, one)| (name.clone(), one.into())).collect(),
            advertisements: plan.advertisements.iter().map(|(p, a)| (text(p), a.into())).collect(),
            peer_routes: plan
                .peer_routes
                .iter()
                .map(|(peer, gateway)| (peer.to_string(), gateway.to_string()))
                .collect(),
            kernel: ["ipv4", "ipv6"].into_iter().zip(policies.map(|one| lines(one))).collect(),
            faults: plan.faults.clone(),
        }
    }
}

/// A policy's rules, and its default as the last line.
fn lines(policy: &Policy) -> Vec<String> {
    let default = if policy.accepts_by_default() { "accept" } else { "reject" };
    let rules = policy.rules().iter().map(ToString::to_string);
    rules.chain([default.to_owned()]).collect()
}

fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(T::to_string)
}

impl From<&Instance> for InstanceAnswer {
    fn from(instance: &Instance) -> InstanceAnswer {
        InstanceAnswer {
            router_id: text(instance.router_id.as_ref()),
            local_as: instance.local_as,
            listen_port: instance.listen_port,
            listen: instance.listen.iter().map(ToString::to_string).collect(),
            cluster_id: text(instance.cluster_id.as_ref()),
            ignored_interfaces: instance.ignored_interfaces.clone(),
        }
    }
}

impl From<&Session> for SessionAnswer {
    fn from(session: &Session) -> SessionAnswer {
        let family = |family| match family {
            Family::Ipv4Unicast => "ipv4",
            Family::Ipv6Unicast => "ipv6",
        };
        let key = session.password_key.as_ref();
        SessionAnswer {
            kind: session.kind,
            resource: session.resource.clone(),
            address: session.address.to_string(),
            port: session.port,
            remote_as: session.remote_as,
            local_as: session.local_as,
            passive: session.passive,
            source: text(session.source.as_ref()),
            client_of: text(session.client_of.as_ref()),
            next_hop: session.next_hop,
            password: key.map(|key| format!("{}/{}", key.name, key.key)),
            ttl_security: session.ttl_security,
            allowed_own_as: session.allowed_own_as,
            reachable_by: text(session.reachable_by.as_ref()),
            restart_time_seconds: session.restart_time_s,
            keepalive_time_seconds: session.keepalive_time_s,
            filters: session.filters.clone(),
            families: session.families.iter().map(family).collect(),
            bfd: session.bfd,
            max_prefixes: session.max_prefixes,
            import: lines(&session.import),
            export: lines(&session.export),
            blocked: session.blocked.clone(),
        }
    }
}

impl From<&Advertisement> for AdvertisementAnswer {
    fn from(route: &Advertisement) -> AdvertisementAnswer {
        AdvertisementAnswer {
            kind: route.kind,
            metric: route.metric,
            local_pref: route.local_pref,
            interface: route.interface.clone(),
            communities: route.communities.iter().map(ToString::to_string).collect(),
            exported: route.exported,
        }
    }
}
