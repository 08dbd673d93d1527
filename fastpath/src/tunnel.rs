//! Tunnels as the workers know them: where they lead, what may come out of them, what they carried.
//!
//! A next hop that is reached through a tunnel is an [`crate::tables::Adjacency`] of the underlay
//! that names it, so that the way of the outer packet is known before there is one: no second
//! lookup, and ECMP goes over tunnels and over paths of the underlay alike.

mod counters;
pub(crate) mod path_mtu;
pub(crate) mod reassembly;

pub use counters::{TunnelCounter, TunnelCounters, TunnelTotals};
pub use path_mtu::{LEARNED_FOR_NS, PathMtus};

use ahash::AHashMap;
use ipnet::IpNet;
use margay_tunnels::encap::Encap;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::ipv4;
use margay_tunnels::wire::vxlan::Vni;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most tunnels at the same time.
pub const MAX_TUNNELS: usize = 16_384;

/// Index into [`crate::tables::Tables::tunnels`], below [`MAX_TUNNELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TunnelId(pub u32);

/// How packets are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TunnelKind {
    /// IPv4 in IPv4 (RFC 2003).
    Ipip,
    /// VXLAN (RFC 7348).
    Vxlan,
}

/// A tunnel to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// How it carries packets.
    pub kind: TunnelKind,
    /// The far end.
    pub remote: IpAddr,
    /// Its outer headers.
    pub encap: Encap,
    /// TCP's ends are told a segment size that fits packets of so many bytes; 0 leaves theirs.
    pub mss_mtu: u16,
    /// What its number had carried for another tunnel before.
    pub base: TunnelTotals,
}

/// The end of VXLAN tunnels over one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanEnd {
    /// The network.
    pub vni: Vni,
    /// Link address of this end in inner frames.
    pub mac: Mac,
}

/// This node as the end of tunnels: what is taken apart here, and what pods may not send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEnd {
    /// The address at which tunnels over IPv4 end; unspecified when none do.
    pub v4: Ipv4Addr,
    /// The same over IPv6.
    pub v6: Ipv6Addr,
    /// IPIP ends here.
    pub ipip: bool,
    /// VXLAN ends here, over IPv4 and over IPv6.
    pub vxlan: [Option<VxlanEnd>; 2],
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Nodes that tunnels may come from, with the tunnel to each.
    pub sources: AHashMap<(TunnelKind, IpAddr), TunnelId>,
    /// Hosts outside of the cluster that they may come from too.
    pub networks: Vec<IpNet>,
    /// Pods may not send IPIP packets.
    pub guards_ipip: bool,
    /// Pods may not send VXLAN packets.
    pub guards_vxlan: bool,
}

/// The tunnels that pods may not send through, as a quick look at plain IPv4 finds them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    ipip: bool,
    vxlan_port: Option<u16>,
}

impl Guard {
    /// True when a packet is worth a closer look. `head` begins with the Ethernet header; the IPv4
    /// header behind it has no options.
    #[inline(always)]
    pub(crate) fn concerns(self, head: &[u8]) -> bool {
        use margay_tunnels::wire::protocol::{IPIP, UDP};
        const PROTOCOL: usize = ethernet::HEADER_LEN + 9;
        const DST_PORT: usize = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN + 2;
        match head.get(PROTOCOL) {
            Some(&IPIP) => self.ipip,
            Some(&UDP) => {
                let port = head.get(DST_PORT..).and_then(|rest| rest.first_chunk());
                port.is_some_and(|port| Some(u16::from_be_bytes(*port)) == self.vxlan_port)
            }
            _ => false,
        }
    }
}

impl Default for TunnelEnd {
    fn default() -> TunnelEnd {
        TunnelEnd {
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
            ipip: false,
            vxlan: [None; 2],
            vxlan_port: 0,
            sources: AHashMap::new(),
            networks: Vec::new(),
            guards_ipip: false,
            guards_vxlan: false,
        }
    }
}

impl TunnelEnd {
    /// What pods may not send.
    #[inline]
    pub(crate) fn guard(&self) -> Guard {
        Guard { ipip: self.guards_ipip, vxlan_port: self.guards_vxlan.then_some(self.vxlan_port) }
    }

    /// The tunnel to the node at the other end, if packets from there are taken. `Ok(None)` for a
    /// host that is no node.
    pub(crate) fn source(
        &self,
        kind: TunnelKind,
        src: IpAddr,
    ) -> Result<Option<TunnelId>, UnknownSource> {
        if let Some(id) = self.sources.get(&(kind, src)) {
            return Ok(Some(*id));
        }
        let known = self.networks.iter().any(|net| net.contains(&src));
        if known { Ok(None) } else { Err(UnknownSource) }
    }
}

/// Packets of a tunnel came from somewhere else.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownSource;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_outside_networks_are_known_and_others_are_not() {
        let node: IpAddr = [172, 30, 0, 2].into();
        let end = TunnelEnd {
            sources: [((TunnelKind::Ipip, node), TunnelId(3))].into_iter().collect(),
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            ..TunnelEnd::default()
        };
        assert_eq!(end.source(TunnelKind::Ipip, node), Ok(Some(TunnelId(3))));
        assert_eq!(end.source(TunnelKind::Vxlan, node), Err(UnknownSource));
        assert_eq!(end.source(TunnelKind::Vxlan, [192, 0, 2, 9].into()), Ok(None));
        assert_eq!(end.source(TunnelKind::Ipip, [192, 0, 3, 9].into()), Err(UnknownSource));
    }
}
