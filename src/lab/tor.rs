//! The top of rack of a network whose routers speak BGP: a router of another AS, whose kernel
//! forwards by what it learns. It is margay, or a real BIRD 2.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::bird::{Bird, BirdSpec, Installation, Session};
use super::daemon::{Daemon, DaemonSpec};
use super::namespace::Namespace;
use super::network::NetworkSpec;
use super::node::Router;
use super::scope::Scope;
use super::store::Store;

/// What the top of rack tells by BGP: the outside host's networks.
pub const OUTSIDE: [&str; 2] = ["198.51.100.0/24", "2001:db8:100::/64"];
/// The outside host's addresses in them.
pub const HOST: [&str; 2] = ["198.51.100.10", "2001:db8:100::10"];
/// Its sessions: IPv4 and IPv6 with both nodes.
pub const SESSIONS: usize = 4;
/// AS of the nodes, Calico's default.
const NODES_AS: u32 = 64_512;
/// AS of the top of rack.
const TOR_AS: u32 = 64_600;
/// rtnetlink's numbers of routes that margay and BIRD have learnt.
const MARGAY: &str = "159";
const BIRD: &str = "bird";

/// Who is to speak.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Peer {
    /// Another margay.
    #[default]
    Margay,
    /// This BIRD.
    Bird(Installation),
}

/// Who speaks.
#[derive(Debug)]
pub enum Tor {
    /// A margay without uplinks.
    Margay(Box<Daemon>),
    /// A BIRD.
    Bird(Bird),
}

impl Tor {
    /// Starts it in `namespace`, and tells the nodes of it in their `store`.
    pub(super) fn start(
        spec: &NetworkSpec,
        scope: &Scope,
        namespace: &Namespace,
        store: &Store,
    ) -> Result<Tor> {
        let sessions = sessions()?;
        let bfd = spec.peer != Peer::Margay;
        for (number, session) in &sessions {
            store.put_peer(&format!("edge{number}"), session.local, TOR_AS, bfd)?;
        }
        let sessions = sessions.into_iter().map(|(_, session)| session).collect();
        match &spec.peer {
            Peer::Margay => {
                let daemon = Daemon::start(margay(spec, scope, sessions)?, namespace)?;
                let mut daemon = Box::new(daemon);
                daemon.wait_ready()?;
                Ok(Tor::Margay(daemon))
            }
            Peer::Bird(installation) => {
                let spec = BirdSpec {
                    installation: installation.clone(),
                    asn: TOR_AS,
                    sessions,
                    routes: outside()?,
                    directory: scope.directory(),
                    detached: spec.detached,
                };
                Ok(Tor::Bird(Bird::start(spec, namespace)?))
            }
        }
    }

    /// Its BIRD; an error when it is none.
    pub fn bird(&mut self) -> Result<&mut Bird> {
        match self {
            Tor::Bird(bird) => Ok(bird),
            Tor::Margay(_) => anyhow::bail!("the top of rack is no BIRD"),
        }
    }

    /// What the kernel calls the routes that it has learnt.
    pub fn protocol(&self) -> &'static str {
        match self {
            Tor::Margay(_) => MARGAY,
            Tor::Bird(_) => BIRD,
        }
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) -> Result<()> {
        match self {
            Tor::Margay(daemon) => daemon.stop(),
            Tor::Bird(bird) => bird.stop(),
        }
    }

    /// Dropping it leaves it running.
    pub fn release(&mut self) {
        match self {
            Tor::Margay(daemon) => daemon.release(),
            Tor::Bird(bird) => bird.release(),
        }
    }
}

/// Its sessions, each with the number of the node.
fn sessions() -> Result<Vec<(u8, Session)>> {
    let mut sessions = Vec::new();
    for number in [1, 2] {
        for (local, remote) in [
            (format!("172.31.{number}.254"), format!("172.31.{number}.1")),
            (format!("fd31:{number}::fe"), format!("fd31:{number}::1")),
        ] {
            let (local, remote) = (local.parse()?, remote.parse()?);
            sessions.push((number, Session { local, remote, remote_asn: NODES_AS }));
        }
    }
    ensure!(sessions.len() == SESSIONS, "{} sessions", sessions.len());
    Ok(sessions)
}

/// The outside networks and the host that is in them.
fn outside() -> Result<Vec<(IpNet, IpAddr)>> {
    let pairs = OUTSIDE.into_iter().zip(HOST);
    pairs.map(|(net, host)| Ok((net.parse()?, host.parse()?))).collect()
}

/// Its store is its own, for it is no node of the cluster.
fn margay(spec: &NetworkSpec, scope: &Scope, sessions: Vec<Session>) -> Result<DaemonSpec> {
    let Router::Margay(binary) = &spec.router else { anyhow::bail!("no margay to speak BGP") };
    let own = Store::create(&scope.directory().join("tor-store"))?;
    let net = |text: &str| text.parse::<IpNet>().with_context(|| text.to_owned());
    own.put_node_of("tor", net("172.31.1.254/24")?, net("fd31:1::fe/64")?, TOR_AS)?;
    own.put_advertised(&[net(OUTSIDE[0])?, net(OUTSIDE[1])?])?;
    for session in sessions {
        own.put_peer("tor", session.remote, session.remote_asn, false)?;
    }
    Ok(DaemonSpec {
        bgp: true,
        detached: spec.detached,
        ..DaemonSpec::new(binary, "tor", &own, scope)
    })
}
