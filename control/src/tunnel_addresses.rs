//! Keeps this node's addresses inside of tunnels, where the store is one that nodes share.
//!
//! Looks when pools or the Node change, and from time to time, as others may have taken an address
//! away. In a directory addresses are what people write: nothing is allocated there. While the
//! cluster is locked (ClusterInformation `datastoreReady: false`) nothing is written.

use crate::ipam::{Ipam, IpamError, lock};
use crate::startup::cluster;
use crate::status::Status;
use crate::store::{Event, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Time between two looks without a change.
const POLL: Duration = Duration::from_secs(60);
/// Time until another try after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The task, and how to wake it.
#[derive(Debug)]
pub(crate) struct TunnelAddresses {
    node: String,
    wake: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl TunnelAddresses {
    /// Starts the task, if the store is a shared one.
    pub(crate) fn start(store: &Store, node: &str, status: Arc<Status>) -> TunnelAddresses {
        let wake = Arc::new(Notify::new());
        let shared = !matches!(store, Store::Embedded(_));
        let body = keep(store.clone(), node.to_owned(), status, wake.clone());
        let task = shared.then(|| tokio::spawn(body));
        TunnelAddresses { node: node.to_owned(), wake, task }
    }

    /// Wakes the task if these changes concern it.
    pub(crate) fn changed(&self, events: &[Event]) {
        let concerns = |event: &Event| {
            let (Event::Put(key, _) | Event::Remove(key)) = event;
            key.kind == "IPPool" || key.kind == "Node" && key.name == self.node
        };
        if events.iter().any(concerns) {
            self.wake.notify_one();
        }
    }
}

impl Drop for TunnelAddresses {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn keep(store: Store, node: String, status: Arc<Status>, wake: Arc<Notify>) {
    loop {
        let outcome = look(&store, &node).await;
        let wait = if outcome.is_ok() { POLL } else { RETRY };
        match outcome {
            Ok(changes) => {
                changes.iter().for_each(|change| tracing::info!("IPAM: {change}"));
                status.set_ipam_fault(None);
            }
            Err(error) => status.set_ipam_fault(Some(error.to_string())),
        }
        let _ = tokio::time::timeout(wait, wake.notified()).await;
    }
}

async fn look(store: &Store, node: &str) -> Result<Vec<String>, IpamError> {
    if !cluster::is_ready(store).await? {
        let what = "the datastore is locked: ClusterInformation's datastoreReady is false";
        return Err(IpamError::Invalid(what.to_owned()));
    }
    let _turn = lock::take(Path::new(lock::LOCK)).await;
    Ipam::new(store).ensure_tunnel_addresses(node).await
}
