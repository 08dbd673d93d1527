//! Child processes of the lab: bounded in time, killed and reaped when dropped, and killed by the
//! kernel when the lab itself is killed (`setpriv --pdeathsig`, since a hook between fork and exec
//! would need unsafe code). The kernel ties that signal to the thread that started the child, so a
//! child lives no longer than its thread.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How soon a wait looks again: at first, and at most, doubling in between.
const FIRST_TICK: Duration = Duration::from_micros(200);
const TICK: Duration = Duration::from_millis(5);

static INTERRUPT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C and SIGTERM end the lab's waits with an error, so that it cleans up.
pub fn stop_on_signals() -> Result<()> {
    let flag = INTERRUPT.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).context("cannot watch for signals")?;
    }
    Ok(())
}

/// An error once a signal came.
pub fn check_interrupt() -> Result<()> {
    match INTERRUPT.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => bail!("interrupted"),
        _ => Ok(()),
    }
}

/// Asks `probe` every few milliseconds until it gives a value; an error after `limit`, naming
/// `what`. Errors of `probe` end the wait at once.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait_through(what, limit, || {
        check_interrupt()?;
        probe()
    })
}

/// As [`wait_for`], but a signal does not end it: for cleaning up.
fn wait_through<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut tick = FIRST_TICK;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {:.1} s", limit.as_secs_f64());
        }
        std::thread::sleep(tick);
        tick = TICK.min(tick * 2);
    }
}

/// Sleeps in short pieces, so that a signal ends it.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_interrupt()?;
        std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
    }
    check_interrupt()
}

/// What a command that ended has printed.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// The number behind a name in a file of /proc with a field a line, such as `VmRSS:` in
/// `/proc/PID/status`; of memory it is KiB. Errors name the file and the field.
pub fn proc_field(path: &str, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.with_context(|| format!("{path}: no {name}"))?.parse()?)
}

/// A command line that dies with the thread that starts it.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).args(args);
    command
}

/// A command line that outlives the lab, and gets no Ctrl-C that was meant for it.
pub fn detached_command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "clear", program]).args(args).process_group(0);
    command
}

/// Runs to the end, at most `limit`; any exit status is fine, not to start or not to end is not.
pub fn run(command: Command, input: &str, limit: Duration) -> Result<Output> {
    run_while(command, input, limit, check_interrupt)
}

/// As [`run`], but a signal does not end it: for cleaning up.
pub fn run_through(command: Command, limit: Duration) -> Result<Output> {
    run_while(command, "", limit, || Ok(()))
}

fn run_while(
    mut command: Command,
    input: &str,
    limit: Duration,
    check: impl Fn() -> Result<()>,
) -> Result<Output> {
    let text = describe(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(command)?;
    let mut stdin = process.child.stdin.take().context("no standard input")?;
    let mut stdout = process.child.stdout.take().context("no standard output")?;
    let mut stderr = process.child.stderr.take().context("no standard error")?;
    std::thread::scope(|scope| {
        // A command that ends without reading its input is judged by its status.
        scope.spawn(move || stdin.write_all(input.as_bytes()).ok());
        let stdout = scope.spawn(move || read_text(&mut stdout));
        let stderr = scope.spawn(move || read_text(&mut stderr));
        let status = wait_through(&text, limit, || {
            check()?;
            process.exit_status()
        });
        if status.is_err() {
            process.kill();
        }
        let gone = || anyhow!("{text}: reading its output failed");
        Ok(Output {
            stdout: stdout.join().map_err(|_| gone())?,
            stderr: stderr.join().map_err(|_| gone())?,
            status: status?,
        })
    })
}

/// As [`run`], and the exit status must be 0; gives the standard output.
pub fn run_ok(command: Command, input: &str, limit: Duration) -> Result<String> {
    let text = describe(&command);
    let output = run(command, input, limit)?;
    if !output.status.success() {
        bail!("{text}: {}: {}{}", output.status, output.stderr.trim(), output.stdout.trim());
    }
    Ok(output.stdout)
}

fn read_text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // Half an output is still worth showing; the exit status says whether it was enough.
    from.read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn describe(command: &Command) -> String {
    let words = command.get_args().skip(2).map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

/// A child process; killed and reaped when dropped, unless it was let go.
#[derive(Debug)]
pub struct Process {
    child: Child,
    released: bool,
}

impl Process {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Result<Process> {
        let child =
            command.spawn().with_context(|| format!("cannot start `{}`", describe(&command)))?;
        Ok(Process { child, released: false })
    }

    /// Starts `command` with both outputs appended to the file `log`.
    pub fn start_logged(mut command: Command, log: &Path) -> Result<Process> {
        let open = || File::options().create(true).append(true).open(log);
        let out = open().with_context(|| format!("cannot write {}", log.display()))?;
        let err = out.try_clone().context("cannot share the log")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Process::start(command)
    }

    /// The process id; the same before and after `exec`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a child")
    }

    /// Sends `signal`; nothing happens when it has ended already.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid()) {
            // A process that is gone needs no signal.
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// Kills it at once and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when it has been reaped already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Sends `signal` and waits for the end, `limit` at most, also when interrupted.
    pub fn end(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        self.signal(signal);
        wait_through(&format!("process {} to end", self.pid()), limit, || self.exit_status())
    }

    /// From now on dropping it leaves it running.
    pub fn release(&mut self) {
        self.released = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.released && !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_gives_both_outputs_and_the_status() {
        let script = "read x; echo out $x; echo err >&2; exit 3";
        let output = run(command("sh", &["-c", script]), "in\n", Duration::from_secs(5)).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out in\n", "err\n"));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn run_is_bounded_in_time_and_names_the_command() {
        let start = Instant::now();
        let error = run(command("sleep", &["60"]), "", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("sleep 60"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_dropped_process_is_dead() {
        let process = Process::start(command("sleep", &["60"])).unwrap();
        let path = format!("/proc/{}", process.pid());
        assert!(Path::new(&path).exists());
        drop(process);
        assert!(!Path::new(&path).exists());
    }
}
