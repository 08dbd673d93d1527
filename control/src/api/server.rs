//! The socket and the paths on it.
//!
//! The socket is the node's administrator's: mode 0600. A leftover of a daemon that was killed is
//! replaced, one that a living daemon answers on is not.

use super::{
    bgp, capture, drops, endpoints, flows, limits, nat, neighbors, policy, ports, routes, status,
    top, tunnels, workers,
};
use crate::status::Status;
use crate::unix_socket::{self, Server};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;

type Shared = State<Arc<Status>>;

/// Serves the API on the socket at `path`.
pub(crate) fn start(path: &Path, status: Arc<Status>) -> io::Result<Server> {
    let named = |error: io::Error| {
        let hint = "set socket: in the configuration to a path that can be written";
        io::Error::new(error.kind(), format!("{}: {error}\nhint: {hint}", path.display()))
    };
    let listener = listen(path).map_err(named)?;
    let router = axum::Router::new()
        .route("/v1/status", get(|state: Shared| of(state, status::answer)))
        .route("/v1/ports", get(|state: Shared| of(state, ports::answer)))
        .route("/v1/endpoints", get(|state: Shared| of(state, endpoints::answer)))
        .route("/v1/neighbors", get(|state: Shared| of(state, neighbors::answer)))
        .route("/v1/workers", get(|state: Shared| of(state, workers::answer)))
        .route("/v1/tunnels", get(|state: Shared| of(state, tunnels::answer)))
        .route("/v1/limits", get(|state: Shared| of(state, limits::answer)))
        .route("/v1/nat", get(|state: Shared| of(state, nat::answer)))
        .route("/v1/flows", get(show_flows).delete(end_flows))
        .route("/v1/drops", get(|state: Shared| of(state, drops::answer)))
        .route("/v1/bgp/peers", get(|state: Shared| of(state, bgp::peers)))
        .route("/v1/bgp/routes", get(bgp::show_routes))
        .route("/v1/routes", get(show_routes))
        .route("/v1/policy", get(show_policy))
        .route("/v1/trace", get(trace))
        .route("/v1/top", get(top::stream))
        .route("/v1/capture", get(capture::stream))
        .with_state(status);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("API: {error}");
        }
    });
    Ok(Server::new(path.to_owned(), task))
}

/// A socket for the owner of the process only, in a folder that is made where there is none.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = unix_socket::listen(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The answer that `make` makes; it may block on the workers.
async fn of<T: Serialize + Send + 'static>(
    State(status): Shared,
    make: fn(&Status) -> T,
) -> Response {
    match tokio::task::spawn_blocking(move || make(&status)).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct RouteQuery {
    prefix: Option<String>,
}

async fn show_routes(State(status): Shared, Query(query): Query<RouteQuery>) -> Response {
    let Some(text) = query.prefix else { return of(State(status), routes::answer).await };
    match routes::lookup(&status, &text) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
    }
}

async fn show_flows(State(status): Shared, Query(filter): Query<flows::FlowFilter>) -> Response {
    let list = tokio::task::spawn_blocking(move || flows::list(&status, &filter));
    match list.await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn end_flows(State(status): Shared, Query(filter): Query<flows::FlowFilter>) -> Response {
    let end = tokio::task::spawn_blocking(move || flows::end(&status, &filter));
    match end.await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct PolicyQuery {
    endpoint: Option<String>,
}

async fn show_policy(State(status): Shared, Query(query): Query<PolicyQuery>) -> Response {
    let ask = move || policy::answer(&status, query.endpoint.as_deref());
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct TraceQuery {
    /// A [`crate::trace::Question`] as JSON.
    question: String,
}

async fn trace(State(status): Shared, Query(query): Query<TraceQuery>) -> Response {
    let ask = move || {
        let question = serde_json::from_str(&query.question).map_err(|error| error.to_string())?;
        crate::trace::live::trace(&status, &question)
    };
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
