//! What the daemon lives on: everything at one revision, then every change from the next.
//!
//! A watch that ends is taken up where it was, at another endpoint. Where that is no longer
//! possible (etcd has compacted the revision away, or is another cluster, or was set back),
//! everything is listed again and compared with what was told: what is still there is not told
//! again. While etcd is away nothing is removed, and the report says since when. A value that
//! cannot be used leaves the last good one in force.

use super::Range;
use super::connection::Connection;
use super::key::{BLOCKS, HOSTS, RESOURCES};
use super::message::{DELETE, KeyValue, WatchCreate, WatchKind, WatchRequest, WatchResponse};
use crate::clock;
use crate::resource::{Key, Resource};
use crate::store::datastore::StoreError;
use crate::store::directory::FAULTS_MAX;
use crate::store::watch::Batch;
use crate::store::{Event, Fault, Lost, Report, document};
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// What the daemon reads; handles of IPAM, which it does not, stay out.
const PREFIXES: [&str; 3] = [RESOURCES, BLOCKS, HOSTS];
/// Waits between tries to reach the store: the first, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Longest wait until a watch is confirmed.
const CONFIRM: Duration = Duration::from_secs(10);
/// Most answers that become one batch.
const ANSWERS_MAX: usize = 256;

/// Everything known, by key in etcd.
#[derive(Debug, Default)]
pub(super) struct View {
    entries: HashMap<Vec<u8>, (Key, Resource)>,
    faults: BTreeMap<Vec<u8>, Fault>,
    counts: BTreeMap<String, usize>,
    /// What has been seen of each prefix, once the store was read.
    revisions: Option<[i64; PREFIXES.len()]>,
    cluster: u64,
    /// Everything has been read once.
    known: bool,
    /// Faults have changed since they were told.
    untold: bool,
    lost: Option<Lost>,
}

/// Why following has come to an end.
enum End {
    /// Nobody listens.
    Unheard,
    /// The watch cannot go on from where it was.
    Behind,
    /// The store does not answer.
    Lost(StoreError),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> End {
        End::Lost(error)
    }
}

/// Follows the store until nobody listens.
pub(super) async fn run(connection: Arc<Connection>, sender: mpsc::Sender<Batch>) {
    run_with(connection, View::default(), sender).await;
}

/// The same from what is known already.
pub(super) async fn run_with(
    connection: Arc<Connection>,
    mut view: View,
    sender: mpsc::Sender<Batch>,
) {
    let mut wait = WAIT.0;
    loop {
        let end = tokio::select! {
            () = sender.closed() => return,
            end = follow(&connection, &mut view, &sender) => end,
        };
        if view.lost.is_none() {
            wait = WAIT.0;
        }
        match end {
            End::Unheard => return,
            End::Behind => {
                tracing::info!("etcd: the watch cannot go on, everything is read again");
                view.revisions = None;
            }
            End::Lost(error) => {
                view.lose(&error);
                if sender.send(view.batch(Vec::new())).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(WAIT.1),
        }
    }
}

async fn follow(connection: &Connection, view: &mut View, sender: &mpsc::Sender<Batch>) -> End {
    let outcome = async {
        if view.revisions.is_none() {
            let ranges = read(connection).await?;
            let events = view.replace(ranges);
            view.found();
            sender.send(view.batch(events)).await.map_err(|_| End::Unheard)?;
        }
        let Opened { mut answers, watches, early } = open(connection, view).await?;
        let mut events: Vec<Event> =
            early.into_iter().flat_map(|answer| view.take(answer, &watches)).collect();
        view.untold |= view.found();
        loop {
            if !events.is_empty() || view.untold {
                let batch = view.batch(std::mem::take(&mut events));
                sender.send(batch).await.map_err(|_| End::Unheard)?;
            }
            let mut next = Some(answers.next().await);
            for _ in 0..ANSWERS_MAX {
                let Some(answer) = next.take() else { break };
                let answer = checked(connection, answer)?;
                events.extend(view.take(answer, &watches));
                next = answers.next().now_or_never();
            }
            if let Some(answer) = next {
                events.extend(view.take(checked(connection, answer)?, &watches));
            }
        }
    };
    let outcome: Result<(), End> = outcome.await;
    outcome.err().unwrap_or(End::Unheard)
}

pub(super) async fn read(connection: &Connection) -> Result<Vec<Range>, StoreError> {
    let mut ranges: Vec<Range> = Vec::with_capacity(PREFIXES.len());
    for prefix in PREFIXES {
        let revision = ranges.first().map_or(0, |first| first.revision);
        ranges.push(connection.all(prefix, revision).await?);
    }
    Ok(ranges)
}

/// Watches that etcd has confirmed.
struct Opened {
    answers: Streaming<WatchResponse>,
    /// Their ids, in the order of the prefixes.
    watches: Vec<i64>,
    /// Changes of one watch that came before the confirmation of another.
    early: Vec<WatchResponse>,
}

async fn open(connection: &Connection, view: &View) -> Result<Opened, End> {
    let revisions = view.revisions.unwrap_or_default();
    let create = |(prefix, revision): (&str, i64)| WatchRequest {
        request: Some(WatchKind::Create(WatchCreate {
            key: prefix.as_bytes().to_vec(),
            range_end: super::end_of(prefix),
            start_revision: revision + 1,
            progress_notify: true,
        })),
    };
    let creates = PREFIXES.into_iter().zip(revisions).map(create).collect();
    let mut answers = connection.watch(creates).await?;
    let (mut watches, mut early) = (Vec::new(), Vec::new());
    let confirmed = async {
        while watches.len() < PREFIXES.len() {
            let answer = checked(connection, answers.next().await)?;
            let header = answer.header.clone().unwrap_or_default();
            let set_back = revisions.iter().any(|revision| header.revision < *revision);
            if set_back || header.cluster_id != view.cluster {
                return Err(End::Behind);
            }
            match answer.created {
                true => watches.push(answer.watch_id),
                false => early.push(answer),
            }
        }
        Ok(())
    };
    match tokio::time::timeout(CONFIRM, confirmed).await {
        Ok(outcome) => outcome.map(|()| Opened { answers, watches, early }),
        Err(_) => {
            let status = Status::deadline_exceeded("the watch is not confirmed");
            Err(End::Lost(connection.watch_ended(&status)))
        }
    }
}

/// An answer that goes on.
fn checked(
    connection: &Connection,
    answer: Option<Result<WatchResponse, Status>>,
) -> Result<WatchResponse, End> {
    let lost = |status: &Status| End::Lost(connection.watch_ended(status));
    match answer {
        None => Err(lost(&Status::unavailable("the watch has ended"))),
        Some(Err(status)) => Err(lost(&status)),
        Some(Ok(answer)) if answer.compact_revision > 0 => Err(End::Behind),
        Some(Ok(answer)) if answer.canceled => {
            let why = if answer.cancel_reason.is_empty() {
                "the watch was ended"
            } else {
                answer.cancel_reason.as_str()
            };
            Err(lost(&Status::unavailable(why)))
        }
        Some(Ok(answer)) => Ok(answer),
    }
}

impl View {
    /// The store has content of which this is all.
    pub(super) fn replace(&mut self, ranges: Vec<Range>) -> Vec<Event> {
        let mut gone: HashMap<Vec<u8>, ()> =
            self.entries.keys().chain(self.faults.keys()).map(|key| (key.clone(), ())).collect();
        let mut events = Vec::new();
        self.revisions = ranges.first().map(|first| [first.revision; PREFIXES.len()]);
        self.known = true;
        self.cluster = ranges.first().map_or(0, |first| first.cluster);
        for kv in ranges.into_iter().flat_map(|range| range.kvs) {
            gone.remove(&kv.key);
            events.extend(self.put(&kv));
        }
        let mut gone: Vec<Vec<u8>> = gone.into_keys().collect();
        gone.sort_unstable();
        let removed: Vec<Event> = gone.iter().filter_map(|key| self.remove(key)).collect();
        removed.into_iter().chain(events).collect()
    }

    fn take(&mut self, answer: WatchResponse, watches: &[i64]) -> Vec<Event> {
        let watch = watches.iter().position(|id| *id == answer.watch_id);
        let seen = answer.header.map(|header| header.revision);
        if let (Some(watch), Some(revisions)) = (watch, &mut self.revisions) {
            revisions[watch] = revisions[watch].max(seen.unwrap_or(0));
        }
        let mut events = Vec::new();
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            events.extend(match event.kind {
                DELETE => self.remove(&kv.key),
                _ => self.put(&kv),
            });
        }
        events
    }

    /// A key has this value; an event if that makes a difference.
    fn put(&mut self, kv: &KeyValue) -> Option<Event> {
        let (key, resource) = match typed(kv) {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            Err(fault) => {
                if self.faults.get(&kv.key) != Some(&fault) {
                    tracing::warn!(key = %fault.file, "{} ({})", fault.what, fault.mend);
                    self.faults.insert(kv.key.clone(), fault);
                    self.untold = true;
                }
                return None;
            }
        };
        self.untold |= self.faults.remove(&kv.key).is_some();
        let entry = (key.clone(), resource.clone());
        match self.entries.insert(kv.key.clone(), entry) {
            Some((_, before)) if before == resource => return None,
            Some(_) => {}
            None => *self.counts.entry(key.kind.clone()).or_default() += 1,
        }
        Some(Event::Put(key, resource))
    }

    fn remove(&mut self, key: &[u8]) -> Option<Event> {
        self.untold |= self.faults.remove(key).is_some();
        let (key, _) = self.entries.remove(key)?;
        if let Some(count) = self.counts.get_mut(&key.kind) {
            *count -= 1;
        }
        self.counts.retain(|_, count| *count > 0);
        Some(Event::Remove(key))
    }

    fn lose(&mut self, error: &StoreError) {
        let why = error.to_string();
        if self.lost.is_none() {
            tracing::warn!("{why}; the last state stays in force");
        }
        let since = self.lost.as_ref().map_or_else(clock::now, |lost| lost.since);
        self.lost = Some(Lost { since, why });
    }

    /// The store answers; true when it did not before.
    fn found(&mut self) -> bool {
        let lost = self.lost.take();
        if lost.is_some() {
            tracing::info!("the datastore answers again");
        }
        lost.is_some()
    }

    fn batch(&mut self, events: Vec<Event>) -> Batch {
        self.untold = false;
        let unread = self.faults.keys().filter(|key| !self.entries.contains_key(*key)).count();
        let report = Report {
            files: self.entries.len() + unread,
            resources: self.counts.clone(),
            faults: self.faults.values().take(FAULTS_MAX).cloned().collect(),
            lost: self.lost.clone(),
        };
        Batch { events, report, known: self.known }
    }
}

/// The resource in a pair; `None` for keys without one.
fn typed(kv: &KeyValue) -> Result<Option<(Key, Resource)>, Fault> {
    let Some(found) = super::decode(kv)? else { return Ok(None) };
    let value = serde_json::Value::Object(found.value);
    match document::resource(&found.key.kind, &value) {
        Ok(resource) => Ok(Some((found.key, resource))),
        Err((what, mend)) => Err(super::fault(&kv.key, format!("{}: {what}", found.key), &mend)),
    }
}
