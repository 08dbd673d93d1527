//! Routes of BGP peers in the kernel's main table.
//!
//! They have a protocol number of their own, and the [`super::mirror`] leaves them out: there may
//! be a million. A task writes them in the background; of several wants for a prefix the newest
//! counts, so what waits is never more than the table. What an earlier life of margay left is found
//! at the start, and stays until it is said otherwise.

use super::routes::{Step, execute};
use super::{BGP_ROUTE_PROTOCOL, KernelError, NextHop, Route, RouteKind, Table};
use ahash::AHashMap;
use futures::{StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::RouteMessage;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Routes that are written before the next look at what is wanted.
const CHUNK: usize = 512;
/// Requests under way at once.
const IN_FLIGHT: usize = 64;

/// A wanted route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Metric.
    pub(crate) metric: u32,
    /// Ways, at least one, sorted.
    pub(crate) ways: Vec<NextHop>,
}

/// What the task has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Routes in the kernel.
    pub(crate) installed: usize,
    /// Routes that wait to be written.
    pub(crate) waiting: usize,
    /// Routes left out because of the limit.
    pub(crate) left_out: u64,
    /// Requests that the kernel refused.
    pub(crate) refused: u64,
    /// The last refusal.
    pub(crate) last_error: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<BTreeMap<IpNet, Option<Wanted>>>,
    counts: Mutex<Counts>,
    more: Notify,
}

/// The control loop's end of the task, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Export {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    handle: Handle,
}

impl Drop for Export {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a task has done, for whoever wants to know.
#[derive(Debug, Clone)]
pub(crate) struct Counter(Arc<Shared>);

impl Counter {
    /// What has been done so far.
    pub(crate) fn counts(&self) -> Counts {
        let waiting = lock(&self.0.wanted).len();
        Counts { waiting, ..lock(&self.0.counts).clone() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Export {
    /// Starts the task with at most `limit` routes; also what an earlier life left in the kernel.
    pub(crate) async fn start(
        handle: Handle,
        limit: usize,
    ) -> Result<(Export, Vec<Route>), KernelError> {
        let left = dump(&handle).await?;
        let shared = Arc::new(Shared::default());
        let mut book = Book { limit, routes: AHashMap::new() };
        let mut removals = Vec::new();
        for route in &left {
            let known = Wanted { metric: route.metric, ways: sorted(&route.next_hops) };
            if let Some(other) = book.routes.insert(route.prefix, known) {
                removals.push(Step::Remove(message_route(route.prefix, &other)));
            }
        }
        lock(&shared.counts).installed = book.routes.len();
        let task = tokio::spawn(run(handle.clone(), shared.clone(), book, removals));
        Ok((Export { shared, task, handle }, left))
    }

    /// What a prefix is to have; `None` for no route.
    pub(crate) fn put(&self, routes: impl IntoIterator<Item = (IpNet, Option<Wanted>)>) {
        lock(&self.shared.wanted).extend(routes);
        self.shared.more.notify_one();
    }

    /// For whoever wants to know what has been done.
    pub(crate) fn counter(&self) -> Counter {
        Counter(self.shared.clone())
    }

    /// Ends the task, and takes its routes out of the kernel unless they are to stay.
    pub(crate) async fn stop(self, keep: bool) {
        self.task.abort();
        if keep {
            return;
        }
        if let Err(error) = remove_all(&self.handle).await {
            tracing::warn!("{error}");
        }
    }
}

/// Removes all routes that BGP has in the kernel.
pub(crate) async fn remove_all(handle: &Handle) -> Result<(), KernelError> {
    let steps = dump(handle).await?.into_iter().map(Step::Remove);
    let mut done =
        stream::iter(steps.map(|step| execute(handle, step))).buffer_unordered(IN_FLIGHT);
    while let Some(outcome) = done.next().await {
        outcome?;
    }
    Ok(())
}

/// The routes that BGP has in the kernel.
async fn dump(handle: &Handle) -> Result<Vec<Route>, KernelError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = RouteMessage::default();
        request.header.address_family = (family as u8).into();
        request.header.protocol = BGP_ROUTE_PROTOCOL.into();
        let mut routes = handle.route().get(request).execute();
        let failed = |error| KernelError::new("dump of routes", &error);
        while let Some(message) = routes.try_next().await.map_err(failed)? {
            let route = super::message::route(&message);
            found.extend(route.filter(|route| {
                route.protocol == BGP_ROUTE_PROTOCOL && route.table == Table::Main
            }));
        }
    }
    Ok(found)
}

fn sorted(ways: &[NextHop]) -> Vec<NextHop> {
    let mut ways = ways.to_vec();
    ways.sort();
    ways
}

fn message_route(prefix: IpNet, wanted: &Wanted) -> Route {
    Route {
        table: Table::Main,
        prefix,
        kind: RouteKind::Unicast,
        protocol: BGP_ROUTE_PROTOCOL,
        metric: wanted.metric,
        next_hops: wanted.ways.clone(),
    }
}

/// What is in the kernel.
struct Book {
    limit: usize,
    routes: AHashMap<IpNet, Wanted>,
}

/// What becomes of one want: steps in order, and the state after them.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    LeftOut,
    Do(Vec<Step>),
}

impl Book {
    fn plan(&self, prefix: IpNet, wanted: Option<&Wanted>) -> Plan {
        let wanted = wanted.filter(|wanted| !wanted.ways.is_empty());
        let route = |wanted: &Wanted| message_route(prefix, wanted);
        match (self.routes.get(&prefix), wanted) {
            (None, None) => Plan::Nothing,
            (Some(old), Some(new)) if old == new => Plan::Nothing,
            (None, Some(_)) if self.routes.len() >= self.limit => Plan::LeftOut,
            (None, Some(new)) => Plan::Do(vec![Step::Create(route(new))]),
            (Some(old), None) => Plan::Do(vec![Step::Remove(route(old))]),
            (Some(old), Some(new)) if old.metric == new.metric => {
                Plan::Do(vec![Step::Replace(route(new))])
            }
            (Some(old), Some(new)) => {
                Plan::Do(vec![Step::Create(route(new)), Step::Remove(route(old))])
            }
        }
    }

    /// Takes in what was done. Of a refused route nothing is known but that the old one may stand.
    fn done(&mut self, prefix: IpNet, wanted: Option<Wanted>) {
        match wanted.filter(|wanted| !wanted.ways.is_empty()) {
            Some(wanted) => drop(self.routes.insert(prefix, wanted)),
            None => drop(self.routes.remove(&prefix)),
        }
    }
}

async fn run(handle: Handle, shared: Arc<Shared>, mut book: Book, removals: Vec<Step>) {
    for step in removals {
        let _ = execute(&handle, step).await;
    }
    loop {
        let chunk: Vec<(IpNet, Option<Wanted>)> = {
            let mut wanted = lock(&shared.wanted);
            let size = wanted.len().min(CHUNK);
            (0..size).filter_map(|_| wanted.pop_first()).collect()
        };
        if chunk.is_empty() {
            shared.more.notified().await;
            continue;
        }
        write(&handle, &shared, &mut book, chunk).await;
    }
}

async fn write(
    handle: &Handle,
    shared: &Shared,
    book: &mut Book,
    chunk: Vec<(IpNet, Option<Wanted>)>,
) {
    let (mut left_out, mut work) = (0, Vec::new());
    for (prefix, wanted) in chunk {
        match book.plan(prefix, wanted.as_ref()) {
            Plan::Nothing => {}
            Plan::LeftOut => left_out += 1,
            // Counted at once, for the limit.
            Plan::Do(steps) => {
                book.done(prefix, wanted);
                work.push((prefix, steps));
            }
        }
    }
    let one = |(prefix, steps): (IpNet, Vec<Step>)| async move {
        for step in steps {
            execute(handle, step).await.map_err(|error| (prefix, error))?;
        }
        Ok::<(), (IpNet, KernelError)>(())
    };
    let mut refused = Vec::new();
    let mut done = stream::iter(work.into_iter().map(one)).buffer_unordered(IN_FLIGHT);
    while let Some(outcome) = done.next().await {
        refused.extend(outcome.err());
    }
    let mut counts = lock(&shared.counts);
    counts.left_out += left_out;
    for (prefix, error) in refused {
        // Whatever is there, the next want is written anew.
        book.routes.remove(&prefix);
        counts.refused += 1;
        tracing::debug!("{error}");
        counts.last_error = Some(error.to_string());
    }
    counts.installed = book.routes.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(metric: u32, device: u32) -> Wanted {
        Wanted { metric, ways: vec![NextHop { device, gateway: None, weight: 1 }] }
    }

    #[test]
    fn steps_follow_from_what_is_there() {
        let prefix: IpNet = "10.0.0.0/26".parse().unwrap();
        let route = |wanted: &Wanted| message_route(prefix, wanted);
        let mut book = Book { limit: 1, routes: AHashMap::new() };
        let (old, new) = (wanted(1024, 3), wanted(1024, 4));
        assert_eq!(book.plan(prefix, None), Plan::Nothing);
        assert_eq!(book.plan(prefix, Some(&old)), Plan::Do(vec![Step::Create(route(&old))]));
        book.done(prefix, Some(old.clone()));
        assert_eq!(book.plan(prefix, Some(&old)), Plan::Nothing);
        assert_eq!(book.plan(prefix, Some(&new)), Plan::Do(vec![Step::Replace(route(&new))]));
        let better = wanted(512, 3);
        let both = vec![Step::Create(route(&better)), Step::Remove(route(&old))];
        assert_eq!(book.plan(prefix, Some(&better)), Plan::Do(both), "no gap between the two");
        let other = "10.0.0.64/26".parse().unwrap();
        assert_eq!(book.plan(other, Some(&old)), Plan::LeftOut, "the limit");
        let nowhere = Wanted { metric: 1024, ways: Vec::new() };
        assert_eq!(
            book.plan(prefix, Some(&nowhere)),
            Plan::Do(vec![Step::Remove(route(&old))]),
            "nothing leads there now"
        );
        book.done(prefix, None);
        assert_eq!(
            book.plan(other, Some(&old)),
            Plan::Do(vec![Step::Create(Route { prefix: other, ..route(&old) })])
        );
    }
}
