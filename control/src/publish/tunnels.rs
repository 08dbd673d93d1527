//! Numbers of tunnels, and the part of the snapshot that is about them.
//!
//! A tunnel that gets the number of one that is gone begins to count anew: what the number carried
//! before is kept beside it, and what the underlay told is forgotten.

use super::{Publication, Publisher};
use crate::resolve::Hop;
use crate::resolve::tunnels::{Tunnel, TunnelPlan};
use margay_fastpath::tunnel::{
    MAX_TUNNELS, Tunnel as Entry, TunnelEnd, TunnelId, TunnelKind, TunnelTotals,
};
use margay_tunnels::encap::Encap;
use std::net::IpAddr;
use std::sync::Arc;

/// The tunnel that a number stands for, and what the number had carried before.
pub(super) type Base = (Arc<Tunnel>, TunnelTotals);

impl Publisher {
    /// Numbers for all tunnels to nodes, so that those that nothing leads to are known as sources.
    pub(super) fn number_tunnels(&mut self, plan: &TunnelPlan) {
        self.tunnels.begin();
        for (_, tunnel) in plan.tunnels() {
            self.tunnels.number(tunnel);
        }
    }

    /// The number of a next hop's tunnel; `Err` where there are too many.
    pub(super) fn tunnel_of(&mut self, hop: &Hop) -> Result<Option<u32>, TooMany> {
        let Some(tunnel) = &hop.tunnel else { return Ok(None) };
        match self.tunnels.number(tunnel) {
            number if (number as usize) < MAX_TUNNELS => Ok(Some(number)),
            _ => Err(TooMany),
        }
    }

    /// All tunnels by number, and this node as their end.
    pub(super) fn tunnel_tables(
        &mut self,
        publication: &Publication,
    ) -> (Vec<Option<Entry>>, TunnelEnd) {
        let plan = publication.tunnels;
        let mut end = plan.end.clone();
        let known: Vec<Option<Arc<Tunnel>>> =
            self.tunnels.values().take(MAX_TUNNELS).map(|value| value.cloned()).collect();
        let mut entries = Vec::with_capacity(known.len());
        for (number, tunnel) in (0u32..).zip(known) {
            let entry = tunnel.and_then(|tunnel| self.tunnel_entry(plan, number, &tunnel));
            entries.push(entry);
        }
        for (_, tunnel) in plan.tunnels() {
            let number = TunnelId(self.tunnels.number(tunnel));
            end.sources.insert((tunnel.kind(), tunnel.remote), number);
        }
        (entries, end)
    }

    fn tunnel_entry(
        &mut self,
        plan: &TunnelPlan,
        number: u32,
        tunnel: &Arc<Tunnel>,
    ) -> Option<Entry> {
        let encap = encap(tunnel)?;
        let id = TunnelId(number);
        if self.tunnel_bases.get(&number).is_none_or(|(old, _)| old != tunnel) {
            let carried = self.dataplane.tunnel_totals(id);
            self.dataplane.path_mtus().forget(id);
            self.tunnel_bases.insert(number, (tunnel.clone(), carried));
        }
        let base = self.tunnel_bases.get(&number).map(|(_, base)| *base).unwrap_or_default();
        let at = match tunnel.kind() {
            TunnelKind::Ipip => 0,
            TunnelKind::Vxlan => 1 + usize::from(encap.is_v6()),
        };
        let mss_mtu = if plan.clamps { plan.mtus[at] } else { 0 };
        Some(Entry { kind: tunnel.kind(), remote: tunnel.remote, encap, mss_mtu, base })
    }
}

/// More tunnels than the packet path has room for.
#[derive(Debug)]
pub(super) struct TooMany;

/// The outer headers of a tunnel; `None` when its addresses are of two families.
pub(crate) fn encap(tunnel: &Tunnel) -> Option<Encap> {
    match (tunnel.local, tunnel.remote, tunnel.vxlan) {
        (IpAddr::V4(local), IpAddr::V4(remote), None) => Some(Encap::ipip(local, remote)),
        (local, remote, Some(ends)) => Encap::vxlan(local, remote, ends),
        _ => None,
    }
}
