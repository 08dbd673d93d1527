//! ExaBGP: says what it is told to say, in any form, and keeps no routes. Its API is a process that
//! it starts, here a shell that copies its reports to a file, and commands from another file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use margay::lab::process::Process;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::place::{self, Place};
use crate::speaker::{Announcement, Family, Neighbor, Peer, Route, Speaker};

#[derive(Debug)]
pub(crate) struct Exabgp {
    root: PathBuf,
    place: Place,
    speaker: Speaker,
    process: Option<Process>,
}

impl Exabgp {
    pub(crate) fn new(place: Place, speaker: Speaker) -> Result<Exabgp> {
        let root = place::package("exabgp")?;
        Ok(Exabgp { root, place, speaker, process: None })
    }

    fn config(&self) -> String {
        let (reports, commands) = (self.place.path("reports"), self.place.path("commands"));
        let mut text = format!(
            "process api {{\n  run /bin/sh -c \"exec 3<&0; cat <&3 >> {reports} & \
             exec tail -n +1 -f {commands}\";\n  encoder json;\n}}\n"
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
        let mut lines = vec![
            format!("router-id {}", self.speaker.v4),
            format!("local-address {local}"),
            format!("local-as {}", self.speaker.asn),
            format!("peer-as {asn}"),
            format!("hold-time {}", options.hold_s),
            format!("passive {}", options.passive),
        ];
        lines.extend(options.password.as_ref().map(|word| format!("md5-password '{word}'")));
        let restart = options.restart_s.map(|time| format!("graceful-restart {time}; "));
        let paths = if options.add_path { "add-path send/receive; " } else { "" };
        let four = if options.four_octet { "enable" } else { "disable" };
        let digit = family.digit();
        writeln!(
            text,
            "neighbor {address} {{\n  {};\n  family {{ ipv{digit} unicast; }}\n  \
             capability {{ {}{paths}asn4 {four}; route-refresh enable; }}\n  \
             api {{ processes [ api ]; neighbor-changes; receive {{ parsed; update; }} }}",
            lines.join(";\n  "),
            restart.unwrap_or_default(),
        )
        .unwrap();
        text.push_str("  static {\n");
        for route in &self.speaker.routes {
            if Family::of(route.prefix.addr()) == family {
                writeln!(text, "    {};", self.route_line(route, "")).unwrap();
            }
        }
        text.push_str("  }\n}\n");
    }

    fn route_line(&self, route: &Announcement, more: &str) -> String {
        let next_hop = self.speaker.address(Family::of(route.prefix.addr()));
        let (plain, large) = route.split();
        let list = |name: &str, values: Vec<&str>| match values.is_empty() {
            true => String::new(),
            false => format!(" {name} [ {} ]", values.join(" ")),
        };
        let plain = list("community", plain);
        let large = list("large-community", large);
        format!("route {} next-hop {next_hop}{plain}{large}{more}", route.prefix)
    }

    fn say(&self, command: &str) -> Result<()> {
        let mut file = fs::File::options().append(true).open(self.place.file("commands"))?;
        writeln!(file, "{command}").context("cannot write a command")
    }

    /// Announces a route with further attributes, in ExaBGP's words, to sessions of its family.
    pub(crate) fn announce_with(&mut self, route: &Announcement, more: &str) -> Result<()> {
        let family = Family::of(route.prefix.addr());
        let sessions = self.speaker.neighbors.iter().map(|neighbor| neighbor.address);
        for address in sessions.filter(|address| Family::of(*address) == family) {
            self.say(&format!("neighbor {address} announce {}", self.route_line(route, more)))?;
        }
        Ok(())
    }

    /// Its reports since the start, in order; the last may be half written yet.
    fn reports(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.place.file("reports")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn write_config(&self) -> Result<()> {
        self.place.write("exabgp.conf", &self.config())
    }
}

impl Peer for Exabgp {
    fn name(&self) -> &'static str {
        "exabgp"
    }

    fn start(&mut self) -> Result<()> {
        self.write_config()?;
        self.place.write("reports", "")?;
        self.place.write("commands", "")?;
        let modules = self.root.join("usr/lib/python3/dist-packages");
        let modules = format!("PYTHONPATH={}", modules.display());
        let config = self.place.path("exabgp.conf");
        let settings = [
            "exabgp.daemon.user=root",
            "exabgp.daemon.drop=false",
            "exabgp.api.cli=false",
            "exabgp.log.destination=stdout",
            "exabgp.api.ack=false",
        ];
        // Without `tcp.bind` it does not listen, and `passive` sessions need that.
        let binds: Vec<String> =
            self.speaker.neighbors.iter().map(|peer| peer.address.to_string()).collect();
        let families = binds.iter().filter_map(|text| text.parse().ok()).map(Family::of);
        let own: BTreeSet<String> =
            families.map(|family| self.speaker.address(family).to_string()).collect();
        let own = own.into_iter().collect::<Vec<_>>().join(" ");
        let (bind, port) = (format!("exabgp.tcp.bind={own}"), "exabgp.tcp.port=179");
        let python = ["python3", "-m", "exabgp", &config];
        let args = [&[modules.as_str(), &bind, port], &settings[..], &python[..]].concat();
        self.process = Some(self.place.daemon(Path::new("/"), "usr/bin/env", &args)?);
        Ok(())
    }

    fn established(&mut self, neighbor: IpAddr) -> Result<bool> {
        let process = self.process.as_mut().context("not started")?;
        if let Some(status) = process.exit_status()? {
            bail!("exabgp: {status}: {}", self.place.tail("env"));
        }
        let wanted = neighbor.to_string();
        let reports = self.reports();
        let mut states = reports.iter().filter(|report| {
            report["type"] == "state" && report["neighbor"]["address"]["peer"] == wanted.as_str()
        });
        Ok(states.next_back().is_some_and(|report| report["neighbor"]["state"] == "up"))
    }

    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>> {
        let mut table = BTreeMap::new();
        for report in self.reports() {
            apply(&mut table, family, &report)?;
        }
        Ok(table.into_values().collect())
    }

    fn announce(&mut self, route: &Announcement) -> Result<()> {
        self.speaker.routes.push(route.clone());
        self.announce_with(route, "")
    }

    fn withdraw(&mut self, prefix: IpNet) -> Result<()> {
        let gone = self.speaker.routes.iter().position(|route| route.prefix == prefix);
        let gone = self.speaker.routes.remove(gone.context("no such route")?);
        let family = Family::of(prefix.addr());
        let sessions = self.speaker.neighbors.iter().map(|neighbor| neighbor.address);
        for address in sessions.filter(|address| Family::of(*address) == family) {
            let line = self.route_line(&gone, "");
            self.say(&format!("neighbor {address} withdraw {line}"))?;
        }
        Ok(())
    }

    fn refresh(&mut self, _: IpAddr) -> Result<()> {
        bail!("exabgp's API has no command that asks for a refresh")
    }

    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()> {
        for session in &mut self.speaker.neighbors {
            if session.address == neighbor {
                session.options.password = Some(password.to_owned());
            }
        }
        self.write_config()?;
        if let Some(process) = &self.process {
            process.signal(Signal::SIGUSR1);
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        self.place.tail("env")
    }
}

/// A path's key: the neighbor, the prefix, and the identifier of RFC 7911 or nothing.
type Key = (String, IpNet, String);

/// What one report changes.
fn apply(table: &mut BTreeMap<Key, Route>, family: Family, report: &Value) -> Result<()> {
    let neighbor = report["neighbor"]["address"]["peer"].as_str().unwrap_or_default().to_owned();
    if report["type"] == "state" && report["neighbor"]["state"] == "down" {
        table.retain(|(from, _, _), _| *from != neighbor);
    }
    let update = &report["neighbor"]["message"]["update"];
    let name = format!("ipv{} unicast", family.digit());
    let key = |entry: &Value| -> Result<Key> {
        let prefix = entry["nlri"].as_str().or(entry.as_str()).context("no prefix")?.parse()?;
        let path = entry["path-information"].as_str().unwrap_or_default().to_owned();
        Ok((neighbor.clone(), prefix, path))
    };
    for entry in update["withdraw"][&name].as_array().into_iter().flatten() {
        table.remove(&key(entry)?);
    }
    for (next_hop, entries) in update["announce"][&name].as_object().into_iter().flatten() {
        // A link-local address beside the global one is told as a second next hop.
        if next_hop.starts_with("fe80:") {
            continue;
        }
        for entry in entries.as_array().into_iter().flatten() {
            let key = key(entry)?;
            let route = Route {
                prefix: key.1,
                next_hop: next_hop.parse()?,
                as_path: as_path(&update["attribute"]["as-path"]),
                communities: communities(&update["attribute"]),
            };
            table.insert(key, route);
        }
    }
    Ok(())
}

/// A list of numbers, or segments by their index, by version.
fn as_path(value: &Value) -> Vec<u32> {
    let segments = value.as_object().into_iter().flatten();
    let inner = segments.filter_map(|(_, segment)| segment["value"].as_array()).flatten();
    let numbers = value.as_array().into_iter().flatten().chain(inner);
    numbers.filter_map(|asn| u32::try_from(asn.as_u64()?).ok()).collect()
}

fn communities(attributes: &Value) -> BTreeSet<String> {
    let lists = ["community", "large-community"].map(|name| attributes[name].as_array());
    let values = lists.into_iter().flatten().flatten().filter_map(Value::as_array);
    let join =
        |parts: &Vec<Value>| parts.iter().map(Value::to_string).collect::<Vec<_>>().join(":");
    values.map(join).collect()
}
