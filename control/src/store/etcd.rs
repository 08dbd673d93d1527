//! etcd v3 as Calico uses it, over gRPC.
//!
//! [`key`] knows Calico's keys, `connection` the endpoints, `follow` the list and the watch that
//! the daemon lives on, `message` the protocol. A write compares the revision that etcd gave the
//! key at its last write; one that is repeated because its answer was lost, and finds what it
//! wrote, is done. Left out: discovery by SRV records, leases, watches of single kinds.

mod connection;
mod follow;
pub(crate) mod key;
mod message;
#[cfg(test)]
mod tests;

use super::Fault;
use super::datastore::{Datastore, Document, Listing, Revision, StoreError};
use super::watch::Batch;
use crate::config::StoreConfig;
use crate::resource::Key;
use connection::{Answer, Connection};
use message::{
    Compare, DeleteRangeRequest, EQUAL, KeyValue, Operand, PutRequest, RangeRequest, RequestKind,
    RequestOp, ResponseKind, TARGET_MOD, TARGET_VERSION, TxnRequest, TxnResponse,
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Most keys that one answer lists; longer lists come in parts of one revision.
const PAGE: i64 = 2000;
/// Batches that may wait for the control loop.
const QUEUE: usize = 4;

/// A cluster of etcd as a datastore.
#[derive(Debug, Clone)]
pub struct Etcd {
    connection: Arc<Connection>,
}

/// What is under a prefix at one revision.
#[derive(Debug)]
struct Range {
    kvs: Vec<KeyValue>,
    revision: i64,
    cluster: u64,
}

impl Etcd {
    /// Reads certificates, connects when first used. Needs a runtime.
    pub fn new(config: &StoreConfig) -> Result<Etcd, StoreError> {
        Ok(Etcd { connection: Arc::new(Connection::new(config)?) })
    }

    async fn write(
        &self,
        path: &str,
        revision: Option<i64>,
        write: RequestKind,
    ) -> Result<Answer<TxnResponse>, StoreError> {
        let key = path.as_bytes().to_vec();
        let (target, operand) = match revision {
            Some(revision) => (TARGET_MOD, Operand::ModRevision(revision)),
            None => (TARGET_VERSION, Operand::Version(0)),
        };
        let compare = Compare { result: EQUAL, target, key: key.clone(), operand: Some(operand) };
        let read = RequestKind::Range(RangeRequest { key, ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(write) }],
            failure: vec![RequestOp { request: Some(read) }],
        };
        self.connection.txn(request).await
    }

    /// Puts a document, over a revision or where nothing is.
    async fn put(
        &self,
        mut document: Document,
        revision: Option<i64>,
    ) -> Result<Document, StoreError> {
        let (path, value) = encoded(&document)?;
        let key = path.as_bytes().to_vec();
        let put = RequestKind::Put(PutRequest { key, value: value.clone() });
        let answer = self.write(&path, revision, put).await?;
        let now = match answer.message.succeeded {
            true => answer.message.header.as_ref().map_or(0, |header| header.revision),
            false => match found(&answer.message) {
                Some(kv) if answer.repeated && kv.value == value => kv.mod_revision,
                Some(_) if revision.is_none() => return Err(StoreError::Exists(document.key)),
                Some(_) => return Err(StoreError::Conflict(document.key)),
                None => return Err(StoreError::NotFound(document.key)),
            },
        };
        document.revision = Some(Revision(now.to_string()));
        Ok(document)
    }

    async fn list_under(&self, kind: &str, prefixes: Vec<String>) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let mut revision = 0;
        for prefix in prefixes {
            let range = self.connection.all(&prefix, revision).await?;
            revision = range.revision;
            for kv in range.kvs {
                match decode(&kv) {
                    Ok(Some(document)) if document.key.kind == kind => {
                        listing.documents.push(document);
                    }
                    Ok(_) => {}
                    Err(fault) => listing.faults.push(fault),
                }
            }
        }
        listing.documents.sort_by(|one, other| one.key.cmp(&other.key));
        listing.revision = Some(Revision(revision.to_string()));
        Ok(listing)
    }

    async fn read(&self, path: &str) -> Result<Option<KeyValue>, StoreError> {
        let key = path.as_bytes().to_vec();
        let request = RangeRequest { key, ..RangeRequest::default() };
        Ok(self.connection.range(request).await?.kvs.pop())
    }
}

impl Connection {
    /// Everything under a prefix; at the newest revision when `revision` is 0.
    async fn all(&self, prefix: &str, revision: i64) -> Result<Range, StoreError> {
        let range_end = end_of(prefix);
        let mut range = Range { kvs: Vec::new(), revision, cluster: 0 };
        let mut key = prefix.as_bytes().to_vec();
        loop {
            let revision = range.revision;
            let request = RangeRequest { key, range_end: range_end.clone(), limit: PAGE, revision };
            let page = self.range(request).await?;
            if let Some(header) = page.header {
                range.cluster = header.cluster_id;
                if range.revision == 0 {
                    range.revision = header.revision;
                }
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            range.kvs.extend(page.kvs);
            match last {
                Some(last) if page.more => key = [last.as_slice(), &[0]].concat(),
                _ => return Ok(range),
            }
        }
    }
}

impl Datastore for Etcd {
    async fn list(&self, kind: &str) -> Result<Listing, StoreError> {
        self.list_under(kind, key::prefixes(kind)).await
    }

    async fn list_affinities(&self, host: &str) -> Result<Listing, StoreError> {
        self.list_under("BlockAffinity", vec![format!("{}{host}/", key::HOSTS)]).await
    }

    async fn get(&self, key: &Key) -> Result<Document, StoreError> {
        for path in key::paths(key) {
            let Some(kv) = self.read(&path).await? else { continue };
            let invalid = |fault: Fault| StoreError::Invalid { key: key.clone(), what: fault.what };
            if let Some(document) = decode(&kv).map_err(invalid)? {
                return Ok(document);
            }
        }
        Err(StoreError::NotFound(key.clone()))
    }

    async fn create(&self, document: Document) -> Result<Document, StoreError> {
        self.put(document, None).await
    }

    async fn update(&self, document: Document) -> Result<Document, StoreError> {
        let revision = number(&document)?;
        self.put(document, Some(revision)).await
    }

    async fn delete(&self, document: &Document) -> Result<(), StoreError> {
        let (path, _) = encoded(document)?;
        let key = path.as_bytes().to_vec();
        let delete = RequestKind::Delete(DeleteRangeRequest { key });
        let answer = self.write(&path, Some(number(document)?), delete).await?;
        match (answer.message.succeeded, found(&answer.message)) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(StoreError::Conflict(document.key.clone())),
            (false, None) if answer.repeated => Ok(()),
            (false, None) => Err(StoreError::NotFound(document.key.clone())),
        }
    }

    fn watch(&self) -> mpsc::Receiver<Batch> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(follow::run(self.connection.clone(), sender));
        receiver
    }
}

/// The document of a pair, with its revision; a fault names the key.
fn decode(kv: &KeyValue) -> Result<Option<Document>, Fault> {
    match key::decode(&kv.key, &kv.value) {
        Ok(document) => Ok(document.map(|mut document| {
            document.revision = Some(Revision(kv.mod_revision.to_string()));
            document
        })),
        Err(what) => Err(fault(&kv.key, what, "correct it, or delete the key")),
    }
}

fn fault(key: &[u8], what: String, mend: &str) -> Fault {
    let file = String::from_utf8_lossy(key).into_owned();
    Fault { file, line: 0, what, mend: mend.to_owned() }
}

fn encoded(document: &Document) -> Result<(String, Vec<u8>), StoreError> {
    let what = "etcd keeps no such kind, or its spec does not say which it is".to_owned();
    key::encode(document).ok_or(StoreError::Invalid { key: document.key.clone(), what })
}

fn number(document: &Document) -> Result<i64, StoreError> {
    let revision = document.read_revision()?;
    let what = format!("resourceVersion '{}' is none of etcd's", revision.0);
    revision.0.parse().map_err(|_| StoreError::Invalid { key: document.key.clone(), what })
}

/// What a write that was not done has found in its place.
fn found(response: &TxnResponse) -> Option<&KeyValue> {
    match response.responses.first()?.response.as_ref()? {
        ResponseKind::Range(range) => range.kvs.first(),
    }
}

/// The first key behind all that begin with a prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
