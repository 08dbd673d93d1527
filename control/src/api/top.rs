//! `top`: totals as a stream, one JSON object a line, for as long as somebody reads.

use super::limits::{self, LimitAnswer};
use super::ports::{self, PortAnswer};
use super::status::{self, BgpAnswer};
use super::workers::{self, WorkerAnswer};
use crate::status::Status;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use futures::stream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Shortest time between two samples, in milliseconds.
pub const INTERVAL_MIN_MS: u64 = 100;
/// Longest time between two samples, in milliseconds; below the client's patience.
pub const INTERVAL_MAX_MS: u64 = 5_000;

/// Totals at one moment; rates are the reader's to take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// This node's name.
    pub node: String,
    /// Time since the daemon started.
    pub uptime_milliseconds: u64,
    /// It forwards.
    pub ready: bool,
    /// Routes of the packet path.
    pub routes: usize,
    /// BGP; none where it does not run.
    #[serde(default)]
    pub bgp: Option<BgpAnswer>,
    /// Endpoints with limits.
    #[serde(default)]
    pub limits: Vec<LimitAnswer>,
    /// Ports.
    pub ports: Vec<PortAnswer>,
    /// Workers.
    pub workers: Vec<WorkerAnswer>,
}

/// What the reader asks for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TopQuery {
    interval_milliseconds: Option<u64>,
}

pub(crate) async fn stream(
    State(status): State<Arc<Status>>,
    Query(query): Query<TopQuery>,
) -> Response {
    let interval = query.interval_milliseconds.unwrap_or(1000);
    let interval = Duration::from_millis(interval.clamp(INTERVAL_MIN_MS, INTERVAL_MAX_MS));
    let lines = stream::unfold((status, true), move |(status, first)| async move {
        if !first {
            tokio::time::sleep(interval).await;
        }
        let asked = status.clone();
        let made = tokio::task::spawn_blocking(move || sample(&asked)).await.ok()?;
        let mut line = serde_json::to_vec(&made).ok()?;
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(line), (status, false)))
    });
    Response::new(Body::from_stream(lines))
}

fn sample(status: &Status) -> Sample {
    let snapshot = status.snapshot();
    let bgp = status::bgp(status);
    let learned = bgp.as_ref().map_or(0, |bgp| bgp.routes_v4 + bgp.routes_v6);
    Sample {
        node: snapshot.node.clone(),
        uptime_milliseconds: status.uptime().as_millis() as u64,
        ready: snapshot.not_ready.is_empty(),
        routes: snapshot.routes.len() + learned,
        bgp,
        limits: limits::answer(status),
        ports: ports::answer(status),
        workers: workers::answer(status),
    }
}
