//! Calls to a cluster of etcd: several endpoints, TLS, a user's token, and what to do when one
//! member does not answer.
//!
//! A call goes to the endpoint that answered last, and on to the next one when it fails. A write
//! that failed may have been done all the same: who writes again is told so ([`Answer::repeated`]).

use super::message::{
    AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse, WatchRequest, WatchResponse,
};
use crate::config::StoreConfig;
use crate::store::datastore::StoreError;
use axum::http::uri::PathAndQuery;
use futures::StreamExt;
use prost::Message;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Longest wait for a connection.
const DIAL: Duration = Duration::from_secs(10);
/// Time between two signs of life on a connection, and the wait for an answer to one.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A call is tried again for so long.
const RETRY: Duration = Duration::from_secs(15);
/// Waits before the second try of all endpoints, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Largest answer, in bytes.
const ANSWER_MAX: usize = 256 << 20;

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// The endpoints, and who we are.
#[derive(Debug)]
pub(super) struct Connection {
    channels: Vec<(String, Channel)>,
    current: AtomicUsize,
    user: Option<(String, String)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

/// An answer to a write.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) message: T,
    /// An earlier try may have been done already.
    pub(super) repeated: bool,
}

impl Connection {
    /// Does not connect yet. Needs a runtime.
    pub(super) fn new(config: &StoreConfig) -> Result<Connection, StoreError> {
        let refused = |what: String| StoreError::Refused(what);
        let tls = tls(config)?;
        let mut channels = Vec::new();
        for name in config.endpoints() {
            let bad = |error: &dyn std::fmt::Display| refused(format!("endpoint {name}: {error}"));
            let mut endpoint = Endpoint::from_shared(name.to_owned())
                .map_err(|error| bad(&error))?
                .connect_timeout(DIAL)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEPALIVE.0)
                .keep_alive_timeout(KEEPALIVE.1)
                .keep_alive_while_idle(true);
            if name.starts_with("https://") {
                endpoint = endpoint.tls_config(tls.clone()).map_err(|error| bad(&error))?;
            }
            channels.push((name.to_owned(), endpoint.connect_lazy()));
        }
        if channels.is_empty() {
            return Err(refused("no endpoints of etcd: set ETCD_ENDPOINTS".to_owned()));
        }
        let user = (!config.etcd_username.is_empty())
            .then(|| (config.etcd_username.clone(), config.etcd_password.clone()));
        let (current, token) = (AtomicUsize::new(0), Mutex::new(None));
        Ok(Connection { channels, current, user, token })
    }

    /// Reads keys.
    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.call(RANGE, request).await.map(|answer| answer.message)
    }

    /// Compares and writes.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<Answer<TxnResponse>, StoreError> {
        self.call(TXN, request).await
    }

    /// Opens watches at the current endpoint; an error moves on to the next one.
    pub(super) async fn watch(
        &self,
        creates: Vec<WatchRequest>,
    ) -> Result<Streaming<WatchResponse>, StoreError> {
        let at = self.current.load(Ordering::Relaxed);
        let open = async {
            let mut grpc = self.ready(at).await?;
            // Requests end only with the watch itself.
            let requests = futures::stream::iter(creates.clone()).chain(futures::stream::pending());
            let mut request = Request::new(requests);
            self.sign(request.metadata_mut()).await?;
            // A member that has lost its leader ends the watch instead of falling silent.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
            grpc.streaming(request, PathAndQuery::from_static(WATCH), ProstCodec::default()).await
        };
        match timed(open).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => {
                self.failed(at, &status);
                Err(self.error(at, &status))
            }
        }
    }

    /// Leaves the endpoint whose watch has ended.
    pub(super) fn watch_ended(&self, status: &Status) -> StoreError {
        let at = self.current.load(Ordering::Relaxed);
        self.failed(at, status);
        self.error(at, status)
    }

    pub(super) async fn call<Q, A>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<Answer<A>, StoreError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let (begin, mut wait, mut repeated) = (Instant::now(), BACKOFF.0, false);
        for attempt in 1.. {
            let at = self.current.load(Ordering::Relaxed);
            let status = match timed(self.unary(at, path, request.clone(), true)).await {
                Ok(message) => return Ok(Answer { message, repeated }),
                Err(status) => status,
            };
            repeated |= may_be_done(&status);
            let fresh_token = status.code() == Code::Unauthenticated && self.user.is_some();
            self.failed(at, &status);
            let hopeless = !(is_temporary(&status) || fresh_token && attempt == 1);
            if hopeless || begin.elapsed() > RETRY {
                return Err(self.error(at, &status));
            }
            if attempt % self.channels.len() == 0 {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
        Err(StoreError::Unavailable("no try was made".to_owned()))
    }

    async fn unary<Q, A>(
        &self,
        at: usize,
        path: &'static str,
        request: Q,
        signed: bool,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready(at).await?;
        let mut request = Request::new(request);
        if signed {
            self.sign(request.metadata_mut()).await?;
        }
        let path = PathAndQuery::from_static(path);
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        grpc.unary(request, path, codec).await.map(tonic::Response::into_inner)
    }

    async fn ready(&self, at: usize) -> Result<Grpc<Channel>, Status> {
        let (_, channel) = &self.channels[at % self.channels.len()];
        let mut grpc = Grpc::new(channel.clone())
            .max_decoding_message_size(ANSWER_MAX)
            .max_encoding_message_size(ANSWER_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(reason(&error)))?;
        Ok(grpc)
    }

    /// Adds the user's token, which is asked for first when there is none.
    async fn sign(&self, metadata: &mut tonic::metadata::MetadataMap) -> Result<(), Status> {
        let Some((name, password)) = &self.user else { return Ok(()) };
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let token = match known {
            Some(token) => token,
            None => {
                let (name, password) = (name.clone(), password.clone());
                let request = AuthenticateRequest { name, password };
                let at = self.current.load(Ordering::Relaxed);
                let ask = Box::pin(self.unary(at, AUTHENTICATE, request, false));
                let answer: AuthenticateResponse = ask.await?;
                let token: MetadataValue<Ascii> =
                    answer.token.parse().map_err(|_| Status::internal("its token is no text"))?;
                *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                token
            }
        };
        metadata.insert("token", token);
        Ok(())
    }

    /// Moves on from an endpoint, unless somebody has done so already; forgets a token that has
    /// lost its force.
    fn failed(&self, at: usize, status: &Status) {
        if status.code() == Code::Unauthenticated {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        if is_temporary(status) {
            let next = (at + 1) % self.channels.len();
            let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn error(&self, at: usize, status: &Status) -> StoreError {
        let (name, _) = &self.channels[at % self.channels.len()];
        let what = format!("{name}: {}", status.message());
        match is_temporary(status) {
            true => StoreError::Unavailable(what),
            false => StoreError::Refused(what),
        }
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let timeout = |_| Err(Status::deadline_exceeded("no answer in time"));
    tokio::time::timeout(ANSWER, call).await.unwrap_or_else(timeout)
}

/// Another try, or another endpoint, may do better.
fn is_temporary(status: &Status) -> bool {
    let refused = [
        Code::InvalidArgument,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::NotFound,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::FailedPrecondition,
        Code::ResourceExhausted,
    ];
    !refused.contains(&status.code())
}

/// A write that failed so may have been done. Where no connection came about, it was not.
fn may_be_done(status: &Status) -> bool {
    let sure = ["no leader", "not capable", "tcp connect error", "Connection refused"];
    is_temporary(status) && !sure.iter().any(|words| status.message().contains(words))
}

/// The innermost cause of a transport's error, which says most.
fn reason(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn tls(config: &StoreConfig) -> Result<ClientTlsConfig, StoreError> {
    let read = |path: &Path| {
        let refused = |error| StoreError::Refused(format!("{}: {error}", path.display()));
        std::fs::read(path).map_err(refused)
    };
    let mut tls = ClientTlsConfig::new();
    tls = match &config.etcd_ca_cert_file {
        Some(file) => tls.ca_certificate(Certificate::from_pem(read(file)?)),
        None => tls.with_native_roots(),
    };
    match (&config.etcd_cert_file, &config.etcd_key_file) {
        (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(read(cert)?, read(key)?))),
        (None, None) => Ok(tls),
        _ => {
            let what = "a client certificate needs both ETCD_CERT_FILE and ETCD_KEY_FILE";
            Err(StoreError::Refused(what.to_owned()))
        }
    }
}
