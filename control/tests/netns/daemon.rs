//! Whole daemons, in the test's process: readiness, what they leave in the kernel, their API.

use crate::{in_namespace, sh};
use margay_control::api::client;
use margay_control::api::endpoints::EndpointAnswer;
use margay_control::api::ports::PortAnswer;
use margay_control::api::routes::RouteAnswer;
use margay_control::api::status::StatusAnswer;
use margay_control::config::{Config, StoreConfig};
use margay_control::daemon;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const LIMIT: Duration = Duration::from_secs(10);

/// A daemon, with a folder for its store and socket.
pub(crate) struct Daemon {
    folder: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    pub(crate) fn folder() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("margay-daemon-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    pub(crate) fn start(folder: &Path, keep_routes: bool) -> Daemon {
        let store = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
        Daemon::start_on(folder, keep_routes, store)
    }

    pub(crate) fn start_on(folder: &Path, keep_routes: bool, store: StoreConfig) -> Daemon {
        Daemon::start_with(folder, store, |config| config.keep_routes = keep_routes)
    }

    pub(crate) fn start_with(
        folder: &Path,
        store: StoreConfig,
        change: impl FnOnce(&mut Config),
    ) -> Daemon {
        let mut config = Config {
            node_name: "me".to_owned(),
            uplinks: vec!["up0".to_owned()],
            socket: folder.join("margay.sock"),
            frames: 8192,
            large_frames: 64,
            store,
            ..Config::default()
        };
        // What a machine keeps of its own node is not the tests' to write.
        config.startup.nodename_file = folder.join("none/nodename");
        change(&mut config);
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || daemon::run(config, async { drop(stopped.await) }).unwrap();
        let thread = Some(std::thread::spawn(body));
        Daemon { folder: folder.to_owned(), stop: Some(stop), thread }
    }

    pub(crate) fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        client::get(&self.folder.join("margay.sock"), path).unwrap()
    }

    /// Waits for a state of the whole daemon.
    pub(crate) fn until(
        &self,
        what: &str,
        reached: impl Fn(&StatusAnswer) -> bool,
    ) -> StatusAnswer {
        let end = Instant::now() + LIMIT;
        loop {
            let status = client::get(&self.folder.join("margay.sock"), "/v1/status");
            match status {
                Ok(status) if reached(&status) => return status,
                status if Instant::now() > end => panic!("{what}: {status:?}"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub(crate) fn stop(mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Status code and body of a question over HTTP.
fn http(port: u16, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let code = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    (code, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

pub(crate) const NETWORK: &str = "ip link add up0 type veth peer name far0; ip link set up0 up; \
    ip link set far0 up; ip addr add 192.0.2.1/24 dev up0; \
    ip link add cali1 type veth peer name pod1; ip link set cali1 up; ip link set pod1 up";

pub(crate) const STORE: &str = "\
kind: Node
metadata: {name: you}
spec: {bgp: {ipv4Address: 192.0.2.2/24}}
---
kind: BlockAffinity
metadata: {name: you-1}
spec: {state: confirmed, node: you, cidr: 10.65.1.0/26}
---
kind: BlockAffinity
metadata: {name: me-1}
spec: {state: confirmed, node: me, cidr: 10.65.0.0/26}
---
kind: WorkloadEndpoint
metadata: {name: me-k8s-one-eth0, namespace: default}
spec: {node: me, pod: one, interfaceName: cali1, ipNetworks: [10.65.0.1/32]}
";

/// False, and said so, where the kernel lacks what a daemon needs.
pub(crate) fn machine_can() -> bool {
    let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    let can = protocols.contains("XDP") && Path::new("/dev/net/tun").exists();
    if !can {
        println!("SKIPPED: no AF_XDP or no /dev/net/tun");
    }
    can
}

pub(crate) fn own_routes() -> String {
    sh("ip route show proto 158")
}

#[test]
fn a_daemon_becomes_ready_follows_the_store_and_leaves_nothing() {
    if !machine_can() {
        return;
    }
    in_namespace(async || {
        sh(NETWORK);
        let folder = Daemon::folder();
        std::fs::create_dir(folder.join("store")).unwrap();
        std::fs::write(folder.join("store/all.yaml"), STORE).unwrap();
        let daemon = Daemon::start(&folder, false);
        daemon.until("ready", |status| status.ready && status.kernel_routes == 4);
        assert_eq!(http(9099, "/readiness").0, 200);
        assert_eq!(http(9099, "/liveness"), (200, "live\n".to_owned()));
        let (code, metrics) = http(9091, "/metrics");
        assert_eq!(code, 200);
        assert!(metrics.contains("\nfelix_active_local_endpoints 1\n"), "{metrics}");
        assert!(metrics.contains("\nmargay_port_rx_packets_total{port=\"up0\"}"), "{metrics}");

        let ports: Vec<PortAnswer> = daemon.ask("/v1/ports");
        let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["cali1", "margay0", "up0"]);
        assert!(ports.iter().all(|port| port.state == "open" && !port.mode.is_empty()));
        let endpoints: Vec<EndpointAnswer> = daemon.ask("/v1/endpoints");
        assert_eq!((endpoints[0].pod.as_str(), endpoints[0].state.as_str()), ("one", "up"));
        let found: Vec<RouteAnswer> = daemon.ask("/v1/routes?prefix=10.65.1.9");
        assert_eq!(found[0].prefix, "10.65.1.0/26".parse().unwrap());
        assert_eq!(found[0].next_hops[0].port, "up0");
        let none: Vec<RouteAnswer> = daemon.ask("/v1/routes?prefix=10.65.1.9%2F32");
        assert!(none.is_empty(), "a prefix is matched exactly");

        std::fs::write(folder.join("store/all.yaml"), "kind: Node\nmetadata: {name: you\n")
            .unwrap();
        let status = daemon.until("the fault", |status| !status.store.faults.is_empty());
        assert_eq!(status.kernel_routes, 4, "what was said before stays in force");
        let without = STORE.rsplit_once("---").unwrap().0;
        std::fs::write(folder.join("store/all.yaml"), without).unwrap();
        daemon.until("the pod's end", |status| status.endpoints == 0 && status.ports_open == 2);
        assert!(!own_routes().contains("10.65.0.1 "), "{}", own_routes());

        sh("ip link del up0");
        daemon.until("no uplink", |status| !status.ready);
        assert_eq!(http(9099, "/readiness").0, 503);
        sh("ip link add up0 type veth peer name far0; ip link set up0 up; ip link set far0 up; \
            ip addr add 192.0.2.1/24 dev up0");
        daemon.until("the uplink again", |status| status.ready && status.ports_open == 2);

        daemon.stop();
        assert_eq!(own_routes(), "");
        assert!(!sh("ip link").contains("margay0") && !sh("ip link").contains("xdp"));
        assert!(!folder.join("margay.sock").exists());
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn routes_outlive_a_daemon_when_asked_and_an_unread_store_takes_none_away() {
    if !machine_can() {
        return;
    }
    in_namespace(async || {
        sh(NETWORK);
        let folder = Daemon::folder();
        let store = folder.join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(store.join("all.yaml"), STORE).unwrap();
        let daemon = Daemon::start(&folder, true);
        daemon.until("ready", |status| status.ready && status.kernel_routes == 4);
        daemon.stop();
        let remote = "10.65.1.0/26 via 192.0.2.2 dev up0";
        assert!(own_routes().contains(remote), "{}", own_routes());

        std::fs::rename(&store, folder.join("elsewhere")).unwrap();
        let daemon = Daemon::start(&folder, false);
        let status = daemon.until("a fault", |status| !status.faults.is_empty());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!status.ready && own_routes().contains(remote), "{status:?} {}", own_routes());
        std::fs::rename(folder.join("elsewhere"), &store).unwrap();
        daemon.until("ready", |status| status.ready);
        assert!(own_routes().contains(remote));
        daemon.stop();
        assert_eq!(own_routes(), "");
        std::fs::remove_dir_all(folder).unwrap();
    });
}
