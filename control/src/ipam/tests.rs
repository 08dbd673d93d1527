mod clients;
mod tunnels;

use super::assign::{Assigned, Request};
use super::block::{Attribute, Block, Cooldown, Release};
use super::pool::Use;
use super::reservation::Reservations;
use super::*;
use crate::store::tests::contract::document as of;
use crate::store::tests::memory::Memory;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A moment in January 2027.
const NOW: Duration = Duration::from_secs(1_800_000_000);
const AT_ONCE: Cooldown = Cooldown { seconds: 0, now: 0 };

pub(crate) fn node(name: &str, rack: &str) -> Document {
    of(json!({"kind": "Node", "metadata": {"name": name, "labels": {"rack": rack}}, "spec": {}}))
}

pub(crate) fn pool(name: &str, cidr: &str, more: Value) -> Document {
    let mut spec = json!({"cidr": cidr, "blockSize": if cidr.contains(':') { 126 } else { 30 }});
    let given = more.as_object().cloned().unwrap_or_default();
    spec.as_object_mut().unwrap().extend(given);
    of(json!({"kind": "IPPool", "metadata": {"name": name}, "spec": spec}))
}

pub(crate) fn request(host: &str, handle: &str, count: usize) -> Request {
    Request {
        host: host.into(),
        handle: handle.into(),
        attributes: BTreeMap::from([("node".into(), host.into())]),
        purpose: Use::Workload,
        v4: true,
        count,
        pools: Vec::new(),
        namespace: None,
    }
}

async fn cluster(documents: Vec<Document>) -> Memory {
    let store = Memory::default();
    for document in documents {
        store.create(document).await.unwrap();
    }
    store
}

fn ipam(store: &Memory) -> Ipam<'_, Memory> {
    Ipam { store, now: || NOW }
}

fn addresses(assigned: &Assigned) -> Vec<String> {
    assigned.addresses.iter().map(|net| net.addr().to_string()).collect()
}

fn config(strict: bool, most: usize) -> Document {
    let spec = json!({"strictAffinity": strict, "autoAllocateBlocks": true,
        "maxBlocksPerHost": most});
    document("IPAMConfig", "default", spec).unwrap()
}

/// The block of Calico's documentation, as release 3.33 writes it.
#[test]
fn a_block_that_calico_wrote_is_read_and_written_back() {
    let text = json!({"cidr": "10.1.2.0/29", "affinity": "host:edge-1",
        "affinityClaimTime": "2026-01-05T09:00:00Z",
        "allocations": [0, 1, null, null, null, null, null, null],
        "unallocated": [2, 3, 4, 5, 6, 7],
        "attributes": [
            {"handle_id": "ipip-tunnel-addr-edge-1",
             "secondary": {"node": "edge-1", "type": "ipipTunnelAddress"}},
            {"handle_id": "k8s-pod-network.c0ffee",
             "secondary": {"namespace": "ns", "node": "edge-1", "pod": "web", "timestamp": "..."},
             "alternateOwnerAttrs": {"later": "kept"}}],
        "sequenceNumber": 1_767_603_600_000_000_123_u64,
        "sequenceNumberForAllocation": {"0": 1_767_603_600_000_000_000_u64,
            "1": 1_767_603_600_000_000_122_u64},
        "deleted": false, "ofTheFuture": [1]});
    let mut block: Block = serde_json::from_value(text.clone()).unwrap();
    block.check().unwrap();
    assert_eq!(serde_json::to_value(&block).unwrap(), text);
    let attribute = Attribute::new("k8s-pod-network.new", BTreeMap::new());
    let given = block.assign(1, &attribute, &Reservations::default());
    block.count_write();
    assert_eq!(given, ["10.1.2.2".parse::<IpAddr>().unwrap()]);
    let (_, sequence) = block.find(given[0]).unwrap();
    assert_eq!(sequence, Some(1_767_603_600_000_000_123));
    assert_eq!(block.sequence(), 1_767_603_600_000_000_124);
}

#[test]
fn a_release_that_means_another_owner_is_refused() {
    let mut block = Block::new("10.0.0.0/30".parse().unwrap(), Some("host:a"), "", 7);
    let attribute = Attribute::new("h", BTreeMap::new());
    let [address] = block.assign(1, &attribute, &Reservations::default())[..] else { panic!() };
    let of = |handle: Option<&str>, sequence| Release {
        address,
        handle: handle.map(str::to_owned),
        sequence,
    };
    assert!(block.release(&of(Some("other"), None), AT_ONCE).is_err());
    assert!(block.release(&of(Some("h"), Some(8)), AT_ONCE).is_err());
    assert!(block.release(&of(Some("h"), Some(7)), AT_ONCE).unwrap().is_some());
    assert_eq!(block.release(&of(None, None), AT_ONCE), Ok(None));
    block.check().unwrap();
    assert!(block.is_empty());
}

#[test]
fn a_released_address_cools_down_before_it_is_given_out_again() {
    let mut block = Block::new("10.0.0.0/31".parse().unwrap(), Some("host:a"), "", 7);
    let attribute = Attribute::new("h", BTreeMap::new());
    assert_eq!(block.assign(2, &attribute, &Reservations::default()).len(), 2);
    assert_eq!(block.release_handle("h", Cooldown { seconds: 60, now: 1000 }), 2);
    block.check().unwrap();
    assert!(!block.collect(Cooldown { seconds: 60, now: 1059 }));
    assert!(block.assign(1, &attribute, &Reservations::default()).is_empty());
    assert!(block.collect(Cooldown { seconds: 60, now: 1060 }));
    block.check().unwrap();
    assert_eq!(block.assign(2, &attribute, &Reservations::default()).len(), 2);
}

#[tokio::test]
async fn a_host_fills_its_blocks_and_then_borrows() {
    let store = cluster(vec![
        node("a", "1"),
        node("b", "1"),
        pool("p", "10.0.0.0/29", json!({})),
        config(false, 0),
    ])
    .await;
    let (ipam, one) = (ipam(&store), request("a", "one", 4));
    let first = ipam.assign(&one).await.unwrap();
    assert_eq!((first.addresses.len(), first.reasons.len()), (4, 0));
    let second = ipam.assign(&request("b", "two", 2)).await.unwrap();
    assert!(second.addresses[0].trunc() != first.addresses[0].trunc());
    let borrowed = ipam.assign(&request("a", "three", 3)).await.unwrap();
    assert_eq!(borrowed.addresses.len(), 2, "{borrowed:?}");
    assert_eq!(borrowed.addresses[0].trunc(), second.addresses[0].trunc());
    assert_eq!(borrowed.reasons.len(), 2, "{borrowed:?}");
    assert_eq!(ipam.borrowed().await.unwrap().len(), 2);
    let address = borrowed.addresses[0].addr();
    let found = ipam.find(address).await.unwrap().unwrap();
    assert_eq!(found.handle(), Some("three"));
    assert!(ipam.release_handle("three").await.unwrap());
    assert_eq!(ipam.find(address).await.unwrap(), None);
    assert!(!ipam.release_handle("three").await.unwrap());
    let check = ipam.check().await.unwrap();
    assert_eq!((check.blocks.len(), check.allocated(), check.not_used.len()), (2, 6, 6));
    assert_eq!(check.problems(), 6);
}

#[tokio::test]
async fn strict_affinity_and_the_limit_of_blocks_end_an_allocation() {
    let store = cluster(vec![
        node("a", "1"),
        node("b", "1"),
        pool("p", "10.0.0.0/28", json!({})),
        config(true, 1),
    ])
    .await;
    let ipam = ipam(&store);
    let given = ipam.assign(&request("a", "one", 6)).await.unwrap();
    assert_eq!(given.addresses.len(), 4);
    assert!(given.reasons[0].contains("1 are its limit"), "{given:?}");
    let other = ipam.assign(&request("b", "two", 1)).await.unwrap().addresses[0];
    let free = other.hosts().last().unwrap_or(other.addr());
    let mut wanted = request("a", "three", 1);
    wanted.attributes.clear();
    let strict = ipam.assign_this(&wanted, "10.0.0.15".parse().unwrap()).await;
    let taken = ipam.assign_this(&request("b", "x", 1), other.addr()).await;
    assert_eq!(taken, Err(IpamError::Taken(other.addr())), "{free}");
    assert!(strict.is_ok() || strict == Err(IpamError::Strict("10.0.0.15".parse().unwrap())));
}

#[tokio::test]
async fn pools_are_picked_by_node_use_and_name() {
    let store = cluster(vec![
        node("a", "1"),
        pool("of-rack-2", "10.0.0.0/28", json!({"nodeSelector": "rack == '2'"})),
        pool("closed", "10.0.1.0/28", json!({"disabled": true})),
        pool("tunnels", "10.0.2.0/28", json!({"allowedUses": ["Tunnel"]})),
        pool("by-name", "10.0.3.0/28", json!({"assignmentMode": "Manual"})),
    ])
    .await;
    let ipam = ipam(&store);
    assert_eq!(ipam.assign(&request("a", "h", 1)).await, Err(IpamError::NoPool));
    let host = ipam.assign(&request("nobody", "h", 1)).await;
    assert_eq!(host, Err(IpamError::NoNode("nobody".into())));
    for (purpose, wanted, expected) in [
        (Use::Tunnel, vec![], "10.0.2."),
        (Use::Workload, vec!["10.0.0.0/28"], "10.0.0."),
        (Use::Workload, vec!["10.0.3.0/28"], "10.0.3."),
    ] {
        let pools = wanted.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let asked = Request { purpose, pools, ..request("a", "h", 1) };
        let given = ipam.assign(&asked).await.unwrap();
        assert!(addresses(&given)[0].starts_with(expected), "{given:?}");
    }
    let closed = vec!["10.0.1.0/28".parse().unwrap()];
    let asked = Request { pools: closed, ..request("a", "h", 1) };
    assert_eq!(ipam.assign(&asked).await, Err(IpamError::NoPool));
}

#[tokio::test]
async fn reserved_addresses_are_given_out_by_name_only() {
    let reservation = of(json!({"kind": "IPReservation", "metadata": {"name": "r"},
        "spec": {"reservedCIDRs": ["10.0.0.0/31", "10.0.0.2", "10.0.0.4/30"]}}));
    let store =
        cluster(vec![node("a", "1"), pool("p", "10.0.0.0/29", json!({})), reservation]).await;
    let ipam = ipam(&store);
    let given = ipam.assign(&request("a", "h", 8)).await.unwrap();
    assert_eq!(addresses(&given), ["10.0.0.3"]);
    ipam.assign_this(&request("a", "h", 1), "10.0.0.1".parse().unwrap()).await.unwrap();
    assert_eq!(ipam.of_handle("h").await.unwrap().len(), 2);
}

#[tokio::test]
async fn ipv6_blocks_are_claimed_too() {
    let store = cluster(vec![node("a-1", "1"), pool("p", "fd00:1::/120", json!({}))]).await;
    let ipam = ipam(&store);
    let given = ipam.assign(&Request { v4: false, ..request("a-1", "h", 5) }).await.unwrap();
    assert_eq!((given.addresses.len(), store.all("IPAMBlock").len()), (5, 2));
    assert!(ipam.release_handle("h").await.unwrap());
    assert_eq!(store.all("IPAMHandle"), []);
}

/// A claim was cut short at each of its steps; the next allocation goes on from there.
#[tokio::test]
async fn what_a_crash_leaves_behind_is_mended() {
    let cidr = "10.0.0.0/30";
    let affinity = |state: &str| {
        let spec = json!({"cidr": cidr, "node": "a", "type": "host", "state": state,
            "deleted": "false"});
        document("BlockAffinity", "a-10-0-0-0-30", spec).unwrap()
    };
    let block = Block::new(cidr.parse().unwrap(), Some("host:a"), "", 1);
    let block = document("IPAMBlock", "10-0-0-0-30", spec_of(&block)).unwrap();
    for left in [
        vec![affinity("pending")],
        vec![affinity("confirmed")],
        vec![affinity("pending"), block.clone()],
        vec![affinity("pendingDeletion"), block.clone()],
        vec![block],
    ] {
        let mut all = vec![node("a", "1"), pool("p", "10.0.0.0/30", json!({}))];
        all.extend(left.clone());
        let store = cluster(all).await;
        let given = ipam(&store).assign(&request("a", "h", 1)).await.unwrap();
        assert_eq!(addresses(&given), ["10.0.0.0"], "{left:?}");
        let affinities = store.all("BlockAffinity");
        let stuck = left.iter().any(|one| one.spec()["state"] == "pendingDeletion");
        let borrowed = affinities.is_empty() || stuck;
        assert!(borrowed || claim::state(&affinities[0]) == "confirmed", "{affinities:?}");
    }
}

#[tokio::test]
async fn an_old_empty_block_of_another_host_is_taken_over() {
    let store = cluster(vec![
        node("a", "1"),
        node("b", "1"),
        pool("p", "10.0.0.0/30", json!({})),
        config(true, 0),
    ])
    .await;
    let early = ipam(&store);
    early.assign(&request("a", "h", 1)).await.unwrap();
    early.release_handle("h").await.unwrap();
    let soon = early.assign(&request("b", "h", 1)).await.unwrap();
    assert_eq!(soon.addresses, []);
    let late = Ipam { store: &store, now: || NOW + Duration::from_secs(claim::CLAIM_MIN_S) };
    let given = late.assign(&request("b", "h", 1)).await.unwrap();
    assert_eq!(addresses(&given), ["10.0.0.0"]);
    assert_eq!(store.all("BlockAffinity").len(), 1);
}
