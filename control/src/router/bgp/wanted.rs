//! From the plan of BGP to the wants of its thread.

use crate::bgp::{Bfd, BgpConfig, Instance, NextHopMode, OwnRoute, PeerConfig};
use crate::config::{BgpSettings, Switch};
use crate::model::Model;
use crate::resolve::bgp::{BgpPlan, LocalFacts, Session};
use crate::resource::bgp_peer;
use margay_bgp::session;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Longest restart time that an OPEN can say, in seconds (RFC 4724 section 3).
const RESTART_TIME_MAX_S: u32 = 4095;

/// What the settings say of the machine.
pub(super) fn facts(settings: &BgpSettings, node: &str) -> LocalFacts {
    LocalFacts {
        router_id: settings.router_id.map(|id| id.of(node)),
        cluster_ips: settings.cluster_ips.clone(),
        secret_namespace: settings.secret_namespace.clone(),
        kubernetes_node: None,
    }
}

/// Whether BGP runs. By itself it does when somebody asks for it: a resource of BGP, or another
/// node to mesh with.
pub(super) fn is_on(settings: &BgpSettings, model: &Model, plan: &BgpPlan) -> bool {
    let is_asked = || {
        !plan.sessions.is_empty()
            || !model.bgp_peers.is_empty()
            || !model.bgp_configurations.is_empty()
    };
    plan.instance.is_some()
        && match settings.enabled {
            Switch::On => true,
            Switch::Off => false,
            Switch::Auto => is_asked(),
        }
}

/// The wants; `None` without a router id. `on_link` are peers on a link of the node.
pub(super) fn config(
    plan: &BgpPlan,
    settings: &BgpSettings,
    on_link: &BTreeMap<IpAddr, bool>,
) -> Option<BgpConfig> {
    let instance = plan.instance.as_ref()?;
    let router_id = instance.router_id?;
    let sessions = plan.sessions.iter().filter(|(_, session)| session.blocked.is_none());
    let peers = sessions.map(|(name, one)| {
        let is_on_link = on_link.get(&one.address) == Some(&true);
        (name.clone(), peer(one, router_id, is_on_link))
    });
    let peers: BTreeMap<String, PeerConfig> = peers.collect();
    let own_routes = plan.advertisements.iter().map(|(prefix, route)| {
        let own = OwnRoute {
            metric: route.metric,
            local_pref: route.local_pref,
            interface: route.interface.as_deref().map(Arc::from),
            // The policies of sessions add them, after their filters.
            communities: Vec::new(),
            large_communities: Vec::new(),
            next_hop: None,
        };
        (*prefix, own)
    });
    Some(BgpConfig {
        instance: Instance {
            router_id,
            asn: instance.local_as,
            cluster_id: instance.cluster_id,
            max_ecmp: settings.max_paths.max(1),
            listen: instance.listen.clone(),
            port: instance.listen_port,
        },
        peers,
        own_routes: Arc::new(own_routes.collect()),
    })
}

fn peer(wanted: &Session, router_id: Ipv4Addr, is_on_link: bool) -> PeerConfig {
    let mut session =
        session::Config::new(wanted.local_as, router_id, wanted.remote_as, wanted.address);
    session.families = wanted.families;
    session.add_path_rx = wanted.families;
    session.add_path_tx = wanted.families;
    session.keepalive_time_s = wanted.keepalive_time_s.map_or(0, clamped);
    session.passive = wanted.passive;
    session.restart = Some(session::Restart {
        time_s: wanted.restart_time_s.min(RESTART_TIME_MAX_S) as u16,
        notification: false,
        forwarding: wanted.families,
    });
    session.socket.port = wanted.port;
    session.socket.local = wanted.source;
    session.socket.md5_key = wanted.password.as_ref().map(|key| key.bytes().to_vec());
    session.socket.ttl_security_hops = wanted.ttl_security;
    PeerConfig {
        session,
        client_of: wanted.client_of,
        next_hop: match wanted.next_hop {
            bgp_peer::NextHopMode::Auto => NextHopMode::Auto,
            bgp_peer::NextHopMode::Own => NextHopMode::Own,
            bgp_peer::NextHopMode::Keep => NextHopMode::Keep,
        },
        allowed_own_as: wanted.allowed_own_as.min(u8::MAX.into()) as u8,
        import: wanted.import.clone(),
        export: wanted.export.clone(),
        max_prefixes: wanted.max_prefixes,
        bfd: wanted.bfd.map(|bfd| Bfd {
            interval_ms: bfd.interval_ms,
            multiplier: bfd.multiplier,
            multihop: !bfd.hops.is_single(wanted.ttl_security, is_on_link),
        }),
    }
}

fn clamped(seconds: u32) -> u16 {
    seconds.min(u16::MAX.into()) as u16
}
