//! What a session is configured to be, with the defaults of BIRD and Calico, and the OPEN that
//! follows from it.

use std::net::{IpAddr, Ipv4Addr};

use crate::family::{Family, FamilySet};
use crate::wire::Open;
use crate::wire::capability::{AddPath, Capability, GracefulRestart, NextHopFamily, RestartFamily};

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our AS towards this peer: the local AS of the peer if it has one, else the node's.
    pub local_asn: u32,
    /// The AS that the peer must have.
    pub remote_asn: u32,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// What we would carry.
    pub families: FamilySet,
    /// The hold time that we propose, in seconds; 0 for none.
    pub hold_time_s: u16,
    /// Time between KEEPALIVEs, in seconds; 0 for a third of the hold time, which is also the most.
    pub keepalive_time_s: u16,
    /// The peer connects, we never do.
    pub passive: bool,
    /// Time before the first attempt, in seconds.
    pub connect_delay_s: u16,
    /// How long an attempt may take, and the time to the next one, in seconds.
    pub connect_retry_s: u16,
    /// Idle time after an error, in seconds: the first, and the longest it doubles to.
    pub error_wait_s: (u16, u16),
    /// Least time without progress in writing that ends a session, in seconds (RFC 9687); it is
    /// never less than twice the hold time.
    pub send_hold_time_s: u16,
    /// Families in which we read several paths.
    pub add_path_rx: FamilySet,
    /// Families in which we would send several.
    pub add_path_tx: FamilySet,
    /// Messages over 4,096 bytes.
    pub extended_message: bool,
    /// IPv4 prefixes with IPv6 next hops.
    pub extended_next_hop: bool,
    /// Graceful restart; `None` for neither role.
    pub restart: Option<Restart>,
    /// This is the first session since we started, over forwarding state of an earlier life.
    pub restarted: bool,
    /// Differs from session to session, so that their timers do too.
    pub seed: u64,
    /// For the owner of the sockets.
    pub socket: Socket,
}

/// Our side of graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// How long we may be away, in seconds; at most 4,095.
    pub time_s: u16,
    /// NOTIFICATIONs keep routes too (RFC 8538).
    pub notification: bool,
    /// Families whose forwarding goes on while we are away. Not a matter of whether we have just
    /// been away: peers that see 0 here drop their routes.
    pub forwarding: FamilySet,
}

/// What the socket of a session needs; not looked at here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where the peer is.
    pub remote: IpAddr,
    /// The port to connect to.
    pub port: u16,
    /// Where we connect from.
    pub local: Option<IpAddr>,
    /// The key of RFC 2385.
    pub md5_key: Option<Vec<u8>>,
    /// The most hops that the peer may be away by its TTL (RFC 5082).
    pub ttl_security_hops: Option<u8>,
}

impl Config {
    /// A peer with the defaults of BIRD as Calico sets it up, and every capability that it has.
    pub fn new(local_asn: u32, router_id: Ipv4Addr, remote_asn: u32, remote: IpAddr) -> Config {
        let family = if remote.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
        let families = FamilySet::EMPTY.with(family);
        Config {
            local_asn,
            remote_asn,
            router_id,
            families,
            hold_time_s: 240,
            keepalive_time_s: 0,
            passive: false,
            connect_delay_s: 2,
            connect_retry_s: 5,
            error_wait_s: (5, 30),
            send_hold_time_s: 480,
            add_path_rx: families,
            add_path_tx: families,
            extended_message: false,
            extended_next_hop: false,
            restart: Some(Restart { time_s: 120, notification: false, forwarding: families }),
            restarted: false,
            seed: 0,
            socket: Socket {
                remote,
                port: 179,
                local: None,
                md5_key: None,
                ttl_security_hops: None,
            },
        }
    }

    /// The OPEN that says so.
    pub fn open(&self, restarted: bool) -> Open {
        let mut capabilities: Vec<Capability> =
            self.families.iter().map(Capability::family).collect();
        capabilities.extend([Capability::RouteRefresh, Capability::EnhancedRouteRefresh]);
        if self.extended_next_hop && self.families.contains(Family::Ipv4Unicast) {
            let family = NextHopFamily { afi: 1, safi: 1, next_hop_afi: 2 };
            capabilities.push(Capability::ExtendedNextHop(vec![family]));
        }
        if self.extended_message {
            capabilities.push(Capability::ExtendedMessage);
        }
        capabilities.extend(self.restart.map(|restart| self.restart(restart, restarted)));
        capabilities.push(Capability::FourOctetAs(self.local_asn));
        let add_path = self.add_path();
        if !add_path.is_empty() {
            capabilities.push(Capability::AddPath(add_path));
        }
        let (asn, hold_time_s, router_id) = (self.local_asn, self.hold_time_s, self.router_id);
        Open { asn, hold_time_s, router_id, capabilities }
    }

    fn restart(&self, restart: Restart, restarted: bool) -> Capability {
        let entry = |family: Family| RestartFamily {
            afi: family.afi(),
            safi: family.safi(),
            forwarding: restart.forwarding.contains(family),
        };
        Capability::GracefulRestart(GracefulRestart {
            restarted,
            notification: restart.notification,
            time_s: restart.time_s,
            families: self.families.iter().map(entry).collect(),
        })
    }

    fn add_path(&self) -> Vec<AddPath> {
        let entries = self.families.iter().map(|family| AddPath {
            afi: family.afi(),
            safi: family.safi(),
            receive: self.add_path_rx.contains(family),
            send: self.add_path_tx.contains(family),
        });
        entries.filter(|entry| entry.receive || entry.send).collect()
    }
}
