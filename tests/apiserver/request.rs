//! Requests: which kind and object is meant, and what is done with it.

use super::kinds::{self, Kind};
use super::rights;
use super::state::{Key, Refused, State, key_of, merge, missing};
use super::watch::{self, Watch};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Largest body, in bytes.
const BODY_MAX: usize = 4 << 20;
/// A watch without a limit ends after so many seconds.
const WATCH_S: u64 = 1800;
/// An empty schema of OpenAPI v2 in protobuf: `swagger: "2.0"`. kubectl checks nothing then.
const SCHEMA: &[u8] = b"\x0a\x032.0";

/// Everything that is served.
pub(crate) fn app(state: Arc<State>) -> Router {
    Router::new().fallback(answer).with_state(state)
}

/// What a path means.
struct Target {
    kind: Kind,
    namespace: String,
    /// Empty for all.
    name: String,
    /// `status`, or empty.
    part: String,
}

/// Which objects are meant.
pub(crate) struct Selector {
    pub(crate) kind: Kind,
    namespace: String,
    labels: Vec<(String, String)>,
    fields: Vec<(String, String)>,
}

impl Selector {
    pub(crate) fn has(&self, key: &Key, object: &Value) -> bool {
        let (all, ..) = key_of(&self.kind, "", "");
        let field = |path: &str| {
            object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str)
        };
        let label = |name: &str| object["metadata"]["labels"].get(name).and_then(Value::as_str);
        key.0 == all
            && (self.namespace.is_empty() || key.1 == self.namespace)
            && self.labels.iter().all(|(name, value)| label(name) == Some(value))
            && self.fields.iter().all(|(path, value)| field(path) == Some(value))
    }
}

async fn answer(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path == "/openapi/v2" {
        return Response::new(Body::from(SCHEMA));
    }
    if let Some(value) = kinds::discovery(&state.kinds, &path) {
        return axum::Json(value).into_response();
    }
    let query = query(parts.uri.query().unwrap_or_default());
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let body = axum::body::to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let Some(target) = target(&state.kinds, &path) else {
        return refused(&Refused(404, "NotFound", "404 page not found".to_owned()));
    };
    let verb = verb(parts.method.as_str(), &target, &query);
    let token = header("authorization").and_then(|text| text.strip_prefix("Bearer "));
    let resource = match target.part.as_str() {
        "" => target.kind.plural.to_owned(),
        part => format!("{}/{part}", target.kind.plural),
    };
    if !rights::allow(token, verb, &resource) {
        state.lock().forbidden.push(format!("{verb} {resource}"));
        let what = format!("{resource} is forbidden: calico-node cannot {verb} it");
        return refused(&Refused(403, "Forbidden", what));
    }
    if verb == "watch" {
        return watch::serve(state.clone(), watch(&target, &query));
    }
    let kind = header("content-type").unwrap_or_default();
    let outcome = act(&state, verb, &target, (kind, &body), &query);
    if !["get", "list"].contains(&verb) && outcome.is_ok() {
        let mut inner = state.lock();
        inner.writes += 1;
        let every = inner.lose_every.is_some_and(|every| inner.writes % every == 0);
        if inner.lose > 0 || every {
            inner.lose = inner.lose.saturating_sub(1);
            return refused(&Refused(504, "Timeout", "the answer is lost".to_owned()));
        }
    }
    match outcome {
        Ok((code, value)) => (code, axum::Json(value)).into_response(),
        Err(error) => refused(&error),
    }
}

fn act(
    state: &State,
    verb: &str,
    target: &Target,
    (content_type, body): (&str, &Bytes),
    query: &BTreeMap<String, String>,
) -> Result<(axum::http::StatusCode, Value), Refused> {
    use axum::http::StatusCode;
    let kind = &target.kind;
    let key = key_of(kind, &target.namespace, &target.name);
    let parsed = || {
        serde_json::from_slice::<Value>(body)
            .map_err(|error| Refused(400, "BadRequest", error.to_string()))
    };
    let found = |object: Arc<Value>| (StatusCode::OK, Value::clone(&object));
    match verb {
        "get" => match state.lock().objects.get(&key) {
            Some(object) => Ok(found(object.clone())),
            None => Err(missing(kind, &target.name)),
        },
        "list" => list(state, target, query).map(|value| (StatusCode::OK, value)),
        "create" => {
            let object = parsed()?;
            check_kind(kind, &object)?;
            let made = state.create(kind, &target.namespace, object)?;
            Ok((StatusCode::CREATED, Value::clone(&made)))
        }
        "update" => {
            let object = parsed()?;
            check_kind(kind, &object)?;
            if object["metadata"]["name"] != target.name.as_str() {
                let what = "the name of the object does not match the name on the URL".to_owned();
                return Err(Refused(400, "BadRequest", what));
            }
            state.update(kind, &key, object, &target.part).map(found)
        }
        "patch" => {
            let now = state.lock().objects.get(&key).cloned();
            let is_apply = content_type.starts_with("application/apply-patch");
            let text = String::from_utf8_lossy(body);
            let patch: Value = serde_saphyr::from_str(&text)
                .map_err(|error| Refused(400, "BadRequest", error.to_string()))?;
            let Some(now) = now else {
                if !is_apply {
                    return Err(missing(kind, &target.name));
                }
                let made = state.create(kind, &target.namespace, patch)?;
                return Ok((StatusCode::CREATED, Value::clone(&made)));
            };
            if !is_apply && !content_type.contains("merge-patch") {
                let what = format!("patches of type {content_type} are not supported");
                return Err(Refused(415, "UnsupportedMediaType", what));
            }
            let mut object = Value::clone(&now);
            merge(&mut object, &patch);
            state.update(kind, &key, object, &target.part).map(found)
        }
        "delete" => {
            let options = if body.is_empty() { Value::Null } else { parsed()? };
            let gone = state.delete(kind, &key, &options)?;
            let details = json!({"name": target.name, "group": kind.group(), "kind": kind.plural,
                "uid": gone["metadata"]["uid"]});
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Success", "details": details});
            Ok((StatusCode::OK, done))
        }
        _ => Err(Refused(405, "MethodNotAllowed", format!("no {verb} here"))),
    }
}

/// All objects, or a part of them; the rest of a list is of the same state.
fn list(
    state: &State,
    target: &Target,
    query: &BTreeMap<String, String>,
) -> Result<Value, Refused> {
    let limit = query.get("limit").and_then(|text| text.parse().ok()).filter(|limit| *limit > 0);
    let mut inner = state.lock();
    let (version, mut objects) = match query.get("continue").filter(|text| !text.is_empty()) {
        Some(token) => inner.lists.remove(token).ok_or_else(|| {
            let what = "The provided continue parameter is too old".to_owned();
            Refused(410, "Expired", what)
        })?,
        None => {
            let selector = selector(target, query);
            let found = inner.objects.iter().filter(|(key, object)| selector.has(key, object));
            let found = found.map(|(_, object)| object.clone()).collect();
            (inner.version, found)
        }
    };
    let rest = objects.split_off(objects.len().min(limit.unwrap_or(usize::MAX)));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        let token = format!("{version}.{}+/", inner.lists.len());
        metadata["continue"] = json!(token);
        inner.lists.insert(token, (version, rest));
    }
    let item = |object: &Arc<Value>| {
        let mut object = Value::clone(object);
        // Kubernetes' own lists do not say what their items are.
        if !target.kind.is_custom()
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        object
    };
    Ok(json!({"kind": format!("{}List", target.kind.kind), "apiVersion": target.kind.api,
        "metadata": metadata, "items": objects.iter().map(item).collect::<Vec<Value>>()}))
}

fn watch(target: &Target, query: &BTreeMap<String, String>) -> Watch {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    Watch {
        selector: selector(target, query),
        version: text("resourceVersion"),
        bookmarks: text("allowWatchBookmarks") == "true",
        limit: Duration::from_secs(text("timeoutSeconds").parse().unwrap_or(WATCH_S)),
    }
}

fn selector(target: &Target, query: &BTreeMap<String, String>) -> Selector {
    let pairs = |name: &str| -> Vec<(String, String)> {
        let text = query.get(name).cloned().unwrap_or_default().replace("==", "=");
        let pair = |part: &str| part.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
        text.split(',').filter_map(pair).collect()
    };
    let mut fields = pairs("fieldSelector");
    if !target.name.is_empty() {
        fields.push(("metadata.name".to_owned(), target.name.clone()));
    }
    Selector {
        kind: target.kind,
        namespace: target.namespace.clone(),
        labels: pairs("labelSelector"),
        fields,
    }
}

fn check_kind(kind: &Kind, object: &Value) -> Result<(), Refused> {
    let said = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    match (said("kind"), said("apiVersion")) {
        (name, api) if name == kind.kind && api == kind.api => Ok(()),
        (name, api) => {
            let what = format!("{api} {name} in the data is not {} {}", kind.api, kind.kind);
            Err(Refused(400, "BadRequest", what))
        }
    }
}

fn verb(method: &str, target: &Target, query: &BTreeMap<String, String>) -> &'static str {
    let is_watch = query.get("watch").is_some_and(|text| ["true", "1"].contains(&text.as_str()));
    match (method, target.name.is_empty()) {
        ("GET", _) if is_watch => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", true) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        _ => "other",
    }
}

fn target(kinds: &[Kind], path: &str) -> Option<Target> {
    let path = decoded(path);
    let find = |kind: &&Kind| -> Option<Target> {
        let root = if kind.api.contains('/') { "/apis/" } else { "/api/" };
        let rest = path.strip_prefix(root)?.strip_prefix(kind.api)?.strip_prefix('/')?;
        let words: Vec<&str> = rest.split('/').collect();
        let (namespace, words) = match words.as_slice() {
            ["namespaces", namespace, plural, ..] if kind.namespaced && *plural == kind.plural => {
                (*namespace, &words[2..])
            }
            [plural, ..] if *plural == kind.plural => ("", &words[..]),
            _ => return None,
        };
        let word = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
        let target =
            Target { kind: **kind, namespace: namespace.to_owned(), name: word(1), part: word(2) };
        (words.len() <= 3 && ["", "status"].contains(&target.part.as_str())).then_some(target)
    };
    kinds.iter().find_map(|kind| find(&kind))
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(&value.replace('+', " ")))
    };
    text.split('&').map(pair).collect()
}

/// Without percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let hex = others.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Kubernetes' word of a refusal.
pub(crate) fn status(Refused(code, reason, message): &Refused) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code})
}

fn refused(refused: &Refused) -> Response {
    let code = axum::http::StatusCode::from_u16(refused.0).unwrap_or_default();
    (code, axum::Json(status(refused))).into_response()
}
