#[path = "../../../../tests/apiserver/mod.rs"]
mod apiserver;
mod kubectl;
mod optional;
mod secured;

use super::*;
use crate::config::StoreKind;
use crate::resource::Resource;
use crate::store::save;
use crate::store::tests::addresses;
use crate::store::tests::contract::{self, Seen, Subject, document, key};
use apiserver::{ApiServer, State};
use std::net::TcpListener;

/// A server, and what it keeps when it dies.
struct Cluster {
    state: Arc<State>,
    server: Option<ApiServer>,
    address: std::net::SocketAddr,
}

impl Cluster {
    fn start() -> Cluster {
        Cluster::with(State::new(false))
    }

    fn with(state: Arc<State>) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = ApiServer::start(listener, &state);
        Cluster { address: server.address, server: Some(server), state }
    }

    fn kill(&mut self) {
        self.server = None;
    }

    fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.server = Some(ApiServer::start(listener, &self.state));
    }

    /// As calico-node, within its rights.
    fn config(&self) -> StoreConfig {
        StoreConfig {
            kind: StoreKind::Kubernetes,
            k8s_api_endpoint: format!("http://{}", self.address),
            k8s_api_token: "calico-node".to_owned(),
            ..StoreConfig::default()
        }
    }

    fn store(&self) -> Kubernetes {
        Kubernetes::new(&self.config()).unwrap()
    }

    /// Somebody who may write everything.
    fn admin(&self) -> Kubernetes {
        let config = StoreConfig { k8s_api_token: String::new(), ..self.config() };
        Kubernetes::new(&config).unwrap()
    }
}

/// Endpoints of hosts stand for what people write.
const HOSTS: Subject = Subject { kind: "HostEndpoint", make: host, address: host_address };

fn host(name: &str, address: &str) -> Value {
    let address = address.split('/').next();
    json!({"kind": "HostEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name, "labels": {"rack": "a"}},
        "spec": {"node": "n", "interfaceName": "eth0", "expectedIPs": [address],
            "unknownToUs": {"kept": [1, 2.5, "3"]}}})
}

fn host_address(resource: &Resource) -> Option<String> {
    match resource {
        Resource::HostEndpoint(own) => own.expected_ips.first().map(|one| format!("{one}/24")),
        _ => None,
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": "edge-1", "serviceAccountName": "seller"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubernetes_keeps_the_contract() {
    for native in [false, true] {
        let cluster = Cluster::with(State::new(native));
        contract::reads_and_writes_of(&cluster.admin(), &HOSTS).await;
        contract::keeps_kinds(&cluster.admin(), |kind| kind != "WorkloadEndpoint").await;
        let cluster = Cluster::with(State::new(native));
        contract::tells_of_changes_of(&cluster.admin(), &HOSTS).await;
    }
}

/// What Calico's clients find: one annotation with the metadata, and what is Calico's own shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_as_calico_writes_them() {
    let cluster = Cluster::start();
    let store = cluster.admin();
    let policy = document(json!({"kind": "NetworkPolicy", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"},
            "annotations": {"why": "so"}},
        "spec": {"selector": "all()"}}));
    let written = save::create(&store, policy).await.unwrap();
    let object = cluster.state.object("networkpolicies", "default", "web").unwrap();
    assert_eq!(object["apiVersion"], "crd.projectcalico.org/v1");
    let metadata = &object["metadata"];
    assert_eq!(metadata["labels"], json!({"projectcalico.org/tier": "default"}));
    let told: Value = serde_json::from_str(
        metadata["annotations"]["projectcalico.org/metadata"].as_str().unwrap(),
    )
    .unwrap();
    assert_eq!(told["name"], "web");
    assert_eq!(told["labels"], json!({"team": "a", "projectcalico.org/tier": "default"}));
    assert_eq!(told["annotations"], json!({"why": "so"}));
    assert!(told.get("namespace").is_none() && told.get("uid").is_none(), "{told}");
    // Each byte turned round but the seventh and the ninth: 0x06 becomes 0x60.
    assert_eq!(metadata["uid"], "00000000-0000-4000-8000-000000000004");
    assert_eq!(written.value["metadata"]["uid"], "00000000-0000-4000-8000-000000000020");

    let affinity = document(json!({"kind": "BlockAffinity", "metadata": {"name": "n-10-1-2-0-26"},
        "spec": {"state": "confirmed", "node": "n", "cidr": "10.1.2.0/26", "type": "host",
            "deleted": "false"}}));
    store.create(affinity).await.unwrap();
    let object = cluster.state.object("blockaffinities", "", "n-10-1-2-0-26").unwrap();
    let labels = &object["metadata"]["labels"];
    assert_eq!(labels["projectcalico.org/affinity-type"], "host");
    assert_eq!(labels["projectcalico.org/ip-version"], "4");
    // python3: b32encode(sha3_256(b"n").digest())
    let hash = labels["projectcalico.org/hostname-hash"].as_str().unwrap();
    assert_eq!(hash, "R3UTZ3NJLO7EKD37WU5HADCW36WEHB7ER2YSPCA2FJUHE66HQEGA");
}

/// Objects that kubectl made have no annotation, and keep what kubectl notes there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_noted_on_an_object_stays() {
    let cluster = Cluster::start();
    let noted = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    cluster.state.put_kind(
        "IPPool",
        json!({
        "metadata": {"name": "p", "annotations": noted, "labels": {"app": "x"},
            "ownerReferences": [{"uid": "u"}]},
        "spec": {"cidr": "10.1.0.0/16", "later": [1]}}),
    );
    let store = cluster.store();
    let mut pool = store.get(&key("IPPool", "p")).await.unwrap();
    assert_eq!(pool.value["metadata"]["labels"], json!({"app": "x"}));
    pool.value["spec"]["disabled"] = json!(true);
    pool.value["metadata"]["labels"]["mine"] = json!("1");
    let pool = store.update(pool).await.unwrap();
    assert_eq!(pool.value["metadata"]["labels"], json!({"app": "x", "mine": "1"}));
    let object = cluster.state.object("ippools", "", "p").unwrap();
    assert_eq!(object["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(object["metadata"]["ownerReferences"], json!([{"uid": "u"}]));
    let annotations = object["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations["kubectl.kubernetes.io/last-applied-configuration"], "{}");
    assert_eq!(object["spec"], json!({"cidr": "10.1.0.0/16", "later": [1], "disabled": true}));
}

/// Before 3.32 the tier's name stands before a policy's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_found_under_their_old_names() {
    let cluster = Cluster::start();
    cluster.state.put_kind(
        "GlobalNetworkPolicy",
        json!({
        "metadata": {"name": "default.old", "annotations":
            {"projectcalico.org/metadata": "{\"name\":\"old\",\"creationTimestamp\":null}"}},
        "spec": {"selector": "all()"}}),
    );
    let bare = json!({"metadata": {"name": "default.bare"}, "spec": {"tier": "default"}});
    cluster.state.put_kind("GlobalNetworkPolicy", bare);
    let store = cluster.admin();
    let listed = store.list("GlobalNetworkPolicy").await.unwrap().documents;
    let names: Vec<&str> = listed.iter().map(|policy| policy.key.name.as_str()).collect();
    assert_eq!(names, ["bare", "old"]);
    let mut old = store.get(&key("GlobalNetworkPolicy", "old")).await.unwrap();
    let again = store.create(Document { revision: None, ..old.clone() }).await;
    assert_eq!(again, Err(StoreError::Exists(old.key.clone())));
    old.value["spec"]["order"] = json!(7);
    let old = store.update(old).await.unwrap();
    let object = cluster.state.object("globalnetworkpolicies", "", "default.old").unwrap();
    assert_eq!(object["spec"]["order"], 7);
    store.delete(&old).await.unwrap();
    assert_eq!(cluster.state.object("globalnetworkpolicies", "", "default.old"), None);
}

/// The endpoint of a pod comes and goes with its annotations; namespaces and accounts are profiles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_nodes_and_namespaces_are_calico_s_resources() {
    let cluster = Cluster::start();
    let store = cluster.store();
    cluster.state.put_kind(
        "Node",
        json!({"metadata": {"name": "edge-1", "labels": {"a": "b"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}),
    );
    cluster.state.put_kind("Pod", pod("web-0"));
    cluster.state.put_kind(
        "ServiceAccount",
        json!({
        "metadata": {"name": "seller", "namespace": "default", "labels": {"role": "shop"}}}),
    );
    let mut seen = Seen::start(store.watch());
    seen.until(|seen| seen.known).await;
    assert_eq!(seen.address("edge-1").as_deref(), Some("10.0.0.7/32"), "Kubernetes' word");

    let mut node = store.get(&key("Node", "edge-1")).await.unwrap();
    node.value["spec"]["bgp"] = json!({"ipv4Address": "10.0.0.7/24"});
    let stale = node.clone();
    store.update(node).await.unwrap();
    assert_eq!(store.update(stale.clone()).await, Err(StoreError::Conflict(stale.key.clone())));
    seen.until(|seen| seen.address("edge-1").as_deref() == Some("10.0.0.7/24")).await;
    let object = cluster.state.object("nodes", "", "edge-1").unwrap();
    assert_eq!(object["metadata"]["annotations"]["projectcalico.org/IPv4Address"], "10.0.0.7/24");
    assert!(store.delete(&stale).await.is_err(), "nodes are Kubernetes' own");

    let wanted =
        Key { namespace: "default".into(), ..key("WorkloadEndpoint", "edge--1-k8s-web--0-eth0") };
    assert_eq!(store.get(&wanted).await, Err(StoreError::NotFound(wanted.clone())));
    let endpoint = document(json!({"kind": "WorkloadEndpoint",
        "metadata": {"name": wanted.name, "namespace": "default"},
        "spec": {"node": "edge-1", "orchestrator": "k8s", "containerID": "c0",
            "interfaceName": "cali0",
            "ipNetworks": ["10.1.0.5/32", "fd00::5/128"]}}));
    let made = save::apply(&store, endpoint).await.unwrap();
    assert_eq!(made.key, wanted);
    assert_eq!(made.spec()["profiles"], json!(["kns.default", "ksa.default.seller"]));
    let shown = cluster.state.object("pods", "default", "web-0").unwrap();
    let notes = &shown["metadata"]["annotations"];
    assert_eq!(notes["cni.projectcalico.org/podIPs"], "10.1.0.5/32,fd00::5/128");
    seen.until(|seen| seen.resources.contains_key(&wanted)).await;
    store.delete(&made).await.unwrap();
    assert_eq!(store.delete(&made).await, Err(StoreError::Conflict(wanted.clone())));
    seen.until(|seen| !seen.resources.contains_key(&wanted)).await;

    let account = store.get(&key("Profile", "ksa.default.seller")).await.unwrap();
    let labels = json!({"pcsa.role": "shop", "pcsa.projectcalico.org/name": "seller"});
    assert_eq!(account.spec(), json!({"labelsToApply": labels}));
    let profiles = store.list("Profile").await.unwrap().documents;
    let names: Vec<&str> = profiles.iter().map(|one| one.key.name.as_str()).collect();
    assert_eq!(names, ["kns.default", "kns.kube-system", "ksa.default.seller"]);
    let count = |seen: &Seen| seen.report.resources.get("Namespace").copied();
    assert_eq!(count(&seen), Some(2));
}

/// Killed, changed meanwhile, and back: nothing is told but the difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_makes_nothing_flap() {
    let mut cluster = Cluster::start();
    let store = cluster.admin();
    let mut seen = Seen::of(&HOSTS, store.watch());
    for (name, address) in [("a", "10.0.0.1/24"), ("b", "10.0.0.2/24"), ("c", "10.0.0.3/24")] {
        store.create(document(host(name, address))).await.unwrap();
    }
    seen.until(|seen| seen.names() == ["a", "b", "c"]).await;
    for forgotten in [false, true] {
        seen.events.clear();
        cluster.kill();
        seen.until(|seen| seen.report.lost.is_some()).await;
        assert!(seen.known, "what was known stays known");
        let lost = seen.report.lost.clone().unwrap();
        assert!(lost.why.contains("127.0.0.1") && lost.since > 0, "{lost:?}");
        if forgotten {
            let kind = *cluster.state.kinds.iter().find(|k| k.kind == "HostEndpoint").unwrap();
            let spot = ("crd.projectcalico.org/hostendpoints".into(), String::new(), "b".into());
            cluster.state.delete(&kind, &spot, &Value::Null).unwrap();
            cluster.state.compact();
        }
        cluster.restart();
        seen.until(|seen| seen.report.lost.is_none()).await;
        match forgotten {
            false => assert_eq!(seen.events, Vec::<String>::new()),
            true => {
                seen.until(|seen| seen.names() == ["a", "c"]).await;
                assert_eq!(seen.events, ["-HostEndpoint b"]);
            }
        }
    }
}

/// 410 in the middle of a watch: everything is read again, and compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_gone_everything_is_compared() {
    let mut cluster = Cluster::start();
    let store = cluster.admin();
    for (name, address) in [("a", "10.0.0.1/24"), ("b", "10.0.0.2/24")] {
        store.create(document(host(name, address))).await.unwrap();
    }
    let mut seen = Seen::of(&HOSTS, store.watch());
    seen.until(|seen| seen.known).await;
    for turn in 1..4 {
        cluster.kill();
        seen.until(|seen| seen.report.lost.is_some()).await;
        let address = format!("10.0.1.{turn}");
        let kind = *cluster.state.kinds.iter().find(|k| k.kind == "HostEndpoint").unwrap();
        let mut b = cluster.state.object("hostendpoints", "", "b").unwrap();
        b["spec"]["expectedIPs"] = json!([address]);
        let spot = ("crd.projectcalico.org/hostendpoints".into(), String::new(), "b".into());
        cluster.state.update(&kind, &spot, b, "").unwrap();
        cluster.state.compact();
        seen.events.clear();
        cluster.restart();
        let expected = Some(format!("{address}/24"));
        seen.until(|seen| seen.address("b") == expected && seen.report.lost.is_none()).await;
        assert_eq!(seen.events, ["+HostEndpoint b"], "a has not changed");
    }
}

/// More objects than one answer lists, and a list that is too slow for its state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_come_in_parts() {
    let cluster = Cluster::start();
    let count = 2 * PAGE + 7;
    for number in 0..count {
        cluster.state.put_kind(
            "HostEndpoint",
            json!({"metadata": {"name": format!("h{number}")},
            "spec": {"node": "n", "interfaceName": "eth0"}}),
        );
    }
    let store = cluster.store();
    assert_eq!(store.list("HostEndpoint").await.unwrap().documents.len(), count);
    let mut seen = Seen::of(&HOSTS, store.watch());
    seen.until(|seen| seen.known).await;
    assert_eq!(seen.names().len(), count);
    let objects = store.server.connection.get(&format!("{HOSTS_PATH}?limit=2")).await.unwrap();
    let token = objects["metadata"]["continue"].as_str().unwrap().to_owned();
    cluster.state.compact();
    let path = format!("{HOSTS_PATH}?limit=2&continue={}", kind::escaped(&token));
    assert!(store.server.connection.get(&path).await.unwrap_err().is_expired());
}

const HOSTS_PATH: &str = "/apis/crd.projectcalico.org/v1/hostendpoints";

/// An answer that is lost on its way does not make a write count twice, or fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_done() {
    let cluster = Cluster::start();
    let store = cluster.admin();
    let lose = || cluster.state.lock().lose = 1;
    lose();
    let made = store.create(document(host("a", "10.0.0.1/24"))).await.unwrap();
    lose();
    let mut next = made.clone();
    next.value["spec"]["expectedIPs"] = json!(["10.0.0.9"]);
    let next = store.update(next).await.unwrap();
    assert_eq!(next.spec()["expectedIPs"], json!(["10.0.0.9"]));
    lose();
    store.delete(&next).await.unwrap();
    assert_eq!(cluster.state.object("hostendpoints", "", "a"), None);
    let other = host("b", "10.0.0.1/24");
    store.create(document(other)).await.unwrap();
    lose();
    let another = store.create(document(host("b", "10.0.0.2/24"))).await;
    assert!(matches!(another, Err(StoreError::Exists(_))), "{another:?}");
    cluster.state.lock().lose = 0;
}

/// Clients of IPAM at the same time, within calico-node's rights, while every 40th answer to a
/// write is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_five_nodes_get_each_address_once_and_leak_none() {
    let cluster = Cluster::start();
    for at in 0..addresses::NODES {
        let metadata = json!({"name": format!("edge-{at}")});
        cluster.state.put_kind("Node", json!({"metadata": metadata}));
    }
    let store = cluster.store();
    save::create(&store, document(addresses::pool())).await.unwrap();
    cluster.state.lock().lose_every = Some(40);
    addresses::work(&store, 100).await;
    assert_eq!(cluster.state.lock().forbidden, Vec::<String>::new());
}

/// Objects that no Calico wrote: each is named, and the good ones are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_named_and_the_rest_is_told() {
    let cluster = Cluster::start();
    let store = cluster.store();
    cluster.state.put_kind(
        "IPPool",
        json!({"metadata": {"name": "good"},
        "spec": {"cidr": "10.1.0.0/16"}}),
    );
    for (name, object) in [
        ("range", json!({"metadata": {"name": "range"}, "spec": {"cidr": "x"}})),
        ("list", json!({"metadata": {"name": "list"}, "spec": [1, 2]})),
        ("none", json!({"metadata": {"name": "none"}})),
        (
            "note",
            json!({"metadata": {"name": "note", "annotations":
            {"projectcalico.org/metadata": "{"}}, "spec": {"cidr": "10.2.0.0/16"}}),
        ),
    ] {
        assert_eq!(object["metadata"]["name"], name);
        cluster.state.put_kind("IPPool", object);
    }
    let mut seen = Seen::start(store.watch());
    seen.until(|seen| seen.known).await;
    let pools = |seen: &Seen| -> Vec<String> {
        let keys = seen.resources.keys().filter(|key| key.kind == "IPPool");
        keys.map(|key| key.name.clone()).collect()
    };
    assert_eq!(pools(&seen), ["good"]);
    let files: Vec<&str> = seen.report.faults.iter().map(|fault| fault.file.as_str()).collect();
    let path = |name: &str| format!("/apis/crd.projectcalico.org/v1/ippools/{name}");
    assert_eq!(files, ["list", "none", "note", "range"].map(path));
    assert_eq!(store.list("IPPool").await.unwrap().faults.len(), 1, "the rest are objects");

    // The last good form stays in force, and a mend is noticed.
    let admin = cluster.admin();
    let mut good = admin.get(&key("IPPool", "good")).await.unwrap();
    good.value["spec"]["cidr"] = json!("10.1.0.0/99");
    let mut good = admin.update(good).await.unwrap();
    seen.until(|seen| seen.report.faults.len() == 5).await;
    assert_eq!(pools(&seen), ["good"]);
    good.value["spec"]["cidr"] = json!("10.3.0.0/16");
    admin.update(good).await.unwrap();
    seen.until(|seen| seen.report.faults.len() == 4).await;
}

/// A kind that calico-node may not read is named, and nothing is taken for gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forbidden_or_not_served_is_named_or_empty() {
    let cluster = Cluster::start();
    let store = cluster.store();
    let refused = store.list("Secret").await.unwrap_err();
    assert!(matches!(&refused, StoreError::Refused(what) if what.contains("secrets")), "{refused}");
    let refused = store.create(document(host("a", "10.0.0.1/24"))).await.unwrap_err();
    assert!(refused.to_string().contains("forbidden"), "{refused}");
    assert_eq!(cluster.state.lock().forbidden, ["list secrets", "create hostendpoints"]);
    assert_eq!(store.list("LiveMigration").await.unwrap().documents, []);
    let mut nowhere = host("a", "10.0.0.1/24");
    nowhere["kind"] = json!("NetworkSet");
    nowhere["metadata"]["namespace"] = json!("shop");
    let refused = cluster.admin().create(document(nowhere)).await.unwrap_err();
    assert!(refused.to_string().contains("namespaces \"shop\" not found"), "{refused}");
    let elsewhere = StoreConfig {
        k8s_api_endpoint: "http://127.0.0.1:1".into(),
        calico_api_group: "crd.projectcalico.org/v1".into(),
        ..cluster.config()
    };
    let mut lost = Seen::start(Kubernetes::new(&elsewhere).unwrap().watch());
    lost.until(|seen| seen.report.lost.is_some()).await;
    assert!(!lost.known);
}
