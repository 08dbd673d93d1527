//! IPAM: which address is whose, as Calico keeps it in blocks, affinities and handles.
//!
//! A pool is cut into blocks. A node claims a block (an affinity: pending, then the block, then
//! confirmed) and gives addresses of it out; when it may claim no more, it borrows single ones of
//! others' blocks. A handle counts which blocks have addresses of one owner: it is counted up
//! before the block is written and down after a release, so that what a crash leaves behind can
//! still be found by it. All writes compare what was read, and start again where another writer
//! was first. [`block`] and [`pool`] are pure; [`claim`] has affinities, [`assign`] and
//! [`release`] addresses, [`view`] what there is, and [`check`] whether it fits together.

pub mod assign;
pub mod block;
pub mod check;
mod claim;
mod config;
mod handle;
pub(crate) mod lock;
pub mod pool;
pub mod release;
pub mod report;
mod reservation;
#[cfg(test)]
mod tests;
pub mod time;
mod tunnel;
pub mod view;

pub use config::IpamConfig;

use crate::resource::Key;
use crate::store::datastore::{Datastore, Document, StoreError};
use crate::store::etcd::key::cidr_name;
use block::{Block, Cooldown};
use ipnet::IpNet;
use pool::Pool;
use reservation::Reservations;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tries of a write that others are first with.
pub const RETRIES: usize = 100;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IpamError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host has no Node resource.
    #[error("the host {0} has no Node resource")]
    NoNode(String),
    /// No pool may be used.
    #[error("cannot find a qualified ippool")]
    NoPool,
    /// The address is given out.
    #[error("{0} is already assigned")]
    Taken(std::net::IpAddr),
    /// The address is of a block of another host, and affinity is strict.
    #[error("{0} is in a block of another host, and strictAffinity is set")]
    Strict(std::net::IpAddr),
    /// What is stored is not as it must be.
    #[error("{0}")]
    Invalid(String),
    /// Others were first too often.
    #[error("gave up on {0} after {RETRIES} tries: others write it all the time")]
    Contended(String),
}

/// Allocation by way of a store.
#[derive(Debug)]
pub struct Ipam<'a, D> {
    store: &'a D,
    /// Time since 1970.
    now: fn() -> Duration,
}

/// A block as it was read.
#[derive(Debug, Clone)]
struct Stored {
    document: Document,
    block: Block,
}

impl<'a, D: Datastore> Ipam<'a, D> {
    /// Allocation by the system's clock.
    pub fn new(store: &'a D) -> Ipam<'a, D> {
        Ipam { store, now: || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    fn seconds(&self) -> u64 {
        (self.now)().as_secs()
    }

    fn cooldown(&self, config: &IpamConfig) -> Cooldown {
        Cooldown { seconds: config.ip_cooldown_seconds, now: self.seconds() }
    }

    /// Settings of the cluster, or the defaults.
    pub async fn config(&self) -> Result<IpamConfig, IpamError> {
        match self.store.get(&key("IPAMConfig", "default")).await {
            Ok(document) => IpamConfig::of(&document),
            Err(StoreError::NotFound(_)) => Ok(IpamConfig::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// All pools that are valid, by name.
    pub async fn pools(&self) -> Result<Vec<Pool>, IpamError> {
        let listing = self.store.list("IPPool").await?;
        Ok(listing.documents.iter().filter_map(Pool::of).collect())
    }

    async fn reservations(&self) -> Result<Reservations, IpamError> {
        Ok(Reservations::of(&self.store.list("IPReservation").await?.documents))
    }

    async fn block(&self, cidr: IpNet) -> Result<Option<Stored>, IpamError> {
        let found = self.store.find(&key("IPAMBlock", &cidr_name(cidr))).await?;
        found.map(Stored::of).transpose()
    }

    /// All blocks that can be read.
    async fn blocks(&self) -> Result<Vec<Stored>, IpamError> {
        let listing = self.store.list("IPAMBlock").await?;
        Ok(listing.documents.into_iter().filter_map(|one| Stored::of(one).ok()).collect())
    }

    /// Writes a changed block over the state that was read.
    async fn write(&self, stored: Stored) -> Result<(), StoreError> {
        self.store.update(stored.into_document()).await.map(drop)
    }
}

impl Stored {
    fn of(document: Document) -> Result<Stored, IpamError> {
        let invalid = |what: String| IpamError::Invalid(format!("{}: {what}", document.key));
        let block: Block =
            serde_json::from_value(document.spec()).map_err(|error| invalid(error.to_string()))?;
        block.check().map_err(invalid)?;
        Ok(Stored { document, block })
    }

    /// The document of the block's next state.
    fn into_document(mut self) -> Document {
        self.block.count_write();
        self.document.with_spec(spec_of(&self.block))
    }
}

fn spec_of(block: &Block) -> Value {
    serde_json::to_value(block).unwrap_or_default()
}

fn key(kind: &str, name: &str) -> Key {
    Key { kind: kind.to_owned(), namespace: String::new(), name: name.to_owned() }
}

/// A document of one of IPAM's kinds.
fn document(kind: &str, name: &str, spec: Value) -> Result<Document, StoreError> {
    Document::new(json!({"kind": kind, "apiVersion": "crd.projectcalico.org/v1",
        "metadata": {"name": name}, "spec": spec}))
}
