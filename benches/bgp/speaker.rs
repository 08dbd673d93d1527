//! Margay's BGP alone in a process: the thread that the daemon has, without packet path, store and
//! kernel; every next hop counts as on the link.

use anyhow::{Context, Result};
use margay_bgp::policy::Policy;
use margay_bgp::session;
use margay_control::bgp::{BgpConfig, Instance, NextHopMode, Output, PeerConfig, start};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::scenario::{PORT, TARGET, TARGET_AS, TARGET_V6};

fn address(value: &Value) -> Result<IpAddr> {
    value["address"].as_str().context("an address")?.parse().context("an address")
}

fn peer(value: &Value) -> Result<PeerConfig> {
    let remote = address(value)?;
    let asn = u32::try_from(value["asn"].as_u64().context("an AS")?)?;
    let mut session = session::Config::new(TARGET_AS, TARGET, asn, remote);
    session.passive = true;
    Ok(PeerConfig {
        session,
        client_of: (value["client"] == true).then_some(TARGET),
        next_hop: NextHopMode::Auto,
        allowed_own_as: 0,
        import: Arc::new(Policy::accept_all()),
        export: Arc::new(Policy::accept_all()),
        max_prefixes: None,
        bfd: None,
    })
}

/// Runs until it is killed.
pub(crate) fn run(config: &str) -> Result<()> {
    let text = std::fs::read_to_string(config).context("the configuration")?;
    let list: Vec<Value> = serde_json::from_str(&text)?;
    let peers = list.iter().map(|value| Ok((address(value)?.to_string(), peer(value)?)));
    let peers = peers.collect::<Result<BTreeMap<_, _>>>()?;
    let instance = Instance {
        router_id: TARGET,
        asn: TARGET_AS,
        cluster_id: None,
        max_ecmp: 1,
        listen: vec![TARGET.into(), TARGET_V6.into()],
        port: PORT,
    };
    let (handle, mut outputs) = start(margay_control::bgp::Options::default())?;
    handle.apply(BgpConfig { instance, peers, own_routes: Arc::default() });
    while let Some(output) = outputs.blocking_next() {
        if let Output::NextHops(requests) = output {
            let wanted = requests.into_iter().filter(|(_, wanted)| *wanted);
            handle.set_next_hops(wanted.map(|(address, _)| (address, Some(0))).collect());
        }
    }
    Ok(())
}
