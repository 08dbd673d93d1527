//! The measured node in a namespace with real pods, a far side that is all other nodes, and etcd.
//!
//! ```text
//!   pods ---- node (margay) ---- far: every other node's address, by AnyIP
//!             192.0.2.1   192.0.2.254     etcd at 192.0.2.254:2379
//! ```

use crate::content::{self, Size};
use anyhow::{Context, Result, ensure};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::pod::{Pod, PodSpec};
use margay::lab::process::{self, Process, wait_for};
use margay::lab::scope::Scope;
use margay::lab::store::write_yaml;
use margay_control::api::client;
use margay_control::api::status::StatusAnswer;
use margay_control::config::{StoreConfig, StoreKind};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };
const ETCD: &str = "http://192.0.2.254:2379";
const LIMIT: Duration = Duration::from_secs(60);
const FETCH_LIMIT: Duration = Duration::from_secs(120);
/// Between two questions for the daemon's state.
const POLL: Duration = Duration::from_millis(5);

pub(crate) struct Rig {
    // Processes before the scope, so that they end first.
    daemon: Option<Process>,
    _etcd: Process,
    pub(crate) node: Namespace,
    pub(crate) pods: Namespace,
    pub(crate) far: Namespace,
    scope: Scope,
}

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

/// The unpacked package, as the tests have it.
fn etcd() -> Result<PathBuf> {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
    let binary = target.join("peers/etcd-server/usr/bin/etcd");
    if !binary.exists() {
        let mut command =
            process::command("sh", &["-c", ". .ci/packages && unpack etcd-server >&2"]);
        command.current_dir(house);
        process::run_ok(command, "", FETCH_LIMIT)?;
    }
    ensure!(binary.exists(), "package etcd-server cannot be had");
    Ok(binary)
}

fn end<'a>(namespace: &'a Namespace, device: &'a str, address: &str) -> Result<LinkEnd<'a>> {
    Ok(LinkEnd { namespace, device, mac: None, addresses: vec![address.parse()?] })
}

impl Rig {
    pub(crate) fn new(size: Size) -> Result<Rig> {
        let scope = Scope::new()?;
        let [node, pods, far] = ["node", "pods", "far"].map(|role| scope.namespace(role));
        let (node, pods, far) = (node?, pods?, far?);
        let (own, other) =
            (end(&node, "uplink0", "192.0.2.1/24")?, end(&far, "far0", "192.0.2.254/24")?);
        connect(LINK, &own, &other)?;
        node.ip("route add default via 192.0.2.254")?;
        far.ip("route add local 172.20.0.0/16 dev lo")?;
        for number in 0..size.pods_of(0) {
            let spec = PodSpec {
                device: format!("pod{number}"),
                table: Some(1000 + number),
                ..PodSpec::new(&format!("pod-{number}"), pods.clone(), 1450)
            };
            let v6 = format!("fd65::{number:x}").parse()?;
            let pod = Pod::new(spec, 0, number, content::address_of(0, number + 1), v6);
            ensure!(pod.host_device() == content::local_device(number), "{}", pod.host_device());
            pod.plug_veth(&node)?;
        }
        let data = scope.directory().join("etcd").display().to_string();
        let args =
            ["--data-dir", &data, "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD];
        let binary = etcd()?;
        let command = far.command(binary.to_str().context("a path")?, &args);
        let etcd = Process::start_logged(command, &scope.directory().join("etcd.log"))?;
        Ok(Rig { daemon: None, _etcd: etcd, node, pods, far, scope })
    }

    /// The settings to reach etcd by, in a namespace of the rig.
    pub(crate) fn store(&self) -> StoreConfig {
        StoreConfig {
            kind: StoreKind::Etcd,
            etcd_endpoints: ETCD.to_owned(),
            ..StoreConfig::default()
        }
    }

    fn socket(&self) -> PathBuf {
        self.scope.directory().join("margay.sock")
    }

    /// Starts the daemon; the time until its state is as wanted.
    pub(crate) fn start(&mut self, reached: impl Fn(&StatusAnswer) -> bool) -> Result<Duration> {
        let directory = self.scope.directory();
        let config = directory.join("margay.yaml");
        let settings = json!({
            "nodeName": content::NODE, "uplinks": ["uplink0"], "socket": self.socket(),
            "store": {"type": "etcdv3", "etcdEndpoints": ETCD},
            "bgp": {"enabled": false},
            "startup": {"nodenameFile": directory.join("nodename")},
        });
        write_yaml(&config, &settings)?;
        let binary = env!("CARGO_BIN_EXE_margay");
        let args = ["run", "--config", config.to_str().context("a path")?];
        let mut command = self.node.command(binary, &args);
        command.env_clear().env("PATH", std::env::var("PATH")?);
        let log = directory.join("margay.log");
        let begin = Instant::now();
        self.daemon = Some(Process::start_logged(command, &log)?);
        loop {
            match self.status() {
                Ok(status) if reached(&status) => return Ok(begin.elapsed()),
                answer if begin.elapsed() > LIMIT => {
                    let log = std::fs::read_to_string(&log).unwrap_or_default();
                    anyhow::bail!("the daemon is not there: {answer:?}\n{log}");
                }
                _ => process::pause(POLL)?,
            }
        }
    }

    pub(crate) fn status(&self) -> Result<StatusAnswer> {
        client::get(&self.socket(), "/v1/status").map_err(anyhow::Error::msg)
    }

    /// Routes that its packet path has for exactly this prefix.
    pub(crate) fn route(&self, prefix: &str) -> Result<serde_json::Value> {
        let path = format!("/v1/routes?prefix={}", prefix.replace('/', "%2F"));
        client::get(&self.socket(), &path).map_err(anyhow::Error::msg)
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let pid = self.daemon.as_ref().context("no daemon")?.pid();
        let mib = |name| {
            process::proc_field(&format!("/proc/{pid}/status"), name).map(|kib| kib / 1024.0)
        };
        Ok(Memory { now: mib("VmRSS:")?, peak: mib("VmHWM:")? })
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.end(nix::sys::signal::Signal::SIGTERM, LIMIT)?;
        Ok(())
    }

    /// Waits until etcd listens.
    pub(crate) fn wait_etcd(&self) -> Result<()> {
        let listens = || Ok(std::net::TcpStream::connect("192.0.2.254:2379").is_ok().then_some(()));
        self.far.enter(|| wait_for("etcd", LIMIT, listens))
    }
}
