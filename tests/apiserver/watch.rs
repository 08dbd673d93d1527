//! A watch: everything that happened behind a version, then what happens, a line each.

use super::request::{Selector, status};
use super::state::{Event, Refused, State};
use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time between bookmarks where nothing happens; a real server takes a minute.
const BOOKMARK: Duration = Duration::from_millis(500);

/// What is asked for.
pub(crate) struct Watch {
    pub(crate) selector: Selector,
    /// Empty and `0` begin with what is there.
    pub(crate) version: String,
    pub(crate) bookmarks: bool,
    pub(crate) limit: Duration,
}

struct Running {
    state: Arc<State>,
    watch: Watch,
    at: u64,
    /// Told first.
    first: Vec<u8>,
    end: Instant,
    over: bool,
}

/// The answer, which goes on.
pub(crate) fn serve(state: Arc<State>, watch: Watch) -> Response {
    let (at, first) = match watch.version.as_str() {
        "" | "0" => {
            let inner = state.lock();
            let objects =
                inner.objects.iter().filter(|(key, object)| watch.selector.has(key, object));
            let lines = objects.flat_map(|(_, object)| line("ADDED", object)).collect();
            (inner.version, lines)
        }
        text => (text.parse().unwrap_or(0), Vec::new()),
    };
    let end = Instant::now() + watch.limit;
    let running = Running { state, watch, at, first, end, over: false };
    let lines = stream::unfold(running, next);
    Response::builder()
        .header("content-type", "application/json")
        .body(Body::from_stream(lines))
        .unwrap()
}

fn line(what: &str, object: &Value) -> Vec<u8> {
    format!("{}\n", json!({"type": what, "object": object})).into_bytes()
}

async fn next(mut running: Running) -> Option<(Result<Bytes, Infallible>, Running)> {
    let mut newest = running.state.newest.subscribe();
    loop {
        if running.over || Instant::now() >= running.end {
            return None;
        }
        let mut lines = std::mem::take(&mut running.first);
        match news(&running) {
            Ok((version, events)) => {
                running.at = version;
                lines.extend(events.iter().flat_map(|event| line(event.what, &event.object)));
            }
            Err(refused) => {
                running.over = true;
                lines.extend(line("ERROR", &status(&refused)));
            }
        }
        if !lines.is_empty() {
            return Some((Ok(lines.into()), running));
        }
        let changed = tokio::time::timeout(BOOKMARK.min(running.end - Instant::now()), async {
            newest.changed().await.is_ok()
        });
        if changed.await.is_err() && running.watch.bookmarks {
            let kind = &running.watch.selector.kind;
            let bookmark = json!({"kind": kind.kind, "apiVersion": kind.api,
                "metadata": {"resourceVersion": running.at.to_string(),
                    "creationTimestamp": null}});
            return Some((Ok(line("BOOKMARK", &bookmark).into()), running));
        }
    }
}

fn news(running: &Running) -> Result<(u64, Vec<Event>), Refused> {
    let inner = running.state.lock();
    if running.at < inner.compacted {
        let what = format!("too old resource version: {} ({})", running.at, inner.compacted);
        return Err(Refused(410, "Expired", what));
    }
    let from = inner.events.partition_point(|event| event.version <= running.at);
    let events = inner.events.range(from..);
    let own = events.filter(|event| running.watch.selector.has(&event.key, &event.object));
    Ok((inner.version, own.cloned().collect()))
}
