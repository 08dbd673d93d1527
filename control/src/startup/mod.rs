//! A node's start, as calico-node does it: finds the node's addresses, writes its Node resource,
//! and, once a start, makes the cluster whole. The addresses are looked for again and again, so
//! that one that changes is told.
//!
//! [`autodetect`] finds addresses, [`node`] says what the Node must be, [`cluster`] has what all
//! nodes share. While the cluster is locked (ClusterInformation `datastoreReady: false`) nothing is
//! written. An address that another Node has is a fault, and nothing is written either.

pub mod autodetect;
pub mod cluster;
mod node;

use crate::config::{Config, StoreKind};
use crate::resource::Key;
use crate::status::Status;
use crate::store::Store;
use crate::store::datastore::{Datastore, Document, StoreError};
use crate::store::save;
use autodetect::{Host, Interface};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Time until another try after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Tries of a write that others are first with.
const TRIES: usize = 100;

/// Why a node could not write what it has to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the datastore is locked: ClusterInformation's datastoreReady is false")]
    Locked,
    #[error(
        "{0} is the address of Node {1} as well: set IP, or DISABLE_NODE_IP_CHECK if that is meant"
    )]
    Conflict(std::net::IpAddr, String),
    #[error("no address was found: set IP, or another IP_AUTODETECTION_METHOD")]
    NoAddress,
    #[error("{0}")]
    Host(String),
}

/// The task that repeats it; none where the node writes nothing.
#[derive(Debug)]
pub(crate) struct Startup {
    task: Option<JoinHandle<()>>,
}

impl Startup {
    /// Starts the task, if the settings want it.
    pub(crate) fn start(config: &Config, store: &Store, status: Arc<Status>) -> Startup {
        let shared = config.store.kind != StoreKind::Local;
        let wanted = config.startup.enabled.unwrap_or(shared);
        let body = keep(config.clone(), store.clone(), status);
        Startup { task: wanted.then(|| tokio::spawn(body)) }
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn keep(config: Config, store: Store, status: Arc<Status>) {
    let poll = Duration::from_secs(config.startup.autodetect_poll_interval_seconds.into());
    let mut is_whole = false;
    loop {
        let outcome = round(&config, &store, &mut is_whole).await;
        let wait = if outcome.is_ok() { poll } else { RETRY };
        match outcome {
            Ok(written) => {
                written.iter().for_each(|what| tracing::info!("written to the datastore: {what}"));
                status.set_startup_fault(None);
            }
            Err(error) => status.set_startup_fault(Some(error.to_string())),
        }
        tokio::time::sleep(wait).await;
    }
}

/// Writes what is not as it must be; answers what that was. What all nodes share is looked after
/// until `is_whole`: a pool that somebody deletes later stays deleted.
async fn round(
    config: &Config,
    store: &impl Datastore,
    is_whole: &mut bool,
) -> Result<Vec<String>, StartupError> {
    if !cluster::is_ready(store).await? {
        return Err(StartupError::Locked);
    }
    let interfaces = autodetect::interfaces()
        .map_err(|error| StartupError::Host(format!("interfaces of the host: {error}")))?;
    let mut written = Vec::new();
    written.extend(write_node(config, store, &interfaces).await?);
    let (settings, node) = (&config.startup, &config.node_name);
    if !*is_whole {
        let shared = config.store.kind != StoreKind::Local;
        written.extend(cluster::ensure(store, settings, node, &interfaces, shared).await?);
        *is_whole = true;
    }
    written.extend(write_name(&config.startup.nodename_file, node));
    Ok(written)
}

/// Writes this node's resource, if it has to change.
async fn write_node(
    config: &Config,
    store: &impl Datastore,
    interfaces: &[Interface],
) -> Result<Option<String>, StartupError> {
    let name = &config.node_name;
    let key = Key { kind: "Node".to_owned(), namespace: String::new(), name: name.clone() };
    for _ in 0..TRIES {
        let now = store.find(&key).await?;
        let value = now.as_ref().map_or(Value::Null, |now| Value::Object(now.value.clone()));
        let before = now.as_ref().map_or_else(|| json!({}), Document::spec);
        let spec = wanted(config, before.clone(), &value, interfaces);
        if node::addresses(&spec).next().is_none() {
            return Err(StartupError::NoAddress);
        }
        if now.is_some() && spec == before {
            return Ok(None);
        }
        if !config.startup.disable_node_ip_check {
            check_alone(store, name, &spec).await?;
        }
        let outcome = match now {
            Some(now) => store.update(now.with_spec(spec)).await,
            None => {
                let value = json!({"kind": "Node", "apiVersion": "projectcalico.org/v3",
                    "metadata": {"name": name}, "spec": spec});
                save::create(store, Document::new(value)?).await
            }
        };
        match outcome {
            Ok(_) => return Ok(Some(format!("Node {name}"))),
            Err(StoreError::Conflict(_) | StoreError::Exists(_) | StoreError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict(key).into())
}

/// The spec that the host's addresses ask for. Names may have to be looked up for it.
fn wanted(config: &Config, before: Value, node: &Value, interfaces: &[Interface]) -> Value {
    let internal = node::internal(node);
    let host = Host {
        interfaces,
        never: &[&config.host_device, &config.interface_prefix],
        internal: &internal,
        source_towards: &autodetect::source_towards,
    };
    tokio::task::block_in_place(|| node::spec(before, &config.startup, &host))
}

/// No other Node has one of these addresses.
async fn check_alone(store: &impl Datastore, name: &str, spec: &Value) -> Result<(), StartupError> {
    for other in store.list("Node").await?.documents {
        let theirs: Vec<_> = node::addresses(&other.spec()).collect();
        let same = node::addresses(spec).find(|address| theirs.contains(address));
        if let Some(address) = same.filter(|_| other.key.name != name) {
            return Err(StartupError::Conflict(address, other.key.name));
        }
    }
    Ok(())
}

/// Keeps the node's name where CNI plugins read it, if the folder is there.
fn write_name(file: &Path, name: &str) -> Option<String> {
    let is_there = file.parent().is_some_and(Path::is_dir);
    let same = std::fs::read_to_string(file).is_ok_and(|text| text.trim() == name);
    if !is_there || same {
        return None;
    }
    match std::fs::write(file, name) {
        Ok(()) => Some(file.display().to_string()),
        Err(error) => {
            tracing::warn!("{}: {error}", file.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::memory::Memory;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pool_that_is_deleted_comes_back_with_the_next_start_only() {
        let mut config = Config { node_name: "n1".to_owned(), ..Config::default() };
        config.startup.ip = "192.0.2.1/24".parse().unwrap();
        config.startup.nodename_file = "/nonexistent/nodename".into();
        let (store, mut is_whole) = (Memory::default(), false);
        let pools = async || store.list("IPPool").await.unwrap().documents;
        let written = round(&config, &store, &mut is_whole).await.unwrap();
        assert_eq!(written[0], "Node n1");
        for pool in pools().await {
            store.delete(&pool).await.unwrap();
        }
        let written = round(&config, &store, &mut is_whole).await.unwrap();
        assert_eq!((written.len(), pools().await.len()), (0, 0), "{written:?}");
        round(&config, &store, &mut false).await.unwrap();
        assert!(!pools().await.is_empty());
    }
}
