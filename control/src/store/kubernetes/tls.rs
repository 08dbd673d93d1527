//! TLS to the API server: its authority, our certificate, and HTTP/2 where the server has it.

use crate::store::datastore::StoreError;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// Settings from PEM: the authority (the system's without it), the client's certificate and key.
pub(super) fn config(
    authority: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    insecure: bool,
) -> Result<ClientConfig, StoreError> {
    let refused = |what: String| StoreError::Refused(format!("TLS: {what}"));
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?;
    let builder = match insecure {
        true => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TakesAny { provider }))
        }
        false => builder.with_root_certificates(roots(authority)?),
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| refused(format!("the client's key: {error}")))?;
            let chain = certificates(&certificate, "the client's certificate")?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| refused(format!("the client's certificate: {error}")))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(authority: Option<Vec<u8>>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    match authority {
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
        Some(pem) => {
            for certificate in certificates(&pem, "the authority")? {
                let refused = |error| StoreError::Refused(format!("TLS: the authority: {error}"));
                roots.add(certificate).map_err(refused)?;
            }
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let refused = |why: String| StoreError::Refused(format!("TLS: {what}: {why}"));
    let found = found.map_err(|error| refused(error.to_string()))?;
    match found.is_empty() {
        true => Err(refused("there is no certificate in it".to_owned())),
        false => Ok(found),
    }
}

/// For `insecure-skip-tls-verify`: the connection is secret, but nobody knows who is at its end.
#[derive(Debug)]
struct TakesAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
