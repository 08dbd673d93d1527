//! `margay ctl` as a person uses calicoctl: every verb, on a directory as the store; and on
//! Kubernetes what is different there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod addresses;
#[path = "../apiserver/mod.rs"]
mod apiserver;
mod kinds;
mod kubernetes;
mod verbs;

use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A store of its own, removed at the end.
struct Store(PathBuf);

impl Store {
    fn new() -> Store {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("margay-ctl-{}-{number}", std::process::id());
        Store(std::env::temp_dir().join(name))
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
            .arg("ctl")
            .args(arguments)
            .arg("--store")
            .arg(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard output of what succeeds.
    fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of what fails.
    fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments, "")).unwrap()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const POOLS: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: one}
spec: {cidr: 10.0.0.0/16, vxlanMode: Always, ofTheFuture: {kept: true}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: two}
spec: {cidr: 10.1.0.0/16, natOutgoing: true, nodeSelector: rack == 'a'}
";

#[test]
fn resources_are_applied_shown_and_removed() {
    let store = Store::new();
    let applied = store.ok(&["apply", "-f", "-"], POOLS);
    assert_eq!(applied, "Successfully applied 2 'IPPool' resource(s)\n");
    assert_eq!(
        store.ok(&["get", "pools"], ""),
        "NAME   CIDR          SELECTOR      \n\
         one    10.0.0.0/16   all()         \n\
         two    10.1.0.0/16   rack == 'a'   \n\n"
    );
    let wide = store.ok(&["get", "ippool", "two", "-o", "wide"], "");
    let cells: Vec<&str> = wide.lines().nth(1).unwrap().split_whitespace().collect();
    let expected = ["two", "10.1.0.0/16", "true", "Never", "Never", "false", "false"];
    assert_eq!(cells[..7], expected);
    let one = store.json(&["get", "ipp", "one", "-o", "json"]);
    assert_eq!(one["spec"]["ofTheFuture"], json!({"kept": true}));
    assert!(one["metadata"]["uid"].is_string() && one["metadata"]["resourceVersion"].is_string());
    let list = store.json(&["get", "ippools", "-o", "json"]);
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("IPPoolList"), 2));

    // What was shown can be applied again, and is the same then.
    let yaml = store.ok(&["get", "ippools", "-o", "yaml"], "");
    store.ok(&["replace", "-f", "-"], &yaml);
    assert_eq!(store.json(&["get", "ippools", "-o", "json"]), list);
    let export = store.ok(&["get", "ippool", "one", "-o", "yaml", "--export"], "");
    assert!(!export.contains("uid") && !export.contains("creationTimestamp"), "{export}");

    assert_eq!(
        store.ok(&["delete", "ippool", "one"], ""),
        "Successfully deleted 1 'IPPool' resource(s)\n"
    );
    let gone = store.fails(&["delete", "ippool", "one"], "");
    assert!(gone.contains("resource does not exist: IPPool(one)"), "{gone}");
    store.ok(&["delete", "ippool", "one", "--skip-not-exists"], "");
    store.ok(&["delete", "-f", "-", "-s"], POOLS);
    assert_eq!(store.ok(&["get", "ippools", "-o", "name"], ""), "");
}

#[test]
fn each_kind_comes_back_as_it_was_applied() {
    let store = Store::new();
    let text = std::fs::read_to_string(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases/bgp/filters/resources.yaml"),
    )
    .unwrap();
    store.ok(&["create", "-f", "-"], &text);
    for kind in ["node", "bgppeer", "bgpfilter"] {
        let list = store.json(&["get", kind, "-o", "json"]);
        let items = list["items"].as_array().unwrap();
        assert!(!items.is_empty(), "{kind}");
        let yaml = store.ok(&["get", kind, "-o", "yaml"], "");
        store.ok(&["apply", "-f", "-"], &yaml);
        assert_eq!(store.json(&["get", kind, "-o", "json"])["items"], list["items"]);
    }
    let exists = store.fails(&["create", "-f", "-"], &text);
    assert!(exists.contains("resource already exists: "), "{exists}");
    store.ok(&["create", "-f", "-", "--skip-exists"], &text);
}

#[test]
fn namespaces_keep_resources_apart() {
    let store = Store::new();
    let set =
        |nets: &str| format!("kind: NetworkSet\nmetadata: {{name: s}}\nspec: {{nets: [{nets}]}}\n");
    store.ok(&["apply", "-f", "-"], &set("10.0.0.0/8"));
    store.ok(&["apply", "-f", "-", "-n", "shop"], &set("10.1.0.0/16, 10.2.0.0/16"));
    assert_eq!(
        store.ok(&["get", "netsets", "-A", "-o", "wide"], ""),
        "NAMESPACE   NAME   NETS                      \n\
         default     s      10.0.0.0/8                \n\
         shop        s      10.1.0.0/16,10.2.0.0/16   \n\n"
    );
    assert_eq!(store.ok(&["get", "netsets"], ""), "NAME   \ns      \n\n");
    let shop = store.json(&["get", "netsets", "s", "-n", "shop", "-o", "json"]);
    assert_eq!(shop["metadata"]["namespace"], "shop");
}

#[test]
fn patches_and_labels_change_single_fields() {
    let store = Store::new();
    store.ok(&["apply", "-f", "-"], POOLS);
    store.ok(&["patch", "ippool", "one", "-p", r#"{"spec": {"natOutgoing": true}}"#], "");
    let list = r#"[{"op": "remove", "path": "/spec/vxlanMode"}]"#;
    store.ok(&["patch", "ippool", "one", "-p", list, "-t", "json"], "");
    let one = store.json(&["get", "ippool", "one", "-o", "json"]);
    let expected =
        json!({"cidr": "10.0.0.0/16", "natOutgoing": true, "ofTheFuture": {"kept": true}});
    assert_eq!(one["spec"], expected);
    let bad = store.fails(&["patch", "ippool", "one", "-p", r#"{"spec": {"cidr": "x"}}"#], "");
    assert!(bad.contains("spec.cidr"), "{bad}");

    store.ok(&["label", "ippool", "one", "team=net"], "");
    let other = store.fails(&["label", "ippool", "one", "team=other"], "");
    assert!(other.contains("--overwrite"), "{other}");
    store.ok(&["label", "ippool", "one", "team=other", "--overwrite"], "");
    let labels = store.json(&["get", "ippool", "one", "-o", "json"])["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"team": "other"}));
    store.ok(&["label", "ippool", "one", "team", "--remove"], "");
    store.fails(&["label", "ippool", "one", "team", "--remove"], "");
}

#[test]
fn mistakes_are_named() {
    let store = Store::new();
    let pool = |rest: &str| format!("kind: IPPool\nmetadata: {{name: p}}\nspec: {{{rest}}}\n");
    for (arguments, input, expected) in [
        (&["get", "nonsense"][..], String::new(), "'nonsense' is not supported"),
        (&["get", "node", "-o", "xml"], String::new(), "'xml'"),
        (&["get", "node", "nobody"], String::new(), "Node(nobody)"),
        (&["apply", "-f", "-"], pool("cidr: 10.0.0.1/8"), "spec.cidr"),
        (&["apply", "-f", "-"], pool("cidr: 10.0.0.0/8, blockSize: 99"), "spec.blockSize"),
        (&["apply", "-f", "-"], "kind: Wrong\nmetadata: {name: x}\n".into(), "'Wrong'"),
        (&["apply", "-f", "-"], "kind: [\n".into(), "-:"),
        (&["apply", "-f", "-"], "kind: Tier\n".into(), "metadata.name is missing"),
        (&["apply", "-f", "-"], "# nothing\n".into(), "no resources specified"),
        (&["apply", "-f", "/nonexistent.yaml"], String::new(), "/nonexistent.yaml"),
        (&["replace", "-f", "-"], pool("cidr: 10.0.0.0/8"), "does not exist: IPPool(p)"),
    ] {
        let errors = store.fails(arguments, &input);
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
    store.ok(&["apply", "-f", "-", "--skip-empty"], "# nothing\n");
    let both = format!("{POOLS}---\n{}", pool("cidr: x"));
    let part = store.fails(&["apply", "-f", "-"], &both);
    assert!(part.contains("Partial success: applied the first 2 out of 3"), "{part}");
    store.ok(&["apply", "-f", "-"], POOLS);
    let stale = POOLS.replace("{name: one}", "{name: one, resourceVersion: '1'}");
    let conflict = store.fails(&["replace", "-f", "-"], &stale);
    assert!(conflict.contains("update conflict: IPPool(one)"), "{conflict}");
    let verdict = store.run(&["validate", "-f", "-"], &both);
    let verdict: Value = serde_json::from_slice(&verdict.stdout).unwrap();
    assert_eq!(
        (&verdict["valid"], verdict["errors"].as_array().unwrap().len()),
        (&json!(false), 1)
    );
}

const BLOCK: &str = r#"{"kind": "IPAMBlock", "metadata": {"name": "10-0-0-0-30"},
 "spec": {"cidr": "10.0.0.0/30", "affinity": "host:a", "allocations": [0, null, null, null],
  "unallocated": [1, 2, 3], "sequenceNumber": 1, "deleted": false,
  "attributes": [{"handle_id": "h", "secondary": {"node": "b", "pod": "web", "namespace": "ns"}}]}}
"#;

#[test]
fn addresses_are_shown_checked_and_taken_back() {
    let store = Store::new();
    std::fs::create_dir(&store.0).unwrap();
    let handle = r#"{"kind": "IPAMHandle", "metadata": {"name": "h"},
        "spec": {"handleID": "h", "block": {"10.0.0.0/30": 1}, "deleted": false}}"#;
    std::fs::write(store.0.join("block.json"), BLOCK).unwrap();
    std::fs::write(store.0.join("handle.json"), handle).unwrap();
    let pool = "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/29, blockSize: 30}\n\
                ---\nkind: IPReservation\nmetadata: {name: r}\n\
                spec: {reservedCIDRs: [10.0.0.0/31, 10.0.0.1, 10.0.0.4/31]}\n";
    store.ok(&["apply", "-f", "-"], pool);
    assert_eq!(
        store.ok(&["ipam", "show", "--show-blocks"], ""),
        "+----------+-------------+-----------+------------+--------------+----------+\n\
         | GROUPING | CIDR        | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |\n\
         +----------+-------------+-----------+------------+--------------+----------+\n\
         | IP Pool  | 10.0.0.0/29 |         8 |    1 (12%) |      4 (50%) |  4 (50%) |\n\
         | Block    | 10.0.0.0/30 |         4 |    1 (25%) |      2 (50%) |  2 (50%) |\n\
         +----------+-------------+-----------+------------+--------------+----------+\n"
    );
    let whose = store.ok(&["ipam", "show", "--ip", "10.0.0.0"], "");
    assert!(whose.starts_with("IP 10.0.0.0 is in use\n") && whose.contains("pod: web"), "{whose}");
    let borrowed = store.ok(&["ipam", "show", "--show-borrowed"], "");
    assert!(borrowed.contains("ns/web"), "{borrowed}");
    let settings = store.ok(&["ipam", "show", "--show-configuration"], "");
    assert!(settings.contains("| AutoAllocateBlocks | true  |"), "{settings}");
    let check = store.ok(&["ipam", "check"], "");
    assert!(check.ends_with("Check complete; found 1 problems.\n"), "{check}");
    assert_eq!(
        store.ok(&["ipam", "release", "--ip", "10.0.0.0"], ""),
        "Successfully released IP address 10.0.0.0\n"
    );
    assert_eq!(store.ok(&["ipam", "show", "--ip", "10.0.0.0"], ""), "10.0.0.0 is not assigned\n");
    store.fails(&["ipam", "release", "--ip", "10.0.0.0"], "");
    let check = store.ok(&["ipam", "check"], "");
    assert!(check.ends_with("Check complete; found 0 problems.\n"), "{check}");
}

#[test]
fn a_store_is_locked_exported_and_read_into_another() {
    let (from, to) = (Store::new(), Store::new());
    let pool = "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: p}\n\
                spec: {cidr: 10.65.0.0/16}\n";
    from.ok(&["apply", "-f", "-"], pool);
    let refused = from.fails(&["datastore", "migrate", "export"], "");
    assert!(refused.contains("not locked"), "{refused}");
    assert_eq!(from.ok(&["datastore", "migrate", "lock"], ""), "Datastore locked.\n");
    let all = from.ok(&["datastore", "migrate", "export"], "");
    let told = to.ok(&["datastore", "migrate", "import", "-f", "-"], &all);
    assert!(told.starts_with("Successfully imported 2 resources."), "{told}");
    assert_eq!(to.json(&["get", "ippool", "p", "-o", "json"])["spec"]["cidr"], "10.65.0.0/16");
    let ready = |store: &Store| {
        store.json(&["get", "clusterinfo", "default", "-o", "json"])["spec"]["datastoreReady"]
            .clone()
    };
    assert_eq!(ready(&to), false);
    let again = to.fails(&["datastore", "migrate", "import", "-f", "-"], &all);
    assert!(again.contains("has resources already"), "{again}");
    to.ok(&["datastore", "migrate", "unlock"], "");
    assert_eq!(ready(&to), true);
    let told = to.fails(&["datastore", "migrate", "import", "-f", "-"], pool);
    assert!(told.contains("no ClusterInformation"), "{told}");
}

#[test]
fn allocation_is_configured_and_versions_are_told() {
    let store = Store::new();
    let args = ["ipam", "configure", "--strictaffinity=true", "--max-blocks-per-host=4"];
    let told = store.ok(&args, "");
    assert_eq!(
        told,
        "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n"
    );
    let shown = store.ok(&["ipam", "show", "--show-configuration"], "");
    assert!(shown.contains("StrictAffinity") && shown.contains("true"), "{shown}");
    let told = store.fails(&["ipam", "configure", "--strictaffinity=false"], "");
    assert!(told.contains("maxBlocksPerHost needs strictAffinity"), "{told}");
    let cluster = "kind: ClusterInformation\napiVersion: projectcalico.org/v3\n\
                   metadata: {name: default}\nspec: {calicoVersion: v3.31.7, clusterType: k8s}\n";
    store.ok(&["apply", "-f", "-"], cluster);
    let told = store.ok(&["version"], "");
    assert!(told.contains("v3.31.7") && told.contains("Cluster Type:      k8s"), "{told}");
    let socket = store.0.join("nobody").display().to_string();
    let told = store.fails(&["node", "status", "--socket", &socket], "");
    assert!(told.contains("Calico process is not running."), "{told}");
}
