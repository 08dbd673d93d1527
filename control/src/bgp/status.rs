//! How BGP does, as a snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use margay_bgp::bfd;
use margay_bgp::session::State;
use margay_bgp::wire::{Negotiated, Open};

use super::{Instance, PeerCounts, PeerId, RibCounts};

/// How the speaker does.
#[derive(Debug, Clone, Default)]
pub struct BgpStatus {
    /// The speaker; `None` before it was configured.
    pub instance: Option<Instance>,
    /// Peers by name.
    pub peers: BTreeMap<String, PeerStatus>,
    /// Addresses without a listener, and why.
    pub listen_errors: BTreeMap<IpAddr, String>,
    /// Connections from addresses that are no peer's.
    pub unknown_peers: u64,
    /// Sizes of the RIB.
    pub rib: RibCounts,
    /// Best paths wait for the peers' End-of-RIB after our restart.
    pub holding: bool,
}

impl BgpStatus {
    /// The name of a peer by its number.
    pub fn name_of(&self, id: PeerId) -> Option<&str> {
        self.peers.iter().find(|(_, peer)| peer.id == id).map(|(name, _)| name.as_str())
    }
}

/// How a peer does.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Its number in changes and routes.
    pub id: PeerId,
    /// Where it is.
    pub address: IpAddr,
    /// Our address of the session that is up.
    pub local: Option<IpAddr>,
    /// Our AS towards it.
    pub local_asn: u32,
    /// Its AS.
    pub remote_asn: u32,
    /// State of the session.
    pub state: State,
    /// Since when it is up, or is not.
    pub since: SystemTime,
    /// Why the last session ended.
    pub last_error: Option<String>,
    /// Why there can be no session.
    pub blocked: Option<String>,
    /// What was agreed on, and with whom.
    pub agreed: Option<(Negotiated, Open)>,
    /// The hold time in force and the time between KEEPALIVEs, in seconds.
    pub times_s: Option<(u64, u64)>,
    /// Routes.
    pub counts: PeerCounts,
    /// Bytes read and written.
    pub bytes: (u64, u64),
    /// Sessions that have come up.
    pub ups: u64,
    /// BFD, if it watches the peer.
    pub bfd: Option<BfdStatus>,
}

/// How a BFD session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdStatus {
    /// Its state.
    pub state: bfd::State,
    /// What the peer has last said of its own; `None` when it says nothing.
    pub remote: Option<bfd::State>,
    /// The peer may be more than a hop away (RFC 5883).
    pub multihop: bool,
    /// Time between our packets, in microseconds, without jitter.
    pub tx_us: Option<u64>,
    /// So long without the peer's packets is a dead path, in microseconds.
    pub detection_us: Option<u64>,
    /// Why it last left Up.
    pub diagnostic: bfd::Diagnostic,
    /// The same as the peer says it.
    pub remote_diagnostic: Option<bfd::Diagnostic>,
}

impl PeerStatus {
    /// The peer's identifier, once it has said it.
    pub fn router_id(&self) -> Option<Ipv4Addr> {
        self.agreed.as_ref().map(|(_, open)| open.router_id)
    }
}
