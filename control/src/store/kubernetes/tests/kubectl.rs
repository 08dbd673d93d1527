//! The real kubectl on the stand-in, beside the store: what one writes, the other one sees.

use super::*;
use crate::scratch;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

fn binary() -> Option<PathBuf> {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
    let found = target.join("peers/kubernetes-client/usr/bin/kubectl");
    if !found.exists() {
        println!("SKIPPED: kubectl is not there: ./run-tests unpacks it (kubernetes-client)");
        return None;
    }
    Some(found)
}

struct Kubectl {
    binary: PathBuf,
    home: scratch::Directory,
    server: String,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        let server = format!("--server={}", self.server);
        command.arg(server).args(args).env_clear().env("HOME", self.home.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], input: &Value) -> Result<String, String> {
        let mut child = self.command(args).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn ok(&self, args: &[&str], input: &Value) -> String {
        self.run(args, input).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }
}

/// A `kubectl get -w`, whose lines are read as they come.
struct Watcher {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Watcher {
    fn start(kubectl: &Kubectl, args: &[&str]) -> Watcher {
        let mut child = kubectl.command(args).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        Watcher { child, lines }
    }

    fn until(&self, words: &str) {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(words) => return,
                Ok(_) => {}
                Err(error) => panic!("no '{words}': {error}"),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pool(cidr: &str, disabled: bool) -> Value {
    json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
        "metadata": {"name": "by-hand", "labels": {"app": "x"}},
        "spec": {"cidr": cidr, "disabled": disabled, "later": {"kept": 1}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_and_the_store_see_each_other() {
    let Some(binary) = binary() else { return };
    let cluster = Cluster::start();
    let (home, server) =
        (scratch::Directory::new("kubectl"), format!("http://{}", cluster.address));
    let kubectl = Kubectl { binary, home, server };
    let store = cluster.admin();
    let mut seen = Seen::start(store.watch());
    seen.until(|seen| seen.known).await;

    let apply = ["apply", "-f", "-"];
    let done = kubectl.ok(&apply, &pool("10.1.0.0/16", false));
    assert_eq!(done, "ippool.crd.projectcalico.org/by-hand created");
    let own = key("IPPool", "by-hand");
    seen.until(|seen| seen.resources.contains_key(&own)).await;
    let watcher = Watcher::start(&kubectl, &["get", "ippools", "-w", "-o", "json"]);
    watcher.until("10.1.0.0/16");

    // The store's write is told to kubectl, and keeps what kubectl must know.
    let mut now = store.get(&own).await.unwrap();
    now.value["spec"]["natOutgoing"] = json!(true);
    store.update(now).await.unwrap();
    watcher.until("natOutgoing");
    let done = kubectl.ok(&apply, &pool("10.1.0.0/16", true));
    assert_eq!(done, "ippool.crd.projectcalico.org/by-hand configured");
    watcher.until("\"disabled\": true");
    let spec = store.get(&own).await.unwrap().spec();
    let expected = json!({"cidr": "10.1.0.0/16", "disabled": true, "natOutgoing": true,
        "later": {"kept": 1}});
    assert_eq!(spec, expected);

    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "default"}, "spec": {"podSelector": {}}});
    kubectl.ok(&apply, &policy);
    let denied = Key { namespace: "default".into(), ..key("KubernetesNetworkPolicy", "deny") };
    seen.until(|seen| seen.resources.contains_key(&denied)).await;
    let changed = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "x"}}}});
    let done = kubectl.ok(&apply, &changed);
    assert_eq!(done, "networkpolicy.networking.k8s.io/deny configured");

    save::create(&store, document(host("by-store", "10.0.0.1/24"))).await.unwrap();
    let listed = kubectl.ok(&["get", "hostendpoints", "-o", "name"], &Value::Null);
    assert_eq!(listed, "hostendpoint.crd.projectcalico.org/by-store");
    let table = kubectl.ok(&["get", "hostendpoints,netpol"], &Value::Null);
    assert!(table.contains("by-store") && table.contains("deny"), "{table}");
    let error = kubectl.run(&["get", "ippool", "none"], &Value::Null).unwrap_err();
    assert!(error.contains("(NotFound)"), "{error}");

    let done = kubectl.ok(&["delete", "ippool", "by-hand"], &Value::Null);
    assert!(done.contains("\"by-hand\" deleted"), "{done}");
    kubectl.ok(&["delete", "netpol", "deny"], &Value::Null);
    let gone = |seen: &Seen| [&own, &denied].iter().all(|key| !seen.resources.contains_key(*key));
    seen.until(gone).await;
}
