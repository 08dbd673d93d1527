//! OpenBGPD: a file that it reads again on `bgpctl reload`. It keeps the routes of a neighbor that
//! restarts, and does not ask for the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use margay::lab::process::{Process, wait_for};
use serde_json::Value;

use crate::place::{self, Place};
use crate::speaker::{Announcement, Family, Neighbor, Peer, Route, Speaker};

/// Longest wait for the control socket.
const START: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Openbgpd {
    root: PathBuf,
    place: Place,
    speaker: Speaker,
    process: Option<Process>,
}

impl Openbgpd {
    pub(crate) fn new(place: Place, speaker: Speaker) -> Result<Openbgpd> {
        let root = place::package("openbgpd")?;
        Ok(Openbgpd { root, place, speaker, process: None })
    }

    fn config(&self) -> String {
        let mut text = format!(
            "AS {}\nrouter-id {}\nfib-update no\nsocket \"{}\"\nholdtime min 3\n",
            self.speaker.asn,
            self.speaker.v4,
            self.place.path("control")
        );
        for route in &self.speaker.routes {
            let (plain, large) = route.split();
            let plain = plain.iter().map(|value| format!("community {value}"));
            let large = large.iter().map(|value| format!("large-community {value}"));
            let sets: Vec<String> = plain.chain(large).collect();
            let sets = if sets.is_empty() {
                String::new()
            } else {
                format!("set {{ {} }}", sets.join(", "))
            };
            writeln!(text, "network {} {sets}", route.prefix).unwrap();
        }
        for neighbor in &self.speaker.neighbors {
            self.write_session(&mut text, neighbor);
        }
        text + "allow from any\nallow to any\n"
    }

    fn write_session(&self, text: &mut String, neighbor: &Neighbor) {
        let Neighbor { address, asn, options, .. } = neighbor;
        let family = Family::of(*address);
        let other = if family == Family::V4 { '6' } else { '4' };
        let yes = |value: bool| if value { "yes" } else { "no" };
        let send = if options.add_path { "all" } else { "no" };
        let mut lines = vec![
            format!("remote-as {asn}"),
            format!("local-address {}", self.speaker.address(family)),
            format!("holdtime {}", options.hold_s),
            format!("announce IPv{} unicast", family.digit()),
            format!("announce IPv{other} none"),
            format!("announce add-path recv {}", yes(options.add_path)),
            format!("announce add-path send {send}"),
            format!("announce restart {}", yes(options.restart_s.is_some())),
            format!("announce as-4byte {}", yes(options.four_octet)),
        ];
        lines.extend(options.passive.then(|| "passive".to_owned()));
        lines.extend(options.password.as_ref().map(|word| format!("tcp md5sig password {word}")));
        let reflector = self.speaker.cluster.filter(|_| options.client);
        if reflector.is_none() {
            // Else a third router on the same link stays the next hop.
            lines.push("set nexthop self".to_owned());
        }
        lines.extend(reflector.map(|cluster| format!("route-reflector {cluster}")));
        writeln!(text, "neighbor {address} {{\n {}\n}}", lines.join("\n ")).unwrap();
    }

    fn client(&self, args: &[&str]) -> Result<String> {
        let socket = self.place.path("control");
        self.place.run(&self.root, "usr/sbin/bgpctl", &[&["-s", &socket, "-j"], args].concat())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.client(args)?;
        serde_json::from_str(&text).with_context(|| format!("{args:?}: {text}"))
    }

    fn reload(&self) -> Result<()> {
        self.write_config()?;
        self.client(&["reload"]).map(drop)
    }

    fn write_config(&self) -> Result<()> {
        self.place.write("bgpd.conf", &self.config())?;
        // It refuses a file that others may read, for it has passwords.
        use std::os::unix::fs::PermissionsExt;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.place.file("bgpd.conf"), private)?;
        Ok(())
    }
}

impl Peer for Openbgpd {
    fn name(&self) -> &'static str {
        "openbgpd"
    }

    fn start(&mut self) -> Result<()> {
        self.write_config()?;
        let config = self.place.path("bgpd.conf");
        let args = ["-dv", "-f", &config];
        self.process = Some(self.place.daemon(&self.root, "usr/sbin/bgpd", &args)?);
        wait_for("bgpd to start", START, || Ok(self.client(&["show"]).ok()))
            .with_context(|| self.place.tail("bgpd"))?;
        Ok(())
    }

    fn established(&mut self, neighbor: IpAddr) -> Result<bool> {
        let answer = self.json(&["show", "neighbor", &neighbor.to_string()])?;
        Ok(answer["neighbors"][0]["state"] == "Established")
    }

    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>> {
        let name = if family == Family::V4 { "inet" } else { "inet6" };
        let table = self.json(&["show", "rib", name, "detail"])?;
        let paths = table["rib"].as_array().into_iter().flatten();
        let learnt = paths.filter(|path| path["neighbor"]["description"] != "LOCAL");
        learnt.map(route).collect()
    }

    fn announce(&mut self, route: &Announcement) -> Result<()> {
        self.speaker.routes.push(route.clone());
        self.reload()
    }

    fn withdraw(&mut self, prefix: IpNet) -> Result<()> {
        self.speaker.routes.retain(|route| route.prefix != prefix);
        self.reload()
    }

    fn refresh(&mut self, neighbor: IpAddr) -> Result<()> {
        self.client(&["neighbor", &neighbor.to_string(), "refresh"]).map(drop)
    }

    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()> {
        for session in &mut self.speaker.neighbors {
            if session.address == neighbor {
                session.options.password = Some(password.to_owned());
            }
        }
        self.reload()?;
        // The running session keeps the old one.
        self.client(&["neighbor", &neighbor.to_string(), "clear"]).map(drop)
    }

    fn log_tail(&self) -> String {
        self.place.tail("bgpd")
    }
}

fn route(path: &Value) -> Result<Route> {
    let text = |name: &str| path[name].as_str().with_context(|| format!("no {name}: {path}"));
    let list = |name: &str| path[name].as_array().into_iter().flatten();
    let numbers = text("aspath")?.split_whitespace();
    Ok(Route {
        prefix: text("prefix")?.parse()?,
        next_hop: text("exit_nexthop")?.parse()?,
        as_path: numbers.map(|asn| asn.parse().context("AS path")).collect::<Result<_>>()?,
        communities: list("communities")
            .chain(list("large_communities"))
            .filter_map(|value| Some(value.as_str()?.to_owned()))
            .collect(),
    })
}
