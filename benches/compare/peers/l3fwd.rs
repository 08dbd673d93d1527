//! DPDK's example router l3fwd, built from its source in package dpdk-doc, on virtual devices.

use crate::machine::HugePages;
use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use margay::lab::process::{self, Process, pause, wait_for};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const INSTALLED: &str = "/usr/share/dpdk/examples";
const BUILD_LIMIT: Duration = Duration::from_secs(180);
const START_LIMIT: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_secs(1);

/// What is changed in its source. net_pcap offers neither receive checksums nor RSS, and l3fwd
/// insists on both; a full table has more routes, and each is not to be printed.
const CHANGES: &[(&str, &str, &str)] = &[
    ("main.c", "RTE_ETH_MQ_RX_RSS", "RTE_ETH_MQ_RX_NONE"),
    ("main.c", ".offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM", ".offloads = 0"),
    ("main.c", ".rss_hf = RTE_ETH_RSS_IP,", ".rss_hf = 0,"),
    ("l3fwd_fib.c", "config_ipv4.max_routes = (1 << 16);", "config_ipv4.max_routes = (1 << 20);"),
    ("l3fwd_fib.c", "printf(\"FIB: Adding", "if (0) printf(\"FIB: Adding"),
];

/// The table that it looks routes up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    Lpm,
    Fib,
}

/// The built program.
#[derive(Debug)]
pub(crate) struct L3fwd {
    binary: PathBuf,
}

impl L3fwd {
    /// Builds it under `target/compare`, once; without the source on this machine, from the
    /// package fetched there.
    pub(crate) fn build() -> Result<L3fwd> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/compare");
        let binary = target.join("l3fwd-full/l3fwd");
        if binary.exists() {
            return Ok(L3fwd { binary });
        }
        let examples = source(&target)?;
        let (from, to) = (examples.join("l3fwd"), target.join("l3fwd-full"));
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from).context("l3fwd's source")? {
            let entry = entry?;
            let mut text = fs::read_to_string(entry.path())?;
            for (file, wrong, right) in CHANGES {
                if entry.file_name() == *file {
                    text = text.replacen(wrong, right, 1);
                }
            }
            fs::write(to.join(entry.file_name()), text)?;
        }
        let include = examples.join("common").display().to_string();
        let line = format!(
            "cc -O3 $(pkg-config --cflags libdpdk) -DALLOW_EXPERIMENTAL_API -I{include} \
             $(sed -n 's/^SRCS-y .= *//p' Makefile) -o l3fwd $(pkg-config --libs libdpdk)"
        );
        let mut command = process::command("sh", &["-c", &line]);
        command.current_dir(&to);
        process::run_ok(command, "", BUILD_LIMIT).context("building l3fwd")?;
        Ok(L3fwd { binary })
    }

    /// Million packets a second that its sink counted.
    pub(crate) fn measure(
        &self,
        lookup: Lookup,
        (capture, routes): (&Path, &[Ipv4Net]),
        huge: Option<&HugePages>,
        directory: &Path,
        time: Duration,
    ) -> Result<f64> {
        let prefix = format!("mgy{}", std::process::id());
        let command = self.command(lookup, (capture, routes), huge, directory, &prefix)?;
        let log = directory.join("l3fwd.log");
        fs::remove_file(&log).ok();
        let mut running = Process::start_logged(command, &log)?;
        wait_for("l3fwd to start", START_LIMIT, || {
            if let Some(status) = running.exit_status()? {
                bail!("l3fwd: {status}: {}", last_lines(&log));
            }
            let text = fs::read_to_string(&log).unwrap_or_default();
            Ok(text.contains("Checking link status").then_some(()))
        })?;
        pause(WARM_UP)?;
        let mut telemetry = Telemetry::connect(&prefix)?;
        let (before, start) = (telemetry.sent()?, Instant::now());
        pause(time)?;
        let (after, elapsed) = (telemetry.sent()?, start.elapsed());
        Ok((after - before) as f64 / elapsed.as_secs_f64() / 1e6)
    }

    fn command(
        &self,
        lookup: Lookup,
        (capture, routes): (&Path, &[Ipv4Net]),
        huge: Option<&HugePages>,
        directory: &Path,
        prefix: &str,
    ) -> Result<Command> {
        let (v4, v6) = (directory.join("v4.rules"), directory.join("v6.rules"));
        let mut rules = String::new();
        for net in routes {
            let _ = writeln!(rules, "R{net} 1");
        }
        fs::write(&v4, rules)?;
        fs::write(&v6, "R2001:200::/64 1\n")?;
        let mut command = process::command(&self.binary.display().to_string(), &[]);
        command.args(["-l", &crate::ROUTER_CORE.to_string(), "--no-pci", "--file-prefix", prefix]);
        match huge {
            Some(huge) => command.args(["--huge-dir", &huge.path()]),
            None => command.args(["--no-huge", "-m", "512"]),
        };
        let source = format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display());
        command.args(["--vdev", &source, "--vdev", "net_null0,no-rx=1", "--log-level", "4", "--"]);
        command.args(["-p", "3", "-P", "--parse-ptype", "--config=(0,0,1),(1,0,1)"]);
        command.arg(format!("--rule_ipv4={}", v4.display()));
        command.arg(format!("--rule_ipv6={}", v6.display()));
        command.arg(if lookup == Lookup::Lpm { "--lookup=lpm" } else { "--lookup=fib" });
        Ok(command)
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// Where the examples' source is, fetched as a package if need be.
fn source(target: &Path) -> Result<PathBuf> {
    let installed = Path::new(INSTALLED);
    if installed.join("l3fwd").is_dir() {
        return Ok(installed.to_owned());
    }
    let folder = target.join("dpdk-doc");
    fs::create_dir_all(&folder)?;
    let line = "apt-get download dpdk-doc && dpkg-deb -x dpdk-doc_*.deb .";
    let mut command = process::command("sh", &["-c", line]);
    command.current_dir(&folder);
    process::run_ok(command, "", BUILD_LIMIT)
        .context("no source of l3fwd: install the package dpdk-doc")?;
    Ok(folder.join("usr/share/dpdk/examples"))
}

/// DPDK's own question-and-answer socket, through its script.
struct Telemetry {
    process: std::process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Telemetry {
    fn connect(prefix: &str) -> Result<Telemetry> {
        let mut command = process::command("dpdk-telemetry.py", &["-f", prefix]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().context("dpdk-telemetry.py")?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Telemetry { process, input, output })
    }

    /// Packets that the sink took.
    fn sent(&mut self) -> Result<u64> {
        writeln!(self.input, "/ethdev/stats,1")?;
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            if let Some((_, rest)) = line.split_once("\"opackets\": ") {
                let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next();
                return digits.and_then(|digits| digits.parse().ok()).context("opackets");
            }
            line.clear();
        }
        bail!("l3fwd's telemetry ended")
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // It ends by itself with its input; both fail only when it has.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
