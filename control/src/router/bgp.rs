//! BGP joined to the rest: what its thread is told, and what becomes of what it tells.
//!
//! Changes of best paths go to the packet path and the kernel as they come, a batch at a time. What
//! concerns many routes at once (a next hop has moved, the policy of what is programmed is
//! another) is done page by page between other inputs, so that no step is as long as the table.

mod life;
mod wanted;

use super::Router;
use crate::bgp::{BgpConfig, Change, Handle, Output, Outputs};
use crate::config::{Config, StaticRoute};
use crate::kernel::export::{self, Export};
use crate::publish::{Done, Publication, Publisher};
use crate::resolve::bgp::BgpPlan;
use crate::resolve::learned::{Learned, PathSet, SetId};
use crate::resolve::table::Table;
use ahash::AHashSet;
use ipnet::IpNet;
use margay_bgp::policy::Policy;
use margay_bgp::session::State;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// Routes that one piece of work looks at.
const PAGE: usize = 4096;
/// Sets without routes that may wait, beside as many as are in use.
const UNUSED_SETS: usize = 256;
/// After the end of selection, this long without changes means that all routes have come.
const QUIET: Duration = Duration::from_secs(2);

/// Time until a thread that has ended is started again.
const RETRY: Duration = Duration::from_secs(5);

/// Routes of peers, read by whoever shows them.
pub(crate) type SharedRoutes = Arc<RwLock<Learned>>;

/// The part of the control loop's state that is about BGP.
#[derive(Debug, Default)]
pub(super) struct Bgp {
    plan: Arc<BgpPlan>,
    replan: bool,
    /// BGP runs, or should: why it does not.
    fault: Option<String>,
    /// Routes of an earlier life that the packet path has not been told yet.
    found: Vec<IpNet>,
    running: Option<Running>,
    routes: SharedRoutes,
    /// Routes of an earlier life were looked for.
    looked: bool,
    /// When a thread that has ended is started again.
    retry: Option<Instant>,
    table: Table,
    /// Whether peers with BFD are on a link of the node, by address.
    on_link: BTreeMap<IpAddr, bool>,
    scan: Option<Scan>,
}

#[derive(Debug)]
struct Running {
    handle: Arc<Handle>,
    outputs: Outputs,
    export: Export,
    told: Option<BgpConfig>,
    policies: [Arc<Policy>; 2],
    /// Next hops that BGP asks about, and the last answers.
    next_hops: BTreeMap<IpAddr, Option<u32>>,
    /// Routes of an earlier life that no peer has told of yet.
    stale: BTreeSet<IpNet>,
    changed: Instant,
    /// The end of the selection: `stale` is on its way out.
    sweeps: bool,
}

/// A walk over all routes.
#[derive(Debug, Default)]
struct Scan {
    after: Option<IpNet>,
    /// Sets whose ways are others.
    moved: AHashSet<SetId>,
    /// Judge every route anew.
    judge: bool,
}

pub(crate) fn read(routes: &RwLock<Learned>) -> RwLockReadGuard<'_, Learned> {
    routes.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write(routes: &RwLock<Learned>) -> RwLockWriteGuard<'_, Learned> {
    routes.write().unwrap_or_else(PoisonError::into_inner)
}

impl Bgp {
    pub(super) fn new() -> Bgp {
        Bgp { replan: true, ..Bgp::default() }
    }

    /// The store has changed.
    pub(super) fn replan(&mut self) {
        self.replan = true;
    }

    pub(super) fn plan(&self) -> &Arc<BgpPlan> {
        &self.plan
    }

    /// The routes of the configuration, and those to peers behind a gateway of their own.
    pub(super) fn static_routes(&self, config: &Config) -> Vec<StaticRoute> {
        let mut routes = config.static_routes.clone();
        let to_peers = self.running.iter().flat_map(|_| &self.plan.peer_routes);
        routes.extend(to_peers.map(|(peer, gateway)| StaticRoute {
            prefix: (*peer).into(),
            via: Some(*gateway),
            device: None,
            kind: None,
        }));
        routes
    }

    pub(super) fn routes(&self) -> &SharedRoutes {
        &self.routes
    }

    pub(super) fn handle(&self) -> Option<&Arc<Handle>> {
        self.running.as_ref().map(|running| &running.handle)
    }

    pub(super) fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    pub(super) fn kernel_counts(&self) -> Option<export::Counter> {
        self.running.as_ref().map(|running| running.export.counter())
    }

    /// When a thread that has ended may be started again.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// What BGP programs; `None` while it does not run.
    pub(super) fn policies(&self) -> Option<[Arc<Policy>; 2]> {
        self.running.as_ref().map(|running| running.policies.clone())
    }

    /// The next word of BGP's thread; waits for ever while there is none.
    pub(super) async fn next(&mut self) -> Option<Output> {
        match &mut self.running {
            Some(running) => running.outputs.next().await,
            None => std::future::pending().await,
        }
    }

    /// True when pages wait to be worked on.
    pub(super) fn has_work(&self) -> bool {
        self.scan.is_some() || self.running.as_ref().is_some_and(|running| running.sweeps)
    }

    /// Routes have been resolved anew; the sets that now lead elsewhere. Answers BGP's questions.
    pub(super) fn resolved(&mut self, table: Table) {
        let moved = write(&self.routes).resolve(&table);
        self.table = table;
        if !moved.is_empty() {
            let scan = self.scan.get_or_insert_default();
            scan.after = None;
            scan.moved.extend(moved);
        }
        let Some(running) = &mut self.running else { return };
        let mut answers = Vec::new();
        for (next_hop, known) in &mut running.next_hops {
            let now = self.table.distance(*next_hop);
            if *known != now {
                *known = now;
                answers.push((*next_hop, now));
            }
        }
        if !answers.is_empty() {
            running.handle.set_next_hops(answers);
        }
    }

    /// Looks which peers with BFD are on a link; true when one is now that was not, or the other
    /// way round. While a session is up the answer stays: a link that dies takes its route with
    /// it, and BFD is to find the peer dead, not to begin anew.
    fn look_at_links(&mut self) -> bool {
        let Some(running) = &self.running else { return false };
        let status = running.handle.status();
        let is_up = |name: &String| {
            status.peers.get(name).is_some_and(|peer| peer.state == State::Established)
        };
        let watched = self.plan.sessions.iter().filter(|(_, session)| session.bfd.is_some());
        let found = watched.map(|(name, session)| {
            let known = self.on_link.get(&session.address).copied().filter(|_| is_up(name));
            (session.address, known.unwrap_or_else(|| self.table.is_on_link(session.address)))
        });
        let found: BTreeMap<IpAddr, bool> = found.collect();
        let is_new = found != self.on_link;
        self.on_link = found;
        is_new
    }

    fn asked(&mut self, asked: Vec<(IpAddr, bool)>) {
        let Some(running) = &mut self.running else { return };
        let mut answers = Vec::new();
        for (next_hop, wants) in asked {
            if wants {
                let now = self.table.distance(next_hop);
                running.next_hops.insert(next_hop, now);
                answers.push((next_hop, now));
            } else {
                running.next_hops.remove(&next_hop);
            }
        }
        running.handle.set_next_hops(answers);
    }

    /// Takes changes in; the prefixes that now lead elsewhere.
    fn changed(&mut self, changes: Vec<Change>) -> Vec<IpNet> {
        let Some(running) = &mut self.running else { return Vec::new() };
        running.changed = Instant::now();
        let mut routes = write(&self.routes);
        let mut changed = Vec::with_capacity(changes.len());
        for Change { prefix, paths } in changes {
            running.stale.remove(&prefix);
            let is_new = match paths.first() {
                None => routes.remove(&prefix),
                Some(first) => {
                    let told = paths.iter().map(|path| path.next_hop).collect();
                    let set = PathSet::judged(&running.policies, prefix, told, first.local_pref);
                    routes.put(prefix, set, &self.table)
                }
            };
            if is_new {
                changed.push(prefix);
            }
        }
        changed
    }

    /// One page of the walk: the prefixes that now lead elsewhere, and those whose kernel routes
    /// are to be written anew.
    fn page(&mut self) -> (Vec<IpNet>, Vec<IpNet>) {
        let (mut changed, mut rewritten) = (Vec::new(), Vec::new());
        let (Some(scan), Some(running)) = (&mut self.scan, &self.running) else {
            self.scan = None;
            return (changed, rewritten);
        };
        let mut routes = write(&self.routes);
        let page = routes.page(scan.after, PAGE);
        scan.after = page.last().map(|(prefix, _)| *prefix);
        for (prefix, id) in &page {
            if scan.moved.contains(id) {
                rewritten.push(*prefix);
            }
            let set = routes.set(*id).map(|(_, set, _)| set).filter(|_| scan.judge);
            if let Some(set) = set {
                let (told, local_pref) = (set.told.clone(), set.local_pref);
                let set = PathSet::judged(&running.policies, *prefix, told, local_pref);
                if routes.put(*prefix, set, &self.table) {
                    changed.push(*prefix);
                }
            }
        }
        if page.len() < PAGE {
            self.scan = None;
        }
        (changed, rewritten)
    }

    /// Routes of an earlier life that nobody told of, once everybody has had his say.
    fn left_over(&mut self, now: Instant) -> Vec<IpNet> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let status = running.handle.status();
        let waits = status.holding || status.instance.is_none();
        if waits || now.duration_since(running.changed) < QUIET {
            return Vec::new();
        }
        let mut routes = write(&self.routes);
        running.sweeps = running.stale.len() > PAGE;
        let size = running.stale.len().min(PAGE);
        let left: Vec<IpNet> = (0..size).filter_map(|_| running.stale.pop_first()).collect();
        left.into_iter().filter(|prefix| routes.remove(prefix)).collect()
    }

    /// Has the kernel follow at these prefixes.
    fn export(&self, publisher: &Publisher, prefixes: &[IpNet]) {
        let Some(running) = &self.running else { return };
        let routes = read(&self.routes);
        let wanted = prefixes.iter().map(|prefix| {
            let own = publisher.routes().get(prefix);
            let set = routes
                .get(prefix)
                .filter(|(_, set, _)| own.is_none_or(|own| set.stands_beside(own)));
            let wanted = set.map(|(_, set, resolved)| export::Wanted {
                metric: set.metric,
                ways: resolved.ways.clone(),
            });
            (*prefix, wanted)
        });
        running.export.put(wanted);
    }
}

impl Router {
    /// Something of BGP's thread; `None` means that it has ended.
    pub(crate) async fn next_bgp(&mut self) -> Option<Output> {
        self.bgp.next().await
    }

    /// Takes in what BGP's thread said.
    pub(crate) fn take_bgp(&mut self, output: Option<Output>) {
        match output {
            Some(Output::NextHops(asked)) => self.bgp.asked(asked),
            Some(Output::Changes(changes)) => {
                let changed = self.bgp.changed(changes);
                self.follow(&changed);
            }
            None => {
                // Its routes stay until it is back and has told them anew.
                tracing::error!("BGP: its thread has ended");
                self.bgp.running = None;
                self.bgp.fault = Some("its thread has ended".to_owned());
                self.bgp.retry = Some(Instant::now() + RETRY);
                self.status.set_bgp(None);
                self.dirty = true;
            }
        }
    }

    /// Packet path and kernel follow at these prefixes.
    fn follow(&mut self, changed: &[IpNet]) {
        if changed.is_empty() {
            return;
        }
        let routes = self.bgp.routes.clone();
        let mut learned = write(&routes);
        let done = self.publisher.update(
            Publication {
                ports: &self.port_entries,
                host: &self.config.host_device,
                routes: self.publisher.routes().clone(),
                learned: &mut learned,
                tunnels: &self.tunnels,
                mirror: &self.mirror,
                attach: Vec::new(),
            },
            changed,
        );
        let sets = learned.sets().count();
        // Whole publications clear sets out of use away.
        self.dirty |= learned.unused() > UNUSED_SETS + sets;
        drop(learned);
        if done != (Done { written: done.written, removed: done.removed, ..Done::default() }) {
            self.note_publication(&done);
        }
        self.bgp.export(&self.publisher, changed);
    }

    /// Work that is left between inputs.
    pub(super) fn work_bgp(&mut self, now: Instant) {
        let (changed, rewritten) = self.bgp.page();
        self.follow(&changed);
        self.bgp.export(&self.publisher, &rewritten);
        let left = self.bgp.left_over(now);
        if !left.is_empty() {
            tracing::info!(routes = left.len(), "routes of an earlier life that no peer has go");
        }
        self.follow(&left);
    }

    /// The packet path learns of routes that an earlier life left in the kernel.
    pub(super) fn follow_found(&mut self) {
        let found = std::mem::take(&mut self.bgp.found);
        for page in found.chunks(PAGE) {
            self.follow(page);
        }
    }

    /// The kernel follows where a route of another origin came to a learned one, or left it.
    pub(super) fn follow_others(&mut self, before: &BTreeMap<IpNet, crate::resolve::Route>) {
        let now = self.publisher.routes().clone();
        let learned = read(&self.bgp.routes);
        let is_other = |prefix: &&IpNet| now.get(*prefix) != before.get(*prefix);
        let both = before.keys().chain(now.keys()).filter(is_other);
        let touched: BTreeSet<IpNet> =
            both.filter(|prefix| learned.get(prefix).is_some()).copied().collect();
        drop(learned);
        let touched: Vec<IpNet> = touched.into_iter().collect();
        self.bgp.export(&self.publisher, &touched);
    }
}
