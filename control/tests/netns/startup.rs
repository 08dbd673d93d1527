//! What a daemon writes when it starts, on a directory and on a real etcd: its Node with the
//! address that is found, and found anew; nothing while the cluster is locked.

use crate::daemon::{Daemon, NETWORK, STORE, machine_can};
use crate::etcd::{Etcd, URL};
use crate::{in_namespace, sh};
use margay_control::config::{Config, OwnAddress, StoreConfig, StoreKind};
use margay_control::resource::Key;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use margay_control::store::save;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn key(kind: &str, name: &str) -> Key {
    Key { kind: kind.to_owned(), namespace: String::new(), name: name.to_owned() }
}

/// Waits for a spec in the store.
async fn until(store: &Store, key: &Key, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let spec = store.get(key).await.map(|document| document.spec());
        match spec {
            Ok(spec) if reached(&spec) => return spec,
            spec if Instant::now() > end => panic!("{what}: {spec:?}"),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn apply(store: &Store, value: Value) {
    save::apply(store, Document::new(value).unwrap()).await.unwrap();
}

async fn lock(store: &Store, ready: bool) {
    let cluster = store.get(&key("ClusterInformation", "default")).await.unwrap();
    let mut spec = cluster.spec();
    spec["datastoreReady"] = json!(ready);
    store.update(cluster.with_spec(spec)).await.unwrap();
}

async fn starts(folder: &Path, config: StoreConfig) {
    let store = Store::open(&config).unwrap();
    let nodename = folder.join("nodename");
    let startup = |config: &mut Config| {
        config.startup.enabled = Some(true);
        config.startup.ip = OwnAddress::Autodetect;
        config.startup.autodetect_poll_interval_seconds = 1;
        config.startup.nodename_file = nodename.clone();
    };
    let daemon = Daemon::start_with(folder, config, startup);
    let me = key("Node", "me");
    let found = |address: &'static str| move |spec: &Value| spec["bgp"]["ipv4Address"] == address;
    until(&store, &me, "the node", found("192.0.2.1/24")).await;
    daemon.until("ready", |status| status.ready && status.errors.is_empty());
    let pool = key("IPPool", "default-ipv4-ippool");
    until(&store, &pool, "the pool", |spec| spec["cidr"] == "192.168.0.0/16").await;
    // The last of what is written.
    let end = Instant::now() + LIMIT;
    while std::fs::read_to_string(&nodename).unwrap_or_default() != "me" {
        assert!(Instant::now() < end, "no {}", nodename.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    sh("ip addr del 192.0.2.1/24 dev up0; ip addr add 192.0.2.9/24 dev up0");
    until(&store, &me, "the new address", found("192.0.2.9/24")).await;

    lock(&store, false).await;
    let locked = |text: &String| text.contains("the datastore is locked");
    daemon.until("a lock", |status| status.errors.iter().any(locked));
    for document in save::parse("test", STORE).unwrap() {
        if document.key.kind == "WorkloadEndpoint" {
            save::apply(&store, document).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = daemon.until("a fault", |status| !status.store.faults.is_empty());
    assert!(held.endpoints == 0 && held.ready, "{held:?}");
    lock(&store, true).await;
    daemon.until("the endpoint", |status| status.endpoints == 1 && status.errors.is_empty());

    apply(
        &store,
        json!({"kind": "Node", "metadata": {"name": "you"},
        "spec": {"bgp": {"ipv4Address": "192.0.2.3/24"}}}),
    )
    .await;
    sh("ip addr del 192.0.2.9/24 dev up0; ip addr add 192.0.2.3/24 dev up0");
    let conflict = |text: &String| text.contains("192.0.2.3 is the address of Node you as well");
    daemon.until("a conflict", |status| status.errors.iter().any(conflict));
    assert!(found("192.0.2.9/24")(&store.get(&me).await.unwrap().spec()));
    daemon.stop();
}

#[test]
fn a_node_writes_what_calico_node_does_on_a_directory() {
    if !machine_can() {
        return;
    }
    in_namespace(async || {
        let folder = Daemon::folder();
        sh(NETWORK);
        std::fs::create_dir(folder.join("store")).unwrap();
        let config = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
        starts(&folder, config).await;
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_node_writes_what_calico_node_does_on_etcd() {
    if !machine_can() {
        return;
    }
    in_namespace(async || {
        let folder = Daemon::folder();
        let Some(_etcd) = Etcd::start(&folder) else { return };
        sh(NETWORK);
        let config = StoreConfig {
            kind: StoreKind::Etcd,
            etcd_endpoints: URL.to_owned(),
            ..StoreConfig::default()
        };
        starts(&folder, config).await;
        std::fs::remove_dir_all(folder).unwrap();
    });
}
