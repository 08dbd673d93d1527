//! `margay run`: the node daemon.
//!
//! Settings: built-in default < file < Calico's environment names < flags. Logs go to standard
//! error; `RUST_LOG` selects them.

use margay_control::config::{Config, StoreKind};
use margay_control::daemon;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Run the node daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// File of settings (YAML) [default: /etc/margay/margay.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's name in the datastore
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Directory of Calico resources
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Device towards other networks; may be given several times
    #[arg(long = "uplink", value_name = "DEVICE")]
    uplinks: Vec<String>,
    /// Worker threads of the packet path
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Unix socket for `margay show`
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Leave margay's routes in the kernel when the daemon stops
    #[arg(long)]
    keep_routes: bool,
    /// Whether the XDP program carries established flows by itself
    #[arg(long, value_name = "BOOL")]
    offload: Option<bool>,
    /// Logs as JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

impl Run {
    /// Runs the daemon until it is told to end.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_json {
            true => logs.json().init(),
            false => logs.with_ansi(super::wants_color(&std::io::stderr())).init(),
        }
        let file = self.config.clone();
        let variable = |name: &str| std::env::var(name).ok();
        let config = Config::load(file.as_deref(), &variable, |config| self.apply(config))?;
        let store = match config.store.kind {
            StoreKind::Local => config.store.path.display().to_string(),
            StoreKind::Etcd => config.store.endpoints().collect::<Vec<_>>().join(","),
            StoreKind::Kubernetes => match &config.store.kubeconfig {
                Some(path) => path.display().to_string(),
                None => "Kubernetes".to_owned(),
            },
        };
        tracing::info!(node = %config.node_name, %store, "starting");
        daemon::run(config, daemon::termination())?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }

    fn apply(self, config: &mut Config) {
        if let Some(name) = self.node_name {
            config.node_name = name;
        }
        if let Some(path) = self.store {
            (config.store.kind, config.store.path) = (StoreKind::Local, path);
        }
        if !self.uplinks.is_empty() {
            config.uplinks = self.uplinks;
        }
        if let Some(count) = self.workers {
            config.workers.count = count;
        }
        if let Some(path) = self.socket {
            config.socket = path;
        }
        config.offload = self.offload.unwrap_or(config.offload);
        config.keep_routes |= self.keep_routes;
    }
}
