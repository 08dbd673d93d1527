//! Clients of IPAM at the same time, on a real etcd, also while a member dies.

use super::*;
use crate::ipam::Ipam;
use crate::ipam::assign::Request;
use crate::ipam::pool::Use;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;

const CLIENTS: usize = 20;
const NODES: usize = 5;
/// Says how many addresses all clients take and free together, instead of [`ADDRESSES`].
const VARIABLE: &str = "MARGAY_IPAM_ADDRESSES";
const ADDRESSES: usize = 400;

/// All addresses that somebody has.
type Held = Mutex<BTreeSet<IpAddr>>;

async fn populate(store: &Etcd) {
    for at in 0..NODES {
        let address = format!("10.0.0.{}/24", at + 1);
        made(store, node(&format!("edge-{at}"), &address)).await;
    }
    let pool = serde_json::json!({"kind": "IPPool", "metadata": {"name": "p"},
        "spec": {"cidr": "192.168.0.0/20", "blockSize": 28}});
    made(store, pool).await;
}

/// Creates a document; members that have no leader yet are waited for.
async fn made(store: &Etcd, value: serde_json::Value) {
    for _ in 0..8 {
        match store.create(document(value.clone())).await {
            Ok(_) | Err(StoreError::Exists(_)) => return,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("etcd does not answer");
}

/// Takes and frees addresses, some at a time; tries again what had no answer.
async fn client(store: Etcd, held: Arc<Held>, index: usize, addresses: usize) {
    let ipam = Ipam::new(&store);
    let mut done = 0;
    while done < addresses {
        let handle = format!("k8s-pod-network.{index}-{done}");
        let request = Request {
            host: format!("edge-{}", index % NODES),
            handle: handle.clone(),
            attributes: BTreeMap::from([("node".into(), format!("edge-{}", index % NODES))]),
            purpose: Use::Workload,
            v4: true,
            count: 1 + index % 3,
            pools: Vec::new(),
            namespace: None,
        };
        match ipam.assign(&request).await {
            Ok(given) => {
                assert_eq!(given.addresses.len(), request.count, "{given:?}");
                for net in &given.addresses {
                    assert!(held.lock().unwrap().insert(net.addr()), "{net} is given out twice");
                }
                done += given.addresses.len();
                tokio::task::yield_now().await;
                for net in &given.addresses {
                    held.lock().unwrap().remove(&net.addr());
                }
            }
            Err(error) => assert!(error.to_string().contains("does not answer"), "{error}"),
        }
        for attempt in 0.. {
            match ipam.release_handle(&handle).await {
                Ok(_) => break,
                Err(error) => assert!(attempt < 5, "{error}"),
            }
        }
    }
}

async fn work(store: &Etcd, addresses: usize) {
    let held = Arc::new(Held::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let each = addresses.div_ceil(CLIENTS);
            tokio::spawn(client(store.clone(), held.clone(), index, each))
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let check = Ipam::new(store).check().await.unwrap();
    assert_eq!((check.allocated, check.problems()), (0, 0), "{check:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_five_nodes_get_each_address_once_and_leak_none() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = cluster.store();
    populate(&store).await;
    let wanted = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
    work(&store, wanted.unwrap_or(ADDRESSES)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_under_writes_costs_no_address() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let store = cluster.store();
    populate(&store).await;
    let mut seen = Seen::start(store.watch());
    let working = {
        let store = store.clone();
        tokio::spawn(async move { work(&store, 200).await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.kill(0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.restart(0);
    working.await.unwrap();
    let last = document(node("last", "10.0.0.9/24"));
    store.create(last).await.unwrap();
    seen.until(|seen| seen.address("last").is_some()).await;
    assert_eq!(seen.report.faults, []);
}
