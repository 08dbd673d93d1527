//! BIRD: `bird2` for both families, and 1.6, which is one daemon for each. Their languages differ
//! in what is said of families; the control socket is the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use margay::lab::process::{Process, wait_for};

use crate::place::{self, Place};
use crate::speaker::{Announcement, FAMILIES, Family, Hops, Neighbor, Peer, Route, Speaker};

/// Longest wait for the control socket.
const START: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// One BIRD, or the two of version 1.
#[derive(Debug)]
pub(crate) struct Bird {
    version: Version,
    root: PathBuf,
    place: Place,
    speaker: Speaker,
    processes: Vec<Process>,
}

impl Bird {
    pub(crate) fn new(version: Version, place: Place, speaker: Speaker) -> Result<Bird> {
        let root = place::package(if version == Version::One { "bird" } else { "bird2" })?;
        Ok(Bird { version, root, place, speaker, processes: Vec::new() })
    }

    /// The names of its daemons, each with its families.
    fn daemons(&self) -> &'static [(&'static str, &'static [Family])] {
        match self.version {
            Version::One => &[("bird", &[Family::V4]), ("bird6", &[Family::V6])],
            Version::Two => &[("bird", &FAMILIES)],
        }
    }

    fn write_config(&self) -> Result<()> {
        for (name, families) in self.daemons() {
            self.place.write(&format!("{name}.conf"), &self.config(families))?;
        }
        Ok(())
    }

    fn config(&self, families: &[Family]) -> String {
        let mut text = format!(
            "log stderr all;\ndebug protocols {{ events }};\nrouter id {};\nprotocol device {{}}\n\
             protocol direct {{ {} }}\nprotocol kernel k4 {{ persist; graceful restart; {} }}\n",
            self.speaker.v4,
            // Next hops are looked up among these.
            if self.version == Version::One { "" } else { "ipv4; ipv6;" },
            match self.version {
                Version::One => "import none; export where source = RTS_BGP;",
                Version::Two => "ipv4 { import none; export where source = RTS_BGP; };",
            },
        );
        if self.speaker.neighbors.iter().any(|neighbor| neighbor.options.bfd.is_some()) {
            let times = "{ interval 100 ms; multiplier 3; }";
            text += &format!("protocol bfd {{ interface \"*\" {times}; multihop {times}; }}\n");
        }
        for family in families {
            self.write_static(&mut text, *family);
            for neighbor in &self.speaker.neighbors {
                if Family::of(neighbor.address) == *family {
                    self.write_session(&mut text, neighbor);
                }
            }
        }
        text
    }

    fn write_static(&self, text: &mut String, family: Family) {
        let channel = match self.version {
            Version::One => "import all".to_owned(),
            Version::Two => format!("ipv{}", family.digit()),
        };
        writeln!(text, "protocol static own{} {{ {channel};", family.digit()).unwrap();
        for route in &self.speaker.routes {
            if Family::of(route.prefix.addr()) != family {
                continue;
            }
            let (plain, large) = route.split();
            let add = |kind: &str, values: Vec<&str>| -> String {
                let values = values.into_iter().map(|value| value.replace(':', ","));
                values.map(|value| format!("bgp_{kind}.add(({value})); ")).collect()
            };
            let adds = add("community", plain) + &add("large_community", large);
            writeln!(text, " route {} blackhole {{ {adds}}};", route.prefix).unwrap();
        }
        text.push_str("}\n");
    }

    fn write_session(&self, text: &mut String, neighbor: &Neighbor) {
        let family = Family::of(neighbor.address);
        let options = &neighbor.options;
        let local = neighbor.local.unwrap_or(self.speaker.address(family));
        let reflector = self.speaker.cluster.filter(|_| options.client);
        // Without long numbers, version 2 refuses one that stands for them.
        let remote = match (self.version, options.four_octet) {
            (Version::Two, false) => "external".to_owned(),
            _ => format!("as {}", neighbor.asn),
        };
        let mut lines = vec![
            format!("local {local} as {}", self.speaker.asn),
            format!("neighbor {} {remote}", neighbor.address),
            // As Calico has it; some cases have addresses that are on no common subnet.
            if options.bfd == Some(Hops::One) { "direct" } else { "multihop 2" }.to_owned(),
            format!("bfd {}", on(options.bfd.is_some())),
            format!("hold time {}", options.hold_s),
            "connect retry time 1; connect delay time 1; error wait time 1,2".to_owned(),
            format!("passive {}", on(options.passive)),
            format!("enable as4 {}", on(options.four_octet)),
        ];
        match options.restart_s {
            Some(time) => lines.push(format!("graceful restart on; graceful restart time {time}")),
            None => lines.push("graceful restart off".to_owned()),
        }
        lines.extend(options.password.as_ref().map(|word| format!("password \"{word}\"")));
        lines.extend(reflector.map(|cluster| format!("rr client; rr cluster id {cluster}")));
        // A reflector leaves the next hop alone.
        let own = if self.speaker.cluster.is_some() { "" } else { "next hop self; " };
        let export = "where source ~ [ RTS_STATIC, RTS_BGP ]";
        let paths = on(options.add_path);
        let channel =
            format!("import all; export {export}; {own}add paths {paths}").trim().to_owned();
        lines.push(match self.version {
            Version::One => channel,
            Version::Two => format!("ipv{} {{ {channel}; }}", family.digit()),
        });
        let name = match neighbor.local {
            Some(local) => format!("{}_from_{}", session(neighbor.address), session(local)),
            None => session(neighbor.address),
        };
        writeln!(text, "protocol bgp {name} {{\n {};\n}}", lines.join(";\n ")).unwrap();
    }

    /// The answer to a command of the control socket of the daemon for `family`.
    fn ask(&self, family: Family, command: &str) -> Result<String> {
        let daemons = self.daemons();
        let (name, _) = daemons.iter().find(|(_, families)| families.contains(&family)).unwrap();
        ask(&self.place.file(&format!("{name}.sock")), command)
    }

    fn reconfigure(&self) -> Result<()> {
        self.write_config()?;
        for (_, families) in self.daemons() {
            let answer = self.ask(families[0], "configure")?;
            if !answer.contains("Reconfigur") {
                bail!("configure: {answer}");
            }
        }
        Ok(())
    }
}

impl Peer for Bird {
    fn name(&self) -> &'static str {
        match self.version {
            Version::One => "bird",
            Version::Two => "bird2",
        }
    }

    fn start(&mut self) -> Result<()> {
        self.write_config()?;
        self.processes.clear();
        let restarting = self.place.file("started").exists();
        for (name, families) in self.daemons() {
            let program = format!("usr/sbin/{name}");
            let (config, socket) = (format!("{name}.conf"), format!("{name}.sock"));
            let mut args = vec!["-f", "-c", &config, "-s", &socket];
            // Its own recovery: routes of the kernel's table are held until End-of-RIB.
            args.extend(restarting.then_some("-R"));
            self.processes.push(self.place.daemon(&self.root, &program, &args)?);
            let what = format!("{name} to start");
            wait_for(&what, START, || Ok(self.ask(families[0], "show status").ok()))
                .with_context(|| self.place.tail(name))?;
        }
        self.place.write("started", "")
    }

    fn established(&mut self, neighbor: IpAddr) -> Result<bool> {
        let name = session(neighbor);
        let text = self.ask(Family::of(neighbor), &format!("show protocols {name}"))?;
        Ok(text.lines().any(|line| line.starts_with(&name) && line.contains("Established")))
    }

    fn routes(&mut self, family: Family) -> Result<BTreeSet<Route>> {
        let table = match self.version {
            Version::One => String::new(),
            Version::Two => format!(" table master{}", family.digit()),
        };
        let text = self.ask(family, &format!("show route all{table} where source = RTS_BGP"))?;
        parse_routes(&text)
    }

    fn announce(&mut self, route: &Announcement) -> Result<()> {
        self.speaker.routes.push(route.clone());
        self.reconfigure()
    }

    fn withdraw(&mut self, prefix: IpNet) -> Result<()> {
        self.speaker.routes.retain(|route| route.prefix != prefix);
        self.reconfigure()
    }

    fn refresh(&mut self, neighbor: IpAddr) -> Result<()> {
        let name = session(neighbor);
        let answer = self.ask(Family::of(neighbor), &format!("reload in {name}"))?;
        if !answer.contains("reloading") {
            bail!("reload in {name}: {answer}");
        }
        Ok(())
    }

    fn set_password(&mut self, neighbor: IpAddr, password: &str) -> Result<()> {
        for session in &mut self.speaker.neighbors {
            if session.address == neighbor {
                session.options.password = Some(password.to_owned());
            }
        }
        self.reconfigure()
    }

    fn has_bfd_up(&mut self, neighbor: IpAddr) -> Result<bool> {
        let text = self.ask(Family::of(neighbor), "show bfd sessions")?;
        let is_it = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.contains(&neighbor.to_string().as_str()) && words.contains(&"Up")
        };
        Ok(text.lines().any(is_it))
    }

    fn log_tail(&self) -> String {
        let logs = self.daemons().iter().map(|(name, _)| self.place.tail(name));
        logs.collect::<Vec<_>>().join("\n--\n")
    }
}

/// The answer to a command of a control socket.
pub(crate) fn ask(socket: &Path, command: &str) -> Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(START))?;
    let mut reader = BufReader::new(stream);
    read_reply(&mut reader)?;
    reader.get_mut().write_all(format!("{command}\n").as_bytes())?;
    read_reply(&mut reader)
}

/// The name of the session with a neighbor.
fn session(neighbor: IpAddr) -> String {
    format!("p{}", neighbor.to_string().replace([':', '.'], "_"))
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// Reads one reply: lines with a code of four digits and `-`, the last with a blank instead;
/// without a code when it is the previous one's. Tabs and further lines start with a blank.
fn read_reply(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the control socket closed");
        }
        let code = line.get(..4).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        let rest = if code.is_some() { line.get(5..) } else { line.get(1..) };
        text += rest.unwrap_or("\n");
        // The last line's fifth byte is a blank, and so is the first of a line without a code.
        if code.is_some_and(|code| line.as_bytes()[4] == b' ' && code != "0002") {
            return Ok(text);
        }
    }
}

/// Reads `show route all`: a line for each path, then its attributes behind tabs.
fn parse_routes(text: &str) -> Result<BTreeSet<Route>> {
    let mut routes: Vec<Route> = Vec::new();
    let mut prefix = None;
    for line in text.lines() {
        let is_path = line.contains(" [") && !line.starts_with('\t');
        if is_path {
            let word = line.split_whitespace().next().unwrap_or_default();
            // A further path to the same prefix has blanks in its place.
            prefix = word.parse().ok().or(prefix);
            let prefix = prefix.with_context(|| format!("no prefix: {line}"))?;
            let next_hop = IpAddr::from([0, 0, 0, 0]);
            let (as_path, communities) = (Vec::new(), BTreeSet::new());
            routes.push(Route { prefix, next_hop, as_path, communities });
            continue;
        }
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        let Some(route) = routes.last_mut() else { continue };
        match name {
            // Of IPv6, a link-local address may follow.
            "BGP.next_hop" => {
                route.next_hop = value.split_whitespace().next().context("")?.parse()?
            }
            "BGP.as_path" => route.as_path = numbers(value)?,
            "BGP.community" | "BGP.large_community" => {
                route.communities.extend(communities(value));
            }
            _ => {}
        }
    }
    Ok(routes.into_iter().collect())
}

fn numbers(text: &str) -> Result<Vec<u32>> {
    text.split_whitespace()
        .map(|word| word.parse().with_context(|| format!("AS path: {text}")))
        .collect()
}

/// `(65001,7) (65001, 1, 2)` as `65001:7`, `65001:1:2`.
fn communities(text: &str) -> Vec<String> {
    let groups = text.split(')').map(|group| group.trim().trim_start_matches('('));
    let groups = groups.filter(|group| !group.is_empty());
    groups.map(|group| group.replace(", ", ":").replace(',', ":")).collect()
}
