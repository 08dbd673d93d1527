//! Every state that IPAM's keys went through, in etcd's order, and what must hold in each: the
//! invariants of a block, handles that count at least what blocks say is theirs, and confirmed
//! affinities only of blocks that belong to their host.

use super::super::message::{DELETE, KeyValue, WatchCreate, WatchKind, WatchRequest};
use super::*;
use crate::ipam::block::Block;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const PREFIX: &str = "/calico/ipam/v2/";
/// Written last: nothing comes behind it.
const END: &str = "/calico/ipam/v2/zz-end";

#[derive(Debug, Default)]
pub(super) struct History {
    blocks: BTreeMap<IpNet, Block>,
    handles: BTreeMap<String, BTreeMap<IpNet, usize>>,
    /// Nodes and their blocks, and whether the claim is confirmed.
    affinities: BTreeMap<(String, IpNet), bool>,
    /// Writes that were looked at.
    pub(super) states: usize,
    /// Addresses that were given out, and taken back, in all.
    pub(super) given: usize,
    pub(super) freed: usize,
}

/// What a key stands for.
enum Place {
    Block(IpNet),
    Handle(String),
    Affinity(String, IpNet),
}

fn block_of(name: &str) -> IpNet {
    let (address, length) = name.rsplit_once('-').unwrap();
    format!("{address}/{length}").parse().unwrap()
}

fn place(path: &str) -> Option<Place> {
    let rest = path.strip_prefix(PREFIX)?;
    if let Some(id) = rest.strip_prefix("handle/") {
        return Some(Place::Handle(id.to_owned()));
    }
    if let Some(name) = rest.strip_prefix("assignment/ipv4/block/") {
        return Some(Place::Block(block_of(name)));
    }
    let (node, name) = rest.strip_prefix("host/")?.split_once("/ipv4/block/")?;
    Some(Place::Affinity(node.to_owned(), block_of(name)))
}

impl History {
    /// Follows a cluster of one member from its first revision until `finish`.
    pub(super) fn follow(connection: Connection) -> tokio::task::JoinHandle<History> {
        tokio::spawn(async move {
            let create = WatchCreate {
                key: PREFIX.into(),
                range_end: end_of(PREFIX),
                start_revision: 1,
                progress_notify: true,
            };
            let request = WatchRequest { request: Some(WatchKind::Create(create)) };
            let mut answers = connection.watch(vec![request]).await.unwrap();
            let mut history = History::default();
            while let Some(answer) = answers.message().await.unwrap() {
                assert!(!answer.canceled && answer.compact_revision == 0, "{answer:?}");
                for event in answer.events {
                    let kv = event.kv.unwrap();
                    if kv.key == END.as_bytes() {
                        return history;
                    }
                    history.take(&kv, event.kind == DELETE);
                }
            }
            panic!("the watch has ended");
        })
    }

    /// All states up to now.
    pub(super) async fn finish(
        task: tokio::task::JoinHandle<History>,
        connection: &Connection,
    ) -> History {
        put(connection, END, b"").await;
        task.await.unwrap()
    }

    fn take(&mut self, kv: &KeyValue, gone: bool) {
        let path = String::from_utf8(kv.key.clone()).unwrap();
        let Some(place) = place(&path) else { return };
        self.states += 1;
        let spec = match gone {
            true => serde_json::Value::Null,
            false => key::decode(&kv.key, &kv.value).unwrap().unwrap().spec(),
        };
        let touched = match place {
            Place::Block(cidr) => {
                let now: Option<Block> = (!gone).then(|| serde_json::from_value(spec).unwrap());
                self.block(cidr, now);
                vec![cidr]
            }
            Place::Handle(id) => {
                let before = self.handles.remove(&id).unwrap_or_default();
                let counts = spec["block"].as_object().cloned().unwrap_or_default();
                let now: BTreeMap<IpNet, usize> = counts
                    .iter()
                    .map(|(cidr, n)| (cidr.parse().unwrap(), n.as_u64().unwrap() as usize))
                    .collect();
                let touched: BTreeSet<IpNet> =
                    before.into_keys().chain(now.keys().copied()).collect();
                if !gone {
                    assert!(now.values().all(|count| *count > 0) && !now.is_empty(), "{path}");
                    self.handles.insert(id, now);
                }
                touched.into_iter().collect()
            }
            Place::Affinity(node, cidr) => {
                match gone {
                    true => drop(self.affinities.remove(&(node, cidr))),
                    false => {
                        let confirmed = spec["state"] == "confirmed";
                        self.affinities.insert((node, cidr), confirmed);
                    }
                }
                vec![cidr]
            }
        };
        touched.into_iter().for_each(|cidr| self.check(cidr, &path, kv.mod_revision));
    }

    fn block(&mut self, cidr: IpNet, now: Option<Block>) {
        let before = self.blocks.remove(&cidr);
        let held = |block: &Option<Block>| -> BTreeSet<(IpAddr, Option<String>)> {
            let of = |block: &Block| -> Vec<(IpAddr, Option<String>)> {
                let one = |(address, by): (IpAddr, &crate::ipam::block::Attribute)| {
                    (address, by.handle().map(str::to_owned))
                };
                block.addresses().map(one).collect()
            };
            block.iter().flat_map(of).collect()
        };
        let (old, new) = (held(&before), held(&now));
        self.given += new.difference(&old).count();
        self.freed += old.difference(&new).count();
        if let (Some(before), Some(now)) = (&before, &now) {
            assert_eq!(now.sequence(), before.sequence() + 1, "{cidr} counts every write");
            // Nobody is given what another one has.
            let owners: BTreeMap<IpAddr, _> = old.iter().cloned().collect();
            for (address, by) in new.difference(&old) {
                assert_eq!(owners.get(address), None, "{address} goes to {by:?} unreleased");
            }
        }
        self.blocks.extend(now.map(|now| (cidr, now)));
    }

    /// What must hold of a block and all that speaks of it.
    fn check(&self, cidr: IpNet, path: &str, revision: i64) {
        let place = format!("revision {revision}, {path}");
        let block = self.blocks.get(&cidr);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        if let Some(block) = block {
            block.check().unwrap_or_else(|what| panic!("{place}: {what}"));
            for (address, attribute) in block.addresses() {
                *counts.entry(attribute.handle().unwrap()).or_default() += 1;
                let (_, sequence) = block.find(address).unwrap();
                let sequence = sequence.unwrap_or_else(|| panic!("{place}: {address}"));
                assert!(sequence <= block.sequence(), "{place}: {address} {sequence}");
            }
        }
        for (handle, count) in counts {
            let counted = self.handles.get(handle).and_then(|blocks| blocks.get(&cidr));
            let counted = counted.copied().unwrap_or(0);
            assert!(counted >= count, "{place}: {handle} counts {counted} of {count} in {cidr}");
        }
        for ((node, claimed), confirmed) in &self.affinities {
            if *claimed == cidr && *confirmed {
                let owner = block.and_then(Block::host);
                assert_eq!(owner, Some(node.as_str()), "{place}");
            }
        }
    }

    /// Nothing is left but empty blocks of hosts.
    pub(super) fn is_clean(&self) -> bool {
        self.handles.is_empty() && self.blocks.values().all(Block::is_empty)
    }
}

/// The checks can fail: states that no right client leaves behind are told.
#[test]
fn states_that_must_not_be_are_noticed() {
    let block = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30";
    let affinity = "/calico/ipam/v2/host/a/ipv4/block/10.0.0.0-30";
    let handle = "/calico/ipam/v2/handle/h";
    let empty = r#"{"cidr":"10.0.0.0/30","affinity":"host:a","allocations":[null,null,null,null],
        "unallocated":[0,1,2,3],"attributes":[],"sequenceNumber":1,"deleted":false}"#;
    let one = r#"{"cidr":"10.0.0.0/30","affinity":"host:a","allocations":[0,null,null,null],
        "unallocated":[1,2,3],"attributes":[{"handle_id":"h","secondary":{}}],
        "sequenceNumber":2,"sequenceNumberForAllocation":{"0":1},"deleted":false}"#;
    let others =
        one.replace("\"h\"", "\"i\"").replace("\"sequenceNumber\":2", "\"sequenceNumber\":3");
    let skipped = empty.replace("\"sequenceNumber\":1", "\"sequenceNumber\":4");
    let twice = empty.replace("[0,1,2,3]", "[0,1,2,2]");
    let counted = r#"{"block":{"10.0.0.0/30":1},"deleted":false}"#;
    let confirmed = r#"{"state":"confirmed","deleted":false}"#;
    let run = |steps: &[(&str, &str)]| {
        let steps: Vec<(String, String)> =
            steps.iter().map(|(path, value)| ((*path).into(), (*value).into())).collect();
        std::panic::catch_unwind(move || {
            let mut history = History::default();
            for (at, (path, value)) in steps.into_iter().enumerate() {
                let gone = value.is_empty();
                let (key, value) = (path.into_bytes(), value.into_bytes());
                let kv = KeyValue { key, value, mod_revision: at as i64 };
                history.take(&kv, gone);
            }
            (history.given, history.freed, history.is_clean())
        })
    };
    let begin = [(block, empty), (affinity, confirmed), (handle, counted), (block, one)];
    assert_eq!(run(&begin).unwrap(), (1, 0, false));
    for last in [(handle, ""), (block, others.as_str()), (block, skipped.as_str()), (block, "")] {
        let steps: Vec<(&str, &str)> = begin.iter().copied().chain([last]).collect();
        assert!(run(&steps).is_err(), "{last:?}");
    }
    assert!(run(&[(block, &twice)]).is_err());
    assert!(run(&[(affinity, confirmed)]).is_err());
    assert!(run(&[(block, one)]).is_err());
}
