//! The control sockets of BIRD, `bird.ctl` for IPv4 and `bird6.ctl` for IPv6, as far as Calico's
//! tools use them: `calicoctl node status`, the reporter of CalicoNodeStatus, and the probes.
//!
//! Left out: every command that changes something, and filters of `show route`.

mod text;

use crate::bgp::{Direction, PeerStatus, RouteQuery, RouteView};
use crate::clock;
use crate::resolve::Target;
use crate::status::{Snapshot, Status};
use crate::unix_socket::{Server, listen};
use ipnet::IpNet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use text::Reply;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Where Calico's tools look.
pub(crate) const DEFAULT_DIRECTORY: &str = "/var/run/calico";
/// Connections at once on one socket.
const CONNECTIONS: usize = 16;
/// Longest command, in bytes.
const COMMAND_MAX: u64 = 4096;
/// A connection without commands ends after this.
const IDLE: Duration = Duration::from_secs(60);
/// Most routes in an answer.
const ROUTES_MAX: usize = 1_000_000;

/// Serves both sockets in a directory. Without a word of the configuration they are there where
/// Calico's directory is, and none of the tools miss them elsewhere.
pub(crate) fn start(directory: Option<&Path>, status: &Arc<Status>) -> Vec<Server> {
    let default = Path::new(DEFAULT_DIRECTORY);
    let Some(directory) = directory.or_else(|| default.is_dir().then_some(default)) else {
        return Vec::new();
    };
    let servers =
        [("bird.ctl", false), ("bird6.ctl", true)].into_iter().filter_map(|(name, v6)| {
            let path = directory.join(name);
            match listen(&path) {
                Ok(listener) => {
                    let task = tokio::spawn(accept(listener, status.clone(), v6));
                    Some(Server::new(path, task))
                }
                Err(error) => {
                    tracing::warn!("control socket {}: {error}", path.display());
                    None
                }
            }
        });
    servers.collect()
}

async fn accept(listener: UnixListener, status: Arc<Status>, v6: bool) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let status = status.clone();
                tokio::spawn(async move {
                    let _ = serve(stream, &status, v6).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, status: &Status, v6: bool) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    writer.write_all(text::banner().as_bytes()).await?;
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(COMMAND_MAX);
        let read = limited.read_until(b'\n', &mut line);
        let Ok(read) = tokio::time::timeout(IDLE, read).await else { return Ok(()) };
        if read? == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let Some(reply) = answer(&line, status, v6).await else { return Ok(()) };
        writer.write_all(reply.finish().as_bytes()).await?;
    }
}

/// `None` ends the connection.
async fn answer(line: &str, status: &Status, v6: bool) -> Option<Reply> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let reply = match words[..] {
        ["quit" | "exit"] => return None,
        ["show", "protocols"] => text::protocols(&peers(status, v6), None, false),
        ["show", "protocols", "all"] => text::protocols(&peers(status, v6), None, true),
        ["show", "protocols", "all", name] => {
            text::protocols(&peers(status, v6), Some(name.trim_matches('"')), true)
        }
        ["show", "protocols", name] => {
            text::protocols(&peers(status, v6), Some(name.trim_matches('"')), false)
        }
        ["show", "status"] => {
            let bgp = status.bgp().map(|bgp| bgp.status());
            let id = bgp.as_ref().and_then(|bgp| Some(bgp.instance.as_ref()?.router_id));
            let holding = bgp.as_ref().is_some_and(|bgp| bgp.holding);
            text::status(id, status.uptime(), holding)
        }
        ["show", "route"] => text::routes(&routes(status, v6).await),
        [] => text::error("syntax error"),
        _ => text::error(&format!("syntax error, unexpected {}", words.join(" "))),
    };
    Some(reply)
}

fn peers(status: &Status, v6: bool) -> Vec<crate::api::bgp::PeerAnswer> {
    let mut peers = crate::api::bgp::peers(status);
    peers.retain(|peer| peer.address.is_ipv6() == v6);
    peers
}

/// A route as BIRD shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    prefix: IpNet,
    /// `via 10.0.0.2 on eth0`, `dev cali1`, `blackhole` or `unreachable`.
    ways: Vec<String>,
    protocol: String,
    since: String,
    best: bool,
    preference: u32,
}

/// Own routes, the kernel's, and those of peers.
async fn routes(status: &Status, v6: bool) -> Vec<Shown> {
    let snapshot = status.snapshot();
    let begin = clock::now().saturating_sub(status.uptime().as_secs());
    let mut shown = of_node(&snapshot, v6, &clock::short(begin, clock::now()));
    if let Some(bgp) = status.bgp() {
        let direction = Direction::All;
        let query =
            RouteQuery { prefix: None, longer: false, peer: None, direction, most: ROUTES_MAX };
        let views = bgp.query_routes(query).await.unwrap_or_default();
        let names = bgp.status();
        let learned = views.iter().filter(|view| view.prefix.addr().is_ipv6() == v6);
        shown.extend(learned.filter_map(|view| {
            let (name, peer) = names.peers.iter().find(|(_, peer)| Some(peer.id) == view.peer)?;
            Some(of_peer(&snapshot, view, name, peer))
        }));
    }
    shown.sort_by_key(|one| (one.prefix, !one.best));
    shown
}

fn of_node(snapshot: &Snapshot, v6: bool, since: &str) -> Vec<Shown> {
    use crate::resolve::Origin;
    let routes = snapshot.routes.iter().filter(|(prefix, _)| prefix.addr().is_ipv6() == v6);
    let of_route = |(prefix, route): (&IpNet, &crate::resolve::Route)| {
        let (protocol, preference) = match (&route.target, route.origin) {
            (Target::OnLink(_), _) => ("direct1", 240),
            (Target::Blackhole, Origin::Store) | (_, Origin::Static) => ("static1", 200),
            (_, Origin::Kernel | Origin::Store) => ("kernel1", 10),
            _ => return None,
        };
        let ways = ways(&route.target, *prefix)?;
        let (protocol, since) = (protocol.to_owned(), since.to_owned());
        Some(Shown { prefix: *prefix, ways, protocol, since, best: true, preference })
    };
    routes.filter_map(of_route).collect()
}

fn of_peer(snapshot: &Snapshot, view: &RouteView, name: &str, peer: &PeerStatus) -> Shown {
    let next_hop = view.attributes.next_hop.map(|next_hop| next_hop.address());
    let learned = crate::router::bgp::read(&snapshot.learned);
    let target = learned.route(&view.prefix).map(|route| route.target);
    let hops = match target.filter(|_| view.reachable) {
        Some(Target::Via(hops)) => hops,
        _ => Vec::new(),
    };
    // Each path is a line of its own, by its own next hop.
    let own = hops.iter().find(|hop| Some(hop.address) == next_hop).or(hops.first());
    let way = own.map(|hop| format!("via {} on {}", hop.address, hop.port));
    let ways = vec![way.unwrap_or_else(|| "unreachable".to_owned())];
    let since = peer.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Shown {
        prefix: view.prefix,
        ways,
        protocol: name.to_owned(),
        since: clock::short(since, clock::now()),
        best: view.best,
        preference: 100,
    }
}

/// `None` for addresses of the node itself.
fn ways(target: &Target, prefix: IpNet) -> Option<Vec<String>> {
    let is_host = prefix.prefix_len() == prefix.max_prefix_len();
    match target {
        Target::Local => None,
        Target::Blackhole => Some(vec!["blackhole".to_owned()]),
        Target::Unreachable => Some(vec!["unreachable".to_owned()]),
        Target::Prohibit => Some(vec!["prohibited".to_owned()]),
        Target::OnLink(port) => Some(vec![format!("dev {port}")]),
        Target::Via(hops) => {
            let way = |hop: &crate::resolve::Hop| match is_host && hop.address == prefix.addr() {
                true => format!("dev {}", hop.port),
                false => format!("via {} on {}", hop.address, hop.port),
            };
            Some(hops.iter().map(way).collect())
        }
    }
}
