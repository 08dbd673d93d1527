//! BGPPeer: who peers with whom.
//!
//! Three annotations are margay's own. `margay.io/bfd: enabled` (or
//! `interval=300ms,multiplier=3,hops=single`, each part as wanted) watches the peer by BFD;
//! `margay.io/rfc8212: enabled` lets no route in or out of an eBGP session that has no filter for
//! that direction; `margay.io/max-prefixes: 1000` ends a session that brings more.

use super::field::{self, AsNumber, PasswordSource, SecretKey};
use super::{Invalid, Metadata, Object};
use margay_acl::selector::Selector;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A peering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpPeer {
    /// Which nodes have it.
    pub nodes: Nodes,
    /// With whom.
    pub remote: Remote,
    /// AS of the peer, for those that are not nodes; 0 when it is not said.
    pub as_number: u32,
    /// AS of the node on this session, if it is another.
    pub local_as: Option<u32>,
    /// Next hop of exported routes.
    pub next_hop_mode: NextHopMode,
    /// The older way to keep next hops, of eBGP sessions only.
    pub keeps_next_hop_ebgp: bool,
    /// Password.
    pub password: Option<SecretKey>,
    /// The session starts from the node's address; if not, from one that the kernel picks.
    pub uses_node_ip: bool,
    /// Restart time in seconds.
    pub restart_s: Option<u32>,
    /// Keepalive time in seconds.
    pub keepalive_s: Option<u32>,
    /// How often the own AS may be in a received path.
    pub allowed_local_as: u32,
    /// Hops that RFC 5082 allows.
    pub ttl_security: Option<u8>,
    /// Gateway of a host route to the peer.
    pub reachable_by: Option<IpAddr>,
    /// Names of BGPFilters, in order.
    pub filters: Vec<String>,
    /// A peer that is a node gets the mirror session.
    pub reverses: bool,
    /// Watches the peer by BFD.
    pub bfd: Option<Bfd>,
    /// RFC 8212: no filter, no routes.
    pub requires_policy: bool,
    /// With more paths than this the session ends (RFC 4486 subcode 1).
    pub max_prefixes: Option<u32>,
}

/// Nodes that have a peering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// All of them.
    All,
    /// One.
    Named(String),
    /// Those with these labels.
    Labelled(Selector),
}

/// The other side of a peering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// An address, and its port if that is said.
    Address(IpAddr, Option<u16>),
    /// The nodes with these labels.
    Nodes(Selector),
    /// The endpoints of the node with these labels.
    LocalWorkloads(Selector),
}

/// Next hop of exported routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum NextHopMode {
    /// As RFC 4271 5.1.3 has it.
    #[default]
    Auto,
    /// The node's address.
    #[serde(rename = "Self")]
    Own,
    /// As it was received.
    Keep,
}

/// How a peer is watched by BFD (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Desired and required interval of control packets.
    pub interval_ms: u32,
    /// Packets that may be lost in a row, and one more.
    pub multiplier: u8,
    /// How far the peer is.
    pub hops: Hops,
}

/// Which BFD a peer is watched by. The two don't understand each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Hops {
    /// By `ttlSecurity`; without it one hop when the peer is on a link of the node.
    #[default]
    Auto,
    /// RFC 5881.
    Single,
    /// RFC 5883.
    Multi,
}

impl Hops {
    /// True for a peer that is one hop away: so many hops RFC 5082 allows, and it is on a link of
    /// the node, or not.
    pub fn is_single(self, ttl_security: Option<u8>, is_on_link: bool) -> bool {
        match (self, ttl_security) {
            (Hops::Single, _) => true,
            (Hops::Multi, _) => false,
            (Hops::Auto, Some(hops)) => hops == 1,
            (Hops::Auto, None) => is_on_link,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum SourceAddress {
    UseNodeIP,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum ReversePeering {
    Auto,
    Manual,
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    node: Option<String>,
    node_selector: Option<String>,
    #[serde(rename = "peerIP")]
    peer_ip: Option<String>,
    peer_selector: Option<String>,
    local_workload_selector: Option<String>,
    as_number: Option<AsNumber>,
    #[serde(rename = "localASNumber")]
    local_as_number: Option<AsNumber>,
    next_hop_mode: Option<NextHopMode>,
    keep_original_next_hop: Option<bool>,
    password: Option<PasswordSource>,
    source_address: Option<SourceAddress>,
    max_restart_time: Option<String>,
    keepalive_time: Option<String>,
    #[serde(rename = "numAllowedLocalASNumbers")]
    num_allowed_local_as_numbers: Option<u32>,
    ttl_security: Option<u8>,
    reachable_by: Option<String>,
    filters: Option<Vec<String>>,
    reverse_peering: Option<ReversePeering>,
}

impl TryFrom<Object<Spec>> for BgpPeer {
    type Error = Invalid;

    fn try_from(object: Object<Spec>) -> Result<BgpPeer, Invalid> {
        super::check_name(&object.metadata.name)?;
        let spec = object.spec;
        if spec.keep_original_next_hop == Some(true) && spec.next_hop_mode.is_some() {
            let mend = "use nextHopMode alone";
            let what = "nextHopMode is set too";
            return Err(Invalid::new("spec.keepOriginalNextHop", what, mend));
        }
        let remote = remote(&spec)?;
        let time = |field, text: &Option<String>| {
            text.as_deref().map(|text| field::seconds(field, text)).transpose()
        };
        Ok(BgpPeer {
            nodes: nodes(&spec)?,
            as_number: spec.as_number.map_or(0, |number| number.0),
            local_as: spec.local_as_number.map(|number| number.0).filter(|number| *number != 0),
            next_hop_mode: spec.next_hop_mode.unwrap_or_default(),
            keeps_next_hop_ebgp: spec.keep_original_next_hop == Some(true),
            password: field::secret_key("spec.password", spec.password)?,
            uses_node_ip: spec.source_address != Some(SourceAddress::None),
            restart_s: time("spec.maxRestartTime", &spec.max_restart_time)?,
            keepalive_s: time("spec.keepaliveTime", &spec.keepalive_time)?,
            allowed_local_as: spec.num_allowed_local_as_numbers.unwrap_or(0),
            ttl_security: spec.ttl_security.filter(|hops| *hops != 0),
            reachable_by: reachable_by(spec.reachable_by, &remote)?,
            filters: spec.filters.unwrap_or_default(),
            reverses: spec.reverse_peering != Some(ReversePeering::Manual),
            bfd: bfd(&object.metadata)?,
            requires_policy: switch(&object.metadata, "margay.io/rfc8212", RFC8212)?,
            max_prefixes: max_prefixes(&object.metadata)?,
            remote,
        })
    }
}

fn nodes(spec: &Spec) -> Result<Nodes, Invalid> {
    let selector = field::selector("spec.nodeSelector", spec.node_selector.as_ref())?;
    match (spec.node.as_ref().filter(|name| !name.is_empty()), selector) {
        (Some(_), Some(_)) => {
            let mend = "node or nodeSelector, or neither for all nodes";
            Err(Invalid::new("spec.nodeSelector", "node is set too", mend))
        }
        (Some(name), None) => Ok(Nodes::Named(name.clone())),
        (None, Some(selector)) => Ok(Nodes::Labelled(selector)),
        (None, None) => Ok(Nodes::All),
    }
}

fn remote(spec: &Spec) -> Result<Remote, Invalid> {
    let nodes = field::selector("spec.peerSelector", spec.peer_selector.as_ref())?;
    let local =
        field::selector("spec.localWorkloadSelector", spec.local_workload_selector.as_ref())?;
    let address = spec.peer_ip.as_ref().filter(|text| !text.is_empty());
    match (address, nodes, local) {
        (Some(text), None, None) => peer_address(text),
        (None, Some(_), None) if spec.as_number.is_some_and(|number| number.0 != 0) => {
            let mend = "nodes have their own AS number";
            Err(Invalid::new("spec.asNumber", "peerSelector is set too", mend))
        }
        (None, Some(selector), None) => Ok(Remote::Nodes(selector)),
        (None, None, Some(_)) if spec.as_number.is_none() => {
            let mend = "the AS number of the workloads";
            Err(Invalid::new("spec.asNumber", "it is missing", mend))
        }
        (None, None, Some(selector)) => Ok(Remote::LocalWorkloads(selector)),
        _ => {
            let mend = "exactly one of peerIP, peerSelector and localWorkloadSelector";
            Err(Invalid::new("spec.peerIP", "who the peer is, is not said once", mend))
        }
    }
}

fn peer_address(text: &str) -> Result<Remote, Invalid> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Remote::Address(address, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(both) if both.port() != 0 => Ok(Remote::Address(both.ip(), Some(both.port()))),
        _ => {
            let mend = "such as 192.0.2.1, 192.0.2.1:1790 or [2001:db8::1]:1790";
            Err(Invalid::new("spec.peerIP", format!("'{text}' is no address"), mend))
        }
    }
}

fn reachable_by(text: Option<String>, remote: &Remote) -> Result<Option<IpAddr>, Invalid> {
    const FIELD: &str = "spec.reachableBy";
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let mend = "an address of peerIP's family, and peerIP set";
    let gateway = text
        .parse::<IpAddr>()
        .map_err(|_| Invalid::new(FIELD, format!("'{text}' is no address"), mend))?;
    match remote {
        Remote::Address(peer, _) if peer.is_ipv4() == gateway.is_ipv4() => Ok(Some(gateway)),
        _ => Err(Invalid::new(FIELD, format!("{gateway} leads to no peer"), mend)),
    }
}

const BFD: &str = "metadata.annotations[margay.io/bfd]";
const MAX_PREFIXES: &str = "metadata.annotations[margay.io/max-prefixes]";
const RFC8212: &str = "metadata.annotations[margay.io/rfc8212]";
/// BFD packets of the annotation `enabled`.
const BFD_DEFAULT: Bfd = Bfd { interval_ms: 300, multiplier: 3, hops: Hops::Auto };

fn switch(metadata: &Metadata, name: &str, field: &'static str) -> Result<bool, Invalid> {
    match metadata.annotation(name) {
        None | Some("disabled") => Ok(false),
        Some("enabled") => Ok(true),
        Some(text) => {
            let what = format!("'{text}' is neither");
            Err(Invalid::new(field, what, "enabled or disabled"))
        }
    }
}

fn bfd(metadata: &Metadata) -> Result<Option<Bfd>, Invalid> {
    let text = match metadata.annotation("margay.io/bfd") {
        None | Some("disabled") => return Ok(None),
        Some("enabled") => return Ok(Some(BFD_DEFAULT)),
        Some(text) => text,
    };
    let mend = "enabled, disabled, or interval=300ms,multiplier=3,hops=single (10 to 60000 ms, \
                1 to 255, single or multi)";
    let bad = || Invalid::new(BFD, format!("'{text}' is no setting of BFD"), mend);
    let mut bfd = BFD_DEFAULT;
    for part in text.split(',') {
        let (name, value) = part.trim().split_once('=').ok_or_else(bad)?;
        match name {
            "interval" => {
                let digits = value.strip_suffix("ms").ok_or_else(bad)?;
                bfd.interval_ms = digits.parse().map_err(|_| bad())?;
            }
            "multiplier" => bfd.multiplier = value.parse().map_err(|_| bad())?,
            "hops" => {
                bfd.hops = match value {
                    "single" => Hops::Single,
                    "multi" => Hops::Multi,
                    _ => return Err(bad()),
                };
            }
            _ => return Err(bad()),
        }
    }
    match (10..=60_000).contains(&bfd.interval_ms) && bfd.multiplier > 0 {
        true => Ok(Some(bfd)),
        false => Err(bad()),
    }
}

fn max_prefixes(metadata: &Metadata) -> Result<Option<u32>, Invalid> {
    let Some(text) = metadata.annotation("margay.io/max-prefixes") else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number > 0);
    let bad = || Invalid::new(MAX_PREFIXES, format!("'{text}' is no limit"), "a number above 0");
    number.map(Some).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(name: &str, value: &str) -> Metadata {
        let annotations = serde_json::json!({ "name": "one", "annotations": { name: value } });
        serde_json::from_value(annotations).unwrap()
    }

    #[test]
    fn bfd_has_defaults_and_parts() {
        let read = |text: &str| bfd(&annotated("margay.io/bfd", text));
        let of = |interval_ms, multiplier, hops| Ok(Some(Bfd { interval_ms, multiplier, hops }));
        assert_eq!(read("disabled"), Ok(None));
        assert_eq!(read("enabled"), of(300, 3, Hops::Auto));
        assert_eq!(read("interval=50ms"), of(50, 3, Hops::Auto));
        assert_eq!(read("hops=single"), of(300, 3, Hops::Single));
        assert_eq!(read("interval=50ms, multiplier=5, hops=multi"), of(50, 5, Hops::Multi));
        for bad in ["", "interval=5ms", "interval=50", "multiplier=0", "hops=2", "x=1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_says_how_far_a_peer_is_wins_over_the_links() {
        assert!(Hops::Auto.is_single(None, true) && !Hops::Auto.is_single(None, false));
        assert!(Hops::Auto.is_single(Some(1), false) && !Hops::Auto.is_single(Some(2), true));
        assert!(Hops::Single.is_single(Some(2), false) && !Hops::Multi.is_single(Some(1), true));
    }

    #[test]
    fn a_limit_on_prefixes_is_a_number_above_0() {
        let read = |text: &str| max_prefixes(&annotated("margay.io/max-prefixes", text));
        assert_eq!(read("1000"), Ok(Some(1000)));
        assert!(["0", "-1", "many", "5000000000"].iter().all(|text| read(text).is_err()));
    }
}
