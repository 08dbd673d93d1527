//! What one lab owns outside of its own memory: namespaces and a state directory.
//!
//! A scope is `/run/margay-lab/<pid>-<start time>-<n>/`, and its namespaces are named
//! `mgy-<pid>x<n>-<role>`. Dropping it removes both, after killing what still runs inside. A scope
//! whose owner was killed is found by the next one that starts: the process id together with the
//! start time tells a dead owner from a live one, also when the id is in use again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::process;

/// Where the state directories are.
pub const STATE: &str = "/run/margay-lab";
/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";
/// Longest time one removal may take.
const REMOVAL: Duration = Duration::from_secs(20);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The process that made a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    pid: u32,
    /// In clock ticks since boot, as `/proc/PID/stat` says it.
    start: u64,
    /// Which of the process's scopes.
    number: u32,
}

impl Owner {
    fn new() -> Result<Owner> {
        let pid = std::process::id();
        let start = start_time(pid).context("cannot read /proc/self/stat")?;
        Ok(Owner { pid, start, number: COUNT.fetch_add(1, Ordering::Relaxed) })
    }

    fn parse(name: &str) -> Option<Owner> {
        let mut parts = name.split('-');
        let owner = Owner {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(owner)
    }

    fn directory(self) -> PathBuf {
        Path::new(STATE).join(format!("{}-{}-{}", self.pid, self.start, self.number))
    }

    fn prefix(self) -> String {
        format!("mgy-{}x{}-", self.pid, self.number)
    }

    fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

/// When the process started, in clock ticks since boot; `None` when none of that id runs.
fn start_time(pid: u32) -> Option<u64> {
    parse_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_start(stat: &str) -> Option<u64> {
    // The name in parentheses may hold blanks. Behind it: the state, and as field 22 the start.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // One that has ended and is not reaped yet owns nothing any more.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// One lab's namespaces and state directory; both are removed when it is dropped.
#[derive(Debug)]
pub struct Scope {
    owner: Owner,
    keep: bool,
}

impl Scope {
    /// Removes what killed predecessors left, and makes a scope of its own.
    pub fn new() -> Result<Scope> {
        remove_leftovers()?;
        let scope = Scope { owner: Owner::new()?, keep: false };
        let directory = scope.directory();
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(scope)
    }

    /// The state directory: configurations, stores, sockets and logs go here.
    pub fn directory(&self) -> PathBuf {
        self.owner.directory()
    }

    /// What the names of all its namespaces begin with.
    pub fn prefix(&self) -> String {
        self.owner.prefix()
    }

    /// Leaves everything in place when dropped. A later lab removes it once this process is gone.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// A new namespace with its loopback up. `role` must be unique in the scope.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        Namespace::create(&format!("{}{role}", self.prefix()))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(self.owner)
        {
            eprintln!("lab: clean-up: {error:#}");
        }
    }
}

/// Removes the namespaces and directories of scopes whose owners are dead.
pub fn remove_leftovers() -> Result<()> {
    for owner in entries(Path::new(STATE)).iter().filter_map(|name| Owner::parse(name)) {
        if !owner.is_alive() {
            remove(owner)?;
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(list) = fs::read_dir(directory) else { return Vec::new() };
    list.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove(owner: Owner) -> Result<()> {
    let prefix = owner.prefix();
    let names = entries(Path::new(NAMESPACES));
    for name in names.iter().filter(|name| name.starts_with(&prefix)) {
        kill_inside(name)?;
        let output = process::run_through(ip_netns(&["del", name]), REMOVAL)?;
        // Another lab may have been cleaning up after the same dead one.
        if !output.status.success() && Path::new(NAMESPACES).join(name).exists() {
            anyhow::bail!("cannot delete namespace {name}: {}", output.stderr.trim());
        }
    }
    match fs::remove_dir_all(owner.directory()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", owner.directory().display()))
        }
        _ => Ok(()),
    }
}

/// Kills what runs in the namespace: daemons and tools of a lab that was killed itself.
fn kill_inside(name: &str) -> Result<()> {
    let output = process::run_through(ip_netns(&["pids", name]), REMOVAL)?;
    for pid in output.stdout.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // It may have ended by itself in between.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    Ok(())
}

fn ip_netns(args: &[&str]) -> std::process::Command {
    process::command("ip", &[&["netns"], args].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_from_another_with_its_id() {
        let owner = Owner::new().unwrap();
        assert!(owner.is_alive());
        assert!(!Owner { start: owner.start + 1, ..owner }.is_alive());
        let name = owner.directory().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Owner::parse(&name), Some(owner));
    }

    #[test]
    fn a_process_that_only_waits_to_be_reaped_is_dead() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_start(&format!("9 (a b) S {rest}")), Some(4711));
        assert_eq!(parse_start(&format!("9 (a) b) Z {rest}")), None);
    }

    #[test]
    fn other_names_are_no_owners() {
        for name in ["", "1-2", "1-2-3-4", "a-2-3", "-1-2-3", "1-2-"] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
