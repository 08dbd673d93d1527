//! Calls to the API server: what is asked again when no answer comes, and its refusals.
//!
//! A write that failed may have been done all the same: a refusal of the next try says so
//! ([`Refusal::repeated`]).

use super::access::{Access, Token};
use super::dial::Dialer;
use crate::clock;
use crate::store::datastore::StoreError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// A call is tried again for so long.
const RETRY: Duration = Duration::from_secs(15);
/// Waits before the second try, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Largest answer, in bytes.
const ANSWER_MAX: usize = 256 << 20;
/// Longest line of a watch, in bytes.
const LINE_MAX: usize = 32 << 20;
/// Time between two signs of life on HTTP/2, and the wait for an answer to one.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// A token in a file is read again after so long.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A program is asked for a new token so long before the old one runs out.
const TOKEN_SLACK: Duration = Duration::from_secs(10);

/// The API server.
#[derive(Debug)]
pub(super) struct Connection {
    /// As in its URL, without a slash at the end.
    base: String,
    client: Client<Dialer, Full<Bytes>>,
    token: Token,
    /// The token that was read last, and until when it counts.
    read: Mutex<Option<(String, Option<Instant>)>>,
}

/// What to send.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Behind the server's URL, with its query.
    pub(super) path: &'a str,
    /// Its type, and itself.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Of HTTP; 0 when there was no answer.
    pub(super) code: u16,
    /// As in `AlreadyExists`.
    pub(super) reason: String,
    pub(super) message: String,
    /// An earlier try may have been done already.
    pub(super) repeated: bool,
}

/// Kubernetes' word of what it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    reason: String,
    message: String,
    code: u16,
}

impl Connection {
    /// Does not connect yet. Needs a runtime.
    pub(super) fn new(access: Access) -> Connection {
        let base = access.server.to_string().trim_end_matches('/').to_owned();
        let token = access.token.clone();
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(KEEPALIVE.0)
            .http2_keep_alive_timeout(KEEPALIVE.1)
            .build(Dialer(access));
        Connection { base, client, token, read: Mutex::new(None) }
    }

    /// The server's URL.
    pub(super) fn server(&self) -> &str {
        &self.base
    }

    /// Asks, and asks again where that may help.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, Refusal> {
        let (begin, mut wait) = (Instant::now(), BACKOFF.0);
        let (mut repeated, mut denied) = (false, false);
        loop {
            let refusal = match self.once(&call).await {
                Ok(value) => return Ok(value),
                Err(refusal) => Refusal { repeated, ..refusal },
            };
            // A token that has run out is read anew, once.
            let changes = matches!(self.token, Token::File(_) | Token::Exec(_));
            let renewed = refusal.code == 401 && changes && !denied;
            denied |= refusal.code == 401;
            if !(refusal.is_temporary() || renewed) || begin.elapsed() > RETRY {
                return Err(refusal);
            }
            repeated |= refusal.may_be_done();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Reads a path.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Refusal> {
        let call = Call { method: Method::GET, path, body: None };
        self.call(call).await
    }

    /// Reads a path without trying again.
    pub(super) async fn get_once(&self, path: &str) -> Result<Value, Refusal> {
        self.once(&Call { method: Method::GET, path, body: None }).await
    }

    /// Opens a watch.
    pub(super) async fn lines(&self, path: &str) -> Result<Lines, Refusal> {
        let call = Call { method: Method::GET, path, body: None };
        let response = self.timed(self.send(&call)).await?;
        match response.status().is_success() {
            true => Ok(Lines { body: response.into_body(), buffer: Vec::new(), searched: 0 }),
            false => Err(self.refused(response).await),
        }
    }

    async fn once(&self, call: &Call<'_>) -> Result<Value, Refusal> {
        let answer = async {
            let response = self.send(call).await?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let body = self.body(response).await?;
            serde_json::from_slice(&body).map_err(|error| {
                let message = format!("{}{}: no JSON: {error}", self.base, call.path);
                Refusal { code: 502, reason: String::new(), message, repeated: false }
            })
        };
        self.timed(answer).await
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let late = |_| Err(self.silent("no answer in time".to_owned()));
        tokio::time::timeout(ANSWER, call).await.unwrap_or_else(late)
    }

    async fn send(&self, call: &Call<'_>) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.base, call.path))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "margay");
        if let Some(token) = self.token().await? {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match &call.body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, *kind);
                Bytes::from(body.clone())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| Refusal {
            code: 400,
            reason: "BadRequest".to_owned(),
            message: format!("{}: {error}", call.path),
            repeated: false,
        })?;
        self.client.request(request).await.map_err(|error| self.silent(innermost(&error)))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, Refusal> {
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| self.silent(innermost(error.as_ref())))
    }

    async fn refused(&self, response: Response<Incoming>) -> Refusal {
        let code = response.status();
        if code == StatusCode::UNAUTHORIZED {
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let body = self.body(response).await.unwrap_or_default();
        let status: Status = serde_json::from_slice(&body).unwrap_or_default();
        let message = match status.message.is_empty() {
            true => format!("{code}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
            false => status.message,
        };
        Refusal { code: code.as_u16(), reason: status.reason, message, repeated: false }
    }

    fn silent(&self, why: String) -> Refusal {
        let message = format!("{}: {why}", self.base);
        Refusal { code: 0, reason: String::new(), message, repeated: false }
    }

    async fn token(&self) -> Result<Option<String>, Refusal> {
        if let Token::Fixed(text) = &self.token {
            return Ok(Some(text.clone()));
        }
        if let Some((text, end)) = &*self.read.lock().unwrap_or_else(PoisonError::into_inner)
            && end.is_none_or(|end| Instant::now() < end)
        {
            return Ok(Some(text.clone()));
        }
        let (text, end) = match &self.token {
            Token::None | Token::Fixed(_) => return Ok(None),
            Token::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| self.silent(format!("{}: {error}", path.display())))?;
                (text.trim().to_owned(), Some(Instant::now() + TOKEN_LIFE))
            }
            Token::Exec(exec) => {
                let exec = exec.clone();
                let asked = tokio::task::spawn_blocking(move || exec.token()).await;
                let asked = asked.unwrap_or_else(|error| Err(error.to_string()));
                let (text, end) = asked.map_err(|why| self.silent(why))?;
                let left = |end: u64| Duration::from_secs(end.saturating_sub(clock::now()));
                (text, end.map(|end| Instant::now() + left(end).saturating_sub(TOKEN_SLACK)))
            }
        };
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((text.clone(), end));
        Ok(Some(text))
    }
}

impl Status {
    /// The refusal that an event of a watch tells.
    pub(super) fn refusal(self) -> Refusal {
        let Status { reason, message, code } = self;
        Refusal { code, reason, message, repeated: false }
    }
}

impl Refusal {
    /// Another try may do better.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self.code, 0 | 429 | 500 | 502..=504)
    }

    /// A write that failed so may have been done. Where no connection came about, or the server
    /// was too busy to look at it, it was not.
    fn may_be_done(&self) -> bool {
        !matches!(self.code, 401 | 429) && !self.message.contains("Connection refused")
    }

    /// The server does not know the kind, or the object.
    pub(super) fn is_missing(&self) -> bool {
        self.code == 404
    }

    /// What a watch or a list would go on from is no longer there.
    pub(super) fn is_expired(&self) -> bool {
        self.code == 410
    }

    /// As what it is for who asked for no single object.
    pub(super) fn error(self) -> StoreError {
        match self.is_temporary() {
            true => StoreError::Unavailable(self.message),
            false => StoreError::Refused(self.message),
        }
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// So much of the buffer has no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found {
                let rest = self.buffer.split_off(self.searched + at + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_MAX {
                return Err(format!("a line of more than {LINE_MAX} bytes"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(innermost(&error)),
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.buffer.extend_from_slice(bytes);
                    }
                }
            }
        }
    }
}

/// The innermost cause of an error, which says most.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
