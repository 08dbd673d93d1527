//! What a cluster must have, whichever node comes first: its ClusterInformation, the built-in
//! tiers, default pools and default settings. What is there already stays as it is.
//!
//! `calicoVersion` is left out: calicoctl compares it with its own, and margay is no release of
//! Calico.

use crate::config::{DefaultPool, StartupSettings};
use crate::random;
use crate::resource::Key;
use crate::startup::autodetect::Interface;
use crate::store::datastore::{Datastore, Document, StoreError};
use crate::store::save;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Names of the tiers around `default` from Calico 3.32 on, and before.
const TIERS: [[&str; 2]; 2] =
    [["kube-admin", "kube-baseline"], ["adminnetworkpolicy", "baselineadminnetworkpolicy"]];

/// Makes the cluster whole; answers what was written.
pub(super) async fn ensure(
    store: &impl Datastore,
    settings: &StartupSettings,
    node: &str,
    interfaces: &[Interface],
    shared: bool,
) -> Result<Vec<String>, StoreError> {
    let mut written = Vec::new();
    if settings.default_pools {
        for pool in missing_pools(store, settings, interfaces).await? {
            written.extend(create(store, pool).await?);
        }
    }
    let cluster = store.find(&key()).await?;
    let tiers = TIERS[usize::from(is_before_3_32(&version(cluster.as_ref())))];
    written.extend(cluster_information(store, settings, cluster).await?);
    for (name, order, action) in
        [(tiers[0], 1_000, "Pass"), ("default", 1_000_000, "Deny"), (tiers[1], 10_000_000, "Pass")]
    {
        let spec = json!({"order": order, "defaultAction": action});
        written.extend(create(store, resource("Tier", name, spec)).await?);
    }
    let felix = json!({"logSeverityScreen": "Info", "reportingInterval": "0s"});
    written.extend(create(store, resource("FelixConfiguration", "default", felix)).await?);
    if shared {
        let own = json!({"defaultEndpointToHostAction": "Return"});
        let name = format!("node.{node}");
        written.extend(create(store, resource("FelixConfiguration", &name, own)).await?);
    }
    written.extend(create(store, resource("BGPConfiguration", "default", json!({}))).await?);
    let ipam = json!({"strictAffinity": false, "autoAllocateBlocks": true, "maxBlocksPerHost": 0});
    written.extend(create(store, resource("IPAMConfiguration", "default", ipam)).await?);
    Ok(written)
}

fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"kind": kind, "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name}, "spec": spec})
}

/// Creates a resource, unless there is one.
async fn create(store: &impl Datastore, value: Value) -> Result<Option<String>, StoreError> {
    let document = Document::new(value)?;
    if store.find(&document.key).await?.is_some() {
        return Ok(None);
    }
    let key = document.key.to_string();
    match save::create(store, document).await {
        Ok(_) => Ok(Some(key)),
        Err(StoreError::Exists(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The cluster's ClusterInformation.
pub fn key() -> Key {
    let name = "default".to_owned();
    Key { kind: "ClusterInformation".to_owned(), namespace: String::new(), name }
}

/// The cluster is not locked.
pub async fn is_ready(store: &impl Datastore) -> Result<bool, StoreError> {
    let cluster = store.find(&key()).await?;
    Ok(cluster.is_none_or(|cluster| cluster.spec()["datastoreReady"] != false))
}

fn version(cluster: Option<&Document>) -> String {
    let spec = cluster.map(Document::spec).unwrap_or_default();
    spec["calicoVersion"].as_str().unwrap_or_default().to_owned()
}

/// `v3.26.1` and the like.
fn is_before_3_32(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (3, 32),
        _ => false,
    }
}

/// Fills in what ClusterInformation lacks. A flag that is set, or not, stays as it is.
async fn cluster_information(
    store: &impl Datastore,
    settings: &StartupSettings,
    now: Option<Document>,
) -> Result<Option<String>, StoreError> {
    let Some(now) = now else {
        let (key, spec) = (key(), completed(&Value::Null, settings));
        return create(store, resource(&key.kind, &key.name, spec)).await;
    };
    let spec = completed(&now.spec(), settings);
    if spec == now.spec() {
        return Ok(None);
    }
    match store.update(now.with_spec(spec)).await {
        // Who was first wrote the same, or the next look finds what is missing.
        Ok(_) | Err(StoreError::Conflict(_)) => Ok(Some("ClusterInformation default".to_owned())),
        Err(error) => Err(error),
    }
}

fn completed(now: &Value, settings: &StartupSettings) -> Value {
    let mut spec = now.as_object().cloned().unwrap_or_default();
    if spec.get("clusterGUID").and_then(Value::as_str).is_none_or(str::is_empty) {
        let guid = random::hex(&random::bytes::<16>());
        spec.insert("clusterGUID".to_owned(), json!(guid));
    }
    let known = spec.get("clusterType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut words: Vec<&str> = known.split(',').filter(|word| !word.is_empty()).collect();
    for word in settings.cluster_type.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if !words.is_empty() {
        spec.insert("clusterType".to_owned(), json!(words.join(",")));
    }
    spec.entry("datastoreReady").or_insert(json!(true));
    Value::Object(spec)
}

/// The default pools of the families that have none.
async fn missing_pools(
    store: &impl Datastore,
    settings: &StartupSettings,
    interfaces: &[Interface],
) -> Result<Vec<Value>, StoreError> {
    let listing = store.list("IPPool").await?;
    let text = |pool: &Document| pool.spec()["cidr"].as_str().unwrap_or_default().to_owned();
    let cidrs: Vec<String> = listing.documents.iter().map(text).collect();
    let (v4, v6) = (&settings.ipv4_pool, &settings.ipv6_pool);
    let mut pools = Vec::new();
    if !v4.disabled && !cidrs.iter().any(|cidr| cidr.contains('.')) {
        let cidr = v4.cidr.unwrap_or_else(|| IpNet::V4(free_range(interfaces)));
        pools.push(pool("default-ipv4-ippool", cidr, v4, true));
    }
    let has_v6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    if !v6.disabled && (has_v6 || v6.cidr.is_some()) && !cidrs.iter().any(|c| c.contains(':')) {
        let cidr = v6.cidr.unwrap_or_else(|| IpNet::V6(unique_local()));
        pools.push(pool("default-ipv6-ippool", cidr, v6, false));
    }
    Ok(pools)
}

fn pool(name: &str, cidr: IpNet, settings: &DefaultPool, nat: bool) -> Value {
    let block_size = settings.block_size.unwrap_or(if cidr.addr().is_ipv4() { 26 } else { 122 });
    let mut spec = json!({
        "cidr": cidr, "blockSize": block_size,
        "ipipMode": settings.ipip_mode, "vxlanMode": settings.vxlan_mode,
        "natOutgoing": settings.nat_outgoing.unwrap_or(nat),
        "nodeSelector": settings.node_selector.as_deref().unwrap_or("all()"),
        "allowedUses": ["Workload", "Tunnel"],
    });
    if settings.disable_bgp_export {
        spec["disableBGPExport"] = json!(true);
    }
    resource("IPPool", name, spec)
}

/// 192.168.0.0/16, or the first of 172.16.0.0/16 to 172.31.0.0/16, that is no network of the host.
fn free_range(interfaces: &[Interface]) -> Ipv4Net {
    let range = |a, b| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16);
    let first = range(192, 168);
    let overlaps = |range: &Ipv4Net| {
        let mut nets = interfaces.iter().flat_map(|interface| &interface.addresses);
        nets.any(|net| match net {
            IpNet::V4(net) => net.contains(range) || range.contains(&net.trunc()),
            IpNet::V6(_) => false,
        })
    };
    let mut ranges = std::iter::once(first).chain((16..32).map(|b| range(172, b)));
    ranges.find(|range| !overlaps(range)).unwrap_or(first)
}

/// A random range of unique local addresses (RFC 4193, section 3.2).
fn unique_local() -> Ipv6Net {
    let mut octets = [0u8; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random::bytes::<5>());
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::memory::Memory;

    fn host(net: &str) -> [Interface; 1] {
        [Interface { name: "eth0".to_owned(), addresses: vec![net.parse().unwrap()] }]
    }

    #[tokio::test]
    async fn a_new_cluster_is_made_whole_once() {
        let store = Memory::default();
        let settings = StartupSettings { cluster_type: "k8s,bgp".into(), ..Default::default() };
        let interfaces = host("192.168.7.1/24");
        let written = ensure(&store, &settings, "n1", &interfaces, true).await.unwrap();
        assert!(written.contains(&"FelixConfiguration node.n1".to_owned()), "{written:?}");
        let pools = store.list("IPPool").await.unwrap().documents;
        assert_eq!(pools[0].spec()["cidr"], "172.16.0.0/16", "the host has 192.168.0.0/16");
        assert_eq!(pools[0].spec()["natOutgoing"], true);
        let cluster = store.get(&key()).await.unwrap().spec();
        assert_eq!(cluster["clusterGUID"].as_str().unwrap().len(), 32);
        assert_eq!(cluster["clusterType"], "k8s,bgp");
        assert_eq!(cluster["datastoreReady"], true);
        assert_eq!(cluster.get("calicoVersion"), None);
        let tiers = store.list("Tier").await.unwrap().documents;
        let names: Vec<&str> = tiers.iter().map(|tier| tier.key.name.as_str()).collect();
        assert_eq!(names, ["default", "kube-admin", "kube-baseline"]);
        let again = ensure(&store, &settings, "n1", &interfaces, true).await.unwrap();
        assert_eq!(again, Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_others_wrote_stays() {
        let store = Memory::default();
        let spec = json!({"clusterGUID": "g", "clusterType": "typha", "datastoreReady": false,
            "calicoVersion": "v3.31.7"});
        let own = Document::new(resource("ClusterInformation", "default", spec.clone())).unwrap();
        save::create(&store, own).await.unwrap();
        let pool = resource("IPPool", "mine", json!({"cidr": "10.65.0.0/16"}));
        save::create(&store, Document::new(pool).unwrap()).await.unwrap();
        let settings = StartupSettings::default();
        ensure(&store, &settings, "n1", &host("10.0.0.1/24"), false).await.unwrap();
        assert_eq!(store.get(&key()).await.unwrap().spec(), spec);
        assert!(!is_ready(&store).await.unwrap());
        let pools = store.list("IPPool").await.unwrap().documents;
        assert!(!pools.iter().any(|pool| pool.key.name == "default-ipv4-ippool"));
        let tiers = store.list("Tier").await.unwrap().documents;
        assert!(tiers.iter().any(|tier| tier.key.name == "adminnetworkpolicy"), "{tiers:?}");
    }

    #[test]
    fn ranges_and_versions() {
        assert_eq!(free_range(&host("10.0.0.1/24")).to_string(), "192.168.0.0/16");
        assert_eq!(free_range(&host("0.0.0.0/0")).to_string(), "192.168.0.0/16");
        assert!(unique_local().to_string().starts_with("fd"));
        for (version, before) in [("v3.31.7", true), ("v3.32.0", false), ("", false)] {
            assert_eq!(is_before_3_32(version), before, "{version}");
        }
    }
}
