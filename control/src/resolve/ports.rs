//! Which devices margay should have ports on.

use crate::config::Config;
use crate::model::Model;
use crate::resource::workload_endpoint::Attachment;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a port is for, and how it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortKind {
    /// AF_XDP on a device towards other networks.
    Uplink,
    /// AF_XDP on the host side of a pod's veth pair.
    Veth,
    /// tc and a TAP on the host side of a pod's veth pair.
    Tc,
    /// A TAP with its device in a pod's namespace.
    Tap {
        /// Path of the namespace.
        netns: PathBuf,
        /// Name of the device there.
        device: String,
    },
    /// The TAP to the host's stack.
    Host,
}

impl PortKind {
    /// True when a pod is behind the port.
    pub fn is_workload(&self) -> bool {
        matches!(self, PortKind::Veth | PortKind::Tc | PortKind::Tap { .. })
    }

    /// True when the port sits on a device of this namespace that others make.
    pub fn is_device(&self) -> bool {
        matches!(self, PortKind::Uplink | PortKind::Veth | PortKind::Tc)
    }
}

/// The ports that should be, by name: uplinks and the host's TAP by their device, pods by the
/// interface name of their endpoint.
pub fn wanted(config: &Config, model: &Model) -> BTreeMap<Arc<str>, PortKind> {
    let mut ports: BTreeMap<Arc<str>, PortKind> = BTreeMap::new();
    for (_, endpoint) in model.local_endpoints(&config.node_name) {
        let kind = match &endpoint.attachment {
            Attachment::Veth => PortKind::Veth,
            Attachment::Tc => PortKind::Tc,
            Attachment::Tap { netns, device } => {
                PortKind::Tap { netns: netns.clone(), device: device.clone() }
            }
        };
        ports.insert(endpoint.interface.as_str().into(), kind);
    }
    for uplink in &config.uplinks {
        ports.insert(uplink.as_str().into(), PortKind::Uplink);
    }
    ports.insert(config.host_device.as_str().into(), PortKind::Host);
    ports
}
