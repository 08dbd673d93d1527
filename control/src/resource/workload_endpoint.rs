//! WorkloadEndpoint: a pod's interface, its addresses, and how margay attaches it.
//!
//! Two annotations are margay's own: `margay.io/attachment: veth | tc | tap` (default veth) and,
//! for TAPs, `margay.io/netns` with the path of the pod's namespace (device `margay.io/device`,
//! default `eth0`).

use super::policy::places::{self, PortSpec};
use super::qos::{Qos, QosControls};
use super::{Invalid, Metadata, Object};
use crate::config::DEVICE_NAME_MAX;
use ipnet::IpNet;
use margay_acl::model::{Endpoint, NamedPort, Place};
use margay_tunnels::wire::ethernet::Mac;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// A pod's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// Node that it runs on.
    pub node: String,
    /// Name of its pod, for people; empty when it is of another orchestrator.
    pub pod: String,
    /// Host-side device; for TAPs the name of the port only.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Link address inside the pod, if the resource says it.
    pub mac: Option<Mac>,
    /// How it is attached.
    pub attachment: Attachment,
    /// Its own labels, which selectors see.
    pub labels: BTreeMap<String, String>,
    /// What policy sees beside them.
    pub policed: Policed,
    /// What it may send and receive.
    pub qos: Qos,
    /// What of that could not be taken as it stands.
    pub qos_warnings: Vec<String>,
}

/// What of an endpoint only policy cares for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policed {
    /// Who made it, such as `k8s`.
    pub orchestrator: Option<String>,
    /// Its service account.
    pub service_account: Option<String>,
    /// Its profiles, in order; `None` where the resource has no such list.
    pub profiles: Option<Vec<String>>,
    /// Ports that rules can name.
    pub ports: Vec<NamedPort>,
    /// Sources that it may send from beside its own addresses, where that is allowed at all.
    pub spoofed_sources: Vec<IpNet>,
}

/// How a pod is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Attachment {
    /// By AF_XDP on the host side of its veth pair.
    #[default]
    Veth,
    /// By tc on the host side of its veth pair, with packets left whole.
    Tc,
    /// By a TAP whose device is in the pod's namespace.
    Tap {
        /// Path of the namespace.
        netns: PathBuf,
        /// Name of the device there.
        device: String,
    },
}

impl Attachment {
    /// Whether the pod has a veth pair, which is there without margay too.
    pub fn is_veth(&self) -> bool {
        matches!(self, Attachment::Veth | Attachment::Tc)
    }

    /// Its name, as the annotation has it.
    pub fn name(&self) -> &'static str {
        match self {
            Attachment::Veth => "veth",
            Attachment::Tc => "tc",
            Attachment::Tap { .. } => "tap",
        }
    }
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    node: String,
    pod: Option<String>,
    workload: Option<String>,
    interface_name: String,
    ip_networks: Option<Vec<String>>,
    mac: Option<String>,
    orchestrator: Option<String>,
    service_account_name: Option<String>,
    profiles: Option<Vec<String>>,
    ports: Option<Vec<PortSpec>>,
    allow_spoofed_source_prefixes: Option<Vec<String>>,
    qos_controls: Option<QosControls>,
}

/// Most addresses of one endpoint.
pub const ADDRESSES_MAX: usize = 64;

impl TryFrom<Object<Spec>> for WorkloadEndpoint {
    type Error = Invalid;

    fn try_from(object: Object<Spec>) -> Result<WorkloadEndpoint, Invalid> {
        super::check_name(&object.metadata.name)?;
        let spec = object.spec;
        if spec.node.is_empty() {
            return Err(Invalid::new("spec.node", "it is missing", "the name of a node"));
        }
        check_interface("spec.interfaceName", &spec.interface_name)?;
        let networks = spec.ip_networks.unwrap_or_default();
        if networks.len() > ADDRESSES_MAX {
            let what = format!("{} addresses", networks.len());
            return Err(Invalid::new("spec.ipNetworks", what, "at most 64"));
        }
        let mac = match spec.mac.filter(|text| !text.is_empty()) {
            Some(text) => Some(text.to_lowercase().parse().map_err(|()| {
                let what = format!("'{text}' is no link address");
                Invalid::new("spec.mac", what, "six octets such as ee:ee:ee:ee:ee:ee")
            })?),
            None => None,
        };
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let (qos, qos_warnings) = Qos::new(&spec.qos_controls.unwrap_or_default(), &annotations);
        Ok(WorkloadEndpoint {
            qos,
            qos_warnings,
            attachment: attachment(&object.metadata)?,
            node: spec.node,
            pod: spec.pod.or(spec.workload).unwrap_or_default(),
            interface: spec.interface_name,
            addresses: networks.iter().map(|text| address(text)).collect::<Result<_, _>>()?,
            mac,
            labels: object.metadata.labels.unwrap_or_default(),
            policed: Policed {
                orchestrator: spec.orchestrator,
                service_account: spec.service_account_name,
                profiles: spec.profiles,
                ports: places::ports(&spec.ports.unwrap_or_default())?,
                spoofed_sources: places::ranges(
                    "spec.allowSpoofedSourcePrefixes",
                    &spec.allow_spoofed_source_prefixes.unwrap_or_default(),
                )?,
            },
        })
    }
}

impl WorkloadEndpoint {
    /// As policy on a node sees it. A pod of Kubernetes whose resource names no profiles has its
    /// namespace's all the same, as every pod has there.
    pub fn member(&self, namespace: &str, node: &str) -> Endpoint {
        let Policed { orchestrator, service_account, profiles, ports, .. } = &self.policed;
        let is_kubernetes = orchestrator.as_deref().is_none_or(|name| name == "k8s");
        let profiles = profiles.clone().unwrap_or_else(|| {
            is_kubernetes.then(|| format!("kns.{namespace}")).into_iter().collect()
        });
        let (orchestrator, account) = (orchestrator.as_deref(), service_account.as_deref());
        Endpoint {
            labels: places::workload_labels(namespace, &self.labels, orchestrator, account),
            addresses: self.addresses.clone(),
            ports: ports.clone(),
            profiles,
            place: if self.node == node { Place::Workload } else { Place::Elsewhere },
        }
    }
}

fn address(text: &str) -> Result<IpAddr, Invalid> {
    let bad = |what| Invalid::new("spec.ipNetworks", what, "a single address: /32, IPv6 /128");
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address);
    }
    let net: IpNet = text.parse().map_err(|_| bad(format!("'{text}' is no address")))?;
    match net.prefix_len() == net.max_prefix_len() {
        true => Ok(net.addr()),
        false => Err(bad(format!("{net} is more than one address"))),
    }
}

fn attachment(metadata: &Metadata) -> Result<Attachment, Invalid> {
    let field = "metadata.annotations[margay.io/attachment]";
    match metadata.annotation("margay.io/attachment") {
        None | Some("veth") => Ok(Attachment::Veth),
        Some("tc") => Ok(Attachment::Tc),
        Some("tap") => {
            let netns = metadata.annotation("margay.io/netns").ok_or_else(|| {
                let mend = "a path such as /run/netns/NAME";
                Invalid::new("metadata.annotations[margay.io/netns]", "it is missing", mend)
            })?;
            let device = metadata.annotation("margay.io/device").unwrap_or("eth0").to_owned();
            check_interface("metadata.annotations[margay.io/device]", &device)?;
            Ok(Attachment::Tap { netns: netns.into(), device })
        }
        Some(other) => {
            Err(Invalid::new(field, format!("'{other}' is no attachment"), "veth, tc or tap"))
        }
    }
}

fn check_interface(field: &'static str, name: &str) -> Result<(), Invalid> {
    let mend = "1 to 15 bytes without '/', ':' and spaces";
    if name.is_empty() || name.len() > DEVICE_NAME_MAX || name.contains(['/', ' ', ':']) {
        return Err(Invalid::new(field, format!("'{name}' cannot name a device"), mend));
    }
    Ok(())
}
