//! `margay ctl version`: this program's version, and what the cluster says of its own.

use super::write::out;
use anyhow::Result;
use margay_control::startup::cluster;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use std::process::ExitCode;

/// This program's version.
pub(super) const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// Show versions.
#[derive(Debug, clap::Args)]
pub(super) struct Version {
    /// This program's only
    #[arg(long)]
    pub(super) client: bool,
}

impl Version {
    /// What needs no store.
    pub(super) fn print_client() -> Result<()> {
        out(&format!("Client Version:    {CLIENT}\n"))
    }

    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        Version::print_client()?;
        let spec = match store.find(&cluster::key()).await {
            Ok(found) => found.as_ref().map(Document::spec).unwrap_or_default(),
            Err(error) => {
                eprintln!("Unable to retrieve Cluster Version or Type: {error}");
                return Ok(ExitCode::FAILURE);
            }
        };
        let text = |field: &str| spec[field].as_str().unwrap_or("unknown").to_owned();
        let (version, kind) = (text("calicoVersion"), text("clusterType"));
        out(&format!("Cluster Version:   {version}\nCluster Type:      {kind}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
