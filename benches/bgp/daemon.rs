//! The daemons: where they come from, their configuration, what they have cost.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use margay::lab::namespace::Namespace;
use margay::lab::process::{self, Process};
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::scenario::{PORT, TARGET, TARGET_AS};

const FETCH_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Daemon {
    Margay,
    Bird2,
    Bird,
    Gobgpd,
}

/// A peer that it is to have; all connect to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighbor {
    pub(crate) address: Ipv4Addr,
    pub(crate) asn: u32,
    pub(crate) client: bool,
}

/// What a daemon is to be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) neighbors: Vec<Neighbor>,
    pub(crate) directory: PathBuf,
}

/// One that runs; killed when dropped.
pub(crate) struct Running {
    process: Process,
}

impl Running {
    /// CPU seconds and peak memory in MiB of the daemon so far.
    pub(crate) fn cost(&self) -> Result<(f64, f64)> {
        // `ip netns exec` becomes the daemon: it has its number.
        let folder = PathBuf::from(format!("/proc/{}", self.process.pid()));
        let stat = fs::read_to_string(folder.join("stat")).context("the daemon has ended")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        let cpu = ticks(11).zip(ticks(12)).context("/proc/PID/stat")?;
        let status = fs::read_to_string(folder.join("status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        let hertz = 100.0;
        Ok(((cpu.0 + cpu.1) / hertz, peak.context("VmHWM")? / 1024.0))
    }
}

impl Daemon {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Daemon::Margay => "margay",
            Daemon::Bird2 => "bird2",
            Daemon::Bird => "bird 1.6",
            Daemon::Gobgpd => "gobgpd",
        }
    }

    fn package(self) -> Option<(&'static str, &'static str)> {
        match self {
            Daemon::Margay => None,
            Daemon::Bird2 => Some(("bird2", "usr/sbin/bird")),
            Daemon::Bird => Some(("bird", "usr/sbin/bird")),
            Daemon::Gobgpd => Some(("gobgpd", "usr/bin/gobgpd")),
        }
    }

    /// The program, from the unpacked Debian package: they cannot all be installed side by side.
    fn program(self) -> Result<PathBuf> {
        let Some((package, place)) = self.package() else {
            return std::env::current_exe().context("this program");
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compare").join(package);
        let program = folder.join(place);
        if !program.exists() {
            fs::create_dir_all(&folder).context("a folder for packages")?;
            let line = format!("apt-get download {package} && dpkg-deb -x {package}_*.deb .");
            let mut command = process::command("sh", &["-c", &line]);
            command.current_dir(&folder);
            process::run_ok(command, "", FETCH_LIMIT)?;
        }
        ensure!(program.exists(), "{package} has no {place}");
        Ok(program)
    }

    pub(crate) fn version(self) -> String {
        let Some((package, _)) = self.package() else {
            return format!("margay {}", env!("CARGO_PKG_VERSION"));
        };
        let args = ["show", "--no-all-versions", package];
        let text = process::run_ok(process::command("apt-cache", &args), "", FETCH_LIMIT);
        let text = text.unwrap_or_default();
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        format!("{package} {}", version.unwrap_or("?"))
    }

    /// Starts it in a namespace.
    pub(crate) fn start(self, plan: &Plan, namespace: &Namespace) -> Result<Running> {
        let program = self.program()?;
        let program = program.to_str().context("a path of letters")?;
        let config = plan.directory.join("daemon.conf");
        let control = plan.directory.join("control");
        let text = match self {
            Daemon::Margay => margay(plan),
            Daemon::Bird2 => bird2(plan),
            Daemon::Bird => bird1(plan),
            Daemon::Gobgpd => gobgpd(plan),
        };
        fs::write(&config, text).context("a configuration")?;
        let (config, control) = (path(&config)?, path(&control)?);
        let args: Vec<&str> = match self {
            Daemon::Margay => vec!["--speaker", config],
            Daemon::Bird2 | Daemon::Bird => vec!["-f", "-c", config, "-s", control],
            Daemon::Gobgpd => vec!["-f", config, "--api-hosts", "127.0.0.1:50051", "-l", "error"],
        };
        let mut command = namespace.command(program, &args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start_logged(command, &plan.directory.join("daemon.log"))?;
        Ok(Running { process })
    }
}

fn path(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(path) => Ok(path),
        None => bail!("{} is no text", path.display()),
    }
}

fn margay(plan: &Plan) -> String {
    let one = |neighbor: &Neighbor| {
        let Neighbor { address, asn, client } = neighbor;
        json!({"address": address, "asn": asn, "client": client})
    };
    serde_json::Value::from_iter(plan.neighbors.iter().map(one)).to_string()
}

fn bird2(plan: &Plan) -> String {
    let mut text =
        format!("router id {TARGET};\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n");
    for (at, Neighbor { address, asn, client }) in plan.neighbors.iter().enumerate() {
        let client = if *client { " rr client;" } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp p{at} {{ local {TARGET} port {PORT} as {TARGET_AS}; neighbor {address} \
             as {asn}; passive on; strict bind off;{client} ipv4 {{ import all; \
             export where source = RTS_BGP; }}; }}"
        );
    }
    text
}

fn bird1(plan: &Plan) -> String {
    let mut text = format!(
        "router id {TARGET};\nlisten bgp address {TARGET} port {PORT};\nprotocol device {{}}\n\
         protocol direct {{}}\n"
    );
    for (at, Neighbor { address, asn, client }) in plan.neighbors.iter().enumerate() {
        let client = if *client { " rr client;" } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp p{at} {{ local {TARGET} as {TARGET_AS}; neighbor {address} as {asn}; \
             passive on;{client} import all; export where source = RTS_BGP; }}"
        );
    }
    text
}

fn gobgpd(plan: &Plan) -> String {
    let mut text = format!(
        "[global.config]\nas = {TARGET_AS}\nrouter-id = \"{TARGET}\"\nport = {PORT}\n\
         local-address-list = [\"{TARGET}\"]\n"
    );
    for Neighbor { address, asn, client } in &plan.neighbors {
        let _ = write!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
             [neighbors.transport.config]\npassive-mode = true\nlocal-address = \"{TARGET}\"\n"
        );
        if *client {
            let _ = write!(
                text,
                "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{TARGET}\"\n"
            );
        }
    }
    text
}
