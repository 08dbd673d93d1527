//! Verbs that need more than one resource: templates, splitting a pool, converting, diagnostics.

use super::{POOLS, Store};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn templates_of_go_print_resources() {
    let store = Store::new();
    store.ok(&["apply", "-f", "-"], POOLS);
    let each = "{{range .}}{{range .Items}}{{.ObjectMeta.Name}}={{.Spec.CIDR}};{{end}}{{end}}";
    let output = format!("go-template={each}");
    let expected = "one=10.0.0.0/16;two=10.1.0.0/16;";
    assert_eq!(store.ok(&["get", "pools", "-o", &output], ""), expected);
    let file = store.0.join("template");
    std::fs::write(&file, each).unwrap();
    let output = format!("go-template-file={}", file.display());
    assert_eq!(store.ok(&["get", "pools", "-o", &output], ""), expected);
    std::fs::remove_file(file).unwrap();
    let one = "go-template={{range .}}{{.Name}} {{.Spec.NATOutgoing}}{{end}}";
    assert_eq!(store.ok(&["get", "pool", "two", "-o", one], ""), "two true");
    for (output, words) in [
        ("go-template={{.x", "template: line 1: this action has no end"),
        ("go-template=", "need to specify a template"),
        ("go-template-file=/nonexistent", "/nonexistent"),
    ] {
        let errors = store.fails(&["get", "pools", "-o", output], "");
        assert!(errors.contains(words), "{output}: {errors}");
    }
}

fn split<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["ipam", "split"], arguments].concat()
}

#[test]
fn a_locked_store_s_pool_is_split() {
    let store = Store::new();
    store.ok(&["apply", "-f", "-"], POOLS);
    let open = store.fails(&split(&["2", "--name", "one"]), "");
    assert!(open.contains("datastore is not locked"), "{open}");
    store.ok(&["datastore", "migrate", "lock"], "");
    for (arguments, words) in [
        (&["3", "--name", "one"][..], "not a valid power of 2: 3"),
        (&["2", "--name", "none"], "unable to find IP pool none"),
        (&["2", "--cidr", "10.9.0.0/16"], "unable to find IP pool  covering the specified CIDR"),
        (&["2"], "no name or CIDR provided"),
        // Blocks of 64 addresses would be larger than these.
        (&["4096", "--name", "one"], "spec.blockSize"),
    ] {
        let errors = store.fails(&split(arguments), "");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
    let told = store.ok(&split(&["2", "--cidr", "10.0.0.0/16"]), "");
    assert_eq!(
        told,
        "IP Pool one was successfully split into 2 smaller pools.\n\
         Created split-one-0 with CIDR 10.0.0.0/17.\n\
         Created split-one-1 with CIDR 10.0.128.0/17.\n"
    );
    let pools = store.json(&["get", "pools", "-o", "json"]);
    let names: Vec<&Value> =
        pools["items"].as_array().unwrap().iter().map(|pool| &pool["metadata"]["name"]).collect();
    assert_eq!(names, ["split-one-0", "split-one-1", "two"]);
    let part = &pools["items"][0]["spec"];
    assert_eq!((&part["vxlanMode"], &part["disabled"]), (&json!("Always"), &json!(false)));
}

#[test]
fn resources_of_v1_are_converted() {
    let store = Store::new();
    let old = "\
apiVersion: v1
kind: ipPool
metadata: {cidr: 10.1.0.0/16}
spec: {ipip: {enabled: true}, nat-outgoing: true}
---
apiVersion: v1
kind: policy
metadata: {name: web}
spec:
  selector: app == 'web'
  ingress:
  - {action: allow, protocol: tcp, source: {tag: db}, destination: {ports: [80]}}
";
    let new = store.ok(&["convert", "-f", "-"], old);
    assert_eq!(store.ok(&["apply", "-f", "-"], &new), "Successfully applied 2 resource(s)\n");
    let pool = store.json(&["get", "pool", "10-1-0-0-16", "-o", "json"]);
    assert_eq!(pool["spec"]["ipipMode"], "Always");
    let policy: Value = serde_json::from_str(
        &store.ok(&["convert", "-f", "-", "-o", "json"], old.split_once("---\n").unwrap().1),
    )
    .unwrap();
    assert_eq!(policy["spec"]["ingress"][0]["source"]["selector"], "db == ''");
    let bad = old.replace("10.1.0.0/16", "x");
    let errors = store.fails(&["convert", "-f", "-"], &bad);
    assert!(errors.contains("ipPool: metadata.cidr"), "{errors}");
    let errors = store.fails(&["convert", "-f", "-"], &old.replace("app == 'web'", "app =="));
    assert!(errors.contains("spec.selector") && errors.contains("--ignore-validation"), "{errors}");
}

#[test]
fn diagnostics_are_one_archive() {
    let store = Store::new();
    let logs = store.0.join("logs/cni");
    std::fs::create_dir_all(&logs).unwrap();
    std::fs::write(logs.join("cni.log"), "a line\n").unwrap();
    let place = |name: &str| store.0.join(name).display().to_string();
    let (logs, socket, folder) = (place("logs"), place("none.sock"), place("out"));
    let arguments =
        ["node", "diags", "--log-dir", &logs, "--socket", &socket, "--directory", &folder];
    if !nix::unistd::geteuid().is_root() {
        let errors = store.fails(&arguments, "");
        assert!(errors.contains("Need super user privileges"), "{errors}");
        return;
    }
    let told = store.ok(&arguments, "");
    let (_, archive) = told.split_once("Diags saved to ").unwrap();
    let list = Command::new("tar").args(["-tzf", archive.trim()]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for file in ["date", "ipv4_route", "addr", "logs/cni/cni.log"] {
        assert!(list.lines().any(|line| line == format!("diagnostics/{file}")), "{list}");
    }
    assert!(told.contains("It does not answer"), "{told}");
}

/// A kubectl that knows one node with one pod of Calico, and no ipsets.
const KUBECTL: &str = r#"#!/bin/sh
case "$*" in
"get nodes -o json") echo '{"items": [{"metadata": {"name": "n1"}}]}' ;;
"get pods --all-namespaces -o json") echo '{"items": [{"metadata": {"namespace": "kube-system",
  "name": "calico-node-x", "ownerReferences": [{"name": "calico-node"}]},
  "spec": {"nodeName": "n1", "containers": [{"name": "calico-node"}]}}]}' ;;
"get customresourcedefinitions -o json")
  echo '{"items": [{"metadata": {"name": "ippools.crd.projectcalico.org"}},
    {"metadata": {"name": "widgets.example.org"}}]}' ;;
*ipset*) echo 'ipset: not found' >&2; exit 1 ;;
*) echo "answer to $*" ;;
esac
"#;

#[test]
fn diagnostics_of_the_cluster_are_one_archive() {
    use std::os::unix::fs::PermissionsExt;
    let store = Store::new();
    let (tools, empty) = (store.0.join("tools"), store.0.join("empty"));
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::create_dir_all(&empty).unwrap();
    let kubectl = tools.join("kubectl");
    std::fs::write(&kubectl, KUBECTL).unwrap();
    std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |arguments: &[&str]| {
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", tools.display());
        Command::new(env!("CARGO_BIN_EXE_margay"))
            .args(["ctl", "cluster", "diags"])
            .args(arguments)
            .current_dir(&empty)
            .env("PATH", path)
            .env("TMPDIR", &store.0)
            .output()
            .unwrap()
    };
    let output = run(&["--since", "5m", "--max-parallelism", "3"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    let (_, archive) = told.split_once("Diagnostic bundle created at ./").unwrap();
    let archive = empty.join(archive.trim());
    let bundle = archive.display().to_string().replace(".tar.gz", "");
    let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&empty).status();
    assert!(status.unwrap().success());
    for (file, content) in [
        ("cluster/version.yaml", "answer to version -o yaml\n"),
        (
            "cluster/crd/ippools.crd.projectcalico.org.yaml",
            "answer to get ippools.crd.projectcalico.org --all-namespaces -o yaml\n",
        ),
        ("cluster/kubernetes/pods.txt", "answer to get pods --all-namespaces -o wide\n"),
        (
            "nodes/n1/kube-system/calico-node-x.log",
            "answer to logs --since=5m -n kube-system calico-node-x --all-containers\n",
        ),
        ("nodes/n1/ipset-list.txt", "ipset: not found\n"),
    ] {
        let found = std::fs::read_to_string(std::path::Path::new(&bundle).join(file));
        assert_eq!(found.unwrap_or_default(), content, "{file}");
    }
    assert!(!std::path::Path::new(&bundle).join("cluster/crd/widgets.example.org.yaml").exists());
    assert!(told.contains("-- ipset list: ipset: not found"), "{told}");
    let left = std::fs::read_dir(&store.0).unwrap().count();
    assert_eq!(left, 2, "the temporary folder is removed");

    let errors = String::from_utf8(run(&["--since", "5d"]).stderr).unwrap();
    assert!(errors.contains("it is no duration such as 30s, 5m or 2h"), "{errors}");
    std::fs::write(&kubectl, "#!/bin/sh\nexit 1\n").unwrap();
    let output = run(&[]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("missing dependency: kubectl"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_daemon_is_started_by_another_name() {
    let store = Store::new();
    let errors = store.fails(&["node", "run", "--node-image=quay.io/calico/node"], "");
    assert!(errors.contains("hint: margay run --config FILE"), "{errors}");
}
