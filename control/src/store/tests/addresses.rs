//! Clients of IPAM at the same time, on whatever datastore.

use crate::ipam::Ipam;
use crate::ipam::assign::Request;
use crate::ipam::pool::Use;
use crate::store::datastore::Datastore;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

const CLIENTS: usize = 20;
/// Their nodes are `edge-0` and so on.
pub(crate) const NODES: usize = 5;

/// All addresses that somebody has.
type Held = Mutex<BTreeSet<IpAddr>>;

/// The pool that they take from.
pub(crate) fn pool() -> Value {
    json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "p"},
        "spec": {"cidr": "192.168.0.0/20", "blockSize": 28}})
}

/// Takes and frees addresses, some at a time; tries again what had no answer.
async fn client<D: Datastore>(store: D, held: Arc<Held>, index: usize, addresses: usize) {
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

/// All clients, until this many addresses were taken and freed: none twice, and none left.
pub(crate) async fn work<D: Datastore + Clone + 'static>(store: &D, addresses: usize) {
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
    assert_eq!((check.allocated(), check.problems()), (0, 0), "{check:?}");
}
