//! `margay ctl node diags`: what helps to find a fault on this node, in one archive.
//!
//! calicoctl's commands with their files, margay's own state, its nf_tables rules, and the logs of
//! a folder. A command that is not there, fails or takes too long is told and left out.

use super::super::write::out;
use anyhow::{Context, Result, bail};
use margay::lab::process;
use margay_control::api::client;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Longest time that one command may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Most bytes of one log; of a longer one the end is kept.
const LOG_MAX: u64 = 64 << 20;
/// What is said, the command, and the file of its output.
const COMMANDS: [(&str, &str, &str); 13] = [
    ("", "date", "date"),
    ("", "hostname", "hostname"),
    ("", "uname -a", "uname"),
    ("Dumping sockets", "ss -a -n", "netstat"),
    ("Dumping routes (IPv4)", "ip -4 route", "ipv4_route"),
    ("Dumping routes (IPv6)", "ip -6 route", "ipv6_route"),
    ("Dumping interface info", "ip -s -d addr", "addr"),
    ("Dumping neighbours", "ip neigh", "neighbours"),
    ("Dumping nf_tables", "nft list ruleset", "nftables"),
    ("Dumping iptables (IPv4)", "iptables-save -c", "ipv4_tables"),
    ("Dumping iptables (IPv6)", "ip6tables-save -c", "ipv6_tables"),
    ("Dumping ipsets", "ipset list", "ipsets"),
    ("Copying journal for margay", "journalctl -u margay --no-pager -n 100000", "journal"),
];
/// What margay itself tells.
const STATE: [&str; 11] = [
    "status",
    "ports",
    "endpoints",
    "neighbors",
    "workers",
    "tunnels",
    "limits",
    "nat",
    "drops",
    "routes",
    "bgp/peers",
];

/// Collects all of it under `folder`; answers the archive.
pub(super) fn collect(logs: &Path, socket: &Path, folder: Option<&Path>) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("Need super user privileges: run it as root");
    }
    out("Collecting diagnostics\n")?;
    let stamp = process::run_ok(process::command("date", &["+%Y%m%d_%H%M%S"]), "", LIMIT)?;
    let stamp = stamp.trim();
    let parent = folder.map_or_else(std::env::temp_dir, Path::to_owned);
    let temporary = parent.join(format!("calico-{stamp}-{}", std::process::id()));
    let place = temporary.join("diagnostics");
    std::fs::create_dir_all(&place).with_context(|| temporary.display().to_string())?;
    out(&format!("Using temp dir: {}\n", temporary.display()))?;
    for (what, command, file) in COMMANDS {
        if !what.is_empty() {
            out(&format!("{what}\n"))?;
        }
        let words: Vec<&str> = command.split(' ').collect();
        match process::run(process::command(words[0], &words[1..]), "", LIMIT) {
            Ok(output) => {
                if !output.status.success() {
                    out(&format!("Failed to run command: {command}\nError: {}\n", output.stderr))?;
                }
                std::fs::write(place.join(file), output.stdout + &output.stderr)?;
            }
            Err(error) => out(&format!("Failed to run command: {command}\nError: {error:#}\n"))?,
        }
    }
    state(socket, &place)?;
    match logs.is_dir() {
        true => {
            out("Copying Calico logs\n")?;
            copy(logs, &place.join("logs"))?;
        }
        false => out(&format!("No logs found in {}; skipping log copying\n", logs.display()))?,
    }
    let archive = temporary.join(format!("diags-{stamp}.tar.gz"));
    let args = ["-zcf", text(&archive)?, "-C", text(&temporary)?, "diagnostics"];
    process::run_ok(process::command("tar", &args), "", LIMIT)
        .context("Error compressing the diagnostics")?;
    out(&format!("\nDiags saved to {}\n", archive.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The running daemon's state, a file for each answer.
fn state(socket: &Path, place: &Path) -> Result<()> {
    out("Asking the running daemon\n")?;
    for name in STATE {
        match client::get::<Value>(socket, &format!("/v1/{name}")) {
            Ok(answer) => {
                let file = format!("margay_{}.json", name.replace('/', "_"));
                std::fs::write(place.join(file), format!("{answer:#}\n"))?;
            }
            Err(error) => {
                out(&format!("It does not answer: {error}\n"))?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Copies the files of a folder, and of those in it; what cannot be read is told.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        let done = match (kind.is_dir(), kind.is_file()) {
            (true, _) => copy(&entry.path(), &target),
            (_, true) => tail(&entry.path(), &target).map_err(anyhow::Error::from),
            _ => Ok(()),
        };
        if let Err(error) = done {
            out(&format!("Error copying log files: {}: {error:#}\n", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Copies a file, or the end of a long one.
fn tail(from: &PathBuf, to: &Path) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(from)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_MAX)))?;
    std::io::copy(&mut file.take(LOG_MAX), &mut std::fs::File::create(to)?).map(drop)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not a UTF-8 path", path.display()))
}
