//! Pods that the CNI plugin makes on two nodes reach each other, on a directory, on etcd and on the
//! API server of Kubernetes; and nothing is lost while the server is gone, nor by what is found
//! when it is back. `MARGAY_OUTAGE_S=60` keeps it away for a minute.
//!
//! ```text
//!   pod a -- edge1 ---+--- edge2 -- pod b
//!         172.30.1.1  |   172.30.1.2
//!                    rack (the server at 172.30.1.254)
//! ```
//!
//! The nodes start with an empty store: they find their addresses, write their Nodes and pools, and
//! learn each other's blocks by BGP.

mod garbage;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::apiserver::{ApiServer, State};

use margay::lab::daemon::{http_ok, offloads};
use margay::lab::greeter::{Greeter, ask};
use margay::lab::namespace::{LinkEnd, LinkSpec, Namespace, connect};
use margay::lab::process::{self, Process, wait_for};
use margay::lab::scope::Scope;
use margay::lab::store::write_yaml;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const LINK: LinkSpec = LinkSpec { mtu: 1500, queues: 1 };
const ETCD: &str = "http://172.30.1.254:2379";
const KUBERNETES: &str = "172.30.1.254:8080";
/// Pods, by node.
const PODS: [(&str, &str); 2] = [("edge1", "a"), ("edge2", "b")];

struct Node {
    // Before the scope, so that the daemon ends first.
    daemon: Process,
    socket: PathBuf,
    namespace: Namespace,
    name: String,
}

/// A server of the datastore, which ends as it is dropped.
enum Server {
    Etcd(Process),
    Kubernetes(#[expect(dead_code, reason = "it is there to be dropped")] ApiServer),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Directory,
    Etcd,
    Kubernetes,
}

struct Rig {
    nodes: Vec<Node>,
    server: Option<Server>,
    /// What the stand-in for the API server keeps.
    state: Arc<State>,
    rack: Namespace,
    kind: Kind,
    store: Value,
    scope: Scope,
}

fn etcd_binary() -> Option<PathBuf> {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
    let places = [target.join("peers/etcd-server/usr/bin/etcd"), "/usr/bin/etcd".into()];
    places.into_iter().find(|path| path.exists())
}

impl Rig {
    /// The links; `None` where etcd is wanted and not there.
    fn new(kind: Kind) -> Option<Rig> {
        let scope = Scope::new().unwrap();
        let rack = scope.namespace("rack").unwrap();
        rack.ip("link add rack type bridge\nlink set rack up\naddr add 172.30.1.254/24 dev rack")
            .unwrap();
        let kubeconfig = scope.directory().join("kubeconfig");
        let store = match kind {
            Kind::Directory => json!({"type": "local", "path": scope.directory().join("store")}),
            Kind::Etcd => json!({"type": "etcdv3", "etcdEndpoints": ETCD}),
            Kind::Kubernetes => json!({"type": "kubernetes", "kubeconfig": kubeconfig}),
        };
        std::fs::create_dir(scope.directory().join("store")).unwrap();
        std::fs::write(&kubeconfig, as_calico_node().to_string()).unwrap();
        let state = populated();
        let mut rig = Rig { nodes: Vec::new(), server: None, state, rack, kind, store, scope };
        if kind == Kind::Etcd && etcd_binary().is_none() {
            println!("SKIPPED: etcd is not there: ./run-tests unpacks it (etcd-server)");
            return None;
        }
        rig.start_server();
        for name in ["calico", "calico-ipam"] {
            std::os::unix::fs::symlink(crate::binary(), rig.scope.directory().join(name)).unwrap();
        }
        for number in 1..=2 {
            rig.add_node(number);
        }
        Some(rig)
    }

    fn start_server(&mut self) {
        match self.kind {
            Kind::Directory => {}
            Kind::Etcd => self.server = Some(Server::Etcd(self.etcd(ETCD))),
            Kind::Kubernetes => {
                let listen = || Ok(TcpListener::bind(KUBERNETES)?);
                let listener = self.rack.enter(listen).unwrap();
                self.server = Some(Server::Kubernetes(ApiServer::start(listener, &self.state)));
            }
        }
    }

    /// The server dies; Kubernetes' forgets what watches could go on from.
    fn kill_server(&mut self) {
        if let Some(Server::Etcd(etcd)) = &mut self.server {
            etcd.kill();
        }
        self.server = None;
        self.state.compact();
    }

    fn etcd(&self, url: &str) -> Process {
        let (binary, data) = (etcd_binary().unwrap(), self.scope.directory().join("etcd"));
        let (binary, data) = (binary.to_str().unwrap(), data.to_str().unwrap());
        let args =
            ["--data-dir", data, "--listen-client-urls", url, "--advertise-client-urls", url];
        let command = self.rack.command(binary, &args);
        let log = self.scope.directory().join("etcd.log");
        Process::start_logged(command, &log).unwrap()
    }

    fn add_node(&mut self, number: u8) {
        let name = format!("edge{number}");
        let namespace = self.scope.namespace(&name).unwrap();
        let end = |namespace, device, addresses: &[String]| LinkEnd {
            namespace,
            device,
            mac: None,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let own = [format!("172.30.1.{number}/24"), format!("fd30:1::{number}/64")];
        let far = end(&self.rack, &name, &[]);
        connect(LINK, &end(&namespace, "uplink0", &own), &far).unwrap();
        self.rack.ip(&format!("link set {name} master rack")).unwrap();
        let directory = self.scope.directory();
        let (socket, file) =
            (directory.join(format!("{name}.sock")), directory.join(format!("{name}.yaml")));
        let config = json!({
            "nodeName": name, "store": self.store, "uplinks": ["uplink0"], "socket": socket,
            "offload": offloads(),
            "bgp": {"birdSockets": directory.join(format!("{name}-bird"))},
            "startup": {
                "enabled": true, "ip6": "autodetect",
                "ipv4Pool": {"cidr": "10.65.0.0/16"}, "ipv6Pool": {"cidr": "fd65::/48"},
                "nodenameFile": directory.join(format!("{name}-nodename")),
            },
        });
        write_yaml(&file, &config).unwrap();
        let binary = crate::binary();
        let args = ["run", "--config", file.to_str().unwrap()];
        let mut command = namespace.command(binary.to_str().unwrap(), &args);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap());
        let log = directory.join(format!("{name}.log"));
        let daemon = Process::start_logged(command, &log).unwrap();
        self.nodes.push(Node { daemon, socket, namespace, name });
    }

    fn wait_ready(&self) {
        for node in &self.nodes {
            let what = format!("{} to be ready", node.name);
            let ready = || http_ok(&node.namespace, 9099, "/readiness");
            wait_for(&what, LIMIT, || Ok(ready().then_some(()))).unwrap_or_else(|error| {
                let log = self.scope.directory().join(format!("{}.log", node.name));
                panic!("{error:#}: {}", std::fs::read_to_string(log).unwrap_or_default())
            });
        }
    }

    /// One call of the plugin on a node, as its runtime makes it.
    fn call(&self, node: usize, command: &str, pod: &str) -> Result<Value, String> {
        let directory = self.scope.directory();
        let local = self.store["path"].as_str().unwrap_or_default();
        let config = json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "mtu": 1500,
            "datastore_type": self.store["type"], "store_path": local, "etcd_endpoints": ETCD,
            "kubernetes": {"kubeconfig": directory.join("kubeconfig")},
            "nodename_file": directory.join(format!("{}-nodename", self.nodes[node].name)),
            "ipam_lock_file": directory.join("ipam.lock"),
            "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
        });
        let netns = Path::new("/run/netns").join(format!("{}pod-{pod}", self.scope.prefix()));
        let variables = [
            format!("CNI_COMMAND={command}"),
            format!("CNI_CONTAINERID=container-{pod}"),
            format!("CNI_NETNS={}", netns.display()),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"),
            format!("CNI_PATH={}", directory.display()),
        ];
        let binary = directory.join("calico").display().to_string();
        let mut args: Vec<&str> = variables.iter().map(String::as_str).collect();
        args.push(&binary);
        let run = self.nodes[node].namespace.command("env", &args);
        let output = process::run(run, &config.to_string(), LIMIT).unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_str(&output.stdout).unwrap_or_default()),
            false => Err(format!("{}{}", output.stdout, output.stderr)),
        }
    }

    /// Makes a pod; its addresses. A node that has not written itself yet is waited for.
    fn add_pod(&self, node: usize, pod: &str) -> (Namespace, Vec<IpAddr>) {
        let namespace = self.scope.namespace(&format!("pod-{pod}")).unwrap();
        let made =
            wait_for("the node to be written", LIMIT, || match self.call(node, "ADD", pod) {
                // CNI's code for what may work later.
                Err(error) if error.contains("\"code\":11,") => Ok(None),
                outcome => outcome.map(Some).map_err(anyhow::Error::msg),
            })
            .unwrap();
        let ips = made["ips"].as_array().unwrap().iter();
        let address =
            |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().parse();
        (namespace, ips.map(|ip| address(ip).unwrap()).collect())
    }

    fn show(&self, node: usize, what: &str) -> Value {
        let binary = crate::binary();
        let socket = self.nodes[node].socket.to_str().unwrap();
        let args = ["show", what, "-o", "json", "--socket", socket];
        let command = process::command(binary.to_str().unwrap(), &args);
        serde_json::from_str(&process::run_ok(command, "", LIMIT).unwrap()).unwrap()
    }

    /// Everything that two pods need to talk.
    fn pods_talk(&self) -> [(Namespace, Vec<IpAddr>); 2] {
        let [a, b] = [self.add_pod(0, "a"), self.add_pod(1, "b")];
        assert_ne!(a.1, b.1);
        for (own, far) in a.1.iter().zip(&b.1) {
            let at = SocketAddr::new(*far, 8080);
            let _server = Greeter::start(&b.0, at, "b").unwrap();
            let what = format!("an answer of {at}");
            let seen = wait_for(&what, LIMIT, || Ok(ask(&a.0, at).ok())).unwrap();
            assert_eq!(seen, ("b".to_owned(), *own));
        }
        assert_eq!(self.call(0, "CHECK", "a"), Ok(Value::Null));
        [a, b]
    }

    fn pods_go(&self) {
        for (node, pod) in [(0, "a"), (1, "b"), (0, "a")] {
            assert_eq!(self.call(node, "DEL", pod), Ok(Value::Null));
        }
        for node in 0..2 {
            let gone = || self.show(node, "endpoints").as_array().is_some_and(Vec::is_empty);
            wait_for("the endpoints to go", LIMIT, || Ok(gone().then_some(()))).unwrap();
        }
    }

    /// Ends everything as a user would.
    fn stop(mut self) {
        for node in &mut self.nodes {
            node.daemon.end(nix::sys::signal::Signal::SIGTERM, LIMIT).unwrap();
        }
    }
}

#[test]
fn cni_pods_on_two_nodes_reach_each_other_on_a_directory() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let rig = Rig::new(Kind::Directory).unwrap();
    rig.wait_ready();
    rig.pods_talk();
    rig.pods_go();
    rig.stop();
}

#[test]
fn cni_pods_on_etcd_lose_nothing_while_etcd_is_gone() {
    nothing_is_lost_while_the_server_is_gone(Kind::Etcd);
}

#[test]
fn cni_pods_on_kubernetes_lose_nothing_while_the_api_server_is_gone() {
    nothing_is_lost_while_the_server_is_gone(Kind::Kubernetes);
}

fn nothing_is_lost_while_the_server_is_gone(kind: Kind) {
    let Some(_turn) = crate::turn(&[]) else { return };
    let Some(mut rig) = Rig::new(kind) else { return };
    rig.wait_ready();
    let [a, b] = rig.pods_talk();
    let target = b.1[0].to_string();
    let ping = a.0.command("ping", &["-i", "0.02", "-w", "600", &target]);
    let log = rig.scope.directory().join("ping.log");
    let mut ping = Process::start_logged(ping, &log).unwrap();
    let monitor = rig.nodes[0].namespace.command("ip", &["monitor", "route"]);
    let routes = rig.scope.directory().join("routes.log");
    let mut monitor = Process::start_logged(monitor, &routes).unwrap();
    rig.kill_server();
    let lost = |rig: &Rig| !rig.show(0, "status")["store"]["lost"].is_null();
    wait_for("a lost store", LIMIT, || Ok(lost(&rig).then_some(()))).unwrap();
    let outage = std::env::var("MARGAY_OUTAGE_S").ok().and_then(|text| text.parse().ok());
    std::thread::sleep(Duration::from_secs(outage.unwrap_or(0)));
    let good = (kind == Kind::Etcd).then(|| rig.meddle());
    rig.start_server();
    wait_for("the store again", LIMIT, || Ok((!lost(&rig)).then_some(()))).unwrap();
    if let Some(good) = good {
        rig.is_told_of_garbage(&good);
    }
    monitor.kill();
    ping.signal(nix::sys::signal::Signal::SIGINT);
    ping.end(nix::sys::signal::Signal::SIGINT, LIMIT).unwrap();
    let told = std::fs::read_to_string(&log).unwrap();
    println!("{}", told.lines().rev().take(2).collect::<Vec<_>>().join("; "));
    assert!(told.contains(" 0% packet loss"), "{told}");
    let changes = std::fs::read_to_string(&routes).unwrap();
    let flaps: Vec<&str> = changes
        .lines()
        .filter(|line| line.contains("proto 158") && !line.contains(garbage::LATE))
        .collect();
    assert!(flaps.is_empty(), "{flaps:?}");
    rig.pods_go();
    // The daemon and the plugin keep to what calico-node may do.
    assert_eq!(rig.state.lock().forbidden, Vec::<String>::new());
    rig.stop();
}

/// What there is in a cluster before margay comes: its nodes, and pods that wait for a network.
fn populated() -> Arc<State> {
    let state = State::new(false);
    for (node, pod) in PODS {
        state.put_kind("Node", json!({"metadata": {"name": node}}));
        let metadata = json!({"name": pod, "namespace": "default"});
        state.put_kind("Pod", json!({"metadata": metadata, "spec": {"nodeName": node}}));
    }
    state
}

fn as_calico_node() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": format!("http://{KUBERNETES}")}}],
        "users": [{"name": "u", "user": {"token": "calico-node"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]})
}
