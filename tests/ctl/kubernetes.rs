//! `margay ctl` with Calico's variables for Kubernetes, on a stand-in for the API server.

use crate::apiserver::{ApiServer, State};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

fn ctl(server: SocketAddr, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
        .arg("ctl")
        .args(arguments)
        .env("DATASTORE_TYPE", "kubernetes")
        .env("K8S_API_ENDPOINT", format!("http://{server}"))
        .env_remove("KUBECONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        _ => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn resources_are_in_the_api_server() {
    let state = State::new(false);
    let node = json!({"metadata": {"name": "edge-1", "labels": {"zone": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}});
    state.put_kind("Node", node);
    state.put_kind(
        "Pod",
        json!({
        "metadata": {"name": "web-0", "namespace": "default", "annotations":
            {"cni.projectcalico.org/podIP": "10.65.0.5/32",
             "cni.projectcalico.org/containerID": "c0"}},
        "spec": {"nodeName": "edge-1"}}),
    );
    let server = ApiServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), &state);
    let run = |arguments: &[&str], input: &str| ctl(server.address, arguments, input);
    let get = |kind: &str, name: &str| -> Value {
        serde_json::from_str(&run(&["get", kind, name, "-o", "json"], "").unwrap()).unwrap()
    };

    let pool = "kind: IPPool\nmetadata: {name: p, labels: {team: net}}\n\
                spec: {cidr: 10.65.0.0/16, ofTheFuture: {kept: true}}\n";
    let done = run(&["apply", "-f", "-"], pool).unwrap();
    assert_eq!(done, "Successfully applied 1 'IPPool' resource(s)\n");
    let object = state.object("ippools", "", "p").unwrap();
    assert_eq!(object["apiVersion"], "crd.projectcalico.org/v1");
    assert_eq!(object["metadata"].get("labels"), Some(&json!({})), "they are in the annotation");
    let own = get("ippool", "p");
    assert_eq!(own["apiVersion"], "projectcalico.org/v3");
    assert_eq!(own["metadata"]["labels"], json!({"team": "net"}));
    run(&["patch", "ippool", "p", "-p", r#"{"spec": {"natOutgoing": true}}"#], "").unwrap();
    assert_eq!(get("ippool", "p")["spec"]["ofTheFuture"], json!({"kept": true}));
    let exists = run(&["create", "-f", "-"], pool).unwrap_err();
    assert!(exists.contains("resource already exists: IPPool(p)"), "{exists}");

    let table = run(&["get", "wep"], "").unwrap();
    assert!(table.contains("web-0") && table.contains("10.65.0.5/32"), "{table}");
    let profiles = run(&["get", "profiles"], "").unwrap();
    assert!(profiles.contains("kns.default"), "{profiles}");

    // Policies of Kubernetes are shown, and are Kubernetes' to write.
    let policy = json!({"metadata": {"name": "db", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]}});
    state.put_kind("NetworkPolicy", policy);
    let table = run(&["get", "networkpolicy"], "").unwrap();
    assert!(table.contains("knp.default.db"), "{table}");
    let shown = get("networkpolicy", "knp.default.db");
    assert_eq!(shown["spec"]["selector"], "projectcalico.org/orchestrator == 'k8s' && app == 'db'");
    let own = ["networkpolicy", "knp.default.db"];
    for (verb, more) in [("delete", &[][..]), ("patch", &["-p", "{}"]), ("label", &["a=b"])] {
        let refused = run(&[&[verb], &own[..], more].concat(), "").unwrap_err();
        let words = format!("operation {verb} is not supported");
        assert!(refused.contains(&words) && refused.contains("kubernetes API"), "{refused}");
    }

    // Labels of Calico's Node alone do not touch those of Kubernetes'.
    run(&["label", "node", "edge-1", "rack=b"], "").unwrap();
    let labels = get("node", "edge-1")["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"zone": "a", "rack": "b"}));
    let object = state.object("nodes", "", "edge-1").unwrap();
    assert_eq!(object["metadata"]["labels"], json!({"zone": "a"}));
    let refused = run(&["delete", "node", "edge-1"], "").unwrap_err();
    assert!(refused.contains("not supported"), "{refused}");

    let gone = run(&["delete", "ippool", "p"], "").unwrap();
    assert!(gone.contains("Successfully deleted 1 'IPPool' resource(s)"), "{gone}");
    assert_eq!(state.object("ippools", "", "p"), None);
    drop(server);
}
