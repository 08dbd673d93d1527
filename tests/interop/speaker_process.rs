//! margay's own speaker: the thread of `margay_control::bgp`, in a process of its own, so that it
//! can be halted and killed as the others are. The process is this test program once more; it is
//! asked by a socket, one JSON document a line. Every next hop counts as reachable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use margay::lab::process::{Process, wait_for};
use margay_bgp::policy::Policy;
use margay_bgp::session::{self, Restart, State};
use margay_bgp::wire::community::{Community, LargeCommunity};
use margay_bgp::{Family as Afi, FamilySet};
use margay_control::bgp::{
    self, Bfd, BgpConfig, Direction, Handle, Instance, NextHopMode, Output, Outputs, OwnRoute,
    PeerConfig, RouteQuery, RouteView,
};
use serde::{Deserialize, Serialize};

use crate::place::Place;
use crate::speaker::{Announcement, Family, Hops, Neighbor, Peer, Route, Speaker};

/// Where the process finds its directory; its absence says that a test runs.
const DIRECTORY: &str = "MARGAY_INTEROP_SPEAKER";
/// The name of the test that becomes the process.
const ENTRY: &str = "speaker_process::speaks_in_a_process_of_its_own";
/// Longest wait for its socket.
const START: Duration = Duration::from_secs(10);
/// More routes than any case has.
const MOST: usize = 100_000;

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Apply(Speaker),
    Established(IpAddr),
    Routes(Family),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Established(bool),
    Routes(BTreeSet<Route>),
}

#[derive(Debug)]
pub(crate) struct Margay {
    place: Place,
    speaker: Speaker,
    process: Option<Process>,
}

impl Margay {
    pub(crate) fn new(place: Place, speaker: Speaker) -> Margay {
        Margay { place, speaker, process: None }
    }

    fn ask(&self, question: &Question) -> Result<Answer> {
        let mut stream = UnixStream::connect(self.place.file("speaker.sock"))?;
        stream.set_read_timeout(Some(START))?;
        writeln!(stream, "{}", serde_json::to_string(question)?)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{question:?}: {line}"))
    }

    fn apply(&self) -> Result<()> {
        self.ask(&Question::Apply(self.speaker.clone())).map(drop)
    }
}

impl Peer for Margay {
    fn name(&self) -> &'static str {
        "margay"
    }

    fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("this program")?;
        let directory = self.place.directory.to_string_lossy().into_owned();
        let state = if self.process.is_some() { "restarting" } else { "fresh" };
        self.place.write("state", state)?;
        let setting = format!("{DIRECTORY}={directory}");
        let program = program.to_string_lossy().into_owned();
        let args = [setting.as_str(), &program, "--exact", ENTRY, "--nocapture"];
        self.process = Some(self.place.daemon(Path::new("/"), "usr/bin/env", &args)?);
        wait_for("margay's speaker to start", START, || Ok(self.apply().ok()))
            .with_context(|| self.log_tail())
    }

    fn established(&mut self, neighbor: IpAddr) -> Result<bool> {
        Ok(matches!(self.ask(&Question::Established(neighbor))?, Answer::Established(true)))
    }

    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>> {
        match self.ask(&Question::Routes(family))? {
            Answer::Routes(routes) => Ok(routes),
            other => anyhow::bail!("routes: {other:?}"),
        }
    }

    fn announce(&mut self, route: &Announcement) -> Result<()> {
        self.speaker.routes.push(route.clone());
        self.apply()
    }

    fn withdraw(&mut self, prefix: IpNet) -> Result<()> {
        self.speaker.routes.retain(|route| route.prefix != prefix);
        self.apply()
    }

    fn refresh(&mut self, _: IpAddr) -> Result<()> {
        anyhow::bail!("it asks for a refresh when an import policy changes")
    }

    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()> {
        for session in &mut self.speaker.neighbors {
            if session.address == neighbor {
                session.options.password = Some(password.to_owned());
            }
        }
        self.apply()
    }

    fn log_tail(&self) -> String {
        let state = self.place.file("status");
        let state = std::fs::read_to_string(state).unwrap_or_default();
        format!("{state}\n{}", self.place.tail("env"))
    }
}

/// The process: answers until it is killed.
#[test]
fn speaks_in_a_process_of_its_own() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    serve(Path::new(&directory)).unwrap();
}

fn serve(directory: &Path) -> Result<()> {
    let restarting = std::fs::read_to_string(directory.join("state"))? == "restarting";
    let (handle, outputs) = bgp::start(bgp::Options { restarting })?;
    let handle = Arc::new(handle);
    let path = directory.join("speaker.sock");
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path)?;
    let reacher = Arc::clone(&handle);
    std::thread::spawn(move || reach(&reacher, outputs));
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let answer = answer(&handle, serde_json::from_str(&line)?)?;
        std::fs::write(directory.join("status"), status(&handle))?;
        // Who asked may have given up.
        writeln!(stream, "{}", serde_json::to_string(&answer)?).ok();
    }
    Ok(())
}

/// Finds every next hop reachable, and takes what is told.
fn reach(handle: &Handle, mut outputs: Outputs) {
    while let Some(output) = outputs.blocking_next() {
        if let Output::NextHops(asked) = output {
            let wanted = asked.into_iter().filter(|(_, wanted)| *wanted);
            handle.set_next_hops(wanted.map(|(hop, _)| (hop, Some(0))).collect());
        }
    }
}

fn status(handle: &Handle) -> String {
    let status = handle.status();
    let lines = status.peers.iter().map(|(name, peer)| {
        let (error, blocked) = (&peer.last_error, &peer.blocked);
        let (state, ups) = (peer.state, peer.ups);
        format!("{name}: {state:?}, ups {ups}, last error {error:?}, blocked {blocked:?}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn answer(handle: &Handle, question: Question) -> Result<Answer> {
    Ok(match question {
        Question::Apply(speaker) => {
            handle.apply(config(&speaker)?);
            Answer::Done
        }
        Question::Established(address) => {
            let status = handle.status();
            let peer = status.peers.values().find(|peer| peer.address == address);
            Answer::Established(peer.is_some_and(|peer| peer.state == State::Established))
        }
        Question::Routes(family) => Answer::Routes(routes(handle, family)?),
    })
}

fn routes(handle: &Handle, family: Family) -> Result<BTreeSet<Route>> {
    let mut routes = BTreeSet::new();
    for name in handle.status().peers.keys() {
        let query = RouteQuery {
            prefix: None,
            longer: true,
            peer: Some(name.clone()),
            direction: Direction::In,
            most: MOST,
        };
        let asked = handle.query_routes(query);
        let views = futures_of(asked).context("no answer about routes")?;
        ensure!(views.len() < MOST, "more routes than were asked for");
        let views = views.iter().filter(|view| !view.refused);
        let views = views.filter(|view| Family::of(view.prefix.addr()) == family);
        routes.extend(views.map(route).collect::<Result<Vec<_>>>()?);
    }
    Ok(routes)
}

fn futures_of<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

fn route(view: &RouteView) -> Result<Route> {
    let attributes = &view.attributes;
    let next_hop = attributes.next_hop.context("no next hop")?;
    let plain = attributes.communities.iter();
    let plain = plain.map(|value| format!("{}:{}", value.0 >> 16, value.0 & 0xffff));
    let large = attributes.large_communities.iter();
    let large = large.map(|value| format!("{}:{}:{}", value.global, value.local1, value.local2));
    Ok(Route {
        prefix: view.prefix,
        next_hop: next_hop.address(),
        as_path: attributes.as_path.segments().flat_map(|segment| segment.asns()).collect(),
        communities: plain.chain(large).collect(),
    })
}

fn config(speaker: &Speaker) -> Result<BgpConfig> {
    let peers = speaker.neighbors.iter();
    let peers = peers.map(|neighbor| (format!("p{}", neighbor.address), peer(speaker, neighbor)));
    let own = speaker.routes.iter().map(|route| Ok((route.prefix, own_route(route)?)));
    Ok(BgpConfig {
        instance: Instance {
            router_id: speaker.v4,
            asn: speaker.asn,
            cluster_id: speaker.cluster,
            max_ecmp: 8,
            listen: Vec::new(),
            port: 179,
        },
        peers: peers.collect(),
        own_routes: Arc::new(own.collect::<Result<BTreeMap<_, _>>>()?),
    })
}

fn peer(speaker: &Speaker, neighbor: &Neighbor) -> PeerConfig {
    let Neighbor { address, asn, options, .. } = neighbor;
    let family = match Family::of(*address) {
        Family::V4 => Afi::Ipv4Unicast,
        Family::V6 => Afi::Ipv6Unicast,
    };
    let families = FamilySet::EMPTY.with(family);
    let paths = if options.add_path { families } else { FamilySet::EMPTY };
    let mut session = session::Config::new(speaker.asn, speaker.v4, *asn, *address);
    session.hold_time_s = options.hold_s;
    session.passive = options.passive;
    (session.connect_delay_s, session.connect_retry_s, session.error_wait_s) = (1, 1, (1, 2));
    (session.add_path_rx, session.add_path_tx) = (paths, paths);
    session.restart = options.restart_s.map(|time_s| Restart {
        time_s,
        notification: false,
        forwarding: families,
    });
    let own = speaker.address(Family::of(*address));
    session.socket.local = Some(neighbor.local.unwrap_or(own));
    session.socket.md5_key = options.password.as_ref().map(|word| word.clone().into_bytes());
    PeerConfig {
        session,
        client_of: speaker.cluster.filter(|_| options.client),
        next_hop: NextHopMode::Auto,
        allowed_own_as: 0,
        import: Arc::new(Policy::accept_all()),
        export: Arc::new(Policy::accept_all()),
        max_prefixes: None,
        bfd: options.bfd.map(|hops| Bfd {
            interval_ms: 100,
            multiplier: 3,
            multihop: hops == Hops::Several,
        }),
    }
}

fn own_route(route: &Announcement) -> Result<OwnRoute> {
    let (plain, large) = route.split();
    let numbers = |text: &str| -> Result<Vec<u32>> {
        text.split(':').map(|part| part.parse().context("a community")).collect()
    };
    let plain = plain.into_iter().map(|text| {
        let parts = numbers(text)?;
        Ok(Community(parts[0] << 16 | parts[1]))
    });
    let large = large.into_iter().map(|text| {
        let parts = numbers(text)?;
        Ok(LargeCommunity { global: parts[0], local1: parts[1], local2: parts[2] })
    });
    Ok(OwnRoute {
        local_pref: 100,
        communities: plain.collect::<Result<_>>()?,
        large_communities: large.collect::<Result<_>>()?,
        ..OwnRoute::default()
    })
}
