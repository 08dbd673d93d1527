//! FRR: zebra, which knows the addresses and writes the kernel's routes, bgpd, and bfdd. They are
//! asked by vtysh's own protocol: a command with a zero byte, an answer with three of them and a
//! status.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use margay::lab::process::{Process, wait_for};
use serde_json::Value;

use crate::place::{self, Place};
use crate::speaker::{Announcement, Family, Hops, Neighbor, Peer, Route, Speaker};

/// Longest wait for a socket, and for an answer.
const START: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Frr {
    root: PathBuf,
    place: Place,
    speaker: Speaker,
    processes: Vec<Process>,
    /// Route maps made, one for each announcement.
    maps: usize,
}

impl Frr {
    pub(crate) fn new(place: Place, speaker: Speaker) -> Result<Frr> {
        let root = place::package("frr")?;
        Ok(Frr { root, place, speaker, processes: Vec::new(), maps: 0 })
    }

    fn config(&mut self) -> String {
        let speaker = self.speaker.clone();
        let mut text = format!(
            "frr defaults datacenter\nlog stdout\nrouter bgp {}\n bgp router-id {}\n \
             no bgp ebgp-requires-policy\n no bgp network import-check\n \
             no bgp default ipv4-unicast\n coalesce-time 0\n",
            speaker.asn, speaker.v4
        );
        // Before the first session: each takes effect with the next one only.
        match speaker.neighbors.iter().find_map(|neighbor| neighbor.options.restart_s) {
            Some(time) => write!(
                text,
                " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n \
                 bgp graceful-restart restart-time {time}\n"
            )
            .unwrap(),
            None => text.push_str(" bgp graceful-restart-disable\n"),
        }
        if let Some(cluster) = speaker.cluster {
            writeln!(text, " bgp cluster-id {cluster}").unwrap();
        }
        for neighbor in &speaker.neighbors {
            write_session(&mut text, neighbor);
        }
        text += "exit\n";
        for route in &speaker.routes {
            text += &self.network(route);
        }
        text
    }

    /// The lines that originate a route.
    fn network(&mut self, route: &Announcement) -> String {
        self.maps += 1;
        let map = format!("R{}", self.maps);
        let (plain, large) = route.split();
        let mut text = format!("route-map {map} permit 10\n");
        if !plain.is_empty() {
            writeln!(text, " set community {}", plain.join(" ")).unwrap();
        }
        if !large.is_empty() {
            writeln!(text, " set large-community {}", large.join(" ")).unwrap();
        }
        let within = format!("network {} route-map {map}", route.prefix);
        text + "exit\n" + &self.within_family(route.prefix, &within)
    }

    fn within_family(&self, prefix: IpNet, line: &str) -> String {
        let digit = Family::of(prefix.addr()).digit();
        let asn = self.speaker.asn;
        format!(
            "router bgp {asn}\n address-family ipv{digit} unicast\n  {line}\n \
             exit-address-family\nexit\n"
        )
    }

    fn connect(&self, daemon: &str) -> Result<UnixStream> {
        let stream = UnixStream::connect(self.place.file(&format!("{daemon}.vty")))?;
        stream.set_read_timeout(Some(START))?;
        Ok(stream)
    }

    fn ask(&self, command: &str) -> Result<String> {
        self.ask_daemon("bgpd", command)
    }

    fn ask_daemon(&self, daemon: &str, command: &str) -> Result<String> {
        let mut stream = self.connect(daemon)?;
        ask(&mut stream, "enable")?;
        ask(&mut stream, command)
    }

    fn configure(&self, lines: &str) -> Result<()> {
        let mut stream = self.connect("bgpd")?;
        for line in ["enable", "configure terminal"].into_iter().chain(lines.lines()) {
            ask(&mut stream, line.trim())?;
        }
        Ok(())
    }

    fn json(&self, command: &str) -> Result<Value> {
        let text = self.ask(command)?;
        serde_json::from_str(&text).with_context(|| format!("{command}: {text}"))
    }
}

impl Peer for Frr {
    fn name(&self) -> &'static str {
        "frr"
    }

    fn start(&mut self) -> Result<()> {
        let config = self.config();
        self.place.write("frr.conf", &config)?;
        self.processes.clear();
        let directory = self.place.directory.to_string_lossy().into_owned();
        let zserv = self.place.path("zserv.api");
        let common = ["-u", "root", "-g", "root", "--vty_socket", &directory, "-z", &zserv];
        let mut zebra = [&common[..], &["-i", "zebra.pid", "-A", "127.0.0.1"]].concat();
        // How long it keeps what it finds in the kernel; else nothing of it.
        let kept = self.speaker.neighbors.iter().find_map(|one| one.options.restart_s);
        let kept = kept.map(|time| time.to_string());
        zebra.extend(kept.iter().flat_map(|time| ["-K", time.as_str()]));
        // A socket that a killed one has left would be taken for the new one's.
        std::fs::remove_file(&zserv).ok();
        self.processes.push(self.place.daemon(&self.root, "usr/lib/frr/zebra", &zebra)?);
        wait_for("zebra to start", START, || Ok(UnixStream::connect(&zserv).ok()))
            .with_context(|| self.place.tail("zebra"))?;
        if self.speaker.neighbors.iter().any(|neighbor| neighbor.options.bfd.is_some()) {
            let control = self.place.path("bfdd.sock");
            let args = ["-i", "bfdd.pid", "-A", "127.0.0.1", "--bfdctl", &control];
            let bfdd = [&common[..], &args].concat();
            self.processes.push(self.place.daemon(&self.root, "usr/lib/frr/bfdd", &bfdd)?);
            let started = || Ok(self.ask_daemon("bfdd", "show version").ok());
            wait_for("bfdd to start", START, started).with_context(|| self.place.tail("bfdd"))?;
        }
        let config = self.place.path("frr.conf");
        let bgpd = [&common[..], &["-i", "bgpd.pid", "-A", "127.0.0.1", "-f", &config]].concat();
        self.processes.push(self.place.daemon(&self.root, "usr/lib/frr/bgpd", &bgpd)?);
        wait_for("bgpd to start", START, || Ok(self.ask("show version").ok()))
            .with_context(|| self.place.tail("bgpd"))?;
        Ok(())
    }

    fn established(&mut self, neighbor: IpAddr) -> Result<bool> {
        let answer = self.json(&format!("show bgp neighbors {neighbor} json"))?;
        Ok(answer[neighbor.to_string()]["bgpState"] == "Established")
    }

    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>> {
        let show = format!("show bgp ipv{} unicast", family.digit());
        let table = self.json(&format!("{show} json"))?;
        let mut routes = BTreeSet::new();
        for prefix in table["routes"].as_object().into_iter().flatten().map(|(name, _)| name) {
            let details = self.json(&format!("{show} {prefix} json"))?;
            for path in details["paths"].as_array().into_iter().flatten() {
                // Its own have no peer's address.
                if path["peer"]["peerId"].as_str().is_some_and(|id| id != "0.0.0.0" && id != "::") {
                    routes.insert(route(prefix, path)?);
                }
            }
        }
        Ok(routes)
    }

    fn announce(&mut self, route: &Announcement) -> Result<()> {
        self.speaker.routes.push(route.clone());
        let lines = self.network(route);
        self.configure(&lines)
    }

    fn withdraw(&mut self, prefix: IpNet) -> Result<()> {
        self.speaker.routes.retain(|route| route.prefix != prefix);
        self.configure(&self.within_family(prefix, &format!("no network {prefix}")))
    }

    fn refresh(&mut self, neighbor: IpAddr) -> Result<()> {
        let digit = Family::of(neighbor).digit();
        self.ask(&format!("clear bgp ipv{digit} unicast {neighbor} soft in")).map(drop)
    }

    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()> {
        let asn = self.speaker.asn;
        for session in &mut self.speaker.neighbors {
            if session.address == neighbor {
                session.options.password = Some(password.to_owned());
            }
        }
        self.configure(&format!("router bgp {asn}\nneighbor {neighbor} password {password}\n"))
    }

    fn has_bfd_up(&mut self, neighbor: IpAddr) -> Result<bool> {
        let text = self.ask_daemon("bfdd", "show bfd peers json")?;
        let peers: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let mut peers = peers.as_array().into_iter().flatten();
        let address = neighbor.to_string();
        Ok(peers.any(|peer| peer["peer"] == address.as_str() && peer["status"] == "up"))
    }

    fn log_tail(&self) -> String {
        self.place.tail("bgpd")
    }
}

fn write_session(text: &mut String, neighbor: &Neighbor) {
    let Neighbor { address, asn, options, .. } = neighbor;
    let mut lines = vec![
        format!("remote-as {asn}"),
        format!("timers {} {}", options.hold_s / 3, options.hold_s),
        "timers connect 1".to_owned(),
        "advertisement-interval 0".to_owned(),
    ];
    lines.extend(options.password.as_ref().map(|word| format!("password {word}")));
    lines.extend(options.passive.then(|| "passive".to_owned()));
    lines.extend((!options.four_octet).then(|| "dont-capability-negotiate".to_owned()));
    for line in lines {
        writeln!(text, " neighbor {address} {line}").unwrap();
    }
    if let Some(hops) = options.bfd {
        // The session's own hops decide.
        if hops == Hops::Several {
            writeln!(text, " neighbor {address} ebgp-multihop 2").unwrap();
        }
        writeln!(text, " neighbor {address} bfd\n neighbor {address} bfd 3 100 100").unwrap();
    }
    let family = Family::of(*address);
    writeln!(text, " address-family ipv{} unicast", family.digit()).unwrap();
    writeln!(text, "  neighbor {address} activate").unwrap();
    if !options.client {
        // Else a third router on the same link stays the next hop.
        writeln!(text, "  neighbor {address} next-hop-self").unwrap();
    }
    if options.add_path {
        writeln!(text, "  neighbor {address} addpath-tx-all-paths").unwrap();
    }
    if options.client {
        writeln!(text, "  neighbor {address} route-reflector-client").unwrap();
    }
    text.push_str(" exit-address-family\n");
}

/// One command and its answer; an error when its status is neither success nor a warning.
fn ask(stream: &mut UnixStream, command: &str) -> Result<String> {
    stream.write_all(command.as_bytes())?;
    stream.write_all(&[0])?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let end = answer.len();
        if end >= 4 && answer[end - 4..end - 1] == [0, 0, 0] {
            break;
        }
        match stream.read(&mut piece).with_context(|| command.to_owned())? {
            0 => bail!("{command}: bgpd closed the connection"),
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    let status = answer[answer.len() - 1];
    let text = String::from_utf8_lossy(&answer[..answer.len() - 4]).into_owned();
    // 0 is success, 1 a warning.
    if status > 1 {
        bail!("{command}: {status}: {text}");
    }
    Ok(text)
}

fn route(prefix: &str, path: &Value) -> Result<Route> {
    let hops = path["nexthops"].as_array().context("no nexthops")?;
    let hop = hops.iter().find(|hop| hop["scope"] != "link-local").context("no next hop")?;
    let list = |name: &str| path[name]["list"].as_array().into_iter().flatten();
    let segments = path["aspath"]["segments"].as_array().into_iter().flatten();
    let numbers = segments.filter_map(|segment| segment["list"].as_array()).flatten();
    Ok(Route {
        prefix: prefix.parse()?,
        next_hop: hop["ip"].as_str().context("no next hop")?.parse()?,
        as_path: numbers.filter_map(|asn| u32::try_from(asn.as_u64()?).ok()).collect(),
        communities: list("community")
            .chain(list("largeCommunity"))
            .filter_map(|value| Some(value.as_str()?.to_owned()))
            .collect(),
    })
}
