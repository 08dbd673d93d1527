//! Where `margay ctl` finds the datastore, and the resources that people give it.

use super::kinds::Kind;
use super::{Input, Scope};
use anyhow::{Context, Result, bail};
use margay_control::config::{Config, StoreConfig, StoreKind};
use margay_control::store::datastore::Document;
use margay_control::store::save;
use serde::Deserialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Where calicoctl has its settings.
const CALICOCTL: &str = "/etc/calico/calicoctl.cfg";

/// calicoctl's file of settings.
#[derive(Debug, Deserialize)]
struct ApiConfig {
    kind: String,
    #[serde(default)]
    spec: ApiSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct ApiSpec {
    datastore_type: Option<String>,
    etcd_endpoints: String,
    etcd_username: String,
    etcd_password: String,
    etcd_key_file: Option<PathBuf>,
    etcd_cert_file: Option<PathBuf>,
    #[serde(rename = "etcdCACertFile")]
    etcd_ca_cert_file: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    kubeconfig_inline: String,
    k8s_current_context: String,
    #[serde(rename = "k8sAPIEndpoint")]
    k8s_api_endpoint: String,
    k8s_key_file: Option<PathBuf>,
    k8s_cert_file: Option<PathBuf>,
    #[serde(rename = "k8sCAFile")]
    k8s_ca_file: Option<PathBuf>,
    #[serde(rename = "k8sAPIToken")]
    k8s_api_token: String,
    #[serde(rename = "k8sInsecureSkipTLSVerify")]
    k8s_insecure_skip_tls_verify: bool,
    #[serde(rename = "calicoAPIGroup")]
    calico_api_group: String,
    /// How fast Kubernetes may be asked: nothing here asks it that fast.
    #[serde(rename = "k8sClientQPS")]
    _k8s_client_qps: Option<f64>,
    #[serde(rename = "k8sClientBurst")]
    _k8s_client_burst: Option<u32>,
    // Not supported: an error says so.
    etcd_discovery_srv: String,
    etcd_key: String,
    etcd_cert: String,
    #[serde(rename = "etcdCACert")]
    etcd_ca_cert: String,
    #[serde(rename = "usePodCIDR", alias = "usePodCidr")]
    use_pod_cidr: bool,
}

/// The datastore: a flag, else calicoctl's file or the daemon's, and Calico's variables over it.
pub(super) fn config(file: Option<&Path>, directory: Option<PathBuf>) -> Result<StoreConfig> {
    if let Some(path) = directory {
        return Ok(StoreConfig { kind: StoreKind::Local, path, ..StoreConfig::default() });
    }
    let calicoctl = Path::new(CALICOCTL);
    let file = file.or_else(|| calicoctl.exists().then_some(calicoctl));
    let variable = |name: &str| std::env::var(name).ok();
    let mut store = match file {
        Some(file) => read(file)?,
        None => Config::load(None, &|_| None, |_| ())?.store,
    };
    store.apply(&variable)?;
    store.check()?;
    Ok(store)
}

fn read(file: &Path) -> Result<StoreConfig> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let config: ApiConfig =
        serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
    if config.kind != "CalicoAPIConfig" {
        bail!("{}: its kind is '{}', not CalicoAPIConfig", file.display(), config.kind);
    }
    let spec = config.spec;
    for (name, is_set) in [
        ("etcdDiscoverySrv", !spec.etcd_discovery_srv.is_empty()),
        ("etcdKey", !spec.etcd_key.is_empty()),
        ("etcdCert", !spec.etcd_cert.is_empty()),
        ("etcdCACert", !spec.etcd_ca_cert.is_empty()),
        ("usePodCIDR", spec.use_pod_cidr),
    ] {
        if is_set {
            bail!("{}: spec.{name} is not supported", file.display());
        }
    }
    let kind = match spec.datastore_type.as_deref() {
        Some("etcdv3") => StoreKind::Etcd,
        Some("kubernetes") => StoreKind::Kubernetes,
        None if !spec.etcd_endpoints.is_empty() => StoreKind::Etcd,
        None if spec.kubeconfig.is_some() || !spec.kubeconfig_inline.is_empty() => {
            StoreKind::Kubernetes
        }
        None | Some("local") => StoreKind::Local,
        Some(other) => bail!(
            "{}: datastoreType '{other}' is not supported\nhint: etcdv3 or kubernetes",
            file.display()
        ),
    };
    Ok(StoreConfig {
        kind,
        etcd_endpoints: spec.etcd_endpoints,
        etcd_username: spec.etcd_username,
        etcd_password: spec.etcd_password,
        etcd_key_file: spec.etcd_key_file,
        etcd_cert_file: spec.etcd_cert_file,
        etcd_ca_cert_file: spec.etcd_ca_cert_file,
        kubeconfig: spec.kubeconfig,
        kubeconfig_inline: spec.kubeconfig_inline,
        k8s_current_context: spec.k8s_current_context,
        k8s_api_endpoint: spec.k8s_api_endpoint,
        k8s_key_file: spec.k8s_key_file,
        k8s_cert_file: spec.k8s_cert_file,
        k8s_ca_file: spec.k8s_ca_file,
        k8s_api_token: spec.k8s_api_token,
        k8s_insecure_skip_tls_verify: spec.k8s_insecure_skip_tls_verify,
        calico_api_group: spec.calico_api_group,
        ..StoreConfig::default()
    })
}

/// What a file says, or for `-` standard input.
pub(super) fn text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return Ok(std::io::read_to_string(std::io::stdin())?);
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

impl Input {
    /// The resources in the files, each of a kind that is known, in their namespaces.
    pub(super) fn documents(&self, scope: &Scope) -> Result<Vec<Document>> {
        let Some(path) = &self.filename else { bail!("no resources: name a file with -f") };
        let mut found = Vec::new();
        match path != Path::new("-") && path.is_dir() {
            true => {
                for file in files(path, self.recursive)? {
                    let text = std::fs::read_to_string(&file)?;
                    found.extend(parse(&file.display().to_string(), &text)?);
                }
            }
            false => found = parse(&path.display().to_string(), &text(path)?)?,
        }
        if found.is_empty() && !self.skip_empty {
            bail!("no resources specified in file {}", path.display());
        }
        found.into_iter().map(|document| placed(document, scope)).collect()
    }
}

fn parse(name: &str, text: &str) -> Result<Vec<Document>> {
    save::parse(name, text).map_err(|fault| anyhow::anyhow!("{fault}"))
}

/// The document under its kind's own name and in a namespace, if it is to have one.
fn placed(mut document: Document, scope: &Scope) -> Result<Document> {
    let Some(kind) = Kind::named(&document.key.kind).filter(|kind| kind.name == document.key.kind)
    else {
        bail!("resource type '{}' is not supported", document.key.kind);
    };
    if kind.namespaced && document.key.namespace.is_empty() {
        document.key.namespace = scope.namespace().to_owned();
        if let Some(metadata) = document.value.get_mut("metadata") {
            metadata["namespace"] = json!(scope.namespace());
        }
    }
    Ok(document)
}

fn files(folder: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let named = path.extension().and_then(|end| end.to_str());
        if path.is_dir() && recursive {
            found.extend(files(&path, recursive)?);
        } else if path.is_file() && matches!(named, Some("yaml" | "yml" | "json")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
