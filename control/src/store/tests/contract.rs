//! What every datastore must do, as a test that each implementation runs.

use crate::resource::{Key, Resource};
use crate::store::datastore::{Datastore, Document, StoreError};
use crate::store::watch::Batch;
use crate::store::{Event, Report};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest wait for one change.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Node",
        "metadata": {"name": name, "labels": {"rack": "a"}},
        "spec": {"bgp": {"ipv4Address": address}, "unknownToUs": {"kept": [1, 2.5, "3"]}},
    })
}

/// A kind that a store can make, change and remove, and that has an address.
pub(crate) struct Subject {
    pub(crate) kind: &'static str,
    /// From name and address, such as `10.0.0.1/24`.
    pub(crate) make: fn(&str, &str) -> Value,
    /// The address again.
    pub(crate) address: fn(&Resource) -> Option<String>,
}

/// Of all stores but Kubernetes, which makes its nodes itself.
pub(crate) const NODES: Subject = Subject { kind: "Node", make: node, address: node_address };

fn node_address(resource: &Resource) -> Option<String> {
    match resource {
        Resource::Node(node) => node.ipv4.map(|net| net.to_string()),
        _ => None,
    }
}

pub(crate) fn document(value: Value) -> Document {
    Document::new(value).unwrap()
}

pub(crate) fn key(kind: &str, name: &str) -> Key {
    Key { kind: kind.into(), namespace: String::new(), name: name.into() }
}

/// Create, read, change, and remove, against an empty store.
pub(crate) async fn reads_and_writes(store: &impl Datastore) {
    reads_and_writes_of(store, &NODES).await;
}

/// The same of another kind.
pub(crate) async fn reads_and_writes_of(store: &impl Datastore, subject: &Subject) {
    let make = subject.make;
    let missing = key(subject.kind, "a");
    assert_eq!(store.get(&missing).await, Err(StoreError::NotFound(missing.clone())));
    assert_eq!(store.list(subject.kind).await.unwrap().documents, []);
    let created = store.create(document(make("a", "10.0.0.1/24"))).await.unwrap();
    assert!(created.revision.is_some());
    let again = store.create(document(make("a", "10.0.0.9/24"))).await;
    assert_eq!(again, Err(StoreError::Exists(missing.clone())));

    let mut read = store.get(&missing).await.unwrap();
    assert_eq!(read.revision, created.revision);
    assert_eq!(read.value["spec"]["unknownToUs"], json!({"kept": [1, 2.5, "3"]}));
    read.value["spec"] = make("a", "10.0.0.2/24")["spec"].take();
    let updated = store.update(read.clone()).await.unwrap();
    assert_ne!(updated.revision, created.revision);
    assert_eq!(store.update(read).await, Err(StoreError::Conflict(missing.clone())));
    let kept = store.get(&missing).await.unwrap();
    assert_eq!(kept.value["spec"]["unknownToUs"], json!({"kept": [1, 2.5, "3"]}));
    assert_eq!(kept.revision, updated.revision);

    store.create(document(make("b", "10.0.0.3/24"))).await.unwrap();
    let listed = store.list(subject.kind).await.unwrap();
    let names: Vec<&str> = listed.documents.iter().map(|one| one.key.name.as_str()).collect();
    assert_eq!((names, listed.faults), (vec!["a", "b"], vec![]));

    assert_eq!(store.delete(&created).await, Err(StoreError::Conflict(missing.clone())));
    store.delete(&updated).await.unwrap();
    assert_eq!(store.delete(&updated).await, Err(StoreError::NotFound(missing.clone())));
    assert_eq!(store.update(updated).await, Err(StoreError::NotFound(missing)));
}

/// IPAM's objects and resources with a namespace come back as they were written.
pub(crate) async fn keeps_every_kind(store: &impl Datastore) {
    keeps_kinds(store, |_| true).await;
}

/// The same of the kinds that a store keeps.
pub(crate) async fn keeps_kinds(store: &impl Datastore, kept: impl Fn(&str) -> bool) {
    let values = [
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
            "metadata": {"name": "10-1-2-0-29"},
            "spec": {"cidr": "10.1.2.0/29", "affinity": "host:edge-1", "deleted": false,
                "affinityClaimTime": "2026-01-05T09:00:00Z",
                "allocations": [0, null], "unallocated": [1], "attributes": [{"handle_id": "h"}],
                "sequenceNumber": 1_767_603_600_000_000_123_u64, "later": true}}),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
            "metadata": {"name": "edge-1-10-1-2-0-29"},
            "spec": {"cidr": "10.1.2.0/29", "node": "edge-1", "state": "pending",
                "type": "host", "deleted": "false"}}),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
            "metadata": {"name": "edge-1-fd00-1--40-122"},
            "spec": {"cidr": "fd00:1::40/122", "node": "edge-1", "state": "confirmed",
                "type": "host", "deleted": "false"}}),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMHandle",
            "metadata": {"name": "vxlan-tunnel-addr-edge-1"},
            "spec": {"handleID": "vxlan-tunnel-addr-edge-1", "block": {"10.1.2.0/29": 1},
                "deleted": false}}),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMConfig",
            "metadata": {"name": "default"},
            "spec": {"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 4}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
            "metadata": {"name": "edge--1-k8s-web--0-eth0", "namespace": "shop"},
            "spec": {"node": "edge-1", "interfaceName": "cali1"}}),
    ];
    for value in values.into_iter().filter(|value| kept(value["kind"].as_str().unwrap())) {
        let written = store.create(document(value)).await.unwrap();
        let read = store.get(&written.key).await.unwrap();
        assert_eq!(read, written);
        let listed = store.list(&written.key.kind).await.unwrap();
        assert!(listed.documents.contains(&written), "{listed:?}");
        store.delete(&read).await.unwrap();
        assert_eq!(store.get(&read.key).await, Err(StoreError::NotFound(read.key.clone())));
    }
}

/// The watch tells what is there, then what changes.
pub(crate) async fn tells_of_changes(store: &impl Datastore) {
    tells_of_changes_of(store, &NODES).await;
}

/// The same of another kind.
pub(crate) async fn tells_of_changes_of(store: &impl Datastore, subject: &'static Subject) {
    let make = subject.make;
    store.create(document(make("a", "10.0.0.1/24"))).await.unwrap();
    let mut seen = Seen::of(subject, store.watch());
    seen.until(|seen| seen.known && seen.names() == ["a"]).await;
    let b = store.create(document(make("b", "10.0.0.2/24"))).await.unwrap();
    seen.until(|seen| seen.names() == ["a", "b"]).await;
    let mut a = store.get(&key(subject.kind, "a")).await.unwrap();
    a.value["spec"] = make("a", "10.0.0.7/24")["spec"].take();
    store.update(a).await.unwrap();
    seen.until(|seen| seen.address("a") == Some("10.0.0.7/24".to_owned())).await;
    store.delete(&b).await.unwrap();
    seen.until(|seen| seen.names() == ["a"]).await;
    assert_eq!(seen.report.faults, []);
}

/// A watcher's view: the sum of what it was told.
pub(crate) struct Seen {
    batches: mpsc::Receiver<Batch>,
    /// The kind that is looked at.
    pub(crate) subject: &'static Subject,
    pub(crate) resources: BTreeMap<Key, Resource>,
    pub(crate) report: Report,
    pub(crate) known: bool,
    /// Events in all.
    pub(crate) events: Vec<String>,
}

impl Seen {
    pub(crate) fn start(batches: mpsc::Receiver<Batch>) -> Seen {
        Seen::of(&NODES, batches)
    }

    pub(crate) fn of(subject: &'static Subject, batches: mpsc::Receiver<Batch>) -> Seen {
        let (resources, report) = (BTreeMap::new(), Report::default());
        Seen { batches, subject, resources, report, known: false, events: Vec::new() }
    }

    /// Takes batches in until the view is as expected; panics when it takes too long.
    pub(crate) async fn until(&mut self, expected: impl Fn(&Seen) -> bool) {
        while !expected(self) {
            let batch = tokio::time::timeout(LIMIT, self.batches.recv()).await;
            let Ok(Some(batch)) = batch else {
                panic!("{batch:?}; seen {:?}, {:?}", self.names(), self.report);
            };
            self.known = batch.known;
            self.report = batch.report;
            for event in batch.events {
                match event {
                    Event::Put(key, resource) => {
                        self.events.push(format!("+{key}"));
                        self.resources.insert(key, resource);
                    }
                    Event::Remove(key) => {
                        self.events.push(format!("-{key}"));
                        self.resources.remove(&key);
                    }
                }
            }
        }
    }

    /// Names of what is looked at.
    pub(crate) fn names(&self) -> Vec<&str> {
        let keys = self.resources.keys().filter(|key| key.kind == self.subject.kind);
        keys.map(|key| key.name.as_str()).collect()
    }

    pub(crate) fn address(&self, name: &str) -> Option<String> {
        (self.subject.address)(self.resources.get(&key(self.subject.kind, name))?)
    }
}
