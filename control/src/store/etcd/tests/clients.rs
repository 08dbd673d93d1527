//! Clients of IPAM at the same time, on a real etcd, also while a member dies.

use super::history::History;
use super::*;
use crate::store::tests::addresses::{NODES, pool, work};
use std::time::Instant;

/// Says how many addresses all clients take and free together, instead of [`ADDRESSES`].
const VARIABLE: &str = "MARGAY_IPAM_ADDRESSES";
const ADDRESSES: usize = 400;

async fn populate(store: &Etcd) {
    for at in 0..NODES {
        let address = format!("10.0.0.{}/24", at + 1);
        made(store, node(&format!("edge-{at}"), &address)).await;
    }
    made(store, pool()).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_five_nodes_get_each_address_once_and_leak_none() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = cluster.store();
    populate(&store).await;
    let history = History::follow(cluster.connection());
    let wanted = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
    let wanted = wanted.unwrap_or(ADDRESSES);
    let begin = Instant::now();
    work(&store, wanted).await;
    let seconds = begin.elapsed().as_secs_f64();
    let history = History::finish(history, &cluster.connection()).await;
    println!("{} addresses in {seconds:.1} s, {} states", history.given, history.states);
    assert!(history.given >= wanted && history.given == history.freed, "{history:?}");
    assert!(history.is_clean(), "{history:?}");
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
