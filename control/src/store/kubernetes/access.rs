//! Where the API server is, and who we are there: kubectl's file, Calico's settings, or the service
//! account of the pod that this runs in.
//!
//! Calico's settings win over the file. Left out, with an error that says so: `auth-provider`, and
//! proxies.

use super::exec::Exec;
use super::tls;
use crate::config::StoreConfig;
use crate::store::datastore::StoreError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::ClientConfig;

/// Where Kubernetes puts a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API server, and how to be known there.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// Scheme, host and port, and a path that others' stand behind.
    pub(super) server: Uri,
    /// None for plain HTTP.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Name in the server's certificate, if it is not the host's.
    pub(super) server_name: Option<String>,
    pub(super) token: Token,
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// There is none.
    None,
    /// It never changes.
    Fixed(String),
    /// Kubernetes writes a new one from time to time.
    File(PathBuf),
    /// A program gives it.
    Exec(Exec),
}

/// What the settings come to, before files are read.
#[derive(Debug, Default)]
struct Wanted {
    server: String,
    authority: Option<Pem>,
    certificate: Option<Pem>,
    key: Option<Pem>,
    token: Option<Token>,
    insecure: bool,
    server_name: Option<String>,
}

#[derive(Debug)]
enum Pem {
    File(PathBuf),
    Base64(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
    contexts: Vec<Named<Context>>,
}

/// Its content stands under another key in each list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    content: Option<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

impl Access {
    /// Reads what the settings name.
    pub(super) fn new(config: &StoreConfig) -> Result<Access, StoreError> {
        let mut wanted = match (&config.kubeconfig, config.kubeconfig_inline.as_str()) {
            (_, text) if !text.is_empty() => {
                of_kubeconfig(text, "kubeconfigInline", Path::new(""), config)?
            }
            (Some(path), _) => {
                let text = read(path)?;
                let folder = path.parent().unwrap_or(Path::new(""));
                of_kubeconfig(&text, &path.display().to_string(), folder, config)?
            }
            (None, _) if config.k8s_api_endpoint.is_empty() => {
                of_pod(Path::new(ACCOUNT), &|name| {
                    std::env::var(name).ok().filter(|text| !text.is_empty())
                })?
            }
            (None, _) => Wanted::default(),
        };
        if !config.k8s_api_endpoint.is_empty() {
            wanted.server.clone_from(&config.k8s_api_endpoint);
        }
        for (file, place) in [
            (&config.k8s_ca_file, &mut wanted.authority),
            (&config.k8s_cert_file, &mut wanted.certificate),
            (&config.k8s_key_file, &mut wanted.key),
        ] {
            if let Some(file) = file {
                *place = Some(Pem::File(file.clone()));
            }
        }
        if !config.k8s_api_token.is_empty() {
            wanted.token = Some(Token::Fixed(config.k8s_api_token.clone()));
        }
        wanted.insecure |= config.k8s_insecure_skip_tls_verify;
        wanted.access()
    }
}

impl Wanted {
    fn access(self) -> Result<Access, StoreError> {
        let text = match self.server.contains("://") {
            true => self.server.clone(),
            false => format!("https://{}", self.server),
        };
        let server: Uri = text.parse().map_err(|error| {
            StoreError::Refused(format!("API server '{}': {error}", self.server))
        })?;
        let tls = match server.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let certificate = self.certificate.map(Pem::read).transpose()?;
                let key = self.key.map(Pem::read).transpose()?;
                let identity = match (certificate, key) {
                    (Some(certificate), Some(key)) => Some((certificate, key)),
                    (None, None) => None,
                    _ => {
                        let what = "a client certificate needs a key, and a key its certificate";
                        return Err(StoreError::Refused(what.to_owned()));
                    }
                };
                let authority = self.authority.map(Pem::read).transpose()?;
                Some(Arc::new(tls::config(authority, identity, self.insecure)?))
            }
            _ => {
                let what = format!("API server '{}': neither http:// nor https://", self.server);
                return Err(StoreError::Refused(what));
            }
        };
        let token = self.token.unwrap_or(Token::None);
        Ok(Access { server, tls, server_name: self.server_name, token })
    }
}

impl Pem {
    fn read(self) -> Result<Vec<u8>, StoreError> {
        match self {
            Pem::File(path) => std::fs::read(&path)
                .map_err(|error| StoreError::Refused(format!("{}: {error}", path.display()))),
            Pem::Base64(text) => STANDARD.decode(text.trim()).map_err(|error| {
                StoreError::Refused(format!("kubeconfig: a certificate or key: {error}"))
            }),
        }
    }
}

fn read(path: &Path) -> Result<String, StoreError> {
    std::fs::read_to_string(path)
        .map_err(|error| StoreError::Refused(format!("{}: {error}", path.display())))
}

/// The service account of the pod that this runs in.
fn of_pod(
    account: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Wanted, StoreError> {
    let host = environment("KUBERNETES_SERVICE_HOST");
    let port = environment("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let Some(host) = host else {
        let what = "no API server: set KUBECONFIG or K8S_API_ENDPOINT, or run in a pod";
        return Err(StoreError::Refused(what.to_owned()));
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(Wanted {
        server: format!("https://{host}:{port}"),
        authority: Some(Pem::File(account.join("ca.crt"))),
        token: Some(Token::File(account.join("token"))),
        ..Wanted::default()
    })
}

fn of_kubeconfig(
    text: &str,
    name: &str,
    folder: &Path,
    config: &StoreConfig,
) -> Result<Wanted, StoreError> {
    let refused = |what: String| StoreError::Refused(format!("{name}: {what}"));
    let kubeconfig: Kubeconfig = serde_saphyr::from_str(text)
        .map_err(|error| refused(crate::yaml::Fault::of(&error).what))?;
    let wanted = match config.k8s_current_context.as_str() {
        "" => &kubeconfig.current_context,
        name => name,
    };
    let missing = |kind: &str, name: &str| refused(format!("it has no {kind} '{name}'"));
    let context = find(kubeconfig.contexts, wanted).ok_or_else(|| missing("context", wanted))?;
    let cluster = find(kubeconfig.clusters, &context.cluster)
        .ok_or_else(|| missing("cluster", &context.cluster))?;
    let user = match context.user.as_str() {
        "" => User::default(),
        name => find(kubeconfig.users, name).ok_or_else(|| missing("user", name))?,
    };
    if cluster.proxy_url.is_some() {
        return Err(refused("proxy-url is not supported".to_owned()));
    }
    if user.auth_provider.is_some() {
        let what = format!(
            "user '{}' has an auth-provider, which is not supported: use exec, a token or a client \
             certificate",
            context.user
        );
        return Err(refused(what));
    }
    let exec = user.exec.map(|exec| Exec::of(exec, folder)).transpose();
    let exec = exec.map_err(|what| refused(format!("user '{}': {what}", context.user)))?;
    let pem = |data: Option<String>, file: Option<PathBuf>| match data {
        Some(data) => Some(Pem::Base64(data)),
        None => file.map(|file| Pem::File(folder.join(file))),
    };
    Ok(Wanted {
        server: cluster.server,
        authority: pem(cluster.certificate_authority_data, cluster.certificate_authority),
        certificate: pem(user.client_certificate_data, user.client_certificate),
        key: pem(user.client_key_data, user.client_key),
        token: user
            .token_file
            .map(|file| Token::File(folder.join(file)))
            .or(user.token.map(Token::Fixed))
            .or(exec.map(Token::Exec)),
        insecure: cluster.insecure_skip_tls_verify,
        server_name: cluster.tls_server_name,
    })
}

fn find<T>(list: Vec<Named<T>>, name: &str) -> Option<T> {
    list.into_iter().find(|entry| entry.name == name)?.content
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c1
  cluster: {server: 'http://10.0.0.1:8080/k8s/clusters/c-1', extensions: []}
- name: c2
  cluster: {server: 'http://10.0.0.2:8080', proxy-url: 'http://p'}
contexts:
- {name: one, context: {cluster: c1, user: u1, namespace: x}}
- {name: two, context: {cluster: c2, user: u1}}
- {name: three, context: {cluster: c1, user: u2}}
- {name: six, context: {cluster: c1, user: u3}}
- {name: four, context: {cluster: c1, user: nobody}}
users:
- {name: u1, user: {token: secret}}
- {name: u2, user: {auth-provider: {name: oidc}}}
- {name: u3, user: {exec: {command: gcloud}}}
";

    fn access(change: impl FnOnce(&mut StoreConfig)) -> Result<Access, StoreError> {
        let mut config = StoreConfig { kubeconfig_inline: FILE.into(), ..StoreConfig::default() };
        change(&mut config);
        Access::new(&config)
    }

    #[test]
    fn a_kubeconfig_names_server_and_user() {
        let own = access(|_| ()).unwrap();
        assert_eq!(own.server.to_string(), "http://10.0.0.1:8080/k8s/clusters/c-1");
        assert_eq!(own.token, Token::Fixed("secret".into()));
        let other = access(|config| {
            config.k8s_api_endpoint = "http://10.0.0.9:1".into();
            config.k8s_api_token = "other".into();
        });
        let other = other.unwrap();
        assert_eq!(other.server.to_string(), "http://10.0.0.9:1/", "settings win");
        assert_eq!(other.token, Token::Fixed("other".into()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (context, words) in [
            ("two", "proxy-url"),
            ("three", "auth-provider"),
            ("six", "user 'u3': exec.apiVersion"),
            ("four", "no user 'nobody'"),
            ("five", "no context 'five'"),
        ] {
            let error = access(|config| config.k8s_current_context = context.into()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let missing = StoreConfig { kubeconfig: Some("/no/file".into()), ..Default::default() };
        let error = Access::new(&missing).unwrap_err();
        assert!(error.to_string().contains("/no/file"), "{error}");
    }

    #[test]
    fn a_pod_has_its_service_account() {
        let environment = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            _ => None,
        };
        let wanted = of_pod(Path::new("/account"), &environment).unwrap();
        assert_eq!(wanted.server, "https://[fd00::1]:443");
        assert_eq!(wanted.token, Some(Token::File("/account/token".into())));
        let error = of_pod(Path::new("/account"), &|_| None).unwrap_err();
        assert!(error.to_string().contains("KUBECONFIG"), "{error}");
    }
}
