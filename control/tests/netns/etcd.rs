//! A whole daemon on a real etcd: it routes what the store says, has its tunnel's address from
//! IPAM, and forwards on when etcd is gone.

use crate::daemon::{Daemon, NETWORK, STORE, machine_can, own_routes};
use crate::{in_namespace, sh};
use margay_control::config::{StoreConfig, StoreKind};
use margay_control::ipam::Ipam;
use margay_control::resource::Key;
use margay_control::store::Store;
use margay_control::store::datastore::Datastore;
use margay_control::store::save;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const URL: &str = "http://127.0.0.1:2379";

/// In a namespace, and so on etcd's own ports.
pub(crate) struct Etcd {
    binary: PathBuf,
    data: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    pub(crate) fn start(folder: &Path) -> Option<Etcd> {
        let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
        let places = [target.join("peers/etcd-server/usr/bin/etcd"), "/usr/bin/etcd".into()];
        let Some(binary) = places.into_iter().find(|path| path.exists()) else {
            println!("SKIPPED: etcd is not there: ./run-tests unpacks it (package etcd-server)");
            return None;
        };
        let mut etcd = Etcd { binary, data: folder.join("etcd"), child: None };
        etcd.spawn();
        Some(etcd)
    }

    fn spawn(&mut self) {
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(&self.data).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect("127.0.0.1:2379").is_err() {
            assert!(Instant::now() < end, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The nodes, claims and endpoint of the other tests, and a pool with VXLAN.
async fn populate(store: &Store) {
    let pool = "kind: IPPool\nmetadata: {name: p}\n\
                spec: {cidr: 10.65.0.0/16, vxlanMode: Always}\n";
    let me = "kind: Node\nmetadata: {name: me}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n";
    let texts = [STORE.replace("spec: {state", "spec: {type: host, state"), pool.into(), me.into()];
    for document in save::parse("test", &texts.join("---\n")).unwrap() {
        match document.key.kind.as_str() {
            // The names of the other tests do not say which block is claimed.
            "BlockAffinity" => drop(store.create(document).await.unwrap()),
            _ => drop(save::apply(store, document).await.unwrap()),
        }
    }
}

fn node(name: &str) -> Key {
    Key { kind: "Node".into(), namespace: String::new(), name: name.into() }
}

#[test]
fn a_daemon_on_etcd_routes_on_while_etcd_is_gone_and_nothing_flaps_when_it_is_back() {
    if !machine_can() {
        return;
    }
    in_namespace(async || {
        let folder = Daemon::folder();
        let Some(mut etcd) = Etcd::start(&folder) else { return };
        sh(NETWORK);
        let config = StoreConfig {
            kind: StoreKind::Etcd,
            etcd_endpoints: URL.to_owned(),
            ..StoreConfig::default()
        };
        let store = Store::open(&config).unwrap();
        populate(&store).await;
        let daemon = Daemon::start_on(&folder, false, config);
        daemon.until("ready", |status| status.ready && status.endpoints == 1);
        let block = "10.65.0.0/26";
        daemon.until("the tunnel", |_| own_routes().contains(block));

        let mut address = serde_json::Value::Null;
        for _ in 0..200 {
            address = store.get(&node("me")).await.unwrap().spec()["ipv4VXLANTunnelAddr"].clone();
            if address.is_string() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let address = address.as_str().expect("the node has an address for VXLAN").parse().unwrap();
        let holder = Ipam::new(&store).find(address).await.unwrap().unwrap();
        assert_eq!(holder.handle(), Some("vxlan-tunnel-addr-me"));
        let attributes = holder.secondary.unwrap();
        assert_eq!(attributes["type"], "vxlanTunnelAddress");
        assert_eq!(attributes["node"], "me");

        std::thread::sleep(Duration::from_millis(500));
        let routes = own_routes();
        let log = folder.join("routes.log");
        let mut monitor = Command::new("ip")
            .args(["monitor", "route"])
            .stdout(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        etcd.kill();
        let status = daemon.until("a lost store", |status| status.store.lost.is_some());
        assert!(status.ready && status.store_stale_seconds.is_some(), "{status:?}");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(own_routes(), routes);
        etcd.spawn();
        daemon.until("the store again", |status| status.store.lost.is_none());
        std::thread::sleep(Duration::from_millis(500));
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        let told = std::fs::read_to_string(&log).unwrap();
        assert!(!told.contains("proto 158"), "{told}");
        assert_eq!(own_routes(), routes);

        let pod = Key {
            kind: "WorkloadEndpoint".into(),
            namespace: "default".into(),
            name: "me-k8s-one-eth0".into(),
        };
        let pod = store.get(&pod).await.unwrap();
        store.delete(&pod).await.unwrap();
        daemon.until("the pod's end", |status| status.endpoints == 0);
        daemon.stop();
        std::fs::remove_dir_all(folder).unwrap();
    });
}
