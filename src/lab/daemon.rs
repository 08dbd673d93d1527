//! One `margay run` in a node's namespace: its configuration, start, readiness, `show`, end.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::namespace::Namespace;
use super::process::{self, Process, wait_for};
use super::scope::Scope;
use super::store::{Store, write_yaml};

/// Where the daemon answers `/readiness`, inside the node's namespace.
const HEALTH_PORT: u16 = 9099;
/// Longest time from the start to ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Longest time from SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// When it is set, workers carry everything in tests that do not say otherwise.
const NO_OFFLOAD: &str = "MARGAY_LAB_NO_OFFLOAD";
/// Longest time that `show` may take.
const SHOW_LIMIT: Duration = Duration::from_secs(10);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    /// The margay binary.
    pub binary: PathBuf,
    /// The node's name in the store.
    pub node: String,
    /// The store's directory.
    pub store: PathBuf,
    /// Devices that lead out of the node.
    pub uplinks: Vec<String>,
    /// Prefixes and their next hops.
    pub static_routes: Vec<(IpNet, IpAddr)>,
    /// Whether it speaks BGP.
    pub bgp: bool,
    /// Worker threads.
    pub workers: u32,
    /// Where configuration, socket and log are written.
    pub directory: PathBuf,
    /// Whether the XDP program carries established flows by itself.
    pub offload: bool,
    /// Whether it may outlive the lab, see [`Daemon::release`].
    pub detached: bool,
}

/// A running daemon. SIGTERM, and a little later SIGKILL, when dropped.
#[derive(Debug)]
pub struct Daemon {
    spec: DaemonSpec,
    settings: Value,
    namespace: Namespace,
    process: Process,
    released: bool,
}

impl DaemonSpec {
    /// With one worker, no uplink and no route, and without BGP; its files are in the scope's
    /// directory.
    pub fn new(binary: impl Into<PathBuf>, node: &str, store: &Store, scope: &Scope) -> DaemonSpec {
        DaemonSpec {
            binary: binary.into(),
            node: node.to_owned(),
            store: store.directory().to_owned(),
            uplinks: Vec::new(),
            static_routes: Vec::new(),
            bgp: false,
            workers: 1,
            directory: scope.directory(),
            offload: offloads(),
            detached: false,
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.node))
    }

    /// The socket that `show` asks.
    pub fn socket(&self) -> PathBuf {
        self.file("sock")
    }

    /// Everything the daemon prints.
    pub fn log(&self) -> PathBuf {
        self.file("log")
    }

    /// The directory of the sockets that Calico's tools ask.
    pub fn bird_sockets(&self) -> PathBuf {
        self.directory.join(format!("{}-bird", self.node))
    }

    /// Where it writes what policy drops.
    pub fn flow_log(&self) -> PathBuf {
        self.file("flows.json")
    }

    fn config(&self) -> Value {
        let routes: Vec<Value> = self
            .static_routes
            .iter()
            .map(|(prefix, via)| json!({ "prefix": prefix, "via": via }))
            .collect();
        json!({
            "nodeName": self.node,
            "store": { "type": "local", "path": self.store },
            "uplinks": self.uplinks,
            "workers": { "count": self.workers },
            "offload": self.offload,
            "staticRoutes": routes,
            "socket": self.socket(),
            "flowLogs": { "file": self.flow_log() },
            "bgp": { "enabled": self.bgp, "birdSockets": self.bird_sockets() },
        })
    }
}

impl Daemon {
    /// Starts the daemon; it is not ready yet.
    pub fn start(spec: DaemonSpec, namespace: &Namespace) -> Result<Daemon> {
        Daemon::start_with(spec, namespace, Value::Null)
    }

    /// The same with further settings of the configuration, by their names in it.
    pub fn start_with(spec: DaemonSpec, namespace: &Namespace, settings: Value) -> Result<Daemon> {
        let config = spec.file("yaml");
        let mut all = spec.config();
        for (name, value) in settings.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        write_yaml(&config, &all)?;
        let sockets = spec.bird_sockets();
        std::fs::create_dir_all(&sockets)
            .with_context(|| format!("cannot create {}", sockets.display()))?;
        let binary = text(&spec.binary)?;
        let args = ["netns", "exec", namespace.name(), binary, "run", "--config", text(&config)?];
        let mut command = match spec.detached {
            true => process::detached_command("ip", &args),
            false => process::command("ip", &args),
        };
        // Calico's own environment names would be settings of both nodes.
        command.env_clear();
        for name in ["PATH", "RUST_LOG", "RUST_BACKTRACE"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let process = Process::start_logged(command, &spec.log())?;
        Ok(Daemon { spec, settings, namespace: namespace.clone(), process, released: false })
    }

    /// Waits until `/readiness` says so. An error shows the end of the log if the daemon ended.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("margay on {} to be ready", self.spec.node);
        wait_for(&what, READY_LIMIT, || {
            if let Some(status) = self.process.exit_status()? {
                bail!("margay on {}: {status}: {}", self.spec.node, self.log_tail());
            }
            Ok(http_ok(&self.namespace, HEALTH_PORT, "/readiness").then_some(()))
        })
        .with_context(|| format!("log of {}: {}", self.spec.node, self.log_tail()))
    }

    /// Its socket, for commands.
    pub fn socket(&self) -> PathBuf {
        self.spec.socket()
    }

    /// The lines of its flow log so far.
    pub fn flow_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.spec.flow_log()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// `margay show WHAT -o json`, parsed.
    pub fn show(&self, what: &str) -> Result<Value> {
        let socket = self.spec.socket();
        let mut args = vec!["show"];
        args.extend(what.split(' '));
        args.extend(["-o", "json", "--socket", text(&socket)?]);
        let command = process::command(text(&self.spec.binary)?, &args);
        let output = process::run_ok(command, "", SHOW_LIMIT)?;
        serde_json::from_str(&output).with_context(|| format!("show {what}: not JSON: {output}"))
    }

    /// Packets dropped since the start, by reason; reasons that occurred only.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let shown = self.show("drops")?;
        let list = shown.as_object().context("show drops: not an object")?;
        let counts = list.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// True until the process ends.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.exit_status(), Ok(None))
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same configuration, after [`Daemon::kill`].
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(self.settings.clone())
    }

    /// Ends it, and starts it again with other further settings, see [`Daemon::start_with`]. It is
    /// ready then; an error when it does not end well, start, or become ready in time.
    pub fn reconfigure(&mut self, settings: Value) -> Result<()> {
        self.stop()?;
        self.restart_with(settings)?;
        self.wait_ready()
    }

    fn restart_with(&mut self, settings: Value) -> Result<()> {
        let started = Daemon::start_with(self.spec.clone(), &self.namespace, settings)?;
        // The old process ends here, if it has not before.
        *self = started;
        Ok(())
    }

    /// Asks it to end and waits; an error when it takes longer than some seconds or fails.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.end(Signal::SIGTERM, STOP_LIMIT)?;
        if !status.success() {
            bail!("margay on {} ended with {status}: {}", self.spec.node, self.log_tail());
        }
        Ok(())
    }

    /// Dropping it leaves it running; of use only for a detached one.
    pub fn release(&mut self) {
        self.released = true;
        self.process.release();
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.spec.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.released && self.is_running() {
            // It is killed right after if this fails.
            self.process.end(Signal::SIGTERM, STOP_LIMIT).ok();
        }
    }
}

/// Whether daemons offload flows where a test does not say.
pub fn offloads() -> bool {
    std::env::var_os(NO_OFFLOAD).is_none()
}

/// True when an HTTP request to the loopback of `namespace` is answered with 200.
pub fn http_ok(namespace: &Namespace, port: u16, path: &str) -> bool {
    namespace.enter(|| http_get(port, path)).is_ok_and(|answer| answer.contains(" 200 "))
}

/// The first line of the answer.
fn http_get(port: u16, path: &str) -> Result<String> {
    let limit = Duration::from_secs(1);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not a UTF-8 path", path.display()))
}
