//! `/liveness` and `/readiness`, as Felix has them: 200 when good, 503 when not, with a line for
//! each reporter.
//!
//! Not live: a worker has panicked or is stuck, or the control loop is; a restart is the cure. Not
//! ready: the node does not forward (yet), because something has not been read or opened.

use crate::config::HealthConfig;
use crate::http;
use crate::status::Status;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Serves both until the task is ended.
pub(crate) async fn start(
    config: &HealthConfig,
    status: Arc<Status>,
) -> io::Result<Option<JoinHandle<()>>> {
    let router = axum::Router::new()
        .route("/liveness", get(liveness))
        .route("/readiness", get(readiness))
        .with_state(status);
    http::serve(&config.host, config.port, router).await
}

async fn liveness(State(status): State<Arc<Status>>) -> (StatusCode, String) {
    answer("live", faults(&status).await)
}

async fn readiness(State(status): State<Arc<Status>>) -> (StatusCode, String) {
    let mut faults = faults(&status).await;
    faults.extend(status.snapshot().not_ready.iter().cloned());
    answer("ready", faults)
}

async fn faults(status: &Arc<Status>) -> Vec<String> {
    let status = status.clone();
    let found = tokio::task::spawn_blocking(move || status.faults()).await;
    found.unwrap_or_else(|error| vec![error.to_string()])
}

fn answer(word: &str, faults: Vec<String>) -> (StatusCode, String) {
    if faults.is_empty() {
        return (StatusCode::OK, format!("{word}\n"));
    }
    let lines: Vec<String> = faults.iter().map(|fault| format!("not {word}: {fault}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines.concat())
}
