//! BGP begins, runs as the datastore wants it, and ends.

use super::{Bgp, RETRY, Running, wanted, write};
use crate::bgp::{self, Handle, Options};
use crate::config::BgpSettings;
use crate::kernel::export::{self, Export};
use crate::resolve::learned::PathSet;
use crate::router::Router;
use ipnet::IpNet;
use margay_bgp::policy::Policy;
use margay_bgp::session::StopReason;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

impl Bgp {
    /// Tells the thread what it is to be, if that is something else than before.
    fn tell(&mut self, settings: &BgpSettings) {
        let Some(running) = &mut self.running else { return };
        let Some(config) = wanted::config(&self.plan, settings, &self.on_link) else { return };
        if running.told.as_ref() != Some(&config) {
            running.handle.apply(config.clone());
            running.told = Some(config);
        }
    }
}

impl Router {
    /// Has BGP run as the state wants it.
    pub(in crate::router) async fn follow_plan(&mut self) {
        if std::mem::take(&mut self.bgp.replan) {
            let settings = &self.config.bgp;
            let facts = wanted::facts(settings, &self.config.node_name);
            let plan = crate::resolve::bgp::plan(&self.model, &self.config.node_name, &facts);
            self.bgp.plan = Arc::new(plan);
        }
        let is_on = wanted::is_on(&self.config.bgp, &self.model, &self.bgp.plan);
        if !is_on {
            self.end_bgp().await;
            return;
        }
        let waits = self.bgp.retry.is_some_and(|retry| Instant::now() < retry);
        if self.bgp.running.is_none()
            && !waits
            && let Err(fault) = self.start_bgp().await
        {
            tracing::warn!("BGP: {fault}");
            self.bgp.fault = Some(fault);
            self.bgp.retry = Some(Instant::now() + RETRY);
        }
        let Bgp { running: Some(running), plan, fault, scan, .. } = &mut self.bgp else { return };
        let policies = plan.kernel.clone().unwrap_or_else(all);
        if policies != running.policies {
            running.policies = policies;
            let scan = scan.get_or_insert_default();
            (scan.judge, scan.after) = (true, None);
        }
        *fault = plan.instance.as_ref().filter(|one| one.router_id.is_none()).map(|_| {
            let hint = "set bgp.routerId or CALICO_ROUTER_ID";
            format!("the node has no IPv4 address to be its router id: {hint}")
        });
        self.bgp.look_at_links();
        self.bgp.tell(&self.config.bgp);
    }

    /// Interfaces or routes may be others: peers that have come to a link, or left it.
    pub(in crate::router) fn follow_links(&mut self) {
        if self.bgp.look_at_links() {
            self.bgp.tell(&self.config.bgp);
        }
    }

    async fn start_bgp(&mut self) -> Result<(), String> {
        let limit = self.config.bgp.kernel_routes.unwrap_or(usize::MAX);
        let (export, left) =
            Export::start(self.handle.clone(), limit).await.map_err(|error| error.to_string())?;
        let mut stale = BTreeSet::new();
        let mut routes = write(&self.bgp.routes);
        for route in left {
            let gateways: Vec<IpAddr> =
                route.next_hops.iter().filter_map(|hop| hop.gateway).collect();
            if gateways.is_empty() {
                export.put([(route.prefix, None)]);
            } else if stale.insert(route.prefix) {
                let set = PathSet::found(gateways, route.metric);
                routes.put(route.prefix, set, &self.bgp.table);
            }
        }
        // After the thread's end, the routes of before.
        self.bgp.found = stale.iter().copied().collect();
        stale.extend(routes.page(None, usize::MAX).into_iter().map(|(prefix, _)| prefix));
        drop(routes);
        let options = Options { restarting: !stale.is_empty() };
        let (handle, outputs) = bgp::start(options).map_err(|error| error.to_string())?;
        tracing::info!(routes_kept = stale.len(), "BGP starts");
        let policies = self.bgp.plan.kernel.clone().unwrap_or_else(all);
        (self.bgp.looked, self.bgp.retry) = (true, None);
        self.bgp.running = Some(Running {
            handle: Arc::new(handle),
            outputs,
            export,
            told: None,
            policies,
            next_hops: BTreeMap::new(),
            stale,
            changed: Instant::now(),
            sweeps: false,
        });
        self.status.set_bgp(self.bgp.handle().cloned());
        Ok(())
    }

    /// BGP is not wanted: its routes go, also those of an earlier life.
    async fn end_bgp(&mut self) {
        self.bgp.fault = None;
        if !std::mem::replace(&mut self.bgp.looked, true)
            && let Err(error) = export::remove_all(&self.handle).await
        {
            self.note([error.to_string()]);
        }
        let Some(running) = self.bgp.running.take() else { return };
        self.status.set_bgp(None);
        stop(running.handle, StopReason::Deconfigured);
        running.export.stop(false).await;
        let gone: Vec<IpNet> = {
            let mut routes = write(&self.bgp.routes);
            let all = routes.page(None, usize::MAX).into_iter().map(|(prefix, _)| prefix);
            all.filter(|prefix| routes.remove(prefix)).collect()
        };
        self.follow(&gone);
    }

    /// The daemon ends: peers keep our routes if forwarding goes on.
    pub(in crate::router) async fn stop_bgp(&mut self) {
        let keep = self.config.keep_routes;
        let Some(running) = self.bgp.running.take() else { return };
        self.status.set_bgp(None);
        let reason = if keep { StopReason::Restart } else { StopReason::Shutdown(String::new()) };
        stop(running.handle, reason);
        running.export.stop(keep).await;
    }
}

fn stop(handle: Arc<Handle>, reason: StopReason) {
    // Whoever still asks it something has it a moment longer; then it ends as if to restart.
    if let Some(handle) = Arc::into_inner(handle) {
        handle.stop(reason);
    }
}

fn all() -> [Arc<Policy>; 2] {
    [true; 2].map(|accept| Arc::new(Policy::new(Vec::new(), accept)))
}
