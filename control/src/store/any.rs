//! The datastore that the settings name.

use super::datastore::{Datastore, Document, Listing, StoreError};
use super::embedded::Embedded;
use super::etcd::Etcd;
use super::kubernetes::Kubernetes;
use super::watch::Batch;
use crate::config::{StoreConfig, StoreKind};
use crate::resource::Key;
use tokio::sync::mpsc;

/// One of the datastores.
#[derive(Debug, Clone)]
pub enum Store {
    /// A directory.
    Embedded(Embedded),
    /// etcd.
    Etcd(Etcd),
    /// Kubernetes.
    Kubernetes(Kubernetes),
}

impl Store {
    /// Opens the store; what is wrong with its settings is an error, a store that does not answer
    /// is none. Needs a runtime.
    pub fn open(config: &StoreConfig) -> Result<Store, StoreError> {
        match config.kind {
            StoreKind::Local => Ok(Store::Embedded(Embedded::new(&config.path))),
            StoreKind::Etcd => Etcd::new(config).map(Store::Etcd),
            StoreKind::Kubernetes => Kubernetes::new(config).map(Store::Kubernetes),
        }
    }
}

impl Datastore for Store {
    async fn list(&self, kind: &str) -> Result<Listing, StoreError> {
        match self {
            Store::Embedded(store) => store.list(kind).await,
            Store::Etcd(store) => store.list(kind).await,
            Store::Kubernetes(store) => store.list(kind).await,
        }
    }

    async fn list_affinities(&self, host: &str) -> Result<Listing, StoreError> {
        match self {
            Store::Embedded(store) => store.list_affinities(host).await,
            Store::Etcd(store) => store.list_affinities(host).await,
            Store::Kubernetes(store) => store.list_affinities(host).await,
        }
    }

    async fn get(&self, key: &Key) -> Result<Document, StoreError> {
        match self {
            Store::Embedded(store) => store.get(key).await,
            Store::Etcd(store) => store.get(key).await,
            Store::Kubernetes(store) => store.get(key).await,
        }
    }

    async fn create(&self, document: Document) -> Result<Document, StoreError> {
        match self {
            Store::Embedded(store) => store.create(document).await,
            Store::Etcd(store) => store.create(document).await,
            Store::Kubernetes(store) => store.create(document).await,
        }
    }

    async fn update(&self, document: Document) -> Result<Document, StoreError> {
        match self {
            Store::Embedded(store) => store.update(document).await,
            Store::Etcd(store) => store.update(document).await,
            Store::Kubernetes(store) => store.update(document).await,
        }
    }

    async fn delete(&self, document: &Document) -> Result<(), StoreError> {
        match self {
            Store::Embedded(store) => store.delete(document).await,
            Store::Etcd(store) => store.delete(document).await,
            Store::Kubernetes(store) => store.delete(document).await,
        }
    }

    fn watch(&self) -> mpsc::Receiver<Batch> {
        match self {
            Store::Embedded(store) => store.watch(),
            Store::Etcd(store) => store.watch(),
            Store::Kubernetes(store) => store.watch(),
        }
    }
}
