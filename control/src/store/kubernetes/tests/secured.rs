//! TLS to the server: who is at the other end is checked, certificates of clients are shown, and
//! HTTP/2 carries everything over one connection.

use super::*;
use crate::scratch;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;

/// Ends TLS in front of a server that has none; counts connections.
async fn front(folder: &Path, to: std::net::SocketAddr, http2: bool) -> (u16, Arc<AtomicUsize>) {
    let chain = |name: &str| -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_file_iter(folder.join(name)).unwrap();
        certificates.map(Result::unwrap).collect()
    };
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(chain("ca.pem").remove(0)).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain("server.pem"), key)
        .unwrap();
    if http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                counted.fetch_add(1, Ordering::Relaxed);
                let Ok(mut far) = tokio::net::TcpStream::connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, count)
}

/// A kubeconfig with everything in it, as clusters give it to people.
fn kubeconfig(folder: &Path, port: u16) -> String {
    let data = |name: &str| {
        use base64::Engine;
        let bytes = std::fs::read(folder.join(name)).unwrap();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": data("ca.pem")}}],
        "users": [{"name": "u", "user": {"client-certificate-data": data("client.pem"),
            "client-key": "client.key"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_on_both_sides() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    let folder = scratch::Directory::new("kubernetes-tls");
    let made = crate::store::tests::certificates(folder.path());
    assert!(made, "openssl made no certificates");
    for http2 in [false, true] {
        let cluster = Cluster::start();
        let (port, connections) = front(folder.path(), cluster.address, http2).await;
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(folder.path(), port)).unwrap();
        let config = StoreConfig {
            kind: StoreKind::Kubernetes,
            kubeconfig: Some(path),
            ..StoreConfig::default()
        };
        let store = Kubernetes::new(&config).unwrap();
        contract::reads_and_writes_of(&store, &HOSTS).await;
        let mut seen = Seen::start(store.watch());
        seen.until(|seen| seen.known).await;
        if http2 {
            assert_eq!(connections.load(Ordering::Relaxed), 1, "all share one");
        }
        // Once for the server's certificate, once for ours: both can be left out or be refused.
        let open = StoreConfig {
            k8s_api_endpoint: format!("https://127.0.0.1:{port}"),
            kubeconfig: None,
            ..config.clone()
        };
        let file = |name: &str| Some(folder.path().join(name));
        let own = |config: StoreConfig| StoreConfig {
            k8s_cert_file: file("client.pem"),
            k8s_key_file: file("client.key"),
            ..config
        };
        let any = StoreConfig { k8s_insecure_skip_tls_verify: true, ..open.clone() };
        let taken = Kubernetes::new(&own(any.clone())).unwrap();
        taken.list("Namespace").await.unwrap();
        for refused in [own(open.clone()), any] {
            let refused = Kubernetes::new(&refused).unwrap();
            let limit = std::time::Duration::from_secs(2);
            let outcome = tokio::time::timeout(limit, refused.list("Namespace")).await;
            assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
        }
    }
}
