//! Daemons beside each other: a namespace for each, all on one switch.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use margay::lab::namespace::{self, LinkEnd, LinkSpec, Namespace};
use margay::lab::process::{pause, wait_for};
use margay::lab::scope::Scope;
use nix::sys::signal::Signal;

use crate::bird::{Bird, Version};
use crate::exabgp::Exabgp;
use crate::frr::Frr;
use crate::gobgp::Gobgp;
use crate::openbgpd::Openbgpd;
use crate::place::{self, Place};
use crate::speaker::{FAMILIES, Family, Feature, Peer, Route, Speaker};
use crate::speaker_process::Margay;

/// Longest time from the start to Established, and from a change to its arrival.
const LIMIT: Duration = Duration::from_secs(20);
/// How often a daemon is asked while something is awaited.
const TICK: Duration = Duration::from_millis(50);
const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };

/// A program that speaks BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Bird,
    Bird2,
    Frr,
    Gobgpd,
    Openbgpd,
    Exabgp,
    Margay,
}

impl Daemon {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Daemon::Bird => "bird",
            Daemon::Bird2 => "bird2",
            Daemon::Frr => "frr",
            Daemon::Gobgpd => "gobgpd",
            Daemon::Openbgpd => "openbgpd",
            Daemon::Exabgp => "exabgp",
            Daemon::Margay => "margay",
        }
    }

    /// Whether it can be the other one of a case that needs `feature`.
    pub(crate) fn can(self, feature: Feature) -> bool {
        match self {
            Daemon::Bird | Daemon::Bird2 | Daemon::Margay => true,
            // Its switch for 4-octet numbers takes all other capabilities away too.
            Daemon::Frr => feature != Feature::TwoOctet,
            Daemon::Gobgpd => {
                !matches!(feature, Feature::TwoOctet | Feature::Bfd | Feature::DistantBfd)
            }
            // It keeps the routes of a neighbor that restarts, and does not ask for the same. It
            // refuses a neighbor with the number that stands for all longer ones.
            Daemon::Openbgpd => {
                !matches!(feature, Feature::Restart | Feature::TwoOctet | Feature::Bfd)
            }
            // It has no table; asking for a refresh is not in its API.
            Daemon::Exabgp => !matches!(
                feature,
                Feature::KeepRoutes | Feature::Refresh | Feature::Transit | Feature::Bfd
            ),
        }
    }

    /// An error when this machine does not have it.
    pub(crate) fn check(self) -> Result<()> {
        if self == Daemon::Margay { Ok(()) } else { place::package(self.name()).map(drop) }
    }

    /// It as a speaker, not started yet.
    pub(crate) fn peer(self, place: Place, speaker: Speaker) -> Result<Box<dyn Peer>> {
        Ok(match self {
            Daemon::Bird => Box::new(Bird::new(Version::One, place, speaker)?),
            Daemon::Bird2 => Box::new(Bird::new(Version::Two, place, speaker)?),
            Daemon::Frr => Box::new(Frr::new(place, speaker)?),
            Daemon::Gobgpd => Box::new(Gobgp::new(place, speaker)?),
            Daemon::Openbgpd => Box::new(Openbgpd::new(place, speaker)?),
            Daemon::Exabgp => Box::new(Exabgp::new(place, speaker)?),
            Daemon::Margay => Box::new(Margay::new(place, speaker)),
        })
    }
}

/// A daemon of a network, with what it was told at the start.
pub(crate) struct Member {
    pub(crate) peer: Box<dyn Peer>,
    pub(crate) speaker: Speaker,
    pub(crate) place: Place,
}

/// Running daemons; all gone when it is dropped.
pub(crate) struct Network {
    // Dropped first: the scope kills what is left inside.
    pub(crate) members: Vec<Member>,
    _scope: Scope,
}

impl Network {
    /// Makes a namespace for each speaker and starts its daemon there.
    pub(crate) fn start(speakers: Vec<(Daemon, Speaker)>) -> Result<Network> {
        let scope = Scope::new()?;
        let switch = scope.namespace("switch")?;
        switch.ip("link add br0 type bridge\nlink set br0 up")?;
        let mut members = Vec::new();
        for (number, (daemon, speaker)) in speakers.into_iter().enumerate() {
            let role = format!("{number}-{}", daemon.name());
            let namespace = scope.namespace(&role)?;
            plug(&switch, &namespace, number, &speaker)?;
            let place = Place::new(namespace, scope.directory().join(&role))?;
            let mut peer = daemon.peer(place.clone(), speaker.clone())?;
            peer.start().with_context(|| format!("{role} does not start: {}", peer.log_tail()))?;
            members.push(Member { peer, speaker, place });
        }
        Ok(Network { members, _scope: scope })
    }

    /// Waits until every session is Established on both sides.
    pub(crate) fn wait_established(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::wait_established)
    }

    /// Waits until `reader` has exactly what its direct peers originate.
    pub(crate) fn wait_exchanged(&mut self, reader: usize) -> Result<()> {
        for family in FAMILIES {
            let wanted = self.wanted(reader, family);
            self.members[reader].wait_routes(family, &wanted)?;
        }
        Ok(())
    }

    /// What `reader` must have of its direct peers' own routes.
    pub(crate) fn wanted(&self, reader: usize, family: Family) -> BTreeSet<Route> {
        let me = &self.members[reader].speaker;
        let is_direct = |other: &Speaker| {
            me.neighbors.iter().any(|neighbor| neighbor.address == other.address(family))
        };
        let others = self.members.iter().map(|member| &member.speaker);
        others
            .filter(|other| is_direct(other))
            .flat_map(|other| other.seen_by(me, family))
            .collect()
    }
}

impl Member {
    /// Waits until its sessions are Established.
    pub(crate) fn wait_established(&mut self) -> Result<()> {
        let neighbors: Vec<IpAddr> =
            self.speaker.neighbors.iter().map(|neighbor| neighbor.address).collect();
        for neighbor in neighbors {
            self.wait_session(neighbor, true, LIMIT)?;
        }
        Ok(())
    }

    /// Waits until the session with `neighbor` is, or is not, Established.
    pub(crate) fn wait_session(
        &mut self,
        neighbor: IpAddr,
        up: bool,
        limit: Duration,
    ) -> Result<()> {
        let name = self.peer.name();
        let what = format!("{name}: session with {neighbor} {}", if up { "up" } else { "down" });
        let result = wait_for(&what, limit, || {
            pause(TICK)?;
            Ok((self.peer.established(neighbor)? == up).then_some(()))
        });
        result.with_context(|| format!("log of {name}: {}", self.peer.log_tail()))
    }

    /// Waits until its routes are exactly `wanted`.
    pub(crate) fn wait_routes(&mut self, family: Family, wanted: &BTreeSet<Route>) -> Result<()> {
        let mut last = BTreeSet::new();
        let what = format!("{}: routes of IPv{}", self.peer.name(), family.digit());
        let result = wait_for(&what, LIMIT, || {
            pause(TICK)?;
            last = self.peer.routes(family)?;
            Ok((last == *wanted).then_some(()))
        });
        result.with_context(|| {
            let missing: Vec<_> = wanted.difference(&last).collect();
            let extra: Vec<_> = last.difference(wanted).collect();
            format!("missing: {missing:#?}\nnot wanted: {extra:#?}\nlog: {}", self.peer.log_tail())
        })
    }

    /// An error when one of `wanted` is not among its routes now.
    pub(crate) fn check_holds(&mut self, family: Family, wanted: &BTreeSet<Route>) -> Result<()> {
        let have = self.peer.routes(family)?;
        let lost: Vec<_> = wanted.difference(&have).collect();
        if !lost.is_empty() {
            bail!("{} lost {lost:?}: {}", self.peer.name(), self.peer.log_tail());
        }
        Ok(())
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&self) -> Result<()> {
        self.place.kill()
    }

    /// Halts all its processes, or lets them go on.
    pub(crate) fn halt(&self, halted: bool) -> Result<()> {
        self.place.signal(if halted { Signal::SIGSTOP } else { Signal::SIGCONT })
    }
}

/// A cable between the speaker's `eth0` and port `p{number}` of the switch.
fn plug(switch: &Namespace, namespace: &Namespace, number: usize, speaker: &Speaker) -> Result<()> {
    let port = format!("p{number}");
    let addresses =
        vec![format!("{}/24", speaker.v4).parse()?, format!("{}/64", speaker.v6).parse()?];
    let device = LinkEnd { namespace, device: "eth0", mac: None, addresses };
    let port_end = LinkEnd { namespace: switch, device: &port, mac: None, addresses: Vec::new() };
    namespace::connect(LINK, &device, &port_end)?;
    switch.ip(&format!("link set {port} master br0"))
}
