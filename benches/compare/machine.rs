//! The machine: what it is, how much of it others take, huge pages for as long as they are needed.

use anyhow::{Context, Result};
use margay::lab::process;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
const LIMIT: Duration = Duration::from_secs(20);

/// Facts without which the figures mean nothing.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let line = |program: &str, args: &[&str]| {
        let output = process::run(process::command(program, args), "", LIMIT);
        let text = output.map(|output| format!("{}{}", output.stdout, output.stderr));
        text.unwrap_or_default().lines().next().unwrap_or("missing").trim().to_owned()
    };
    vec![
        ("cpu", format!("{model}, {cores} cores")),
        ("kernel", kernel.trim().to_owned()),
        ("rustc", line("rustc", &["--version"])),
        ("margay", format!("{} {}", env!("CARGO_PKG_VERSION"), revision())),
        ("dpdk", line("pkg-config", &["--modversion", "libdpdk"])),
        ("iperf3", line("iperf3", &["--version"])),
        ("nftables", line("nft", &["--version"])),
        ("iproute2", line("ip", &["-V"])),
    ]
}

/// The revision of the sources, and whether this binary can be of it.
fn revision() -> String {
    let git = |args: &[&str]| {
        let output = process::run_ok(process::command("git", args), "", LIMIT);
        output.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let committed = git(&["log", "-1", "--format=%ct"]).parse().map(Duration::from_secs);
    let built = std::env::current_exe().and_then(|path| fs::metadata(path)?.modified());
    let older = match (committed, built) {
        (Ok(committed), Ok(built)) => built < std::time::UNIX_EPOCH + committed,
        _ => false,
    };
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    let note = match (older, changed) {
        (true, _) => " (but built before that)",
        (_, true) => " with changes",
        _ => "",
    };
    git(&["rev-parse", "--short", "HEAD"]) + note
}

/// Ticks that the hypervisor gave to others, and all ticks, since the start.
pub(crate) fn steal() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).take(8).collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().sum())
}

/// The share of time that was stolen since `before`.
pub(crate) fn stolen_since(before: (u64, u64)) -> f64 {
    let now = steal();
    (now.0 - before.0) as f64 / (now.1 - before.1).max(1) as f64
}

/// What a core has done until a moment, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreTime {
    core: usize,
    idle: u64,
    all: u64,
}

impl CoreTime {
    pub(crate) fn of(core: usize) -> Result<CoreTime> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let name = format!("cpu{core} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        let line = line.with_context(|| format!("/proc/stat has no {name}"))?;
        // Time of guests is in that of users already.
        let fields = line.split_whitespace().filter_map(|field| field.parse().ok());
        let ticks: Vec<u64> = fields.take(8).collect();
        let idle = ticks.iter().skip(3).take(2).sum();
        Ok(CoreTime { core, idle, all: ticks.iter().sum() })
    }

    /// The part of the time since then in which it was not idle.
    pub(crate) fn busy_since(&self) -> Result<f64> {
        let now = CoreTime::of(self.core)?;
        let all = (now.all - self.all).max(1);
        Ok(1.0 - (now.idle - self.idle) as f64 / all as f64)
    }
}

/// Huge pages of 2 MiB and a mount of them; both go when this is dropped.
#[derive(Debug)]
pub(crate) struct HugePages {
    added: usize,
    mount: PathBuf,
}

impl HugePages {
    /// Reserves `count` more pages and mounts them under `directory`.
    pub(crate) fn reserve(count: usize, directory: &Path) -> Result<HugePages> {
        let mount = directory.join("huge");
        fs::create_dir_all(&mount).context("the mount point of huge pages")?;
        let had = huge_pages()?;
        let mut pages = HugePages { added: 0, mount };
        fs::write(HUGE_PAGES, (had + count).to_string()).context(HUGE_PAGES)?;
        pages.added = huge_pages()?.saturating_sub(had);
        anyhow::ensure!(pages.added >= count, "only {} of {count} huge pages free", pages.added);
        let place = pages.path();
        process::run_ok(
            process::command("mount", &["-t", "hugetlbfs", "none", &place]),
            "",
            LIMIT,
        )?;
        Ok(pages)
    }

    /// Where they are mounted.
    pub(crate) fn path(&self) -> String {
        self.mount.display().to_string()
    }
}

fn huge_pages() -> Result<usize> {
    let text = fs::read_to_string(HUGE_PAGES).context(HUGE_PAGES)?;
    text.trim().parse().context(HUGE_PAGES)
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let place = self.path();
        // A mount that never came to be cannot be undone.
        process::run(process::command("umount", &[&place]), "", LIMIT).ok();
        fs::remove_dir(&self.mount).ok();
        // Others may have reserved some meanwhile: only our own go.
        let back = huge_pages().map(|now| now.saturating_sub(self.added).to_string());
        if let Err(error) = back.and_then(|count| Ok(fs::write(HUGE_PAGES, count)?)) {
            eprintln!("compare: {HUGE_PAGES} not set back: {error:#}");
        }
    }
}

/// A setting of the kernel's, which is as it was when this is dropped.
#[derive(Debug)]
pub(crate) struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    /// Writes `value` to a file under /proc/sys.
    pub(crate) fn set(path: &'static str, value: &str) -> Result<Setting> {
        let before = fs::read_to_string(path).context(path)?;
        fs::write(path, value).context(path)?;
        Ok(Setting { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, self.before.trim()) {
            eprintln!("compare: {} not set back: {error}", self.path);
        }
    }
}
