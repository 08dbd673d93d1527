//! BGPConfiguration: what holds for all sessions. `default` is the cluster's, `node.NAME` that of
//! one node, which may set the port and the prefix advertisements only.

use super::field::{self, AsNumber, PasswordSource, SecretKey};
use super::{Invalid, Object};
use ipnet::IpNet;
use margay_bgp::policy::Community;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The configuration; `None` is the default of Calico.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// Sessions between all nodes (true).
    pub mesh: Option<bool>,
    /// AS of nodes that have none of their own (64512).
    pub as_number: Option<u32>,
    /// Ranges of cluster addresses that are advertised.
    pub cluster_ips: Vec<IpNet>,
    /// Ranges of external addresses that services may have advertised.
    pub external_ips: Vec<IpNet>,
    /// Ranges of load-balancer addresses that services may have advertised.
    pub load_balancer_ips: Vec<IpNet>,
    /// Load-balancer ranges are advertised whole (true).
    pub aggregates_load_balancers: bool,
    /// Communities of routes inside ranges.
    pub prefix_advertisements: Option<Vec<PrefixAdvertisement>>,
    /// Port of the listener (179).
    pub listen_port: Option<u16>,
    /// Password of the mesh.
    pub mesh_password: Option<SecretKey>,
    /// Restart time of the mesh in seconds (120).
    pub mesh_restart_s: Option<u32>,
    /// What the listener is bound to.
    pub bind_mode: BindMode,
    /// Interfaces whose connected routes do not count.
    pub ignored_interfaces: Vec<String>,
    /// Addresses, IPv4 and IPv6, that local workloads peer with.
    pub local_workload_peering: [Option<IpAddr>; 2],
    /// Whose routes between nodes are BGP's.
    pub cluster_routes: ClusterRoutes,
    /// Metric of usual routes, IPv4 and IPv6 (1024).
    pub normal_priority: [Option<u32>; 2],
}

/// Communities of the routes inside a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixAdvertisement {
    /// The range.
    pub cidr: IpNet,
    /// The communities.
    pub communities: Vec<Community>,
}

/// What the listener is bound to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum BindMode {
    /// All addresses.
    #[default]
    None,
    /// The node's address.
    NodeIP,
}

/// Pools whose routes between nodes come from BGP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum ClusterRoutes {
    /// IPIP and plain pools.
    Enabled,
    /// None.
    Disabled,
    /// IPIP pools.
    EnabledIPIPOnly,
    /// Plain pools.
    #[default]
    EnabledNoEncapOnly,
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    node_to_node_mesh_enabled: Option<bool>,
    as_number: Option<AsNumber>,
    #[serde(rename = "serviceClusterIPs")]
    service_cluster_ips: Vec<Range>,
    #[serde(rename = "serviceExternalIPs")]
    service_external_ips: Vec<Range>,
    #[serde(rename = "serviceLoadBalancerIPs")]
    service_load_balancer_ips: Vec<Range>,
    service_load_balancer_aggregation: Option<Aggregation>,
    communities: Vec<NamedCommunity>,
    prefix_advertisements: Option<Vec<Advertisement>>,
    listen_port: Option<u16>,
    node_mesh_password: Option<PasswordSource>,
    node_mesh_max_restart_time: Option<String>,
    bind_mode: Option<BindMode>,
    ignored_interfaces: Vec<String>,
    #[serde(rename = "localWorkloadPeeringIPV4")]
    local_workload_peering_v4: Option<String>,
    #[serde(rename = "localWorkloadPeeringIPV6")]
    local_workload_peering_v6: Option<String>,
    program_cluster_routes: Option<ClusterRoutes>,
    #[serde(rename = "ipv4NormalRoutePriority")]
    normal_priority_v4: Option<u32>,
    #[serde(rename = "ipv6NormalRoutePriority")]
    normal_priority_v6: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
struct Range {
    cidr: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Aggregation {
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, Deserialize)]
struct NamedCommunity {
    name: String,
    value: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Advertisement {
    cidr: String,
    #[serde(default)]
    communities: Vec<String>,
}

/// Most named communities, and most prefix advertisements.
pub const ADVERTISEMENTS_MAX: usize = 500;
/// Most communities of one prefix advertisement.
pub const COMMUNITIES_MAX: usize = 50;

impl TryFrom<Object<Option<Spec>>> for BgpConfiguration {
    type Error = Invalid;

    fn try_from(object: Object<Option<Spec>>) -> Result<BgpConfiguration, Invalid> {
        super::check_name(&object.metadata.name)?;
        let spec = object.spec.unwrap_or_default();
        only_default(&object.metadata.name, &spec)?;
        if spec.listen_port == Some(0) {
            return Err(Invalid::new("spec.listenPort", "0 is no port", "1 to 65535"));
        }
        let ranges = |field, list: &[Range]| -> Result<Vec<IpNet>, Invalid> {
            list.iter().map(|one| field::range(field, &one.cidr)).collect()
        };
        let restart = spec.node_mesh_max_restart_time.as_deref();
        Ok(BgpConfiguration {
            mesh: spec.node_to_node_mesh_enabled,
            as_number: spec.as_number.map(|number| number.0),
            cluster_ips: ranges("spec.serviceClusterIPs", &spec.service_cluster_ips)?,
            external_ips: ranges("spec.serviceExternalIPs", &spec.service_external_ips)?,
            load_balancer_ips: ranges(
                "spec.serviceLoadBalancerIPs",
                &spec.service_load_balancer_ips,
            )?,
            aggregates_load_balancers: spec.service_load_balancer_aggregation
                != Some(Aggregation::Disabled),
            prefix_advertisements: advertisements(&spec.communities, spec.prefix_advertisements)?,
            listen_port: spec.listen_port,
            mesh_password: field::secret_key("spec.nodeMeshPassword", spec.node_mesh_password)?,
            mesh_restart_s: restart
                .map(|text| field::seconds("spec.nodeMeshMaxRestartTime", text))
                .transpose()?,
            bind_mode: spec.bind_mode.unwrap_or_default(),
            ignored_interfaces: spec.ignored_interfaces,
            local_workload_peering: [
                peering_address("spec.localWorkloadPeeringIPV4", spec.local_workload_peering_v4)?,
                peering_address("spec.localWorkloadPeeringIPV6", spec.local_workload_peering_v6)?,
            ],
            cluster_routes: spec.program_cluster_routes.unwrap_or_default(),
            normal_priority: [
                priority("spec.ipv4NormalRoutePriority", spec.normal_priority_v4)?,
                priority("spec.ipv6NormalRoutePriority", spec.normal_priority_v6)?,
            ],
        })
    }
}

fn only_default(name: &str, spec: &Spec) -> Result<(), Invalid> {
    let set = [
        ("spec.nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled.is_some()),
        ("spec.asNumber", spec.as_number.is_some()),
        ("spec.nodeMeshPassword", spec.node_mesh_password.is_some()),
        ("spec.nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.is_some()),
    ];
    match set.iter().find(|(_, is_set)| *is_set && name != "default") {
        Some((field, _)) => {
            let mend = "it belongs to the BGPConfiguration named default";
            Err(Invalid::new(*field, format!("'{name}' cannot set it"), mend))
        }
        None => Ok(()),
    }
}

fn advertisements(
    named: &[NamedCommunity],
    list: Option<Vec<Advertisement>>,
) -> Result<Option<Vec<PrefixAdvertisement>>, Invalid> {
    const FIELD: &str = "spec.prefixAdvertisements";
    let mut values: BTreeMap<&str, Community> = BTreeMap::new();
    for one in named {
        let value = field::community("spec.communities", &one.value)?;
        values.entry(&one.name).or_insert(value);
    }
    let Some(list) = list else { return Ok(None) };
    let many = named.len() > ADVERTISEMENTS_MAX
        || list.len() > ADVERTISEMENTS_MAX
        || list.iter().any(|one| one.communities.len() > COMMUNITIES_MAX);
    if many {
        return Err(Invalid::new(FIELD, "too many", "500 at most, of 50 communities each"));
    }
    let community = |text: &String| match values.get(text.as_str()) {
        Some(value) => Ok(*value),
        None => text.parse().map_err(|_| {
            let mend = "the name of one in spec.communities, a:b or a:b:c";
            Invalid::new(FIELD, format!("'{text}' is no community"), mend)
        }),
    };
    let parsed = list.iter().map(|one| {
        let communities = one.communities.iter().map(community).collect::<Result<_, _>>()?;
        Ok(PrefixAdvertisement { cidr: field::range(FIELD, &one.cidr)?, communities })
    });
    parsed.collect::<Result<Vec<_>, Invalid>>().map(Some)
}

fn peering_address(field: &'static str, text: Option<String>) -> Result<Option<IpAddr>, Invalid> {
    let wants_v4 = field.ends_with('4');
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == wants_v4) {
        Some(address) => Ok(Some(address)),
        None => {
            let what = format!("'{text}' is no address of that family");
            Err(Invalid::new(field, what, "an address without prefix length"))
        }
    }
}

fn priority(field: &'static str, value: Option<u32>) -> Result<Option<u32>, Invalid> {
    match value {
        Some(value) if !(1..=2_147_483_646).contains(&value) => {
            Err(Invalid::new(field, format!("{value} is out of range"), "1 to 2147483646"))
        }
        value => Ok(value),
    }
}
