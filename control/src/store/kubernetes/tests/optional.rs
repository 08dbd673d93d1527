//! What not every cluster has, or lets calico-node read: ClusterNetworkPolicy, Secrets with BGP's
//! passwords; and tokens that a program gives.

use super::*;

const CLUSTER_POLICY: &str = "KubernetesClusterNetworkPolicy";

fn secret(namespace: &str, name: &str, password: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "stringData": {"key": password}})
}

fn peer(name: &str, secret: &str) -> Value {
    json!({"kind": "BGPPeer", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"peerIP": "192.0.2.1", "asNumber": 64513,
            "password": {"secretKeyRef": {"name": secret, "key": "key"}}}})
}

/// The password in a Secret, if it is known.
fn password(seen: &Seen, namespace: &str, name: &str) -> Option<String> {
    let wanted = Key { namespace: namespace.into(), ..key("Secret", name) };
    match seen.resources.get(&wanted)? {
        Resource::Secret(secret) => {
            Some(String::from_utf8(secret.values["key"].bytes().to_vec()).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_read_that_peers_name_where_a_role_allows_it() {
    let cluster = Cluster::start();
    let system = json!({"metadata": {"name": "calico-system"}});
    cluster.state.put_kind("Namespace", system);
    for (namespace, name) in [("kube-system", "bgp"), ("kube-system", "other"), ("default", "bgp")]
    {
        cluster.state.put_kind("Secret", secret(namespace, name, "one"));
    }
    cluster.admin().create(document(peer("p", "bgp"))).await.unwrap();
    let config =
        StoreConfig { k8s_api_token: "calico-node-with-secrets".into(), ..cluster.config() };
    let mut seen = Seen::start(Kubernetes::new(&config).unwrap().watch());
    seen.until(|seen| password(seen, "kube-system", "bgp").is_some()).await;
    assert_eq!(password(&seen, "kube-system", "bgp").as_deref(), Some("one"));
    cluster.state.put_kind("Secret", secret("kube-system", "bgp", "two"));
    seen.until(|seen| password(seen, "kube-system", "bgp").as_deref() == Some("two")).await;
    // One that is named later, in the other namespace.
    cluster.state.put_kind("Secret", secret("calico-system", "late", "three"));
    cluster.admin().create(document(peer("q", "late"))).await.unwrap();
    seen.until(|seen| password(seen, "calico-system", "late").is_some()).await;
    let secrets = seen.resources.keys().filter(|key| key.kind == "Secret").count();
    assert_eq!(secrets, 2, "those that nobody names are not read");

    // Without the right to them all else is known.
    let mut without = Seen::start(cluster.store().watch());
    without.until(|seen| seen.known && seen.resources.contains_key(&key("BGPPeer", "p"))).await;
    assert_eq!(password(&without, "kube-system", "bgp"), None);
    assert_eq!(without.report.lost, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_network_policies_are_followed() {
    let cluster = Cluster::start();
    let policy = |priority: u32| {
        json!({"metadata": {"name": "guard"}, "spec": {"tier": "Admin", "priority": priority,
            "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}})
    };
    cluster.state.put_kind("ClusterNetworkPolicy", policy(10));
    let mut seen = Seen::start(cluster.store().watch());
    let order = |seen: &Seen| {
        let found = seen.resources.get(&key(CLUSTER_POLICY, "guard"))?;
        let Resource::Policy(crate::resource::policy::Part::Policy(policy)) = found else {
            panic!("{found:?}");
        };
        assert_eq!(policy.tier, "kube-admin");
        policy.order
    };
    seen.until(|seen| order(seen) == Some(10.0)).await;
    // One that cannot be used is named, and what it said before stays in force.
    cluster.state.put_kind("ClusterNetworkPolicy", policy(2000));
    seen.until(|seen| seen.report.faults.len() == 1).await;
    let fault = &seen.report.faults[0];
    assert!(fault.file.ends_with("/clusternetworkpolicies/guard"), "{fault}");
    assert!(fault.what.contains("spec.priority") && order(&seen) == Some(10.0), "{fault}");
    cluster.state.put_kind("ClusterNetworkPolicy", policy(20));
    seen.until(|seen| seen.report.faults.is_empty() && order(seen) == Some(20.0)).await;
    let listed = cluster.store().list(CLUSTER_POLICY).await.unwrap();
    assert_eq!(listed.documents.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_gives_the_token() {
    let cluster = Cluster::start();
    let script = "echo '{\"kind\": \"ExecCredential\", \
        \"apiVersion\": \"client.authentication.k8s.io/v1\", \
        \"status\": {\"token\": \"calico-node\"}}'";
    let file = json!({"current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": format!("http://{}", cluster.address)}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": {"command": "sh", "args": ["-c", script],
            "apiVersion": "client.authentication.k8s.io/v1"}}}]});
    let with = |file: &Value| StoreConfig {
        kind: StoreKind::Kubernetes,
        kubeconfig_inline: file.to_string(),
        ..StoreConfig::default()
    };
    let store = Kubernetes::new(&with(&file)).unwrap();
    assert!(store.list("IPPool").await.is_ok());
    let refused = store.list("Secret").await.unwrap_err();
    assert!(refused.to_string().contains("calico-node cannot list"), "it is known: {refused}");
    let mut bad = file.clone();
    bad["users"][0]["user"]["exec"]["args"][1] = json!("exit 7");
    let mut seen = Seen::start(Kubernetes::new(&with(&bad)).unwrap().watch());
    seen.until(|seen| seen.report.lost.is_some()).await;
    let lost = seen.report.lost.unwrap();
    assert!(lost.why.contains("exit status: 7"), "{lost:?}");
}
