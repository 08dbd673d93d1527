//! Which nodes are reached through a tunnel, and what this node is as the end of them.
//!
//! A pool's ipipMode or vxlanMode decides for the blocks in it (Calico's IPPool page): Always, or
//! CrossSubnet, where a node whose address is inside the subnet of this node's own address gets
//! packets as they are. The subnet is ours, not the other node's. VXLAN needs no address of a
//! VTEP here: inner frames are to its link address, which follows from the node's name unless the
//! node says otherwise.

use crate::config::TunnelSettings;
use crate::kernel::NextHop;
use crate::model::Model;
use crate::resource::ip_pool::{EncapMode, IpPool};
use crate::resource::node::Node;
use ipnet::IpNet;
use margay_fastpath::tunnel::{MAX_TUNNELS, TunnelEnd, TunnelKind, VxlanEnd};
use margay_tunnels::encap::{IPIP_OVERHEAD, VXLAN_V4_OVERHEAD, VXLAN_V6_OVERHEAD, VxlanEnds};
use margay_tunnels::wire::ethernet::Mac;
use margay_tunnels::wire::vxlan::Vni;
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Hop, Target};

/// A tunnel by its ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tunnel {
    /// Address of this node.
    pub local: IpAddr,
    /// Address of the other one.
    pub remote: IpAddr,
    /// The ends of VXLAN; `None` for IPIP.
    pub vxlan: Option<VxlanEnds>,
}

impl Tunnel {
    /// How it carries packets.
    pub fn kind(&self) -> TunnelKind {
        if self.vxlan.is_some() { TunnelKind::Vxlan } else { TunnelKind::Ipip }
    }
}

/// Everything about tunnels that follows from the datastore and the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelPlan {
    /// Own addresses with their subnets, IPv4 and IPv6.
    own: [Option<IpNet>; 2],
    /// Tunnels by node: IPIP, VXLAN over IPv4, VXLAN over IPv6.
    nodes: BTreeMap<String, [Option<Arc<Tunnel>>; 3]>,
    /// This node as their end, but for the numbers of the sources.
    pub end: TunnelEnd,
    /// MTU inside: of IPIP, VXLAN over IPv4, VXLAN over IPv6; 0 where there is none.
    pub mtus: [u16; 3],
    /// TCP's ends are told of it.
    pub clamps: bool,
    /// Tunnels beyond [`MAX_TUNNELS`].
    pub left_out: usize,
}

/// How a prefix of another node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encapsulation {
    /// As it is.
    Plain,
    /// Through this.
    Through(Arc<Tunnel>),
    /// Through a tunnel that cannot be made: an address is missing.
    Missing,
}

impl TunnelPlan {
    /// For `node`, whose uplinks carry packets of `mtu` bytes.
    pub fn of(model: &Model, node: &str, settings: &TunnelSettings, mtu: u16) -> TunnelPlan {
        let uses = |v6: bool, mode: fn(&IpPool) -> EncapMode| {
            let mut pools = model.pools.values().filter(|pool| pool.cidr.addr().is_ipv6() == v6);
            pools.any(|pool| mode(pool) != EncapMode::Never)
        };
        let used = [
            uses(false, |pool| pool.ipip_mode),
            uses(false, |pool| pool.vxlan_mode),
            uses(true, |pool| pool.vxlan_mode),
        ];
        let me = model.nodes.get(node).cloned().unwrap_or_default();
        let own = [me.ipv4.map(IpNet::V4), me.ipv6.map(IpNet::V6)];
        let mut plan = TunnelPlan {
            own,
            end: end(&me, node, settings, used),
            mtus: mtus(settings, mtu, used),
            clamps: settings.mss_clamp,
            ..TunnelPlan::default()
        };
        let mut count = 0;
        for (name, other) in model.nodes.iter().filter(|(name, _)| *name != node) {
            let mut tunnels = plan.tunnels_to(name, other, settings);
            for tunnel in &mut tunnels {
                count += usize::from(tunnel.is_some());
                plan.left_out += usize::from(count > MAX_TUNNELS && tunnel.is_some());
                tunnel.take_if(|_| count > MAX_TUNNELS);
            }
            plan.nodes.insert(name.clone(), tunnels);
        }
        plan
    }

    fn tunnels_to(
        &self,
        name: &str,
        other: &Node,
        settings: &TunnelSettings,
    ) -> [Option<Arc<Tunnel>>; 3] {
        let make = |v6: bool, vxlan: Option<VxlanEnds>| {
            let local = self.own[usize::from(v6)]?.addr();
            let remote: IpAddr = match v6 {
                false => other.ipv4?.addr().into(),
                true => other.ipv6?.addr().into(),
            };
            (local != remote).then(|| Arc::new(Tunnel { local, remote, vxlan }))
        };
        let vxlan = |v6: bool| {
            let VxlanEnd { vni, mac: local } = self.end.vxlan[usize::from(v6)]?;
            let remote = vtep_mac(name, other, v6);
            make(v6, Some(VxlanEnds { vni, port: settings.vxlan_port, local, remote }))
        };
        [if self.end.ipip { make(false, None) } else { None }, vxlan(false), vxlan(true)]
    }

    /// All tunnels, with the names of the nodes that they lead to.
    pub fn tunnels(&self) -> impl Iterator<Item = (&str, &Arc<Tunnel>)> {
        let nodes = self.nodes.iter();
        nodes.flat_map(|(name, all)| all.iter().flatten().map(move |one| (name.as_str(), one)))
    }

    /// Own addresses at which tunnels end.
    pub fn ends(&self) -> Vec<IpAddr> {
        let v4 = Some(self.end.v4).filter(|v4| !v4.is_unspecified()).map(IpAddr::V4);
        let v6 = Some(self.end.v6).filter(|v6| !v6.is_unspecified()).map(IpAddr::V6);
        v4.into_iter().chain(v6).collect()
    }

    /// MTU that pods should have: the least inside of any tunnel, or that of the uplinks.
    pub fn pod_mtu(&self, uplinks: u16) -> u16 {
        self.mtus.into_iter().filter(|mtu| *mtu > 0).min().unwrap_or(uplinks)
    }

    /// How `prefix`, which is `node`'s, is reached.
    pub(super) fn between(&self, model: &Model, prefix: &IpNet, node: &str) -> Encapsulation {
        let Some(pool) = model.pools.values().find(|pool| pool.cidr.contains(prefix)) else {
            return Encapsulation::Plain;
        };
        let v6 = prefix.addr().is_ipv6();
        let (mode, at) = match (pool.ipip_mode, pool.vxlan_mode) {
            (EncapMode::Never, mode) => (mode, if v6 { 2 } else { 1 }),
            (mode, _) => (mode, 0),
        };
        let tunnel = self.nodes.get(node).and_then(|tunnels| tunnels[at].clone());
        let same_subnet = || {
            let (own, other) = (self.own[usize::from(v6)], model.nodes.get(node));
            let other: Option<IpAddr> = match v6 {
                false => other.and_then(|other| Some(other.ipv4?.addr().into())),
                true => other.and_then(|other| Some(other.ipv6?.addr().into())),
            };
            own.zip(other).is_some_and(|(own, other)| own.trunc().contains(&other))
        };
        match mode {
            EncapMode::Never => Encapsulation::Plain,
            EncapMode::CrossSubnet if same_subnet() => Encapsulation::Plain,
            _ => tunnel.map_or(Encapsulation::Missing, Encapsulation::Through),
        }
    }
}

/// The way to a node, through a tunnel: over all ways of the underlay. In the kernel it is the TAP
/// to margay, `host`, for the kernel knows no tunnels. `None` where the underlay's way is one of
/// the host's stack, which does not forward packets from its own address.
pub(super) fn through(
    tunnel: &Arc<Tunnel>,
    found: Option<(Target, Vec<NextHop>)>,
    host: Option<u32>,
) -> Option<(Target, Vec<NextHop>)> {
    let Some((Target::Via(hops), _)) = found else { return None };
    let hops = hops.into_iter().map(|hop| Hop { tunnel: Some(tunnel.clone()), ..hop });
    let way = |device| NextHop { device, gateway: None, weight: 1 };
    Some((Target::Via(hops.collect()), host.map(way).into_iter().collect()))
}

fn end(me: &Node, node: &str, settings: &TunnelSettings, used: [bool; 3]) -> TunnelEnd {
    let [ipip, vxlan_v4, vxlan_v6] = used;
    let vni = Vni::new(settings.vxlan_vni);
    let vxlan = |used: bool, v6: bool| {
        let vni = vni.filter(|_| used)?;
        Some(VxlanEnd { vni, mac: vtep_mac(node, me, v6) })
    };
    let v4 = me.ipv4.filter(|_| ipip || vxlan_v4).map(|net| net.addr());
    let v6 = me.ipv6.filter(|_| vxlan_v6).map(|net| net.addr());
    TunnelEnd {
        v4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        v6: v6.unwrap_or(Ipv6Addr::UNSPECIFIED),
        ipip,
        vxlan: [vxlan(vxlan_v4, false), vxlan(vxlan_v6, true)],
        vxlan_port: settings.vxlan_port,
        networks: settings.external_nodes_list.clone(),
        guards_ipip: !settings.allow_ipip_from_workloads,
        guards_vxlan: !settings.allow_vxlan_from_workloads,
        ..TunnelEnd::default()
    }
}

fn mtus(settings: &TunnelSettings, uplinks: u16, used: [bool; 3]) -> [u16; 3] {
    let said = [settings.ipip_mtu, settings.vxlan_mtu, settings.vxlan_mtu_v6];
    let overheads = [IPIP_OVERHEAD, VXLAN_V4_OVERHEAD, VXLAN_V6_OVERHEAD];
    std::array::from_fn(|at| match (used[at], said[at]) {
        (false, _) => 0,
        (true, 0) => uplinks.saturating_sub(overheads[at] as u16),
        (true, said) => said,
    })
}

/// Link address of a node's VTEP: as the node says, or Calico's `f` and the SHA-1 of its name.
fn vtep_mac(name: &str, node: &Node, v6: bool) -> Mac {
    let published = node.tunnels.vxlan_macs[usize::from(v6)];
    published.unwrap_or_else(|| {
        let digest = Sha1::digest(format!("{name}{}", if v6 { "-v6" } else { "" }));
        Mac([0x66, digest[0], digest[1], digest[2], digest[3], digest[4]])
    })
}

#[cfg(test)]
mod tests;
