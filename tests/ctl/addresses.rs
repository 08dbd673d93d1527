//! `margay ctl ipam check` and what is released by its reports.

use super::{BLOCK, Store};
use serde_json::{Value, json};

const CLUSTER: &str = "kind: ClusterInformation\nmetadata: {name: default}\n\
    spec: {clusterGUID: one, clusterType: 'k8s,bgp', datastoreReady: true}\n";

/// A pod's address that nobody has any more, a handle without addresses, an endpoint whose address
/// is in a pool and not given out, and one whose address is in none.
fn store() -> Store {
    let store = Store::new();
    std::fs::create_dir(&store.0).unwrap();
    std::fs::write(store.0.join("block.json"), BLOCK).unwrap();
    for (name, cidr) in [("h", "10.0.0.0/30"), ("gone", "10.0.0.4/30")] {
        let spec = json!({"handleID": name, "block": {cidr: 1}, "deleted": false});
        let handle = json!({"kind": "IPAMHandle", "metadata": {"name": name}, "spec": spec});
        std::fs::write(store.0.join(format!("{name}.json")), handle.to_string()).unwrap();
    }
    let pool = "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/29, blockSize: 30}\n";
    let endpoint = |name: &str, address: &str| {
        format!(
            "---\nkind: WorkloadEndpoint\nmetadata: {{name: a-k8s-{name}-eth0, namespace: ns}}\n\
             spec: {{node: a, orchestrator: k8s, pod: {name}, endpoint: eth0, \
             interfaceName: cali{name}, ipNetworks: [{address}/32]}}\n"
        )
    };
    let (near, far) = (endpoint("near", "10.0.0.5"), endpoint("far", "10.9.9.9"));
    store.ok(&["apply", "-f", "-"], &format!("{CLUSTER}---\n{pool}{near}{far}"));
    store
}

#[test]
fn a_check_says_what_it_finds_in_calicoctl_s_words() {
    let store = store();
    let text = store.ok(&["ipam", "check", "--show-all-ips"], "");
    for line in [
        "Checking IPAM for inconsistencies...\n\nLoading all IPAM blocks...\nFound 1 IPAM blocks.",
        " IPAM block 10.0.0.0/30 affinity=host:a:",
        "  10.0.0.0 allocated; attrs Main:h Extra:namespace=ns,node=b,pod=web",
        "IPAM blocks record 1 allocations.",
        "  10.0.0.0/29\nFound 1 active IP pools.",
        "Found 0 node tunnel IPs.",
        "No configuration for LoadBalancer kubecontroller found, skipping service check",
        "  10.0.0.5 belongs to Workload(ns/a-k8s-near-eth0)",
        "Found 2 workload IPs.\nWorkloads and nodes are using 2 IPs.",
        "  b has 1 allocations\nNode with most allocations has 1; median is 1",
        "  10.0.0.0 leaked; attrs Main:h Extra:namespace=ns,node=b,pod=web",
        "Found 1 IPs that are allocated in IPAM but not actually in use.",
        "  10.9.9.9 in use by Workload(ns/a-k8s-far-eth0) is not in any active IP pool.",
        "  10.0.0.5 in use by Workload(ns/a-k8s-near-eth0) and in active IPAM pool but has no \
         IPAM allocation.",
        "Found 1 in-use IPs that are not in active IP pools.",
        "Found 1 in-use IPs that are in active IP pools but have no corresponding IPAM allocation.",
        "  gone doesn't have any active IPs.",
        "Found 1 handles with no matching IPs (and 1 handles with matches).",
        "Found 0 handles mentioned in blocks with no matching handle resource.",
        "Found 0 invalid IPAMBlocks.\nCheck complete; found 4 problems.\n",
    ] {
        assert!(text.contains(line), "{line}\n in\n{text}");
    }
    let problems = store.ok(&["ipam", "check", "--show-problem-ips"], "");
    assert!(problems.contains("  10.0.0.0 leaked") && !problems.contains("belongs to"));
    let short = store.ok(&["ipam", "check"], "");
    assert!(!short.contains("leaked;") && short.ends_with("found 4 problems.\n"), "{short}");
}

#[test]
fn what_reports_call_leaked_is_released() {
    let store = store();
    let file = store.0.with_extension("report.json");
    let name = file.display().to_string();
    let check = || drop(store.ok(&["ipam", "check", "-o", &name], ""));
    let report = || serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap();
    let change = |field: &str, value: &str| {
        let mut changed = report();
        changed[field] = json!(value);
        std::fs::write(&file, changed.to_string()).unwrap();
    };
    let release = ["ipam", "release", "--from-report", &name];
    check();
    let found = report();
    let leaked = &found["allocations"]["10.0.0.0"][0];
    assert_eq!((&leaked["handle"], &leaked["inUse"]), (&json!("h"), &json!(false)));
    assert_eq!((&leaked["owners"], &leaked["borrowed"]), (&Value::Null, &json!(true)));
    assert_eq!((&found["clusterGUID"], &found["datastoreLocked"]), (&json!("one"), &json!(false)));
    assert_eq!(found["leakedHandles"][0]["ID"], "gone");
    assert!(store.fails(&release, "").contains("data store is not locked"));
    store.ok(&["datastore", "migrate", "lock"], "");
    assert!(store.fails(&release, "").contains("are all stale"));
    check();
    change("clusterGUID", "another");
    assert!(store.fails(&[&release[..], &["--force"]].concat(), "").contains("mismatched cluster"));
    check();
    change("version", "v3.30.0");
    assert!(store.fails(&release, "").contains("a different version (v3.30.0)"));
    let forced = store.ok(&[&release[..], &["--force"]].concat(), "");
    for line in [
        "WARNING: Report was produced using a different version of calicoctl.",
        "Releasing 1 old IPs...\nReleased 1 IPs successfully\n",
        "Deleting 1 handles...\n",
        "\n.\nReleased 1 handles; 0 skipped; 0 errors.\nYou may now unlock the data store.\n",
    ] {
        assert!(forced.contains(line), "{line}\n in\n{forced}");
    }
    assert_eq!(store.ok(&["ipam", "show", "--ip", "10.0.0.0"], ""), "10.0.0.0 is not assigned\n");
    let again = store.ok(&[&release[..], &["--force"]].concat(), "");
    assert!(again.contains("1 addresses marked as leaked in the report had already"), "{again}");
    assert!(again.contains("\nx\nReleased 0 handles; 1 skipped; 0 errors."), "{again}");
    // Of two reports only what both say counts.
    let other = store.0.with_extension("other.json");
    let mut none = report();
    (none["allocations"], none["leakedHandles"]) = (json!({}), json!([]));
    std::fs::write(&other, none.to_string()).unwrap();
    let both = [&release[..], &["--from-report", other.to_str().unwrap(), "--force"]].concat();
    let told = store.ok(&both, "");
    assert!(told.contains("didn't contain any leaked IPs"), "{told}");
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&other).unwrap();
}
