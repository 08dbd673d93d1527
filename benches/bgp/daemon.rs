//! The daemons: where they come from, how they are started, what they have cost.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use margay::lab::namespace::Namespace;
use margay::lab::process::{self, Process};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, Neighbor};
use crate::scenario::{PORT, TARGET, TARGET_V6};

const FETCH_LIMIT: Duration = Duration::from_secs(120);
/// Lines of a log worth showing.
const TAIL: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Daemon {
    Margay,
    Bird2,
    Bird,
    Frr,
    Gobgpd,
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
    log: PathBuf,
}

impl Running {
    /// CPU seconds and peak memory in MiB of the daemon so far.
    pub(crate) fn cost(&self) -> Result<(f64, f64)> {
        // `ip netns exec` becomes the daemon: it has its number.
        let folder = PathBuf::from(format!("/proc/{}", self.process.pid()));
        let stat = fs::read_to_string(folder.join("stat")).context("the daemon has ended")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        ensure!(!matches!(fields.first(), Some(&"Z" | &"X")), "the daemon has ended");
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        let cpu = ticks(11).zip(ticks(12)).context("/proc/PID/stat")?;
        let peak = process::proc_field(&format!("/proc/{}/status", self.process.pid()), "VmHWM:")?;
        let hertz = 100.0;
        Ok(((cpu.0 + cpu.1) / hertz, peak / 1024.0))
    }

    /// The last lines that it has printed, as one.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join(" / ")
    }
}

impl Daemon {
    pub(crate) const ALL: [Daemon; 5] =
        [Daemon::Margay, Daemon::Bird2, Daemon::Bird, Daemon::Frr, Daemon::Gobgpd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Daemon::Margay => "margay",
            Daemon::Bird2 => "bird2",
            Daemon::Bird => "bird 1.6",
            Daemon::Frr => "frr",
            Daemon::Gobgpd => "gobgpd",
        }
    }

    /// Its Debian package and the program in it.
    fn package(self) -> Option<(&'static str, &'static str)> {
        match self {
            Daemon::Margay => None,
            Daemon::Bird2 => Some(("bird2", "usr/sbin/bird")),
            Daemon::Bird => Some(("bird", "usr/sbin/bird")),
            Daemon::Frr => Some(("frr", "usr/lib/frr/bgpd")),
            Daemon::Gobgpd => Some(("gobgpd", "usr/bin/gobgpd")),
        }
    }

    /// The unpacked package, as the tests have it too: they cannot all be installed side by side.
    fn root(self) -> Result<PathBuf> {
        let Some((package, _)) = self.package() else { return Ok(PathBuf::from("/")) };
        let house = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
        let root = target.join("peers").join(package);
        if !root.join(".complete").exists() {
            let line = format!(". .ci/packages && unpack {package} >&2");
            let mut command = process::command("sh", &["-c", &line]);
            command.current_dir(house);
            process::run_ok(command, "", FETCH_LIMIT)?;
        }
        ensure!(root.join(".complete").exists(), "package {package} cannot be had");
        Ok(root)
    }

    fn program(self, root: &Path) -> Result<PathBuf> {
        match self.package() {
            None => std::env::current_exe().context("this program"),
            Some((_, place)) => Ok(root.join(place)),
        }
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

    fn config(self, plan: &Plan) -> Result<String> {
        Ok(match self {
            Daemon::Margay => config::margay(plan),
            Daemon::Bird2 => config::bird2(plan),
            Daemon::Bird if plan.neighbors.iter().any(|one| one.address.is_ipv6()) => {
                bail!("IPv6 is another daemon's in this version")
            }
            Daemon::Bird => config::bird1(plan),
            Daemon::Frr => config::frr(plan),
            Daemon::Gobgpd => config::gobgpd(plan),
        })
    }

    /// Starts it in a namespace, on all CPUs but the first, which is the peers'.
    pub(crate) fn start(self, plan: &Plan, namespace: &Namespace) -> Result<Running> {
        let root = self.root()?;
        let program = self.program(&root)?;
        let file = |name: &str| plan.directory.join(name);
        let (config, control, log) = (file("daemon.conf"), file("control"), file("daemon.log"));
        fs::write(&config, self.config(plan)?).context("a configuration")?;
        let (config, control) = (text(&config)?, text(&control)?);
        let (folder, port) = (text(&plan.directory)?, PORT.to_string());
        let (v4, v6) = (TARGET.to_string(), TARGET_V6.to_string());
        let args: Vec<&str> = match self {
            Daemon::Margay => vec!["--speaker", config],
            Daemon::Bird2 | Daemon::Bird => vec!["-f", "-c", config, "-s", control],
            Daemon::Gobgpd => vec!["-f", config, "--api-hosts", "127.0.0.1:50051", "-l", "error"],
            // Without zebra every next hop is reachable; as whoever starts it, without telnet.
            Daemon::Frr => vec![
                "-Z",
                "-S",
                "-P",
                "0",
                "-f",
                config,
                "-p",
                &port,
                "-l",
                &v4,
                "-l",
                &v6,
                "--vty_socket",
                folder,
                "-i",
                control,
            ],
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let cpus = format!("{}-{}", 1.min(cpus - 1), cpus - 1);
        let pinned = [&["-c", cpus.as_str(), text(&program)?], &args[..]].concat();
        let mut command = namespace.command("taskset", &pinned);
        if self == Daemon::Frr {
            command.env("LD_LIBRARY_PATH", libraries(&root)?);
        }
        let process = Process::start_logged(command, &log)?;
        Ok(Running { process, log })
    }
}

/// Where an unpacked package has its libraries.
fn libraries(root: &Path) -> Result<String> {
    let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
    let usr = root.join("usr/lib").join(&machine);
    let places = [root.join("lib").join(&machine), usr.join("frr"), usr];
    let places = places.iter().map(|place| text(place)).collect::<Result<Vec<_>>>()?;
    Ok(places.join(":"))
}

fn text(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(path) => Ok(path),
        None => bail!("{} is no text", path.display()),
    }
}
