//! A datastore in memory, for tests: each operation is one step that a scheduler may put between
//! those of others, and any write may be made to fail as a conflict or as a lost answer.

use super::contract;
use crate::resource::Key;
use crate::store::datastore::{Datastore, Document, Listing, Revision, StoreError};
use crate::store::watch::Batch;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::mpsc;

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    documents: BTreeMap<Key, Document>,
    revision: u64,
    /// Outcomes of the writes to come; those beyond are without fault.
    faults: Vec<Fault>,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Another writer was first.
    Conflict,
    /// It is done, and the answer is lost.
    Lost,
}

impl Memory {
    /// The next writes have these outcomes.
    pub(crate) fn fault(&self, faults: Vec<Fault>) {
        self.state.lock().unwrap().faults = faults;
    }

    /// Everything of a kind, at once.
    pub(crate) fn all(&self, kind: &str) -> Vec<Document> {
        let state = self.state.lock().unwrap();
        state.documents.values().filter(|one| one.key.kind == kind).cloned().collect()
    }

    fn write(
        &self,
        key: &Key,
        change: impl FnOnce(&mut State, Revision) -> Result<Document, StoreError>,
    ) -> Result<Document, StoreError> {
        let mut state = self.state.lock().unwrap();
        let fault = state.faults.pop().unwrap_or(Fault::None);
        if fault == Fault::Conflict {
            return Err(StoreError::Conflict(key.clone()));
        }
        state.revision += 1;
        let revision = Revision(state.revision.to_string());
        let done = change(&mut state, revision)?;
        match fault {
            Fault::Lost => Err(StoreError::Unavailable("the answer is lost".into())),
            _ => Ok(done),
        }
    }
}

impl State {
    fn unchanged(&self, document: &Document) -> Result<(), StoreError> {
        let now = self.documents.get(&document.key);
        let now = now.ok_or_else(|| StoreError::NotFound(document.key.clone()))?;
        match now.revision == document.revision {
            true => Ok(()),
            false => Err(StoreError::Conflict(document.key.clone())),
        }
    }
}

impl Datastore for Memory {
    async fn list(&self, kind: &str) -> Result<Listing, StoreError> {
        tokio::task::yield_now().await;
        Ok(Listing { documents: self.all(kind), ..Listing::default() })
    }

    async fn get(&self, key: &Key) -> Result<Document, StoreError> {
        tokio::task::yield_now().await;
        let found = self.state.lock().unwrap().documents.get(key).cloned();
        found.ok_or_else(|| StoreError::NotFound(key.clone()))
    }

    async fn create(&self, mut document: Document) -> Result<Document, StoreError> {
        tokio::task::yield_now().await;
        let key = document.key.clone();
        self.write(&key, |state, revision| {
            if state.documents.contains_key(&document.key) {
                return Err(StoreError::Exists(document.key));
            }
            document.revision = Some(revision);
            state.documents.insert(document.key.clone(), document.clone());
            Ok(document)
        })
    }

    async fn update(&self, mut document: Document) -> Result<Document, StoreError> {
        tokio::task::yield_now().await;
        let key = document.key.clone();
        self.write(&key, |state, revision| {
            state.unchanged(&document)?;
            document.revision = Some(revision);
            state.documents.insert(document.key.clone(), document.clone());
            Ok(document)
        })
    }

    async fn delete(&self, document: &Document) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.write(&document.key, |state, _| {
            state.unchanged(document)?;
            state.documents.remove(&document.key);
            Ok(document.clone())
        })
        .map(drop)
    }

    fn watch(&self) -> mpsc::Receiver<Batch> {
        mpsc::channel(1).1
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract::reads_and_writes(&Memory::default()).await;
    contract::keeps_every_kind(&Memory::default()).await;
}
