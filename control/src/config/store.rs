//! Kind and place of the datastore.
//!
//! Settings of etcd and of Kubernetes have the names that Calico's own files give them, and its
//! variables (`ETCD_ENDPOINTS`, `KUBECONFIG` and the like, also with `CALICO_` or `FELIX_` before
//! them). Where endpoints of etcd are given and no kind is, the store is etcd, as with Calico.

use super::ConfigError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Kind and place of the datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct StoreConfig {
    /// A directory, etcd, or Kubernetes.
    #[serde(rename = "type", alias = "datastoreType")]
    pub kind: StoreKind,
    /// The directory.
    pub path: PathBuf,
    /// URLs of etcd's members, by commas.
    pub etcd_endpoints: String,
    /// User of etcd; empty for none.
    pub etcd_username: String,
    /// The user's password.
    #[serde(skip_serializing)]
    pub etcd_password: String,
    /// Key of the client's certificate (PEM).
    pub etcd_key_file: Option<PathBuf>,
    /// The client's certificate (PEM).
    pub etcd_cert_file: Option<PathBuf>,
    /// Authority that the members' certificates are checked with (PEM); the system's without it.
    #[serde(rename = "etcdCACertFile")]
    pub etcd_ca_cert_file: Option<PathBuf>,
    /// kubectl's file: the API server, and who we are there. Without it and an endpoint, the
    /// service account of the pod that this runs in counts.
    pub kubeconfig: Option<PathBuf>,
    /// That file's text, instead of its name.
    #[serde(skip_serializing)]
    pub kubeconfig_inline: String,
    /// Context of that file; empty for its current one.
    pub k8s_current_context: String,
    /// URL of the API server; wins over the file's.
    #[serde(rename = "k8sAPIEndpoint")]
    pub k8s_api_endpoint: String,
    /// Key of the client's certificate (PEM).
    pub k8s_key_file: Option<PathBuf>,
    /// The client's certificate (PEM).
    pub k8s_cert_file: Option<PathBuf>,
    /// Authority that the API server's certificate is checked with (PEM).
    #[serde(rename = "k8sCAFile")]
    pub k8s_ca_file: Option<PathBuf>,
    /// Bearer token.
    #[serde(rename = "k8sAPIToken", skip_serializing)]
    pub k8s_api_token: String,
    /// Take any certificate of the API server.
    #[serde(rename = "k8sInsecureSkipTLSVerify")]
    pub k8s_insecure_skip_tls_verify: bool,
    /// Group of Calico's custom resources, `crd.projectcalico.org/v1` or `projectcalico.org/v3`;
    /// empty for the one that is served.
    #[serde(rename = "calicoAPIGroup")]
    pub calico_api_group: String,
    /// Namespaces of Kubernetes that have Secrets with BGP's passwords; set from BGP's settings.
    #[serde(skip)]
    pub secret_namespaces: Vec<String>,
}

/// Namespaces that calico-node runs in, as Calico's operator and its manifests have it.
pub(crate) const SECRET_NAMESPACES: [&str; 2] = ["calico-system", "kube-system"];
/// Groups that Calico's custom resources may be in.
pub(crate) const CALICO_GROUPS: [&str; 2] = ["crd.projectcalico.org/v1", "projectcalico.org/v3"];

/// Kinds of datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreKind {
    /// A directory of Calico YAML or JSON, watched live.
    #[default]
    Local,
    /// etcd v3.
    #[serde(rename = "etcdv3", alias = "etcd")]
    Etcd,
    /// The API server of Kubernetes.
    Kubernetes,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            kind: StoreKind::Local,
            path: "/etc/margay/store".into(),
            etcd_endpoints: String::new(),
            etcd_username: String::new(),
            etcd_password: String::new(),
            etcd_key_file: None,
            etcd_cert_file: None,
            etcd_ca_cert_file: None,
            kubeconfig: None,
            kubeconfig_inline: String::new(),
            k8s_current_context: String::new(),
            k8s_api_endpoint: String::new(),
            k8s_key_file: None,
            k8s_cert_file: None,
            k8s_ca_file: None,
            k8s_api_token: String::new(),
            k8s_insecure_skip_tls_verify: false,
            calico_api_group: String::new(),
            secret_namespaces: SECRET_NAMESPACES.map(str::to_owned).to_vec(),
        }
    }
}

impl StoreConfig {
    /// The URLs of etcd's members, one by one.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.etcd_endpoints.split(',').map(str::trim).filter(|name| !name.is_empty())
    }

    /// Lets Calico's variables override what the file says.
    pub fn apply(
        &mut self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let text = |name: &str| {
            let names = [format!("CALICO_{name}"), name.to_owned(), format!("FELIX_{name}")];
            let felix = format!("FELIX_{}", name.replace('_', ""));
            let mut names = names.into_iter().chain([felix]);
            names.find_map(|name| environment(&name).filter(|value| !value.is_empty()))
        };
        if text("ETCD_DISCOVERY_SRV").is_some() {
            let hint = "name the members in ETCD_ENDPOINTS";
            return Err(ConfigError::new("ETCD_DISCOVERY_SRV", "it is not supported", hint));
        }
        for (name, setting) in [
            ("ETCD_ENDPOINTS", &mut self.etcd_endpoints),
            ("ETCD_USERNAME", &mut self.etcd_username),
            ("ETCD_PASSWORD", &mut self.etcd_password),
            ("K8S_CURRENT_CONTEXT", &mut self.k8s_current_context),
            ("K8S_API_ENDPOINT", &mut self.k8s_api_endpoint),
            ("K8S_API_TOKEN", &mut self.k8s_api_token),
            ("CALICO_API_GROUP", &mut self.calico_api_group),
        ] {
            if let Some(value) = text(name) {
                *setting = value;
            }
        }
        for (names, setting) in [
            (["ETCD_KEY_FILE", "ETCD_KEY_FILE"], &mut self.etcd_key_file),
            (["ETCD_CERT_FILE", "ETCD_CERT_FILE"], &mut self.etcd_cert_file),
            (["ETCD_CA_CERT_FILE", "ETCD_CA_FILE"], &mut self.etcd_ca_cert_file),
            (["KUBECONFIG", "KUBECONFIG"], &mut self.kubeconfig),
            (["K8S_KEY_FILE", "K8S_KEY_FILE"], &mut self.k8s_key_file),
            (["K8S_CERT_FILE", "K8S_CERT_FILE"], &mut self.k8s_cert_file),
            (["K8S_CA_FILE", "K8S_CA_FILE"], &mut self.k8s_ca_file),
        ] {
            if let Some(file) = names.into_iter().find_map(text) {
                *setting = Some(file.into());
            }
        }
        if let Some(insecure) = text("K8S_INSECURE_SKIP_TLS_VERIFY") {
            self.k8s_insecure_skip_tls_verify = insecure == "true";
        }
        match text("DATASTORE_TYPE").as_deref() {
            Some("local") => self.kind = StoreKind::Local,
            Some("etcdv3") => self.kind = StoreKind::Etcd,
            Some("kubernetes") => self.kind = StoreKind::Kubernetes,
            None if text("ETCD_ENDPOINTS").is_some() => self.kind = StoreKind::Etcd,
            None => {}
            Some(kind) => {
                let what = format!("datastore '{kind}' is not supported");
                let hint = "'etcdv3' with ETCD_ENDPOINTS, 'kubernetes' with KUBECONFIG, or 'local' \
                            with the directory as store.path or --store";
                return Err(ConfigError::new("DATASTORE_TYPE", what, hint));
            }
        }
        Ok(())
    }

    /// Checks what single fields cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.kind {
            StoreKind::Local => Ok(()),
            StoreKind::Etcd => self.check_etcd(),
            StoreKind::Kubernetes => self.check_kubernetes(),
        }
    }

    fn check_kubernetes(&self) -> Result<(), ConfigError> {
        let group = self.calico_api_group.as_str();
        if !group.is_empty() && !CALICO_GROUPS.contains(&group) {
            let what = format!("'{group}' is no group of Calico's");
            let hint = "crd.projectcalico.org/v1 or projectcalico.org/v3, or leave it out";
            return Err(ConfigError::new("store.calicoAPIGroup", what, hint));
        }
        match self.k8s_key_file.is_some() == self.k8s_cert_file.is_some() {
            true => Ok(()),
            false => {
                let what = "a client certificate and its key come together";
                let hint = "set both k8sCertFile and k8sKeyFile, or none";
                Err(ConfigError::new("store.k8sCertFile", what, hint))
            }
        }
    }

    fn check_etcd(&self) -> Result<(), ConfigError> {
        let place = "store.etcdEndpoints";
        let hint = "URLs such as https://10.0.0.1:2379,https://10.0.0.2:2379";
        let mut endpoints = self.endpoints().peekable();
        if endpoints.peek().is_none() {
            return Err(ConfigError::new(place, "no endpoints of etcd", hint));
        }
        let is_url = |name: &&str| name.starts_with("http://") || name.starts_with("https://");
        if let Some(bad) = endpoints.find(|name| !is_url(name)) {
            return Err(ConfigError::new(place, format!("'{bad}' is no URL"), hint));
        }
        match self.etcd_key_file.is_some() == self.etcd_cert_file.is_some() {
            true => Ok(()),
            false => {
                let what = "a client certificate and its key come together";
                let hint = "set both etcdCertFile and etcdKeyFile, or none";
                Err(ConfigError::new("store.etcdCertFile", what, hint))
            }
        }
    }
}
