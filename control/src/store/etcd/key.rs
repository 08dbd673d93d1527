//! Calico's keys in etcd, and the form that values have there.
//!
//! Resources stand under their plural, as one JSON object. IPAM's objects are older: flat objects
//! under keys of their own, which [`decode`] and [`encode`] turn from and into documents.

use super::super::datastore::Document;
use crate::resource::Key;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// Everything of the v3 API.
pub(super) const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
/// Blocks.
pub(super) const BLOCKS: &str = "/calico/ipam/v2/assignment/";
/// Affinities of hosts.
pub(super) const HOSTS: &str = "/calico/ipam/v2/host/";
/// Affinities of what is no host.
const VIRTUAL: &str = "/calico/ipam/v2/virtual/";
const HANDLES: &str = "/calico/ipam/v2/handle/";
const CONFIG: &str = "/calico/ipam/v2/config";
/// The one owner of virtual affinities.
const LOAD_BALANCER: &str = "load-balancer";
const IPAM_API: &str = "crd.projectcalico.org/v1";
const API: &str = "projectcalico.org/v3";

/// Kind, plural, and whether it has a namespace.
pub(crate) const KINDS: &[(&str, &str, bool)] = &[
    ("Node", "nodes", false),
    ("IPPool", "ippools", false),
    ("IPReservation", "ipreservations", false),
    ("BGPConfiguration", "bgpconfigurations", false),
    ("BGPPeer", "bgppeers", false),
    ("BGPFilter", "bgpfilters", false),
    ("FelixConfiguration", "felixconfigurations", false),
    ("ClusterInformation", "clusterinformations", false),
    ("KubeControllersConfiguration", "kubecontrollersconfigurations", false),
    ("CalicoNodeStatus", "caliconodestatuses", false),
    ("IPAMConfiguration", "ipamconfigurations", false),
    ("HostEndpoint", "hostendpoints", false),
    ("WorkloadEndpoint", "workloadendpoints", true),
    ("Profile", "profiles", false),
    ("Tier", "tiers", false),
    ("GlobalNetworkPolicy", "globalnetworkpolicies", false),
    ("NetworkPolicy", "networkpolicies", true),
    ("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", false),
    ("StagedNetworkPolicy", "stagednetworkpolicies", true),
    ("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", true),
    ("GlobalNetworkSet", "globalnetworksets", false),
    ("NetworkSet", "networksets", true),
    ("LiveMigration", "livemigrations", true),
];

/// Where documents of a kind are; none for kinds that etcd does not keep.
pub(super) fn prefixes(kind: &str) -> Vec<String> {
    match kind {
        "IPAMBlock" => vec![BLOCKS.to_owned()],
        "BlockAffinity" => vec![HOSTS.to_owned(), VIRTUAL.to_owned()],
        "IPAMHandle" => vec![HANDLES.to_owned()],
        "IPAMConfig" => vec![CONFIG.to_owned()],
        _ => {
            let plural =
                KINDS.iter().find(|(known, ..)| *known == kind).map(|(_, plural, _)| plural);
            plural.map(|plural| format!("{RESOURCES}{plural}/")).into_iter().collect()
        }
    }
}

/// The keys that a document may have: one, but for affinities, whose names leave open where the
/// node's name ends. None for kinds that etcd does not keep.
pub(super) fn paths(key: &Key) -> Vec<String> {
    match key.kind.as_str() {
        "IPAMBlock" => {
            cidr_of(&key.name).map(|cidr| block_path(BLOCKS, cidr)).into_iter().collect()
        }
        "BlockAffinity" => {
            let dashes = key.name.match_indices('-').map(|(at, _)| at);
            let owners =
                dashes.filter_map(|at| Some((&key.name[..at], cidr_of(&key.name[at + 1..])?)));
            owners.flat_map(|(node, cidr)| affinity_paths(node, cidr)).collect()
        }
        "IPAMHandle" => vec![format!("{HANDLES}{}", key.name)],
        "IPAMConfig" => vec![CONFIG.to_owned()],
        _ => {
            let kind = KINDS.iter().find(|(kind, ..)| *kind == key.kind);
            let path = |plural: &str, namespaced: bool| match namespaced {
                true => format!("{RESOURCES}{plural}/{}/{}", key.namespace, key.name),
                false => format!("{RESOURCES}{plural}/{}", key.name),
            };
            kind.map(|(_, plural, namespaced)| path(plural, *namespaced)).into_iter().collect()
        }
    }
}

/// The one key of a document, and its value there.
pub(super) fn encode(document: &Document) -> Option<(String, Vec<u8>)> {
    let spec = document.spec();
    let mut flat = spec.as_object().cloned().unwrap_or_default();
    let (path, value) = match document.key.kind.as_str() {
        "IPAMBlock" => {
            rename(&mut flat, "affinityClaimTime", "affinity_claim_time");
            (paths(&document.key).pop()?, Value::Object(flat))
        }
        "BlockAffinity" => {
            let node = flat.remove("node")?.as_str()?.to_owned();
            let cidr: IpNet = flat.remove("cidr")?.as_str()?.parse().ok()?;
            let kind = flat.remove("type");
            let is_virtual = kind.as_ref().and_then(Value::as_str) == Some("virtual");
            to_boolean(&mut flat, "deleted");
            let path = affinity_paths(&node, cidr);
            (path.into_iter().nth(usize::from(is_virtual))?, Value::Object(flat))
        }
        "IPAMHandle" => {
            let id = flat.remove("handleID");
            let id = id.as_ref().and_then(Value::as_str).unwrap_or(&document.key.name);
            (format!("{HANDLES}{id}"), Value::Object(flat))
        }
        "IPAMConfig" => {
            rename(&mut flat, "strictAffinity", "strict_affinity");
            rename(&mut flat, "autoAllocateBlocks", "auto_allocate_blocks");
            (CONFIG.to_owned(), Value::Object(flat))
        }
        kind => {
            let mut value = document.value.clone();
            value.insert("kind".to_owned(), json!(kind));
            value.insert("apiVersion".to_owned(), json!(API));
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
                metadata.remove("selfLink");
            }
            (paths(&document.key).pop()?, Value::Object(value))
        }
    };
    Some((path, value.to_string().into_bytes()))
}

/// The document of a key and its value; `None` where the key is none of a document, an error
/// where one of the two is wrong.
pub(super) fn decode(path: &[u8], value: &[u8]) -> Result<Option<Document>, String> {
    let path = std::str::from_utf8(path).map_err(|_| "the key is no text".to_owned())?;
    if let Some(rest) = path.strip_prefix(RESOURCES) {
        return resource(rest, value);
    }
    let parsed = |value: &[u8]| match object(value) {
        Err(_) if value.is_empty() => Ok(Map::new()),
        outcome => outcome,
    };
    let (kind, name, spec) = if let Some(rest) = path.strip_prefix(BLOCKS) {
        let cidr = block_of(rest)?;
        let mut spec = object(value)?;
        let said = spec.get("cidr").and_then(Value::as_str).and_then(|text| text.parse().ok());
        if said != Some(cidr) {
            return Err(format!("its cidr is not {cidr}, as the key says"));
        }
        rename(&mut spec, "affinity_claim_time", "affinityClaimTime");
        ("IPAMBlock", cidr_name(cidr), spec)
    } else if let Some(rest) = path.strip_prefix(HOSTS).or(path.strip_prefix(VIRTUAL)) {
        let Some((node, rest)) = rest.split_once('/') else { return Ok(None) };
        let cidr = block_of(rest)?;
        let kind = if path.starts_with(HOSTS) { "host" } else { "virtual" };
        let mut spec = parsed(value)?;
        let deleted = spec.get("deleted").is_some_and(|deleted| *deleted == json!(true));
        spec.insert("deleted".to_owned(), json!(deleted.to_string()));
        let text = cidr.to_string();
        for (name, value) in [("node", node), ("cidr", text.as_str()), ("type", kind)] {
            spec.insert(name.to_owned(), json!(value));
        }
        ("BlockAffinity", affinity_name(node, cidr), spec)
    } else if let Some(id) = path.strip_prefix(HANDLES) {
        let mut spec = object(value)?;
        spec.insert("handleID".to_owned(), json!(id));
        ("IPAMHandle", id.to_owned(), spec)
    } else if path == CONFIG {
        let mut spec = object(value)?;
        rename(&mut spec, "strict_affinity", "strictAffinity");
        rename(&mut spec, "auto_allocate_blocks", "autoAllocateBlocks");
        ("IPAMConfig", "default".to_owned(), spec)
    } else {
        return Ok(None);
    };
    let value = json!({"kind": kind, "apiVersion": IPAM_API, "metadata": {"name": name},
        "spec": spec});
    Document::new(value).map(Some).map_err(|error| error.to_string())
}

/// A key below [`RESOURCES`], and its value. Plurals that are not known may be later releases'.
fn resource(rest: &str, value: &[u8]) -> Result<Option<Document>, String> {
    let (plural, name) = rest.split_once('/').ok_or("the key ends before a name")?;
    let known = KINDS.iter().find(|(_, known, _)| *known == plural);
    let Some((kind, _, namespaced)) = known else { return Ok(None) };
    let (namespace, name) = match namespaced {
        true => name.split_once('/').ok_or("the key ends before a name")?,
        false => ("", name),
    };
    if name.is_empty() || name.contains('/') || *namespaced && namespace.is_empty() {
        return Err(format!("the key does not name one {kind}"));
    }
    let document =
        Document::new(Value::Object(object(value)?)).map_err(|error| error.to_string())?;
    let unescape = |text: &str| text.replace("%2f", "/").replace("%25", "%");
    let said = [&document.key.kind, &document.key.namespace, &document.key.name];
    if said != [*kind, &unescape(namespace), &unescape(name)] {
        return Err(format!("it says to be {}, which the key does not", document.key));
    }
    Ok(Some(document))
}

fn object(value: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("the value is no JSON object".to_owned()),
        Err(error) => Err(format!("the value is no JSON: {error}")),
    }
}

/// `ipv4/block/10.1.2.0-26`.
fn block_of(rest: &str) -> Result<IpNet, String> {
    let (family, name) = rest.split_once("/block/").ok_or("the key names no block")?;
    let cidr = name
        .rsplit_once('-')
        .and_then(|(address, length)| format!("{address}/{length}").parse::<IpNet>().ok());
    let cidr = cidr.filter(|cidr| *cidr == cidr.trunc() && family_of(*cidr) == family);
    cidr.ok_or_else(|| format!("'{name}' is no block of {family}"))
}

fn block_path(prefix: &str, cidr: IpNet) -> String {
    format!("{prefix}{}/block/{}", family_of(cidr), cidr.to_string().replace('/', "-"))
}

fn affinity_paths(node: &str, cidr: IpNet) -> Vec<String> {
    let mut paths = vec![block_path(&format!("{HOSTS}{node}/"), cidr)];
    if node == LOAD_BALANCER {
        paths.push(block_path(&format!("{VIRTUAL}{node}/"), cidr));
    }
    paths
}

fn family_of(cidr: IpNet) -> &'static str {
    if cidr.addr().is_ipv4() { "ipv4" } else { "ipv6" }
}

/// Name of a block's document: `10-1-2-0-26`.
pub(crate) fn cidr_name(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// Name of an affinity's document.
pub(crate) fn affinity_name(node: &str, cidr: IpNet) -> String {
    format!("{node}-{}", cidr_name(cidr))
}

/// The block that has this name.
pub(crate) fn cidr_of(name: &str) -> Option<IpNet> {
    let (address, length) = name.rsplit_once('-')?;
    let parse = |separator| format!("{}/{length}", address.replace('-', separator)).parse().ok();
    let cidr: IpNet = parse(".").or_else(|| parse(":"))?;
    (cidr == cidr.trunc() && cidr_name(cidr) == name).then_some(cidr)
}

fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

fn to_boolean(object: &mut Map<String, Value>, name: &str) {
    let value = object.get(name).is_some_and(|value| *value == json!(true) || *value == "true");
    object.insert(name.to_owned(), json!(value));
}
