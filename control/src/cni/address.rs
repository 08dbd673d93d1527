//! A pod's addresses: from Calico's IPAM, by a handle that names the network and the container.
//!
//! What the handle has already stays, so that a call that is repeated gets the same answer. What
//! a call took and cannot use goes back.

use super::Call;
use super::answer::{self, CniError};
use super::config::NetConf;
use super::plugin::Pod;
use crate::ipam::assign::Request;
use crate::ipam::pool::Use;
use crate::ipam::{Ipam, lock};
use crate::store::Store;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Longest time that taking addresses may need, the wait for the host's lock apart.
const LIMIT: Duration = Duration::from_secs(90);

/// What was taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// The pod's addresses, IPv4 first.
    pub(super) addresses: Vec<IpAddr>,
    /// This call took them.
    pub(super) new: bool,
}

/// By which a container's addresses are found again.
pub(super) fn handle(config: &NetConf, container: &str) -> String {
    format!("{}.{container}", config.name)
}

/// Takes a pod's addresses.
pub(super) async fn take(
    call: &Call,
    config: &NetConf,
    store: &Store,
    node: &str,
    pod: &Pod,
) -> Result<Taken, CniError> {
    let _turn = lock::take(lock_file(config)).await;
    let work = take_now(call, config, store, node, pod);
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| {
        Err(CniError::new(answer::TRY_LATER, "the datastore took too long for an address"))
    })
}

fn lock_file(config: &NetConf) -> &Path {
    match config.ipam_lock_file.is_empty() {
        true => Path::new(lock::LOCK),
        false => Path::new(&config.ipam_lock_file),
    }
}

async fn take_now(
    call: &Call,
    config: &NetConf,
    store: &Store,
    node: &str,
    pod: &Pod,
) -> Result<Taken, CniError> {
    let ipam = Ipam::new(store);
    let handle = handle(config, &call.container);
    let mut addresses = ipam.of_handle(&handle).await?;
    if !addresses.is_empty() {
        addresses.sort();
        return Ok(Taken { addresses, new: false });
    }
    let outcome = assign(call, config, &ipam, node, pod).await;
    match outcome {
        Ok(mut addresses) => {
            addresses.sort();
            Ok(Taken { addresses, new: true })
        }
        Err(error) => {
            // One family without the other is no use.
            ipam.release_handle(&handle).await?;
            Err(error)
        }
    }
}

async fn assign(
    call: &Call,
    config: &NetConf,
    ipam: &Ipam<'_, Store>,
    node: &str,
    pod: &Pod,
) -> Result<Vec<IpAddr>, CniError> {
    let mut request = Request {
        host: node.to_owned(),
        handle: handle(config, &call.container),
        attributes: attributes(node, pod),
        purpose: Use::Workload,
        v4: true,
        count: 1,
        pools: Vec::new(),
        namespace: pod.namespace_labels.clone(),
    };
    let explicit = explicit(call, pod)?;
    for address in &explicit {
        ipam.assign_this(&request, *address).await?;
    }
    if !explicit.is_empty() {
        return Ok(explicit);
    }
    let mut found = Vec::new();
    for (wanted, v4) in config.families().into_iter().zip([true, false]) {
        if !wanted {
            continue;
        }
        (request.v4, request.pools) = (v4, pools(config, ipam, pod, v4).await?);
        let given = ipam.assign(&request).await?;
        match given.addresses.first() {
            Some(net) => found.push(net.addr()),
            None => {
                let family = if v4 { "IPv4" } else { "IPv6" };
                let what = format!("no {family} address: {}", given.reasons.join(", "));
                return Err(CniError::new(answer::NO_ADDRESS, what));
            }
        }
    }
    match found.is_empty() {
        true => Err(CniError::new(answer::BAD_CONFIG, "neither IPv4 nor IPv6 is to be assigned")),
        false => Ok(found),
    }
}

/// What people, and garbage collection, read of the address.
fn attributes(node: &str, pod: &Pod) -> BTreeMap<String, String> {
    let seconds = crate::clock::now();
    let mut attributes = BTreeMap::from([("node".to_owned(), node.to_owned())]);
    if let Some((namespace, name)) = &pod.kubernetes {
        let timestamp = format!("{} +0000 UTC", crate::clock::long(seconds));
        let own = [("namespace", namespace), ("pod", name), ("timestamp", &timestamp)];
        attributes.extend(own.map(|(key, value)| (key.to_owned(), value.clone())));
    }
    attributes
}

/// Addresses that were asked for by name: `IP` of the call, or the pod's annotation.
fn explicit(call: &Call, pod: &Pod) -> Result<Vec<IpAddr>, CniError> {
    let noted = pod.annotation("cni.projectcalico.org/ipAddrs");
    let words = match (call.arg("IP"), noted) {
        (Some(one), _) => vec![one.to_owned()],
        (None, Some(text)) => words("ipAddrs", &text)?,
        (None, None) => Vec::new(),
    };
    let parse = |word: &String| {
        let bad = |_| CniError::new(answer::BAD_CONFIG, format!("'{word}' is no address"));
        word.parse().map_err(bad)
    };
    words.iter().map(parse).collect()
}

fn words(name: &str, text: &str) -> Result<Vec<String>, CniError> {
    serde_json::from_str(text).map_err(|_| {
        let what = format!("annotation cni.projectcalico.org/{name}: '{text}' is no list of text");
        CniError::new(answer::BAD_CONFIG, what)
    })
}

/// The ranges to take addresses from: the pod's annotation, its namespace's, the configuration's;
/// empty for all pools.
async fn pools(
    config: &NetConf,
    ipam: &Ipam<'_, Store>,
    pod: &Pod,
    v4: bool,
) -> Result<Vec<IpNet>, CniError> {
    let name = if v4 { "ipv4pools" } else { "ipv6pools" };
    let noted = pod.annotation(&format!("cni.projectcalico.org/{name}"));
    let wanted = match noted {
        Some(text) => words(name, &text)?,
        None if v4 => config.ipam.ipv4_pools.clone(),
        None => config.ipam.ipv6_pools.clone(),
    };
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let known = ipam.pools().await?;
    let range = |word: &String| {
        let named = known.iter().find(|pool| pool.name == *word).map(|pool| pool.cidr);
        let what = || format!("'{word}' is neither the name nor the range of a pool");
        named.or_else(|| word.parse().ok()).ok_or_else(|| CniError::new(answer::BAD_CONFIG, what()))
    };
    wanted.iter().map(range).collect()
}

/// Gives a container's addresses back.
pub(super) async fn release(
    config: &NetConf,
    store: &Store,
    container: &str,
) -> Result<(), CniError> {
    let _turn = lock::take(lock_file(config)).await;
    let ipam = Ipam::new(store);
    ipam.release_handle(&handle(config, container)).await?;
    Ok(())
}

/// Handles of this network's containers on a node.
pub(super) async fn containers(
    config: &NetConf,
    store: &Store,
    node: &str,
) -> Result<Vec<String>, CniError> {
    let ipam = Ipam::new(store);
    let prefix = format!("{}.", config.name);
    let of = |attributes: Option<&BTreeMap<String, String>>| -> bool {
        attributes.and_then(|all| all.get("node")).is_some_and(|own| own == node)
    };
    let all = ipam.holders().await?;
    let own = all.iter().filter(|attribute| of(attribute.secondary.as_ref()));
    let names = own.filter_map(|attribute| attribute.handle()?.strip_prefix(&prefix));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// A list of text in an annotation.
pub(super) fn annotation(document: Option<&Value>, name: &str) -> Option<String> {
    let text = document?["metadata"]["annotations"].get(name)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}
