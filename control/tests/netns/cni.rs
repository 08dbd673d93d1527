//! The CNI plugin in a namespace, on a directory as the store: what it makes, that it can be
//! repeated, and that nothing stays behind after a failure half-way, DEL and GC.

use crate::daemon::Daemon;
use crate::{in_namespace, sh};
use margay_control::cni::{self, Call, Plugin};
use margay_control::config::StoreConfig;
use margay_control::ipam::Ipam;
use margay_control::resource::Key;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use margay_control::store::save;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A node with pools, and what its runtime would say.
struct Rig {
    folder: PathBuf,
    store: Store,
    /// Process whose namespace is the pod's.
    pod: std::process::Child,
}

impl Rig {
    async fn new() -> Rig {
        let folder = Daemon::folder();
        let config = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
        let store = Store::open(&config).unwrap();
        for (kind, name, spec) in [
            ("Node", "me", json!({"bgp": {"ipv4Address": "192.0.2.1/24"}})),
            ("IPPool", "v4", json!({"cidr": "10.65.0.0/16"})),
            ("IPPool", "other", json!({"cidr": "10.66.0.0/16", "assignmentMode": "Manual"})),
            ("IPPool", "v6", json!({"cidr": "fd65::/48"})),
        ] {
            let value = json!({"kind": kind, "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": name}, "spec": spec});
            save::create(&store, Document::new(value).unwrap()).await.unwrap();
        }
        let pod = std::process::Command::new("unshare").args(["-n", "sleep", "60"]).spawn();
        let rig = Rig { folder, store, pod: pod.unwrap() };
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(rig.netns()).is_ok_and(|pod| pod == own) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        rig
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pod.id()).into()
    }

    fn config(&self, more: &Value) -> String {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
            "datastore_type": "local", "store_path": self.folder.join("store"),
            "nodename": "me", "mtu": 1440, "ipam_lock_file": self.folder.join("lock"),
            "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config.to_string()
    }

    fn call(&self, command: &str, container: &str) -> Call {
        Call {
            command: command.to_owned(),
            container: container.to_owned(),
            netns: self.netns(),
            ifname: "eth0".to_owned(),
            args: "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0".to_owned(),
            path: self.folder.display().to_string(),
            stdin: self.config(&Value::Null),
        }
    }

    async fn fine(&self, call: &Call) -> Value {
        let (text, fine) = cni::serve(Plugin::Network, call).await;
        assert!(fine, "{call:?}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn fails(&self, call: &Call) -> Value {
        let (text, fine) = cni::serve(Plugin::Network, call).await;
        assert!(!fine, "{call:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn endpoint(&self) -> Option<Document> {
        let key = Key {
            kind: "WorkloadEndpoint".to_owned(),
            namespace: "ns".to_owned(),
            name: "me-k8s-web--0-eth0".to_owned(),
        };
        self.store.get(&key).await.ok()
    }

    async fn held(&self, container: &str) -> usize {
        let handle = format!("k8s-pod-network.{container}");
        Ipam::new(&self.store).of_handle(&handle).await.unwrap().len()
    }

    fn in_pod(&self, script: &str) -> String {
        sh(&format!("nsenter --net={} sh -ec '{script}'", self.netns().display()))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.pod.kill();
        let _ = self.pod.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// printf ns.web-0 | sha1sum
const HOST: &str = "cali91fb42d0bf1";

async fn makes_a_pod_and_may_be_repeated(rig: &Rig) {
    let add = rig.call("ADD", "one");
    let made = rig.fine(&add).await;
    let ips: Vec<&str> =
        made["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect();
    assert!(ips[0].starts_with("10.65.") && ips[0].ends_with("/32"), "{made}");
    assert!(ips[1].starts_with("fd65:") && ips[1].ends_with("/128"), "{made}");
    assert_eq!(made["interfaces"][0]["name"], HOST);
    let endpoint = rig.endpoint().await.unwrap();
    let spec = endpoint.spec();
    assert_eq!(spec["ipNetworks"], json!(ips));
    assert_eq!(spec["mac"], made["interfaces"][1]["mac"]);
    assert_eq!(spec["interfaceName"], HOST);
    assert_eq!(spec["profiles"], json!(["kns.ns", "ksa.ns.default"]));
    let labels = &endpoint.value["metadata"]["labels"];
    assert_eq!(labels["projectcalico.org/orchestrator"], "k8s");

    let host = sh(&format!("ip link show {HOST}"));
    assert!(host.contains("ee:ee:ee:ee:ee:ee") && host.contains("mtu 1440"), "{host}");
    let routes = rig.in_pod("ip route; ip -6 route");
    for route in [
        "default via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0 scope link",
        "default via fe80::ecee:eeff:feee:eeee dev eth0",
    ] {
        assert!(routes.contains(route), "{routes}");
    }
    let again = rig.fine(&add).await;
    assert_eq!(again["ips"], made["ips"]);
    assert_eq!(rig.held("one").await, 2);
    let stdin = rig.config(&json!({"prevResult": again}));
    rig.fine(&Call { stdin, ..rig.call("CHECK", "one") }).await;
    rig.in_pod("ip -6 addr flush dev eth0");
    let error = rig.fails(&rig.call("CHECK", "one")).await;
    assert!(error["msg"].as_str().unwrap().contains("is not on eth0"), "{error}");
}

async fn a_successor_keeps_what_is_its_own(rig: &Rig) {
    // The pod was made anew under its name before the old container is told to go.
    rig.fine(&rig.call("ADD", "two")).await;
    rig.fine(&rig.call("DEL", "one")).await;
    assert_eq!((rig.held("one").await, rig.held("two").await), (0, 2));
    assert_eq!(rig.endpoint().await.unwrap().spec()["containerID"], "two");
    rig.in_pod("ip link show eth0");
    rig.fine(&rig.call("DEL", "two")).await;
    rig.fine(&rig.call("DEL", "two")).await;
    assert_eq!(rig.held("two").await, 0);
    assert!(rig.endpoint().await.is_none());
    assert!(!sh("ip link").contains(HOST));
}

async fn nothing_stays_after_a_failure(rig: &Rig) {
    // No namespace; no such pool for the second family; a store that refuses the endpoint.
    let netns = rig.folder.join("gone");
    rig.fails(&Call { netns, ..rig.call("ADD", "three") }).await;
    let ipam = json!({"type": "calico-ipam", "assign_ipv6": "true", "ipv6_pools": ["fd99::/64"]});
    let stdin = rig.config(&json!({"ipam": ipam}));
    rig.fails(&Call { stdin, ..rig.call("ADD", "three") }).await;
    let place = rig.folder.join("store/workloadendpoint");
    let aside = rig.folder.join("aside");
    std::fs::rename(&place, &aside).ok();
    std::fs::write(&place, "a file in the way").unwrap();
    let error = rig.fails(&rig.call("ADD", "three")).await;
    assert!(error["msg"].as_str().unwrap().contains("workloadendpoint"), "{error}");
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(&aside, &place).ok();
    assert_eq!(rig.held("three").await, 0);
    assert!(rig.endpoint().await.is_none());
    assert!(!sh("ip link").contains(HOST));
    assert!(!rig.in_pod("ip link").contains("eth0"));
    let check = Ipam::new(&rig.store).check().await.unwrap();
    assert_eq!(check.problems(), 0, "{check:?}");
}

async fn pools_and_addresses_may_be_asked_for(rig: &Rig) {
    let ipam = json!({"type": "calico-ipam", "ipv4_pools": ["other"]});
    let stdin = rig.config(&json!({"ipam": ipam}));
    let made = rig.fine(&Call { stdin, ..rig.call("ADD", "four") }).await;
    assert!(made["ips"][0]["address"].as_str().unwrap().starts_with("10.66."), "{made}");
    rig.fine(&rig.call("DEL", "four")).await;
    let args = "IP=10.65.7.7".to_owned();
    let made = rig.fine(&Call { args, ..rig.call("ADD", "five") }).await;
    assert_eq!(made["ips"][0]["address"], "10.65.7.7/32");
    assert_eq!(made["interfaces"][0]["name"], "califive");
    let profile = Key {
        kind: "Profile".to_owned(),
        namespace: String::new(),
        name: "k8s-pod-network".to_owned(),
    };
    assert!(rig.store.get(&profile).await.is_ok());
    let taken = Call { args: "IP=10.65.7.7".to_owned(), ..rig.call("ADD", "six") };
    assert_eq!(rig.fails(&taken).await["code"], 100);
}

async fn garbage_is_collected(rig: &Rig) {
    let all = json!([{"containerID": "five", "ifname": "eth0"}]);
    let stdin = rig.config(&json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": all}));
    rig.fine(&Call { stdin, ..rig.call("GC", "") }).await;
    assert_eq!(rig.held("five").await, 1);
    let stdin = rig.config(&json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    rig.fine(&Call { stdin, ..rig.call("GC", "") }).await;
    assert_eq!(rig.held("five").await, 0);
    assert!(!sh("ip link").contains("califive"));
    assert!(rig.store.list("WorkloadEndpoint").await.unwrap().documents.is_empty());
    rig.fails(&rig.call("GC", "")).await;
}

async fn another_plugin_may_give_addresses(rig: &Rig) {
    let script = "#!/bin/sh\n[ \"$CNI_COMMAND\" = DEL ] && echo gone >>\"$CNI_PATH/told\"\n\
                  echo '{\"ips\": [{\"address\": \"10.99.0.9/24\"}]}'\n";
    let plugin = rig.folder.join("other-ipam");
    std::fs::write(&plugin, script).unwrap();
    sh(&format!("chmod +x {}", plugin.display()));
    let stdin = rig.config(&json!({"ipam": {"type": "other-ipam"}}));
    let made = rig.fine(&Call { stdin: stdin.clone(), ..rig.call("ADD", "seven") }).await;
    assert_eq!(made["ips"][0]["address"], "10.99.0.9/32");
    rig.fine(&Call { stdin, ..rig.call("DEL", "seven") }).await;
    assert_eq!(std::fs::read_to_string(rig.folder.join("told")).unwrap(), "gone\n");
    let stdin = rig.config(&json!({"ipam": {"type": "nobody"}}));
    assert_eq!(rig.fails(&Call { stdin, ..rig.call("ADD", "seven") }).await["code"], 7);
}

async fn a_locked_cluster_refuses(rig: &Rig) {
    let value = json!({"kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "default"}, "spec": {"datastoreReady": false}});
    save::create(&rig.store, Document::new(value).unwrap()).await.unwrap();
    assert_eq!(rig.fails(&rig.call("ADD", "eight")).await["code"], 11);
    assert_eq!(rig.fails(&rig.call("STATUS", "")).await["code"], 50);
    assert_eq!(rig.held("eight").await, 0);
}

#[test]
fn the_plugin_makes_pods_and_cleans_up() {
    in_namespace(async || {
        let rig = Rig::new().await;
        makes_a_pod_and_may_be_repeated(&rig).await;
        a_successor_keeps_what_is_its_own(&rig).await;
        nothing_stays_after_a_failure(&rig).await;
        pools_and_addresses_may_be_asked_for(&rig).await;
        garbage_is_collected(&rig).await;
        another_plugin_may_give_addresses(&rig).await;
        a_locked_cluster_refuses(&rig).await;
    });
}
