//! BIRD 2 as the lab's top of rack: found on the machine, started in a namespace, told by its
//! configuration what to announce, asked by its control socket.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;

use super::namespace::Namespace;
use super::process::{self, Process, wait_for};

/// Names the program, or a folder where the package is unpacked, if BIRD is not installed.
pub const VARIABLE: &str = "MARGAY_BIRD";
/// The program inside of the package.
const PROGRAM: &str = "usr/sbin/bird";
/// What to do without it.
const HINT: &str = "on Debian: apt-get install bird2";
/// A dead peer is found within 0.3 s.
const BFD: &str = "interval 100 ms; multiplier 3;";
/// Longest wait for the control socket, and for the end.
const LIMIT: Duration = Duration::from_secs(10);

/// A BIRD 2 of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    program: PathBuf,
    /// Where its libraries are, if not where the machine's are.
    libraries: Option<String>,
    /// As it says it: `2.0.12`.
    pub version: String,
}

impl Installation {
    /// The one that [`VARIABLE`] names, else that of the path or of `/usr/sbin`.
    pub fn find() -> Result<Installation> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let path = std::env::var("PATH").unwrap_or_default();
        let installed = path.split(':').chain(["/usr/sbin"]);
        let mut installed = installed.map(|place| Path::new(place).join("bird"));
        let (program, root) = match named {
            Some(place) if place.is_dir() => (Some(place.join(PROGRAM)), Some(place)),
            Some(program) => (Some(program), None),
            None => (installed.find(|program| program.is_file()), None),
        };
        let Some(program) = program.filter(|program| program.is_file()) else {
            bail!("BIRD 2 (package bird2) is not installed\n{HINT}");
        };
        let libraries = root.map(|root| {
            let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
            let place = |part: &str| root.join(part).join(&machine).display().to_string();
            format!("{}:{}", place("usr/lib"), place("lib"))
        });
        let mut found = Installation { program, libraries, version: String::new() };
        found.version = found.ask_version()?;
        ensure!(
            found.version.starts_with("2."),
            "{} is BIRD {}, and the lab needs BIRD 2 (package bird2)\n{HINT}",
            found.program.display(),
            found.version
        );
        Ok(found)
    }

    fn ask_version(&self) -> Result<String> {
        let mut command = process::command(text(&self.program)?, &["--version"]);
        command.envs(self.libraries.iter().map(|places| ("LD_LIBRARY_PATH", places)));
        let output = process::run(command, "", LIMIT)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        let version = said.trim().strip_prefix("BIRD version ");
        version.map(str::to_owned).with_context(|| format!("bird --version: {}", said.trim()))
    }
}

/// A session that it is to have.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// Its own end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
    /// The AS of the other end.
    pub remote_asn: u32,
}

/// What it is to be.
#[derive(Debug, Clone)]
pub struct BirdSpec {
    /// The program.
    pub installation: Installation,
    /// Its AS.
    pub asn: u32,
    /// Its sessions, each with the family of its addresses. BFD watches all of them.
    pub sessions: Vec<Session>,
    /// What it announces: prefixes and where they are.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Where configuration, socket and log are written.
    pub directory: PathBuf,
    /// Whether it may outlive the lab.
    pub detached: bool,
}

impl BirdSpec {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn config(&self) -> String {
        let router_id = self.sessions.iter().find(|session| session.local.is_ipv4());
        let router_id = router_id.map_or_else(|| "192.0.2.1".into(), |s| s.local.to_string());
        let mut text = format!(
            "log stderr all;\nrouter id {router_id};\nprotocol device {{}}\n\
             protocol direct {{ ipv4; ipv6; }}\n\
             protocol bfd {{ interface \"*\" {{ {BFD} }}; }}\n"
        );
        for digit in ['4', '6'] {
            let _ = writeln!(
                text,
                "protocol kernel k{digit} {{ ipv{digit} {{ import none; \
                 export where source = RTS_BGP; }}; }}\n\
                 protocol static own{digit} {{ ipv{digit};"
            );
            for (prefix, via) in self.routes_of(digit) {
                let _ = writeln!(text, " route {prefix} via {via};");
            }
            text.push_str("}\n");
        }
        for (at, session) in self.sessions.iter().enumerate() {
            let Session { local, remote, remote_asn } = session;
            let digit = digit(*local);
            let prefixes: Vec<String> =
                self.routes_of(digit).map(|(prefix, _)| prefix.to_string()).collect();
            let export = match prefixes.is_empty() {
                true => "none".to_owned(),
                // Of a connected one, the best route is not the static one.
                false => format!("where net ~ [ {} ]", prefixes.join(", ")),
            };
            let _ = writeln!(
                text,
                "protocol bgp edge{at} {{ local {local} as {}; neighbor {remote} as {remote_asn}; \
                 connect delay time 1; connect retry time 1; error wait time 1,2; \
                 direct; bfd on; ipv{digit} {{ import all; export {export}; }}; }}",
                self.asn
            );
        }
        text
    }

    fn routes_of(&self, family: char) -> impl Iterator<Item = &(IpNet, IpAddr)> {
        self.routes.iter().filter(move |(_, via)| digit(*via) == family)
    }
}

/// A running BIRD. SIGTERM, and a little later SIGKILL, when dropped.
#[derive(Debug)]
pub struct Bird {
    spec: BirdSpec,
    process: Process,
    released: bool,
}

impl Bird {
    /// Starts it, and waits for its control socket.
    pub fn start(spec: BirdSpec, namespace: &Namespace) -> Result<Bird> {
        let (config, socket) = (spec.file("bird.conf"), spec.file("bird.ctl"));
        fs::write(&config, spec.config())
            .with_context(|| format!("cannot write {}", config.display()))?;
        let program = text(&spec.installation.program)?;
        let (config, socket) = (text(&config)?, text(&socket)?);
        let inside = ["netns", "exec", namespace.name(), program];
        let args = [&inside[..], &["-f", "-c", config, "-s", socket]].concat();
        let mut command = match spec.detached {
            true => process::detached_command("ip", &args),
            false => process::command("ip", &args),
        };
        command.envs(spec.installation.libraries.iter().map(|text| ("LD_LIBRARY_PATH", text)));
        let process = Process::start_logged(command, &spec.file("bird.log"))?;
        let mut bird = Bird { spec, process, released: false };
        wait_for("BIRD to start", LIMIT, || {
            let ended = bird.process.exit_status()?;
            ensure!(ended.is_none(), "BIRD has ended: {}", bird.log_tail());
            Ok(bird.ask("show status").ok())
        })?;
        Ok(bird)
    }

    /// The version that runs.
    pub fn version(&self) -> &str {
        &self.spec.installation.version
    }

    /// What `birdc` would print.
    pub fn ask(&self, command: &str) -> Result<String> {
        let stream = UnixStream::connect(self.spec.file("bird.ctl"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut reader = BufReader::new(stream);
        read_reply(&mut reader)?;
        reader.get_mut().write_all(format!("{command}\n").as_bytes())?;
        read_reply(&mut reader)
    }

    /// Announces these prefixes, and no others, from now on.
    pub fn announce(&mut self, routes: Vec<(IpNet, IpAddr)>) -> Result<()> {
        self.spec.routes = routes;
        let config = self.spec.file("bird.conf");
        fs::write(&config, self.spec.config())
            .with_context(|| format!("cannot write {}", config.display()))?;
        let answer = self.ask("configure")?;
        ensure!(answer.contains("Reconfigur"), "configure: {}", answer.trim());
        Ok(())
    }

    /// What it announces.
    pub fn routes(&self) -> &[(IpNet, IpAddr)] {
        &self.spec.routes
    }

    /// How many of its BGP sessions are up.
    pub fn established(&self) -> Result<usize> {
        let list = self.ask("show protocols")?;
        let is_up = |line: &&str| line.contains(" BGP ") && line.contains("Established");
        Ok(list.lines().filter(is_up).count())
    }

    /// How many of its BFD sessions are up.
    pub fn watched(&self) -> Result<usize> {
        let list = self.ask("show bfd sessions")?;
        Ok(list.lines().filter(|line| line.contains(" Up ")).count())
    }

    /// Halts it, or lets it go on: its kernel keeps the connections, so that only BFD can tell.
    pub fn halt(&self, halted: bool) {
        self.process.signal(if halted { Signal::SIGSTOP } else { Signal::SIGCONT });
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.end(Signal::SIGTERM, LIMIT)?;
        ensure!(status.success(), "BIRD ended with {status}: {}", self.log_tail());
        Ok(())
    }

    /// Dropping it leaves it running; of use only for a detached one.
    pub fn release(&mut self) {
        self.released = true;
        self.process.release();
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.spec.file("bird.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        if !self.released && matches!(self.process.exit_status(), Ok(None)) {
            // It is killed right after if this fails.
            self.process.end(Signal::SIGTERM, LIMIT).ok();
        }
    }
}

/// Reads one reply: each line has a code of four digits, and `-` behind it where another follows;
/// or a blank instead of code and all, where the code is that of the line before.
fn read_reply(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "BIRD closed its control socket");
        let code = line.get(..4).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        text += line.get(if code.is_some() { 5 } else { 1 }..).unwrap_or("\n");
        // 0002 only tells how to read on.
        if code.is_some_and(|code| code != "0002") && line.as_bytes().get(4) == Some(&b' ') {
            return Ok(text);
        }
    }
}

fn digit(address: IpAddr) -> char {
    if address.is_ipv4() { '4' } else { '6' }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not a UTF-8 path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_with_a_blank_behind_its_code() {
        let said = "0001 BIRD 2.0.12 ready.\n2002-Name       Proto\n1002-edge0      BGP\n \
                    edge1      BGP\n0000 \n";
        let mut reader = said.as_bytes();
        assert_eq!(read_reply(&mut reader).unwrap(), "BIRD 2.0.12 ready.\n");
        let list = read_reply(&mut reader).unwrap();
        assert_eq!(list, "Name       Proto\nedge0      BGP\nedge1      BGP\n\n");
        assert!(read_reply(&mut reader).is_err());
    }

    #[test]
    fn a_session_has_the_family_of_its_addresses() {
        let installation =
            Installation { program: "/bird".into(), libraries: None, version: "2".to_owned() };
        let session = |local: &str, remote: &str| Session {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            remote_asn: 64512,
        };
        let spec = BirdSpec {
            installation,
            asn: 64600,
            sessions: vec![session("10.0.0.1", "10.0.0.2"), session("fd00::1", "fd00::2")],
            routes: vec![("203.0.113.0/24".parse().unwrap(), "10.0.0.9".parse().unwrap())],
            directory: PathBuf::from("/"),
            detached: false,
        };
        let config = spec.config();
        assert!(config.contains("router id 10.0.0.1;"), "{config}");
        let v4 = "local 10.0.0.1 as 64600; neighbor 10.0.0.2 as 64512;";
        assert!(config.contains(v4) && config.contains("neighbor fd00::2"), "{config}");
        assert_eq!(config.matches(" ipv6 { import all;").count(), 1, "{config}");
        let v6_routes = config.split("protocol static own6").nth(1).unwrap();
        assert!(!v6_routes.contains("route 203"), "{config}");
    }
}
