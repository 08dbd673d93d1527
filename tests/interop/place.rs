//! Where a daemon runs: a namespace and a directory of its own, and its package's files, which
//! `./run-tests` has unpacked under `target/peers/PACKAGE` without installing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use margay::lab::namespace::Namespace;
use margay::lab::process::{self, Process, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time that a daemon's own command may take.
const COMMAND: Duration = Duration::from_secs(20);
/// Lines of a log worth showing.
const TAIL: usize = 15;

/// What the daemons look up and a machine without their packages lacks.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
    frr:x:997:997::/nonexistent:/usr/sbin/nologin\n\
    _openbgpd:x:996:996::/run/empty:/usr/sbin/nologin\n";
const GROUPS: &str =
    "root:x:0:\nnogroup:x:65534:\nfrr:x:997:\nfrrvty:x:994:root\n_openbgpd:x:996:\n";

/// Binds the files above over `/etc`, in the mount namespace that `ip netns exec` has made for the
/// command alone. Its first two arguments are the files.
const SHELL: &str = "mount --bind \"$0\" /etc/passwd && mount --bind \"$1\" /etc/group && shift && \
    mkdir -p /run/empty && exec \"$@\"";

/// A daemon's place.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) namespace: Namespace,
    pub(crate) directory: PathBuf,
}

/// The unpacked files of a package; an error when they are not there.
pub(crate) fn package(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        |path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path),
    );
    let root = target.join("peers").join(name);
    if !root.join(".complete").exists() {
        bail!("{name} is not unpacked in {}; ./run-tests fetches it", root.display());
    }
    Ok(root)
}

impl Place {
    pub(crate) fn new(namespace: Namespace, directory: PathBuf) -> Result<Place> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // OpenBGPD and FRR give up root, and must still reach their sockets.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        let place = Place { namespace, directory };
        place.write("passwd", USERS)?;
        place.write("group", GROUPS)?;
        Ok(place)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The same as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts a daemon that finds its users and, in the package's directories, its libraries.
    pub(crate) fn daemon(&self, root: &Path, program: &str, args: &[&str]) -> Result<Process> {
        let program = root.join(program).to_string_lossy().into_owned();
        let log = Path::new(&program).file_name().context("no program")?.to_string_lossy();
        let (users, groups) = (self.path("passwd"), self.path("group"));
        let inside = ["-c", SHELL, &users, &groups, &program];
        let mut command = self.namespace.command("sh", &[&inside, args].concat());
        command.env("LD_LIBRARY_PATH", libraries(root)).current_dir(&self.directory);
        Process::start_logged(command, &self.file(&format!("{log}.log")))
    }

    /// Runs one of a package's programs to its end; gives what it printed.
    pub(crate) fn run(&self, root: &Path, program: &str, args: &[&str]) -> Result<String> {
        let program = root.join(program).to_string_lossy().into_owned();
        let mut command = self.namespace.command(&program, args);
        command.env("LD_LIBRARY_PATH", libraries(root));
        process::run_ok(command, "", COMMAND)
    }

    /// The end of the log of a program.
    pub(crate) fn tail(&self, program: &str) -> String {
        let log = fs::read_to_string(self.file(&format!("{program}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Sends `signal` to every process in the namespace: a daemon may be several.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.pids()? {
            // It may have ended by itself in between.
            kill(Pid::from_raw(pid), signal).ok();
        }
        Ok(())
    }

    /// Kills everything in the namespace, as a crash would, and waits until it is gone.
    pub(crate) fn kill(&self) -> Result<()> {
        wait_for("killed processes to be gone", COMMAND, || {
            self.signal(Signal::SIGKILL)?;
            Ok(self.pids()?.is_empty().then_some(()))
        })
    }

    fn pids(&self) -> Result<Vec<i32>> {
        let command = process::command("ip", &["netns", "pids", self.namespace.name()]);
        let text = process::run_ok(command, "", COMMAND)?;
        let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
        Ok(pids.filter(|pid| !is_zombie(*pid)).collect())
    }
}

/// One that has ended keeps its id until its parent looks.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn libraries(root: &Path) -> String {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let under = |path: &str| root.join(path).join(&triple).to_string_lossy().into_owned();
    format!("{}:{}:{}/frr", under("usr/lib"), under("lib"), under("usr/lib"))
}
