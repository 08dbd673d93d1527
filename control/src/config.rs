//! Settings of the daemon: built-in default < file < Calico's environment < flags.
//!
//! The file is margay's own YAML (camelCase keys, unknown keys refused). The environment names are
//! Calico's, so that a manifest of calico-node keeps working; names that have no meaning here are
//! ignored, as Felix ignores them. A wrong setting is an error that says where it stands and what
//! would be right.

mod bandwidth;
mod bgp;
mod environment;
mod failsafe;
mod flow_logs;
mod log_action;
mod nat;
mod policy;
mod startup;
mod store;
#[cfg(test)]
mod tests;
mod tunnels;

pub use bandwidth::{BANDWIDTH_MIN, BitsPerSecond};
pub use bgp::{BgpSettings, RouterId, Switch};
pub use failsafe::{FailsafePort, FailsafeProtocol};
pub use flow_logs::{FlowLogSettings, LINES_MAX};
pub use log_action::{BURST_MAX, LogAction, LogRate, Logger, PREFIX_MAX};
pub use nat::{DEFAULT_PORTS, Exclusions, Filter, NatSettings, Ports};
pub use policy::{EndpointToHost, PolicySettings, SourceSpoofing};
pub use startup::{DefaultPool, NODENAME_FILE, OwnAddress, StartupSettings};
pub(crate) use store::SECRET_NAMESPACES;
pub use store::{StoreConfig, StoreKind};
pub use tunnels::{EXTERNAL_NODES_MAX, MTU_FILE, TunnelSettings};

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where the file is looked for when no flag names one.
pub const DEFAULT_FILE: &str = "/etc/margay/margay.yaml";
/// Longest name of a network device, in bytes (IFNAMSIZ without its zero).
pub const DEVICE_NAME_MAX: usize = 15;
/// Most worker threads.
pub const WORKERS_MAX: usize = 64;
/// Where the daemon's API listens by default.
pub const SOCKET: &str = "/run/margay/margay.sock";
/// Least frames that a daemon can work with: two rings of a port and a burst.
pub const FRAMES_MIN: usize = 4096;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}\nhint: {hint}")]
pub struct ConfigError {
    /// `file:line:column`, a field such as `staticRoutes[1].via`, or an environment variable.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl ConfigError {
    fn new(place: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        ConfigError { place: place.into(), what: what.into(), hint: hint.into() }
    }
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// This node's name in the datastore; empty in a file means the host's name.
    pub node_name: String,
    /// Where Calico's resources are read from.
    pub store: StoreConfig,
    /// Devices towards other networks.
    pub uplinks: Vec<String>,
    /// What is behind uplinks carries so much, where that is less than the device takes.
    pub uplink_bandwidth: BTreeMap<String, BitsPerSecond>,
    /// Threads of the packet path.
    pub workers: WorkersConfig,
    /// Routes beside those of the datastore and the kernel.
    pub static_routes: Vec<StaticRoute>,
    /// Name of the TAP to the host's own stack.
    pub host_device: String,
    /// Leave margay's routes in the kernel when the daemon stops.
    pub keep_routes: bool,
    /// Unix socket of `margay show` and the like.
    pub socket: PathBuf,
    /// Prometheus metrics.
    pub metrics: MetricsConfig,
    /// Liveness and readiness.
    pub health: HealthConfig,
    /// BGP, as far as the datastore does not say it.
    pub bgp: BgpSettings,
    /// Tunnels, as far as the datastore does not say it.
    pub tunnels: TunnelSettings,
    /// Translation, and the flows that it tracks.
    pub nat: NatSettings,
    /// Policy, as far as the datastore does not say it.
    pub policy: PolicySettings,
    /// What the node writes to the datastore when it starts.
    pub startup: StartupSettings,
    /// Where it is written what policy says of flows.
    pub flow_logs: FlowLogSettings,
    /// Packet frames of 4096 bytes for all ports together, at least [`FRAMES_MIN`].
    pub frames: usize,
    /// Frames of 72 KiB for super-packets of TAPs.
    pub large_frames: usize,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// Let the XDP program carry established flows by itself; on where nothing is said.
    pub offload: bool,
    /// Let workers drive the devices' receive processing (SO_BUSY_POLL).
    pub busy_poll: bool,
    /// Long bursts leave veths as redirected frames, where those take them; on where nothing is
    /// said.
    pub bulk_transmit: bool,
    /// Host-side names of pods' devices begin so.
    pub interface_prefix: String,
    /// This node's IPv4 address, if it is not to be read from its Node resource.
    pub ip: Option<IpAddr>,
    /// The same for IPv6.
    pub ip6: Option<IpAddr>,
}

/// Threads of the packet path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkersConfig {
    /// How many; 0 takes one per listed core, or one when none is listed.
    pub count: usize,
    /// Cores to pin them to, in order; workers beyond the list are not pinned.
    pub cores: Vec<usize>,
}

/// A route of the configuration. Several with one prefix share its traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StaticRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Egress device; with `via`, the device on whose link the gateway is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// A route that ends packets; excludes `via` and `device`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<StaticRouteKind>,
}

/// Routes that end packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StaticRouteKind {
    /// In silence.
    Blackhole,
    /// With ICMP host unreachable.
    Unreachable,
    /// With ICMP administratively prohibited.
    Prohibit,
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MetricsConfig {
    /// Address to listen on; empty is every address.
    pub host: String,
    /// TCP port; 0 serves none.
    pub port: u16,
}

/// Where health is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthConfig {
    /// Address or name to listen on.
    pub host: String,
    /// TCP port; 0 serves none.
    pub port: u16,
}

/// How XDP is attached to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum XdpMode {
    /// Native, and generic where the driver has no native mode.
    #[default]
    Auto,
    /// Native or an error.
    Native,
    /// Generic only.
    Generic,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node_name: String::new(),
            store: StoreConfig::default(),
            uplinks: Vec::new(),
            uplink_bandwidth: BTreeMap::new(),
            workers: WorkersConfig::default(),
            static_routes: Vec::new(),
            host_device: "margay0".into(),
            keep_routes: false,
            socket: SOCKET.into(),
            metrics: MetricsConfig::default(),
            health: HealthConfig::default(),
            bgp: BgpSettings::default(),
            tunnels: TunnelSettings::default(),
            nat: NatSettings::default(),
            policy: PolicySettings::default(),
            startup: StartupSettings::default(),
            flow_logs: FlowLogSettings::default(),
            frames: 32 * 1024,
            large_frames: 512,
            xdp_mode: XdpMode::default(),
            offload: true,
            busy_poll: false,
            bulk_transmit: true,
            interface_prefix: "cali".into(),
            ip: None,
            ip6: None,
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> MetricsConfig {
        MetricsConfig { host: String::new(), port: 9091 }
    }
}

impl Default for HealthConfig {
    fn default() -> HealthConfig {
        HealthConfig { host: "localhost".into(), port: 9099 }
    }
}

impl Config {
    /// The settings that count: the file (or [`DEFAULT_FILE`] if there is one), then the variables
    /// that `environment` knows, then what `flags` sets; checked as a whole.
    pub fn load(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        flags: impl FnOnce(&mut Config),
    ) -> Result<Config, ConfigError> {
        let mut config = match file {
            Some(path) => Config::read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => Config::read(Path::new(DEFAULT_FILE))?,
            None => Config::default(),
        };
        environment::apply(&mut config, environment)?;
        flags(&mut config);
        if config.node_name.is_empty() {
            config.node_name = environment::node_name(environment)?;
        }
        config.check()?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = "give the path of a readable YAML file with --config";
            ConfigError::new(path.display().to_string(), error.to_string(), hint)
        })?;
        Config::parse(&text, &path.display().to_string())
    }

    /// The settings of one file's text; `name` stands in errors. Not yet checked as a whole.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Config::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let fault = crate::yaml::Fault::of(&error);
            let hint = "keys are camelCase and spelled exactly; `margay run --help` names the file";
            ConfigError::new(format!("{name}:{}", fault.place()), fault.what, hint)
        })
    }

    /// How many workers there will be.
    pub fn worker_count(&self) -> usize {
        match self.workers.count {
            0 => self.workers.cores.len().max(1),
            count => count,
        }
    }

    /// The core of each worker, `None` where it is not pinned.
    pub fn worker_cores(&self) -> Vec<Option<usize>> {
        (0..self.worker_count()).map(|worker| self.workers.cores.get(worker).copied()).collect()
    }

    /// Checks what single fields cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (index, name) in self.uplinks.iter().enumerate() {
            check_device(&format!("uplinks[{index}]"), name)?;
            if self.uplinks[..index].contains(name) {
                let what = format!("{name} is listed twice");
                return Err(ConfigError::new(format!("uplinks[{index}]"), what, "list it once"));
            }
        }
        bandwidth::check(self)?;
        check_device("hostDevice", &self.host_device)?;
        if self.uplinks.contains(&self.host_device) {
            let what = format!("{} is an uplink", self.host_device);
            let hint = "give the TAP to the host a name that no device has";
            return Err(ConfigError::new("hostDevice", what, hint));
        }
        self.check_workers()?;
        self.tunnels.check()?;
        self.nat.check()?;
        self.startup.check()?;
        self.flow_logs.check()?;
        self.policy.check()?;
        self.store.check()?;
        self.static_routes.iter().enumerate().try_for_each(|(at, route)| route.check(at))
    }

    fn check_workers(&self) -> Result<(), ConfigError> {
        let cores = &self.workers.cores;
        if self.worker_count() > WORKERS_MAX {
            let what = format!("{} workers", self.worker_count());
            let hint = format!("1 to {WORKERS_MAX}");
            return Err(ConfigError::new("workers.count", what, hint));
        }
        if let Some(core) = cores.iter().enumerate().find(|(at, core)| cores[..*at].contains(core))
        {
            let what = format!("core {} is listed twice", core.1);
            let hint = "each worker needs a core of its own";
            return Err(ConfigError::new("workers.cores", what, hint));
        }
        if self.frames < FRAMES_MIN {
            let what = format!("{} frames are too few", self.frames);
            return Err(ConfigError::new("frames", what, format!("{FRAMES_MIN} or more")));
        }
        Ok(())
    }
}

impl StaticRoute {
    fn check(&self, index: usize) -> Result<(), ConfigError> {
        let place = |field: &str| format!("staticRoutes[{index}]{field}");
        if self.prefix != self.prefix.trunc() {
            let what = format!("{} has bits behind its mask", self.prefix);
            let hint = format!("write {}", self.prefix.trunc());
            return Err(ConfigError::new(place(".prefix"), what, hint));
        }
        if let Some(device) = &self.device {
            check_device(&place(".device"), device)?;
        }
        let has_next_hop = self.via.is_some() || self.device.is_some();
        if has_next_hop == self.kind.is_some() {
            let what = format!("{} needs either a next hop or a type", self.prefix);
            let hint = "give via and/or device, or type: blackhole, unreachable or prohibit";
            return Err(ConfigError::new(place(""), what, hint));
        }
        match self.via {
            Some(via) if via.is_ipv4() != self.prefix.addr().is_ipv4() => {
                let what = format!("gateway {via} is of another family than {}", self.prefix);
                let hint = "give a gateway of the prefix's family";
                Err(ConfigError::new(place(".via"), what, hint))
            }
            _ => Ok(()),
        }
    }
}

fn check_device(place: &str, name: &str) -> Result<(), ConfigError> {
    let fits = !name.is_empty() && name.len() <= DEVICE_NAME_MAX;
    if fits && !name.contains(['/', ' ', ':']) && name != "." && name != ".." {
        return Ok(());
    }
    let hint = format!("1 to {DEVICE_NAME_MAX} bytes without '/', ':' and spaces");
    Err(ConfigError::new(place, format!("'{name}' cannot name a device"), hint))
}
