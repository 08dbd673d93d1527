//! What a BGP speaker is told and what it knows, in one shape for every daemon.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Both address families, IPv4 first.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Unicast of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `4` or `6`.
    pub(crate) fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }
}

/// The configuration of a speaker. A session carries the family of its addresses, as Calico's do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Speaker {
    pub(crate) asn: u32,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// Makes it a route reflector.
    pub(crate) cluster: Option<Ipv4Addr>,
    pub(crate) neighbors: Vec<Neighbor>,
    pub(crate) routes: Vec<Announcement>,
}

impl Speaker {
    /// Number `number` of its network, without neighbors and routes.
    pub(crate) fn new(number: u8, asn: u32) -> Speaker {
        let v4 = Ipv4Addr::new(10, 9, 0, number);
        let v6 = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, u16::from(number));
        Speaker { asn, v4, v6, cluster: None, neighbors: Vec::new(), routes: Vec::new() }
    }

    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Adds a session with `other` in each family.
    pub(crate) fn add_neighbor(&mut self, other: &Speaker, options: &Options) {
        for family in FAMILIES {
            let address = other.address(family);
            let options = options.clone();
            let asn = other.asn;
            self.neighbors.push(Neighbor { address, local: None, asn, options });
        }
    }

    /// What `reader` must hold of this speaker's own routes when they are direct peers.
    pub(crate) fn seen_by(&self, reader: &Speaker, family: Family) -> BTreeSet<Route> {
        let routes = self.routes.iter().filter(|route| Family::of(route.prefix.addr()) == family);
        routes
            .map(|route| Route {
                prefix: route.prefix,
                next_hop: self.address(family),
                as_path: if reader.asn == self.asn { Vec::new() } else { vec![self.asn] },
                communities: route.communities.iter().cloned().collect(),
            })
            .collect()
    }
}

/// One session of a speaker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Neighbor {
    pub(crate) address: IpAddr,
    /// The speaker's own end, where it is not its usual address.
    pub(crate) local: Option<IpAddr>,
    pub(crate) asn: u32,
    pub(crate) options: Options,
}

/// How a session is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) password: Option<String>,
    pub(crate) passive: bool,
    pub(crate) hold_s: u16,
    pub(crate) add_path: bool,
    /// Graceful restart, with a restart time.
    pub(crate) restart_s: Option<u16>,
    /// The neighbor is a client of this reflector.
    pub(crate) client: bool,
    /// RFC 6793's capability.
    pub(crate) four_octet: bool,
    /// BFD watches the neighbor.
    pub(crate) bfd: Option<Hops>,
}

/// Which BFD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hops {
    /// RFC 5881.
    One,
    /// RFC 5883.
    Several,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            password: None,
            passive: false,
            hold_s: 9,
            add_path: false,
            restart_s: None,
            client: false,
            four_octet: true,
            bfd: None,
        }
    }
}

/// A route that a speaker originates, with itself as the next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub(crate) prefix: IpNet,
    /// `65001:7`, or large as `65001:1:2`.
    pub(crate) communities: Vec<String>,
}

impl Announcement {
    pub(crate) fn new(prefix: &str, communities: &[&str]) -> Announcement {
        let communities = communities.iter().map(|text| (*text).to_owned()).collect();
        Announcement { prefix: prefix.parse().unwrap(), communities }
    }

    /// The communities apart: of RFC 1997, and of RFC 8092.
    pub(crate) fn split(&self) -> (Vec<&str>, Vec<&str>) {
        let all = self.communities.iter().map(String::as_str);
        all.partition(|text| text.matches(':').count() == 1)
    }
}

/// A route that a speaker has learnt, as far as daemons are compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) prefix: IpNet,
    pub(crate) next_hop: IpAddr,
    pub(crate) as_path: Vec<u32>,
    pub(crate) communities: BTreeSet<String>,
}

/// What a daemon can do of what is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Offers TCP MD5 signatures (RFC 2385).
    Password,
    /// Several paths to a prefix (RFC 7911), in both directions.
    AddPath,
    /// Keeps a restarting neighbor's routes (RFC 4724, receiving speaker).
    KeepRoutes,
    /// Asks that its own routes be kept while it restarts (RFC 4724, restarting speaker).
    Restart,
    /// Can ask for the neighbor's routes again (RFC 2918).
    Refresh,
    /// Tells neighbors what it has from others.
    Transit,
    /// Can leave out the capability of RFC 6793.
    TwoOctet,
    /// Has BFD.
    Bfd,
    /// Has it over several hops.
    DistantBfd,
}

/// A BGP daemon in a namespace of its own.
pub(crate) trait Peer: Send {
    /// The name of its package.
    fn name(&self) -> &'static str;

    /// Starts it with its present configuration; also after it has been killed.
    fn start(&mut self) -> Result<()>;

    /// True when the session with the neighbor at that address is Established.
    fn established(&mut self, neighbor: IpAddr) -> Result<bool>;

    /// All paths that it has from its neighbors.
    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>>;

    fn announce(&mut self, route: &Announcement) -> Result<()>;

    fn withdraw(&mut self, prefix: IpNet) -> Result<()>;

    /// Asks the neighbor for its routes again.
    fn refresh(&mut self, neighbor: IpAddr) -> Result<()>;

    /// Changes the password of the session while it runs.
    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()>;

    /// True when its BFD session with the neighbor is up.
    fn has_bfd_up(&mut self, _neighbor: IpAddr) -> Result<bool> {
        anyhow::bail!("{} is not asked about BFD", self.name())
    }

    /// The end of what it has printed.
    fn log_tail(&self) -> String;
}
