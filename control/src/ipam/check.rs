//! Whether blocks, handles, pools, endpoints and nodes fit together, as `calicoctl ipam check`
//! asks. What comes of it for who mends is a [`Report`].

use super::block::{Attribute, Block};
use super::report::{Allocation, Report, handle_id, info};
use super::{Ipam, IpamError, Stored};
use crate::startup::cluster;
use crate::store::datastore::{Datastore, Document};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// By which Windows nodes keep addresses that nobody has.
const RESERVED_HANDLE: &str = "windows-reserved-ipam-handle";

/// A block with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLine {
    /// Its range.
    pub cidr: IpNet,
    /// Whose it is.
    pub affinity: Option<String>,
    /// Those that are given out, with their attributes.
    pub addresses: Vec<(IpAddr, String)>,
}

/// Who has an address: where it was found, and in which words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A block that keeps it.
    Block,
    /// A node, inside of tunnels.
    Node,
    /// A load balancer's Service.
    Service,
    /// A workload.
    Workload,
}

/// All that was compared, and what of it does not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Blocks that were looked at.
    pub blocks: Vec<BlockLine>,
    /// Ranges of pools that are not disabled.
    pub pools: Vec<IpNet>,
    /// What is in use: who, and which address.
    pub uses: Vec<(Origin, IpAddr, String)>,
    /// Services were looked at: somebody gives addresses to load balancers.
    pub gives_services: bool,
    /// Load balancers among them.
    pub services: usize,
    /// For who mends.
    pub report: Report,
    /// Addresses that are given out and that nobody has.
    pub not_used: Vec<IpAddr>,
    /// Addresses in use and in a pool, and not given out.
    pub not_allocated: Vec<IpAddr>,
    /// Addresses in use that are in no pool, and not given out.
    pub not_in_pool: Vec<IpAddr>,
    /// Handles that have addresses.
    pub good_handles: usize,
    /// Handles that blocks name, and that do not exist.
    pub missing_handles: Vec<String>,
    /// Blocks that break the rules, and how.
    pub invalid_blocks: Vec<String>,
}

impl Check {
    /// Number of problems, as calicoctl counts them.
    pub fn problems(&self) -> usize {
        self.not_used.len()
            + self.not_allocated.len()
            + self.not_in_pool.len()
            + self.report.leaked_handles.len()
            + self.invalid_blocks.len()
    }

    /// Addresses given out, or cooling down.
    pub fn allocated(&self) -> usize {
        self.blocks.iter().map(|block| block.addresses.len()).sum()
    }

    /// Who has an address.
    pub fn owners(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        let own = self.uses.iter().filter(move |(_, used, _)| *used == address);
        own.map(|(_, _, owner)| &**owner)
    }
}

impl<D: Datastore> Ipam<'_, D> {
    /// Compares blocks, handles, pools, endpoints and nodes with each other.
    pub async fn check(&self) -> Result<Check, IpamError> {
        let mut check = Check { report: self.cluster().await?, ..Check::default() };
        self.read_blocks(&mut check).await?;
        for document in self.store.list("IPPool").await?.documents {
            let spec = document.spec();
            let cidr = spec["cidr"].as_str().and_then(|cidr| cidr.parse::<IpNet>().ok());
            check.pools.extend(cidr.filter(|_| spec["disabled"] != true));
        }
        self.read_uses(&mut check).await?;
        compare_addresses(&mut check);
        self.compare_handles(&mut check).await?;
        Ok(check)
    }

    /// What ClusterInformation says, as the head of a report.
    pub async fn cluster(&self) -> Result<Report, IpamError> {
        let Some(found) = self.store.find(&cluster::key()).await? else {
            return Ok(Report::default());
        };
        let spec = found.spec();
        let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
        Ok(Report {
            cluster_guid: text("clusterGUID"),
            datastore_locked: spec["datastoreReady"] == false,
            revision: found.revision.map(|revision| revision.0).unwrap_or_default(),
            cluster_type: text("clusterType"),
            ..Report::default()
        })
    }

    async fn read_blocks(&self, check: &mut Check) -> Result<(), IpamError> {
        let listing = self.store.list("IPAMBlock").await?;
        check.invalid_blocks.extend(listing.faults.iter().map(ToString::to_string));
        for document in listing.documents {
            match Stored::of(document) {
                Ok(stored) => note_block(&stored.block, check),
                Err(error) => check.invalid_blocks.push(error.to_string()),
            }
        }
        Ok(())
    }

    async fn read_uses(&self, check: &mut Check) -> Result<(), IpamError> {
        for node in self.store.list("Node").await?.documents {
            let owner = format!("Node({})", node.key.name);
            let own = node_addresses(&node.spec()).into_iter();
            check.uses.extend(own.map(|address| (Origin::Node, address, owner.clone())));
        }
        let key = super::key("KubeControllersConfiguration", "default");
        let config = self.store.find(&key).await?.map(|found| found.spec());
        let mode = config.as_ref().and_then(|spec| {
            let balancer = spec["controllers"].get("loadBalancer")?;
            Some(balancer["assignIPs"].as_str().unwrap_or("AllServices").to_owned())
        });
        if let Some(mode) = mode {
            check.gives_services = true;
            for service in self.store.list("Service").await?.documents {
                let Some(own) = balanced(&service, &mode) else { continue };
                check.services += 1;
                let owner = &service.key.name;
                let own = own.into_iter().map(|ip| (Origin::Service, ip, owner.clone()));
                check.uses.extend(own);
            }
        }
        for endpoint in self.store.list("WorkloadEndpoint").await?.documents {
            let owner = format!("Workload({}/{})", endpoint.key.namespace, endpoint.key.name);
            let spec = endpoint.spec();
            let networks = spec["ipNetworks"].as_array().cloned().unwrap_or_default();
            let own = networks.iter().filter_map(address_of);
            check.uses.extend(own.map(|address| (Origin::Workload, address, owner.clone())));
        }
        Ok(())
    }

    async fn compare_handles(&self, check: &mut Check) -> Result<(), IpamError> {
        let all = check.report.allocations.values().flatten();
        let named: BTreeSet<String> =
            all.map(|one| one.handle.clone()).filter(|handle| !handle.is_empty()).collect();
        let mut known = BTreeSet::new();
        for document in self.store.list("IPAMHandle").await?.documents {
            let id = handle_id(&document);
            if named.contains(&id) {
                check.good_handles += 1;
            } else {
                check.report.leaked_handles.push(info(&id, &document));
            }
            known.insert(id);
        }
        check.missing_handles = named.difference(&known).cloned().collect();
        Ok(())
    }
}

fn note_block(block: &Block, check: &mut Check) {
    let owner = block.host().unwrap_or_default();
    let mut line =
        BlockLine { cidr: block.cidr, affinity: block.affinity.clone(), addresses: Vec::new() };
    for (address, attribute, sequence) in block.entries() {
        let one = allocation(address, attribute, (owner, sequence));
        if attribute.handle() == Some(RESERVED_HANDLE) {
            check.uses.push((Origin::Block, address, "Reserved for Windows".to_owned()));
        }
        line.addresses.push((address, one.attributes.clone()));
        check.report.allocations.entry(address).or_default().push(one);
    }
    check.blocks.push(line);
}

fn allocation(
    address: IpAddr,
    attribute: &Attribute,
    (owner, sequence): (&str, Option<u64>),
) -> Allocation {
    let secondary = attribute.secondary.clone().unwrap_or_default();
    let text = |name: &str| secondary.get(name).cloned().unwrap_or_default();
    let handle = attribute.handle();
    let listed: Vec<String> =
        secondary.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let attributes = format!("Main:{} Extra:{}", handle.unwrap_or("<none>"), listed.join(","));
    let node = Some(text("node")).filter(|node| !node.is_empty());
    let node = node.unwrap_or_else(|| owner.to_owned());
    Allocation {
        ip: address.to_string(),
        handle: handle.filter(|handle| *handle != RESERVED_HANDLE).unwrap_or_default().to_owned(),
        sequence_number: Some(sequence.unwrap_or_default()),
        pod: text("pod"),
        namespace: text("namespace"),
        kind: text("type"),
        creation_timestamp: text("timestamp"),
        borrowed: node != owner,
        cooling_down: attribute.released_at.is_some(),
        node,
        attributes,
        ..Allocation::default()
    }
}

fn compare_addresses(check: &mut Check) {
    let mut owners: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (_, address, owner) in &check.uses {
        owners.entry(*address).or_default().push(owner.clone());
    }
    for (address, all) in &mut check.report.allocations {
        let own = owners.get(address);
        for one in all.iter_mut() {
            (one.in_use, one.owners) = (own.is_some(), own.cloned());
        }
        if own.is_none() && !all.iter().any(|one| one.cooling_down) {
            check.not_used.push(*address);
        }
    }
    for address in owners.keys() {
        if check.report.allocations.contains_key(address) {
            continue;
        }
        match check.pools.iter().any(|pool| pool.contains(address)) {
            true => check.not_allocated.push(*address),
            false => check.not_in_pool.push(*address),
        }
    }
}

fn address_of(text: &Value) -> Option<IpAddr> {
    text.as_str()?.split('/').next()?.parse().ok()
}

/// A node's addresses inside of tunnels.
fn node_addresses(spec: &Value) -> Vec<IpAddr> {
    let places = [
        &spec["bgp"]["ipv4IPIPTunnelAddr"],
        &spec["ipv4VXLANTunnelAddr"],
        &spec["ipv6VXLANTunnelAddr"],
        &spec["wireguard"]["interfaceIPv4Address"],
        &spec["wireguard"]["interfaceIPv6Address"],
    ];
    places.into_iter().filter_map(address_of).collect()
}

/// Addresses of a Service whose load balancer gets its addresses of IPAM; `None` for others.
fn balanced(service: &Document, mode: &str) -> Option<Vec<IpAddr>> {
    const ANNOTATIONS: [&str; 3] = [
        "projectcalico.org/ipv4pools",
        "projectcalico.org/ipv6pools",
        "projectcalico.org/loadBalancerIPs",
    ];
    let spec = service.spec();
    let class = spec["loadBalancerClass"].as_str();
    let is_own_class = class == Some("calico");
    let annotations = &service.value.get("metadata")?["annotations"];
    let is_asked = ANNOTATIONS.iter().any(|name| annotations[name].as_str().is_some())
        || spec["loadBalancerIP"].as_str().is_some_and(|address| !address.is_empty());
    let is_own = is_own_class || class.is_none() && (mode == "AllServices" || is_asked);
    if spec["type"] != "LoadBalancer" || !is_own {
        return None;
    }
    let ingress = &service.value.get("status").unwrap_or(&Value::Null)["loadBalancer"]["ingress"];
    let own = ingress.as_array().into_iter().flatten();
    Some(own.filter_map(|one| address_of(&one["ip"])).collect())
}
