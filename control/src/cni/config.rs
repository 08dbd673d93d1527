//! The network's configuration on standard input, with the keys of Calico's conflist.
//!
//! Keys that mean nothing here are ignored, as Calico ignores them. `store_path` is margay's own:
//! the directory of `"datastore_type": "local"`.

use super::answer::{self, CniError};
use crate::config::{NODENAME_FILE, StoreConfig, StoreKind};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Versions of CNI whose calls are understood.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version of a configuration that names none.
const DEFAULT_VERSION: &str = "0.2.0";
/// MTU of pods where nothing says it.
const DEFAULT_MTU: u32 = 1500;

/// A network's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetConf {
    /// Version of CNI.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// Name of the network; handles begin with it.
    pub name: String,
    /// Which plugin takes addresses, and from where.
    pub ipam: IpamConf,
    /// MTU of pods in bytes; 0 takes the daemon's.
    pub mtu: u32,
    /// Fail where the daemon has not said the MTU.
    pub require_mtu_file: bool,
    /// Name of this node.
    pub nodename: String,
    /// Where else its name stands.
    pub nodename_file: String,
    /// Go on without that file.
    pub nodename_file_optional: bool,
    /// Name of this node, in old configurations.
    pub hostname: String,
    /// The lock that allocations of this host take.
    pub ipam_lock_file: String,
    /// `etcdv3`, `kubernetes` or `local`.
    pub datastore_type: String,
    /// The directory, if the datastore is one.
    pub store_path: PathBuf,
    /// URLs of etcd, by commas.
    pub etcd_endpoints: String,
    /// Key of the client's certificate.
    pub etcd_key_file: String,
    /// The client's certificate.
    pub etcd_cert_file: String,
    /// Authority of the members' certificates.
    pub etcd_ca_cert_file: String,
    /// Group of Calico's custom resources.
    pub calico_api_group: String,
    /// The orchestrator's part.
    pub kubernetes: Kubernetes,
    /// Settings inside of pods.
    pub container_settings: ContainerSettings,
    /// The attachments that there still are, for GC.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// Which plugin takes addresses, and from where.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct IpamConf {
    /// `calico-ipam`, or another plugin in `CNI_PATH`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `"true"` (the default) or `"false"`.
    pub assign_ipv4: Option<String>,
    /// `"true"` or `"false"` (the default).
    pub assign_ipv6: Option<String>,
    /// Pools by name or range.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
}

/// What the configuration says of Kubernetes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    /// The node's name there.
    pub node_name: String,
    /// kubectl's file.
    pub kubeconfig: String,
    /// URL of the API server.
    pub k8s_api_root: String,
}

/// Settings inside of pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerSettings {
    /// Pods may forward.
    pub allow_ip_forwarding: bool,
}

/// A container's device that is still in use.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Its device.
    pub ifname: String,
}

/// The version that a configuration asks for, whatever else it says.
pub fn version_of(stdin: &str) -> String {
    let conf: NetConf = serde_json::from_str(stdin).unwrap_or_default();
    match conf.cni_version.is_empty() {
        true => DEFAULT_VERSION.to_owned(),
        false => conf.cni_version,
    }
}

impl NetConf {
    /// The configuration that a runtime gives.
    pub fn parse(stdin: &str) -> Result<NetConf, CniError> {
        let decode = |error: serde_json::Error| {
            CniError::new(answer::BAD_JSON, format!("the network's configuration: {error}"))
        };
        let mut conf: NetConf = serde_json::from_str(stdin).map_err(decode)?;
        if conf.cni_version.is_empty() {
            conf.cni_version = DEFAULT_VERSION.to_owned();
        }
        if !VERSIONS.contains(&conf.cni_version.as_str()) {
            let what =
                format!("cniVersion {} is none of {}", conf.cni_version, VERSIONS.join(", "));
            return Err(CniError::new(answer::BAD_VERSION, what));
        }
        if conf.name.is_empty() {
            let what = "the network's configuration has no name".to_owned();
            return Err(CniError::new(answer::BAD_CONFIG, what));
        }
        Ok(conf)
    }

    /// The datastore.
    pub(super) fn store(&self) -> Result<StoreConfig, CniError> {
        let file = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let kind = match self.datastore_type.as_str() {
            "local" => StoreKind::Local,
            "etcdv3" => StoreKind::Etcd,
            "kubernetes" => StoreKind::Kubernetes,
            "" if !self.etcd_endpoints.is_empty() => StoreKind::Etcd,
            other => {
                let what = format!(
                    "datastore_type '{other}' is not supported: 'etcdv3' with etcd_endpoints, \
                     'kubernetes' with kubernetes.kubeconfig, or 'local' with store_path"
                );
                return Err(CniError::new(answer::BAD_CONFIG, what));
            }
        };
        let store = StoreConfig {
            kind,
            path: self.store_path.clone(),
            etcd_endpoints: self.etcd_endpoints.clone(),
            etcd_key_file: file(&self.etcd_key_file),
            etcd_cert_file: file(&self.etcd_cert_file),
            etcd_ca_cert_file: file(&self.etcd_ca_cert_file),
            kubeconfig: file(&self.kubernetes.kubeconfig),
            k8s_api_endpoint: self.kubernetes.k8s_api_root.clone(),
            calico_api_group: self.calico_api_group.clone(),
            ..StoreConfig::default()
        };
        let bad = |error| CniError::new(answer::BAD_CONFIG, format!("{error}"));
        store.check().map_err(bad).map(|()| store)
    }

    /// The node's name: the configuration's, the file's that the daemon wrote, an old key's, the
    /// system's.
    pub(super) fn node_name(&self) -> Result<String, CniError> {
        let given =
            [&self.nodename, &self.kubernetes.node_name].into_iter().find(|n| !n.is_empty());
        if let Some(name) = given {
            return Ok(name.clone());
        }
        let file = match self.nodename_file.is_empty() {
            true => NODENAME_FILE,
            false => &self.nodename_file,
        };
        match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            _ if self.nodename_file_optional || !self.hostname.is_empty() => {}
            outcome => {
                let why = outcome.err().map_or("it is empty".to_owned(), |error| error.to_string());
                let what = format!("{file}: {why}: is the node's daemon running?");
                return Err(CniError::new(answer::TRY_LATER, what));
            }
        }
        if !self.hostname.is_empty() {
            return Ok(self.hostname.clone());
        }
        let system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(system.trim().to_lowercase())
    }

    /// MTU of pods' devices, in bytes.
    pub(super) fn pod_mtu(&self) -> Result<u32, CniError> {
        if self.mtu != 0 {
            return Ok(self.mtu);
        }
        let file = Path::new(crate::config::MTU_FILE);
        let said = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        match said {
            Some(mtu) => Ok(mtu),
            None if self.require_mtu_file => {
                let what = format!("{} does not say the MTU", file.display());
                Err(CniError::new(answer::TRY_LATER, what))
            }
            None => Ok(DEFAULT_MTU),
        }
    }

    /// Whether pods get IPv4 addresses, and IPv6.
    pub(super) fn families(&self) -> [bool; 2] {
        let says = |text: &Option<String>, word| text.as_deref() == Some(word);
        [!says(&self.ipam.assign_ipv4, "false"), says(&self.ipam.assign_ipv6, "true")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflist_s_plugin_is_read() {
        let conf = NetConf::parse(
            r#"{"cniVersion": "0.3.1", "name": "k8s-pod-network", "type": "calico",
            "log_level": "info", "datastore_type": "etcdv3", "nodename": "n1",
            "etcd_endpoints": "http://10.0.0.1:2379", "mtu": 1440,
            "ipam": {"type": "calico-ipam", "assign_ipv6": "true", "ipv4_pools": ["p"]},
            "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "/etc/k"}}"#,
        )
        .unwrap();
        assert_eq!(conf.store().unwrap().kind, StoreKind::Etcd);
        assert_eq!((conf.node_name().unwrap().as_str(), conf.pod_mtu().unwrap()), ("n1", 1440));
        assert_eq!(conf.families(), [true, true]);
    }

    #[test]
    fn stores_that_are_not_there_are_refused() {
        let conf = |more: &str| {
            NetConf::parse(&format!(r#"{{"cniVersion": "1.0.0", "name": "n"{more}}}"#)).unwrap()
        };
        assert!(conf("").store().is_err());
        assert!(conf(r#", "datastore_type": "consul""#).store().is_err());
        let own = conf(r#", "datastore_type": "kubernetes", "kubernetes": {"kubeconfig": "/k"}"#);
        let store = own.store().unwrap();
        assert_eq!(store.kind, StoreKind::Kubernetes);
        assert_eq!(store.kubeconfig, Some("/k".into()));
        assert!(conf(r#", "datastore_type": "etcdv3""#).store().is_err());
        assert!(conf(r#", "nodename_file": "/does/not/exist""#).node_name().is_err());
        let old = conf(r#", "nodename_file": "/does/not/exist", "hostname": "h""#);
        assert_eq!(old.node_name().unwrap(), "h");
    }
}
