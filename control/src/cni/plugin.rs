//! What each command of CNI does.
//!
//! ADD takes addresses, makes the pair, and writes the WorkloadEndpoint, in this order, and takes
//! back what it did when a later step fails. It may be repeated: the container keeps its addresses.
//! DEL removes the endpoint only if it still is this container's (a pod's successor has the same
//! name), and what is gone already is no error. GC does as DEL for all containers that are no more.

use super::address::{self, Taken};
use super::answer::{self, Attached, CniError};
use super::config::NetConf;
use super::device::{self, Pair};
use super::endpoint::{self, Facts};
use super::{Call, delegate};
use crate::resource::Key;
use crate::startup::cluster;
use crate::store::Store;
use crate::store::datastore::{Datastore, Document, StoreError};
use crate::store::save;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// Calico's own IPAM, which needs no other process.
const OWN_IPAM: &str = "calico-ipam";
/// Tries of a removal that others are first with.
const TRIES: usize = 5;

/// What is known of who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pod {
    /// Namespace and name, if it is a pod of Kubernetes.
    pub(super) kubernetes: Option<(String, String)>,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Its service account.
    pub(super) service_account: Option<String>,
    /// Labels of its namespace.
    pub(super) namespace_labels: Option<BTreeMap<String, String>>,
    /// Its resource, and its namespace's.
    documents: [Option<Value>; 2],
}

impl Pod {
    #[cfg(test)]
    pub(super) fn named(namespace: &str, name: &str) -> Pod {
        let kubernetes = Some((namespace.to_owned(), name.to_owned()));
        Pod { kubernetes, ..Pod::default() }
    }

    /// The pod that a call names, with what the store knows of it.
    async fn of(call: &Call, store: &Store) -> Result<Pod, CniError> {
        let named = call.arg("K8S_POD_NAMESPACE").zip(call.arg("K8S_POD_NAME"));
        let Some((namespace, name)) = named else { return Ok(Pod::default()) };
        let key = |kind: &str, namespace: &str, name: &str| Key {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let pod = store.find(&key("Pod", namespace, name)).await?;
        let space = store.find(&key("Namespace", "", namespace)).await?;
        let labels = |document: &Document| -> BTreeMap<String, String> {
            let labels = document.value.get("metadata").map(|metadata| &metadata["labels"]);
            serde_json::from_value(labels.cloned().unwrap_or_default()).unwrap_or_default()
        };
        let account = pod.as_ref().map(Document::spec);
        let account =
            account.and_then(|spec| Some(spec["serviceAccountName"].as_str()?.to_owned()));
        Ok(Pod {
            kubernetes: Some((namespace.to_owned(), name.to_owned())),
            labels: pod.as_ref().map(labels).unwrap_or_default(),
            service_account: account,
            namespace_labels: space.as_ref().map(labels),
            documents: [pod, space].map(|found| found.map(|found| Value::Object(found.value))),
        })
    }

    /// The pod's annotation, else its namespace's.
    pub(super) fn annotation(&self, name: &str) -> Option<String> {
        self.documents.iter().find_map(|document| address::annotation(document.as_ref(), name))
    }
}

/// The cluster is there and not locked.
pub(super) async fn status(config: &NetConf, store: &Store) -> Result<(), CniError> {
    let unavailable = |what| CniError::new(answer::NOT_AVAILABLE, what);
    ready(store).await.map_err(|error| unavailable(error.what))?;
    config.node_name().map(drop).map_err(|error| unavailable(error.what))
}

async fn ready(store: &Store) -> Result<(), CniError> {
    if cluster::is_ready(store).await? {
        return Ok(());
    }
    let what = "the datastore is locked: ClusterInformation's datastoreReady is false";
    Err(CniError::new(answer::TRY_LATER, what))
}

/// ADD.
pub(super) async fn add(call: &Call, config: &NetConf, store: &Store) -> Result<String, CniError> {
    ready(store).await?;
    let (node, mtu) = (config.node_name()?, config.pod_mtu()?);
    let pod = Pod::of(call, store).await?;
    let host = endpoint::host_device(&pod, &call.container);
    let own_ipam = config.ipam.kind == OWN_IPAM;
    let taken = match own_ipam {
        true => address::take(call, config, store, &node, &pod).await?,
        false => Taken { addresses: delegate::add(&config.ipam.kind, call)?, new: true },
    };
    let pair = Pair {
        host: &host,
        pod: &call.ifname,
        netns: &call.netns,
        mtu,
        mac: pod.annotation("cni.projectcalico.org/hwAddr").and_then(|text| text.parse().ok()),
        addresses: &taken.addresses,
        forwards: config.container_settings.allow_ip_forwarding,
    };
    match attach(call, config, store, &node, &pod, pair).await {
        Ok(mac) => {
            let devices = Some((host.as_str(), call.ifname.as_str(), mac, call.netns.as_path()));
            Ok(Attached { addresses: &taken.addresses, devices }.text(&config.cni_version))
        }
        Err(error) => {
            let removed = device::unplug(&host, &call.ifname, &call.netns).await;
            if taken.new {
                match own_ipam {
                    true => address::release(config, store, &call.container).await?,
                    false => delegate::del(&config.ipam.kind, call)?,
                }
            }
            removed.and(Err(error))
        }
    }
}

/// Makes the pair, and tells of it; answers the pod's link address.
async fn attach(
    call: &Call,
    config: &NetConf,
    store: &Store,
    node: &str,
    pod: &Pod,
    pair: Pair<'_>,
) -> Result<String, CniError> {
    let mac = device::plug(pair).await?;
    if pod.kubernetes.is_none() {
        let profile = Document::new(endpoint::profile(&config.name))?;
        match save::create(store, profile).await {
            Ok(_) | Err(StoreError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let key = endpoint::key(node, pod, &call.container, &call.ifname);
    let facts = Facts {
        key: &key,
        node,
        network: &config.name,
        container: &call.container,
        ifname: &call.ifname,
        device: pair.host,
        mac: &mac,
        addresses: pair.addresses,
    };
    save::apply(store, endpoint::document(pod, &facts)?).await?;
    Ok(mac)
}

/// DEL.
pub(super) async fn del(call: &Call, config: &NetConf, store: &Store) -> Result<String, CniError> {
    ready(store).await?;
    let pod = Pod::of(call, store).await?;
    let key = endpoint::key(&config.node_name()?, &pod, &call.container, &call.ifname);
    let host = endpoint::host_device(&pod, &call.container);
    if remove(store, &key, &call.container).await? {
        device::unplug(&host, &call.ifname, &call.netns).await?;
    }
    match config.ipam.kind.as_str() {
        OWN_IPAM => address::release(config, store, &call.container).await?,
        other => delegate::del(other, call)?,
    }
    Ok(String::new())
}

/// Removes a container's endpoint; false when another container has it by now.
async fn remove(store: &Store, key: &Key, container: &str) -> Result<bool, CniError> {
    for _ in 0..TRIES {
        let Some(now) = store.find(key).await? else { return Ok(true) };
        if now.spec()["containerID"].as_str().is_some_and(|other| other != container) {
            return Ok(false);
        }
        match store.delete(&now).await {
            Ok(()) | Err(StoreError::NotFound(_)) => return Ok(true),
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict(key.clone()).into())
}

/// CHECK.
pub(super) async fn check(
    call: &Call,
    config: &NetConf,
    store: &Store,
) -> Result<String, CniError> {
    let pod = Pod::of(call, store).await?;
    let key = endpoint::key(&config.node_name()?, &pod, &call.container, &call.ifname);
    let wrong = |what: String| Err(CniError::new(answer::NOT_AS_MADE, what));
    let Some(endpoint) = store.find(&key).await? else {
        return wrong(format!("{key} is gone"));
    };
    let spec = endpoint.spec();
    if spec["containerID"] != call.container.as_str() {
        return wrong(format!("{key} is of container {}", spec["containerID"]));
    }
    let networks = spec["ipNetworks"].as_array().cloned().unwrap_or_default();
    let address = |net: &Value| net.as_str()?.split('/').next()?.parse().ok();
    let addresses: Vec<IpAddr> = networks.iter().filter_map(address).collect();
    let conf: Value = serde_json::from_str(&call.stdin).unwrap_or_default();
    let told = answer::addresses_of(&conf["prevResult"]);
    if let Some(lost) = told.iter().find(|address| !addresses.contains(address)) {
        return wrong(format!("{key} has no {lost}"));
    }
    let host = endpoint::host_device(&pod, &call.container);
    let pair = Pair {
        host: &host,
        pod: &call.ifname,
        netns: &call.netns,
        mtu: 0,
        mac: None,
        addresses: &addresses,
        forwards: false,
    };
    match device::differs(pair).await? {
        Some(what) => wrong(what),
        None => Ok(String::new()),
    }
}

/// GC: removes what containers that are no more have left on this node.
pub(super) async fn gc(config: &NetConf, store: &Store) -> Result<String, CniError> {
    ready(store).await?;
    let node = config.node_name()?;
    let valid = valid(config)?;
    for found in store.list("WorkloadEndpoint").await?.documents {
        let spec = found.spec();
        let container = spec["containerID"].as_str().unwrap_or_default();
        let ours = spec["node"] == node.as_str() && !container.is_empty();
        if !ours || valid.contains(&container) || !is_of_network(&spec, &config.name) {
            continue;
        }
        if remove(store, &found.key, container).await? {
            let host = spec["interfaceName"].as_str().unwrap_or_default();
            device::unplug(host, "", Path::new("")).await?;
        }
    }
    ipam_gc(config, store).await
}

/// Pods of Kubernetes have one network; endpoints of others name theirs as their profile.
fn is_of_network(spec: &Value, network: &str) -> bool {
    spec["orchestrator"] == "k8s" || spec["profiles"] == json!([network])
}

fn valid(config: &NetConf) -> Result<Vec<&str>, CniError> {
    let Some(list) = &config.valid_attachments else {
        let what = "GC without cni.dev/valid-attachments would remove everything";
        return Err(CniError::new(answer::BAD_CONFIG, what));
    };
    Ok(list.iter().map(|one| one.container.as_str()).collect())
}

/// ADD of the IPAM plugin.
pub(super) async fn ipam_add(
    call: &Call,
    config: &NetConf,
    store: &Store,
) -> Result<String, CniError> {
    ready(store).await?;
    let (node, pod) = (config.node_name()?, Pod::of(call, store).await?);
    let taken = address::take(call, config, store, &node, &pod).await?;
    Ok(Attached { addresses: &taken.addresses, devices: None }.text(&config.cni_version))
}

/// DEL of the IPAM plugin.
pub(super) async fn ipam_del(
    call: &Call,
    config: &NetConf,
    store: &Store,
) -> Result<String, CniError> {
    ready(store).await?;
    address::release(config, store, &call.container).await.map(|()| String::new())
}

/// GC of the IPAM plugin.
pub(super) async fn ipam_gc(config: &NetConf, store: &Store) -> Result<String, CniError> {
    let (node, valid) = (config.node_name()?, valid(config)?);
    for container in address::containers(config, store, &node).await? {
        if !valid.contains(&container.as_str()) {
            address::release(config, store, &container).await?;
        }
    }
    Ok(String::new())
}
