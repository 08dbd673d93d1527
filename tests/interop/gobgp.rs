//! GoBGP: a TOML file for sessions, its own command line for routes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use margay::lab::process::{Process, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::place::{self, Place};
use crate::speaker::{Announcement, Family, Neighbor, Peer, Route, Speaker};

/// Longest wait for its API.
const START: Duration = Duration::from_secs(10);
const DAEMON: &str = "usr/bin/gobgpd";
const CLIENT: &str = "usr/bin/gobgp";

#[derive(Debug)]
pub(crate) struct Gobgp {
    root: PathBuf,
    place: Place,
    speaker: Speaker,
    process: Option<Process>,
}

impl Gobgp {
    pub(crate) fn new(place: Place, speaker: Speaker) -> Result<Gobgp> {
        let root = place::package("gobgpd")?;
        Ok(Gobgp { root, place, speaker, process: None })
    }

    fn config(&self) -> String {
        let mut text = format!(
            "[global.config]\nas = {}\nrouter-id = \"{}\"\n",
            self.speaker.asn, self.speaker.v4
        );
        for neighbor in &self.speaker.neighbors {
            self.write_session(&mut text, neighbor);
        }
        text
    }

    fn write_session(&self, text: &mut String, neighbor: &Neighbor) {
        let Neighbor { address, asn, options, .. } = neighbor;
        let family = Family::of(*address);
        let local = self.speaker.address(family);
        let hold = options.hold_s;
        let password = options.password.as_ref();
        let password = password.map(|word| format!("auth-password = \"{word}\"\n"));
        write!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\n\
             peer-as = {asn}\n{}\
             [neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n\
             hold-time = {hold}\nkeepalive-interval = {}\n\
             [neighbors.transport.config]\nlocal-address = \"{local}\"\npassive-mode = {}\n",
            password.unwrap_or_default(),
            hold / 3,
            options.passive,
        )
        .unwrap();
        if let Some(time) = options.restart_s {
            write!(
                text,
                "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {time}\n"
            )
            .unwrap();
        }
        write!(
            text,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n\
             afi-safi-name = \"ipv{}-unicast\"\n\
             [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = {}\n\
             [neighbors.afi-safis.add-paths.config]\nreceive = {}\nsend-max = {}\n",
            family.digit(),
            options.restart_s.is_some(),
            options.add_path,
            if options.add_path { 8 } else { 0 },
        )
        .unwrap();
    }

    fn client(&self, args: &[&str]) -> Result<String> {
        self.place.run(&self.root, CLIENT, args)
    }

    fn add(&self, route: &Announcement) -> Result<()> {
        let family = Family::of(route.prefix.addr());
        let (prefix, name) = (route.prefix.to_string(), format!("ipv{}", family.digit()));
        let next_hop = self.speaker.address(family).to_string();
        let (plain, large) = (route.split().0.join(","), route.split().1.join(","));
        let mut args =
            vec!["global", "rib", "add", "-a", &name, &prefix, "origin", "igp", "nexthop"];
        args.push(&next_hop);
        for (word, values) in [("community", &plain), ("large-community", &large)] {
            if !values.is_empty() {
                args.extend([word, values]);
            }
        }
        self.client(&args).map(drop)
    }
}

impl Peer for Gobgp {
    fn name(&self) -> &'static str {
        "gobgpd"
    }

    fn start(&mut self) -> Result<()> {
        self.place.write("gobgp.toml", &self.config())?;
        let restarting = self.process.is_some();
        let config = self.place.path("gobgp.toml");
        let mut args = vec!["-f", &config, "-t", "toml", "--api-hosts", "127.0.0.1:50051"];
        args.extend(restarting.then_some("-r"));
        self.process = Some(self.place.daemon(&self.root, DAEMON, &args)?);
        wait_for("gobgpd to start", START, || Ok(self.client(&["global"]).ok()))
            .with_context(|| self.place.tail("gobgpd"))?;
        self.speaker.routes.iter().try_for_each(|route| self.add(route))
    }

    fn established(&mut self, neighbor: IpAddr) -> Result<bool> {
        let text = self.client(&["neighbor", &neighbor.to_string(), "-j"])?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        // 6 is ESTABLISHED of its API.
        Ok(answer["state"]["session_state"] == 6)
    }

    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>> {
        let name = format!("ipv{}", family.digit());
        let text = self.client(&["global", "rib", "-a", &name, "-j"])?;
        let table: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let mut routes = BTreeSet::new();
        for (prefix, paths) in table.as_object().into_iter().flatten() {
            for path in paths.as_array().into_iter().flatten() {
                let neighbor = path["neighbor-ip"].as_str().and_then(|text| text.parse().ok());
                if neighbor.is_some_and(|address: IpAddr| !address.is_unspecified()) {
                    routes.insert(route(prefix, path)?);
                }
            }
        }
        Ok(routes)
    }

    fn announce(&mut self, route: &Announcement) -> Result<()> {
        self.speaker.routes.push(route.clone());
        self.add(route)
    }

    fn withdraw(&mut self, prefix: IpNet) -> Result<()> {
        self.speaker.routes.retain(|route| route.prefix != prefix);
        let name = format!("ipv{}", Family::of(prefix.addr()).digit());
        let prefix = prefix.to_string();
        self.client(&["global", "rib", "del", "-a", &name, &prefix]).map(drop)
    }

    fn refresh(&mut self, neighbor: IpAddr) -> Result<()> {
        self.client(&["neighbor", &neighbor.to_string(), "softresetin"]).map(drop)
    }

    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()> {
        for session in &mut self.speaker.neighbors {
            if session.address == neighbor {
                session.options.password = Some(password.to_owned());
            }
        }
        self.place.write("gobgp.toml", &self.config())?;
        if let Some(process) = &self.process {
            process.signal(Signal::SIGHUP);
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        self.place.tail("gobgpd")
    }
}

fn route(prefix: &str, path: &Value) -> Result<Route> {
    let attributes = path["attrs"].as_array().context("no attributes")?;
    let find = |kind: u64| attributes.iter().find(|attribute| attribute["type"] == kind);
    let next_hop = find(3).or(find(14)).context("no next hop")?["nexthop"].as_str();
    let segments = find(2).and_then(|attribute| attribute["as_paths"].as_array());
    let numbers =
        segments.into_iter().flatten().filter_map(|segment| segment["asns"].as_array()).flatten();
    let plain = find(8).and_then(|attribute| attribute["communities"].as_array());
    let plain = plain.into_iter().flatten().filter_map(Value::as_u64);
    let large = find(32).and_then(|attribute| attribute["value"].as_array());
    let large = large.into_iter().flatten().map(|value| {
        let part = |name: &str| value[name].as_u64().unwrap_or_default();
        format!("{}:{}:{}", part("ASN"), part("LocalData1"), part("LocalData2"))
    });
    Ok(Route {
        prefix: prefix.parse()?,
        next_hop: next_hop.context("no next hop")?.parse()?,
        as_path: numbers.filter_map(|asn| u32::try_from(asn.as_u64()?).ok()).collect(),
        communities: plain
            .map(|value| format!("{}:{}", value >> 16, value & 0xffff))
            .chain(large)
            .collect(),
    })
}
