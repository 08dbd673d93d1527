mod clients;
mod history;
pub(crate) mod server;

use super::message::AuthenticateRequest;
use super::*;
use crate::resource::Resource;
use crate::store::tests::certificates;
use crate::store::tests::contract::{self, Seen, document, node};
use server::Cluster;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Puts raw bytes, as a hand would.
async fn put(connection: &Connection, key: &str, value: &[u8]) {
    let put = PutRequest { key: key.into(), value: value.into() };
    let op = RequestOp { request: Some(RequestKind::Put(put)) };
    let request = TxnRequest { success: vec![op], ..TxnRequest::default() };
    assert!(connection.txn(request).await.unwrap().message.succeeded);
}

#[derive(Clone, PartialEq, prost::Message)]
struct CompactionRequest {
    #[prost(int64, tag = "1")]
    revision: i64,
    #[prost(bool, tag = "2")]
    physical: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

#[test]
fn names_of_keys_are_those_of_calico() {
    let path = |kind: &str, namespace: &str, name: &str| {
        let key = Key { kind: kind.into(), namespace: namespace.into(), name: name.into() };
        key::paths(&key)
    };
    let v3 = "/calico/resources/v3/projectcalico.org";
    for (kind, namespace, name, expected) in [
        ("Node", "", "edge-1", format!("{v3}/nodes/edge-1")),
        ("WorkloadEndpoint", "ns", "e", format!("{v3}/workloadendpoints/ns/e")),
        ("GlobalNetworkPolicy", "", "p", format!("{v3}/globalnetworkpolicies/p")),
        (
            "IPAMBlock",
            "",
            "10-1-2-0-26",
            "/calico/ipam/v2/assignment/ipv4/block/10.1.2.0-26".into(),
        ),
        (
            "IPAMBlock",
            "",
            "fd00-1--40-122",
            "/calico/ipam/v2/assignment/ipv6/block/fd00:1::40-122".into(),
        ),
        (
            "BlockAffinity",
            "",
            "edge-1-10-1-2-0-26",
            "/calico/ipam/v2/host/edge-1/ipv4/block/10.1.2.0-26".into(),
        ),
        (
            "IPAMHandle",
            "",
            "k8s-pod-network.c0",
            "/calico/ipam/v2/handle/k8s-pod-network.c0".into(),
        ),
        ("IPAMConfig", "", "default", "/calico/ipam/v2/config".into()),
    ] {
        assert!(path(kind, namespace, name).contains(&expected), "{kind} {name}");
    }
    assert_eq!(path("Service", "ns", "s"), Vec::<String>::new());
}

#[test]
fn very_old_affinities_without_a_value_are_confirmed() {
    let path = b"/calico/ipam/v2/host/n-1/ipv4/block/10.1.2.0-26";
    for value in [&b""[..], b"{}", br#"{"state":"","deleted":false}"#] {
        let found = key::decode(path, value).unwrap().unwrap();
        assert_eq!(found.key.name, "n-1-10-1-2-0-26");
        let value = serde_json::Value::Object(found.value);
        let Ok(Resource::BlockAffinity(own)) = crate::store::typed("BlockAffinity", &value) else {
            panic!("{value}");
        };
        assert!(own.confirmed && own.node == "n-1");
    }
    assert_eq!(key::decode(b"/calico/ipam/v2/host/n-1", b""), Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    for contract in 0..3 {
        let Some(cluster) = Cluster::start(1) else { return };
        let store = cluster.store();
        match contract {
            0 => contract::reads_and_writes(&store).await,
            1 => contract::keeps_every_kind(&store).await,
            _ => contract::tells_of_changes(&store).await,
        }
    }
}

/// What calicoctl writes: the key, and one JSON object without a resourceVersion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_as_calico_writes_them() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (store, connection) = (cluster.store(), cluster.connection());
    let mut value = node("edge-1", "10.0.0.7/24");
    value["metadata"]["resourceVersion"] = "17".into();
    value["metadata"]["selfLink"] = "x".into();
    store.create(document(value)).await.unwrap();
    let affinity = serde_json::json!({"kind": "BlockAffinity",
        "metadata": {"name": "edge-1-10-1-2-0-26"},
        "spec": {"state": "confirmed", "node": "edge-1", "cidr": "10.1.2.0/26", "type": "host",
            "deleted": "false"}});
    store.create(document(affinity)).await.unwrap();
    let all = connection.all("/calico/", 0).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs: Vec<(String, serde_json::Value)> = all
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), serde_json::from_slice(&kv.value).unwrap()))
        .collect();
    let own = node("edge-1", "10.0.0.7/24");
    let expected = [
        (
            "/calico/ipam/v2/host/edge-1/ipv4/block/10.1.2.0-26".to_owned(),
            serde_json::json!({"state": "confirmed", "deleted": false}),
        ),
        ("/calico/resources/v3/projectcalico.org/nodes/edge-1".to_owned(), own),
    ];
    assert_eq!(pairs, expected);
}

/// Killed, changed by hand meanwhile, and back: nothing is told but the difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_makes_nothing_flap() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = cluster.store();
    let mut seen = Seen::start(store.watch());
    for (name, address) in [("a", "10.0.0.1/24"), ("b", "10.0.0.2/24"), ("c", "10.0.0.3/24")] {
        store.create(document(node(name, address))).await.unwrap();
    }
    seen.until(|seen| seen.names() == ["a", "b", "c"]).await;
    seen.events.clear();
    cluster.kill(0);
    seen.until(|seen| seen.report.lost.is_some()).await;
    assert!(seen.known, "what was known stays known");
    let lost = seen.report.lost.clone().unwrap();
    assert!(lost.why.contains("127.0.0.1") && lost.since > 0, "{lost:?}");
    cluster.restart(0);
    seen.until(|seen| seen.report.lost.is_none()).await;
    let b = store.get(&contract::key("Node", "b")).await.unwrap();
    store.delete(&b).await.unwrap();
    seen.until(|seen| seen.names() == ["a", "c"]).await;
    assert_eq!(seen.events, ["-Node b"]);
}

/// The revision that the watch would go on from is compacted away while the watcher is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_compaction_everything_is_compared() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = cluster.store();
    for (name, address) in [("a", "10.0.0.1/24"), ("b", "10.0.0.2/24"), ("c", "10.0.0.3/24")] {
        store.create(document(node(name, address))).await.unwrap();
    }
    let connection = Arc::new(cluster.connection());
    let mut view = follow::View::default();
    let events = view.replace(follow::read(&connection).await.unwrap());
    assert_eq!(events.len(), 3);
    for address in ["10.0.0.8/24", "10.0.0.9/24"] {
        let mut a = store.get(&contract::key("Node", "a")).await.unwrap();
        a.value["spec"]["bgp"]["ipv4Address"] = address.into();
        store.update(a).await.unwrap();
    }
    let c = store.get(&contract::key("Node", "c")).await.unwrap();
    store.delete(&c).await.unwrap();
    let now = connection.all("/calico/", 0).await.unwrap().revision;
    let request = CompactionRequest { revision: now, physical: true };
    connection.call::<_, Nothing>("/etcdserverpb.KV/Compact", request).await.unwrap();
    let (sender, receiver) = mpsc::channel(4);
    let mut seen = Seen::start(receiver);
    let task = tokio::spawn(follow::run_with(connection, view, sender));
    let address = |seen: &Seen| seen.address("a").as_deref() == Some("10.0.0.9/24");
    seen.until(|seen| seen.known && address(seen)).await;
    assert_eq!(seen.events, ["-Node c", "+Node a"], "b has not changed");
    cluster.kill(0);
    task.abort();
}

/// Keys and values that no Calico wrote: each is named, and the good ones are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_named_and_the_rest_is_told() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (store, connection) = (cluster.store(), cluster.connection());
    let v3 = "/calico/resources/v3/projectcalico.org";
    let good = store.create(document(node("good", "10.0.0.1/24"))).await.unwrap();
    let bad: [(&str, &[u8]); 9] = [
        ("/nodes/cut", b"{\"kind\": \"Node\""),
        ("/nodes/list", b"[1, 2]"),
        ("/nodes/bytes", &[0xff, 0xfe, 0x00]),
        ("/nodes/", b"{}"),
        ("/workloadendpoints/no-namespace", b"{}"),
        ("/nodes/named", br#"{"kind":"Node","metadata":{"name":"other"}}"#),
        ("/ippools/kind", br#"{"kind":"Node","metadata":{"name":"kind"}}"#),
        ("/ippools/range", br#"{"kind":"IPPool","metadata":{"name":"range"},"spec":{"cidr":"x"}}"#),
        ("/nodes/deep", br#"{"kind":"Node","metadata":{"name":"deep"},"spec":{"bgp":7}}"#),
    ];
    for (key, value) in bad {
        put(&connection, &format!("{v3}{key}"), value).await;
    }
    put(&connection, "/calico/ipam/v2/assignment/ipv4/block/10.0.0.1-26", b"{}").await;
    put(&connection, "/calico/ipam/v2/host/n/ipv4/block/nonsense", b"{}").await;
    let mut seen = Seen::start(store.watch());
    seen.until(|seen| seen.known).await;
    assert_eq!(seen.names(), ["good"]);
    let files: Vec<&str> = seen.report.faults.iter().map(|fault| fault.file.as_str()).collect();
    assert_eq!(files.len(), 11, "{files:?}");
    for (key, _) in bad {
        assert!(files.contains(&format!("{v3}{key}").as_str()), "{key} of {files:?}");
    }
    // The last good form stays in force, and a mend is noticed.
    let path = format!("{v3}/nodes/good");
    put(&connection, &path, b"{").await;
    seen.until(|seen| seen.report.faults.len() == 12).await;
    assert_eq!(seen.address("good").as_deref(), Some("10.0.0.1/24"));
    let invalid = store.get(&good.key).await.unwrap_err();
    assert!(matches!(invalid, StoreError::Invalid { .. }), "{invalid}");
    put(&connection, &path, node("good", "10.0.0.5/24").to_string().as_bytes()).await;
    seen.until(|seen| seen.address("good").as_deref() == Some("10.0.0.5/24")).await;
    assert_eq!(seen.report.faults.len(), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_clients_are_shown_and_those_of_servers_checked() {
    let mut made = false;
    let arguments = |folder: &Path| {
        made = certificates(folder);
        let file = |name: &str| folder.join(name).display().to_string();
        [
            ["--cert-file".to_owned(), file("server.pem")],
            ["--key-file".to_owned(), file("server.key")],
            ["--trusted-ca-file".to_owned(), file("ca.pem")],
            ["--client-cert-auth".to_owned(), "--auto-tls=false".to_owned()],
        ]
        .concat()
    };
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    let Some(cluster) = Cluster::with(1, "https", arguments) else { return };
    assert!(made, "openssl made no certificates");
    let file = |name: &str| Some(cluster.path().join(name));
    let whole = StoreConfig {
        etcd_ca_cert_file: file("ca.pem"),
        etcd_cert_file: file("client.pem"),
        etcd_key_file: file("client.key"),
        ..cluster.config()
    };
    let store = Etcd::new(&whole).unwrap();
    contract::reads_and_writes(&store).await;
    let nameless = StoreConfig { etcd_cert_file: None, etcd_key_file: None, ..whole.clone() };
    let untrusting = StoreConfig { etcd_ca_cert_file: None, ..whole };
    for config in [nameless, untrusting] {
        let store = Etcd::new(&config).unwrap();
        let limit = Duration::from_secs(2);
        let outcome = tokio::time::timeout(limit, store.list("Node")).await;
        assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_the_password() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let admin = cluster.connection();
    let root = AuthenticateRequest { name: "root".into(), password: "secret".into() };
    let name = || Name { name: "root".into() };
    admin.call::<_, Nothing>("/etcdserverpb.Auth/UserAdd", root).await.unwrap();
    admin.call::<_, Nothing>("/etcdserverpb.Auth/RoleAdd", name()).await.unwrap();
    let grant = AuthenticateRequest { name: "root".into(), password: "root".into() };
    admin.call::<_, Nothing>("/etcdserverpb.Auth/UserGrantRole", grant).await.unwrap();
    admin.call::<_, Nothing>("/etcdserverpb.Auth/AuthEnable", Nothing {}).await.unwrap();
    let refused = cluster.store().list("Node").await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    let with = |password: &str| {
        let (etcd_username, etcd_password) = ("root".to_owned(), password.to_owned());
        let config = StoreConfig { etcd_username, etcd_password, ..cluster.config() };
        Etcd::new(&config).unwrap()
    };
    let refused = with("wrong").list("Node").await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    let store = with("secret");
    let mut seen = Seen::start(store.watch());
    contract::reads_and_writes(&store).await;
    seen.until(|seen| seen.names() == ["b"]).await;
    // A server that starts again knows no tokens.
    cluster.kill(0);
    cluster.restart(0);
    let limit = Duration::from_secs(20);
    let listed = tokio::time::timeout(limit, store.list("Node")).await;
    assert_eq!(listed.unwrap().unwrap().documents.len(), 1);
}
