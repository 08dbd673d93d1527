//! What hands write into etcd while the nodes are cut off from it: keys that no Calico wrote, a
//! Node written over, a pod; and a compaction of everything that the nodes have seen.
//!
//! etcd runs on another port meanwhile, and is asked by its gateway for JSON.

use super::{ETCD, LIMIT, Rig};
use anyhow::Context;
use margay::lab::namespace::Namespace;
use margay::lab::process::{self, wait_for};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Where etcd listens while the nodes must not find it.
const ASIDE: &str = "172.30.1.254:12379";
const V3: &str = "/calico/resources/v3/projectcalico.org";
/// Of a pod that is written while the nodes are cut off.
pub(super) const LATE: &str = "203.0.113.9";

impl Rig {
    /// What hands write while the nodes are cut off, and a compaction of all that they have seen.
    /// Answers the Node that was written over, in etcd's own text.
    pub(super) fn meddle(&self) -> Value {
        let mut etcd = self.etcd(&format!("http://{ASIDE}"));
        let range =
            || Ok(gateway(&self.rack, ASIDE, "range", &key(&format!("{V3}/nodes/edge2"))).ok());
        let read = wait_for("etcd", LIMIT, range).unwrap();
        let good = read["kvs"][0]["value"].clone();
        assert!(good.is_string(), "{read}");
        let put = |path: &str, value: &str| {
            let mut request = key(&format!("{V3}/{path}"));
            request["value"] = json!(base64(value));
            gateway(&self.rack, ASIDE, "put", &request).unwrap()
        };
        put("ippools/cut", "{\"kind\": \"IPPool\"");
        put("nodes/edge2", "no JSON at all");
        let spec = json!({"node": "edge1", "pod": "late", "interfaceName": "califlate",
            "ipNetworks": [format!("{LATE}/32")]});
        let late = json!({"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "edge1-k8s-late-eth0", "namespace": "default"}, "spec": spec});
        let written = put("workloadendpoints/default/edge1-k8s-late-eth0", &late.to_string());
        let compact = json!({"revision": written["header"]["revision"], "physical": true});
        gateway(&self.rack, ASIDE, "compaction", &compact).unwrap();
        etcd.kill();
        good
    }

    /// The faults are named, and what is good counts; then all is mended.
    pub(super) fn is_told_of_garbage(&self, good: &Value) {
        let named = || {
            let faults = self.show(0, "status")["store"]["faults"].to_string();
            let places = ["ippools/cut", "nodes/edge2"];
            let named = places.iter().all(|place| faults.contains(&format!("{V3}/{place}")));
            Ok(named.then_some(()))
        };
        wait_for("the faults to be named", LIMIT, named).unwrap();
        let late = || self.show(0, "endpoints").to_string().contains(LATE);
        wait_for("the good pod to count", LIMIT, || Ok(late().then_some(()))).unwrap();
        let server = ETCD.trim_start_matches("http://");
        let mut mend = key(&format!("{V3}/nodes/edge2"));
        mend["value"] = good.clone();
        gateway(&self.rack, server, "put", &mend).unwrap();
        for path in ["ippools/cut", "workloadendpoints/default/edge1-k8s-late-eth0"] {
            gateway(&self.rack, server, "deleterange", &key(&format!("{V3}/{path}"))).unwrap();
        }
        let mended =
            || self.show(0, "status")["store"]["faults"].as_array().is_some_and(Vec::is_empty);
        wait_for("no fault", LIMIT, || Ok(mended().then_some(()))).unwrap();
    }
}

fn base64(text: &str) -> String {
    process::run_ok(process::command("base64", &["-w", "0"]), text, LIMIT).unwrap()
}

fn key(path: &str) -> Value {
    json!({"key": base64(path)})
}

/// One question to etcd's gateway for JSON.
fn gateway(rack: &Namespace, server: &str, verb: &str, body: &Value) -> anyhow::Result<Value> {
    let body = body.to_string();
    let request = format!(
        "POST /v3/kv/{verb} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = rack.enter(|| {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (from, to) = answer.find('{').zip(answer.rfind('}')).context("no JSON")?;
    Ok(serde_json::from_str(&answer[from..=to])?)
}
