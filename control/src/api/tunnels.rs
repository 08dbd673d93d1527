//! `show tunnels`.

use super::routes::NextHopAnswer;
use crate::resolve::tunnels::Tunnel;
use crate::status::{Snapshot, Status};
use margay_fastpath::tables::Tables;
use margay_fastpath::tunnel::{TunnelId, TunnelKind};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A tunnel to another node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelAnswer {
    /// The other node.
    pub node: String,
    /// `ipip` or `vxlan`.
    pub kind: String,
    /// Address of this node.
    pub local: IpAddr,
    /// Address of the other node.
    pub remote: IpAddr,
    /// Network of VXLAN.
    pub vni: Option<u32>,
    /// UDP port of VXLAN.
    pub port: Option<u16>,
    /// Link address of the other node's VTEP.
    pub mac: Option<String>,
    /// Largest packet that goes in, in bytes, as far as is known; none where nothing leads in.
    pub mtu: Option<u16>,
    /// Largest outer packet that the underlay has told of, while that counts.
    pub path_mtu: Option<u16>,
    /// Ways of outer packets; none where nothing leads in.
    pub next_hops: Vec<NextHopAnswer>,
    /// Packets that came out.
    pub rx_packets: u64,
    /// Bytes of the inner packets that came out.
    pub rx_bytes: u64,
    /// Packets of the other node that were dropped before they came out.
    pub rx_drops: u64,
    /// Packets that went in.
    pub tx_packets: u64,
    /// Bytes of the inner packets that went in.
    pub tx_bytes: u64,
    /// Packets that did not fit, or could not be wrapped.
    pub tx_drops: u64,
}

pub(crate) fn answer(status: &Status) -> Vec<TunnelAnswer> {
    let snapshot = status.snapshot();
    let tables = status.dataplane().tables();
    let tunnels = snapshot.tunnels.tunnels();
    let answers = tunnels.filter_map(|(node, tunnel)| {
        let id = *tables.tunnel_end.sources.get(&(tunnel.kind(), tunnel.remote))?;
        Some(of_tunnel(status, (&snapshot, &tables), (node, tunnel), id))
    });
    answers.collect()
}

fn of_tunnel(
    status: &Status,
    (snapshot, tables): (&Snapshot, &Tables),
    (node, tunnel): (&str, &Tunnel),
    id: TunnelId,
) -> TunnelAnswer {
    let dataplane = status.dataplane();
    let entry = tables.tunnel(id);
    let carried = dataplane.tunnel_totals(id);
    let carried = entry.map_or(carried, |entry| carried.since(entry.base));
    let path_mtu = dataplane.path_mtus().get(id, dataplane.now_ns());
    let ways = || tables.adjacencies.iter().filter(|next| next.tunnel == Some(id));
    let port = |id| {
        let mut ports = snapshot.ports.iter();
        ports.find(|(_, port)| port.open.as_ref().is_some_and(|(open, _)| *open == id))
    };
    let next_hops = ways().map(|next| NextHopAnswer {
        port: port(next.port).map(|(name, _)| name.to_string()).unwrap_or_default(),
        address: Some(next.neighbor),
        mac: next.mac.map(|mac| mac.to_string()),
        tunnel: None,
    });
    let link_mtu = ways().filter_map(|next| Some(tables.port(next.port)?.mtu)).min();
    let overhead = entry.map_or(0, |entry| entry.encap.overhead() as u16);
    let outer = link_mtu.map(|mtu| path_mtu.unwrap_or(u16::MAX).min(mtu));
    TunnelAnswer {
        node: node.to_owned(),
        kind: kind(tunnel.kind()).to_owned(),
        local: tunnel.local,
        remote: tunnel.remote,
        vni: tunnel.vxlan.map(|ends| ends.vni.get()),
        port: tunnel.vxlan.map(|ends| ends.port),
        mac: tunnel.vxlan.map(|ends| ends.remote.to_string()),
        mtu: outer.map(|mtu| mtu.saturating_sub(overhead)),
        path_mtu,
        next_hops: next_hops.collect(),
        rx_packets: carried.rx_packets,
        rx_bytes: carried.rx_bytes,
        rx_drops: carried.rx_drops,
        tx_packets: carried.tx_packets,
        tx_bytes: carried.tx_bytes,
        tx_drops: carried.tx_drops,
    }
}

/// The name that people and scripts see.
pub(super) fn kind(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::Ipip => "ipip",
        TunnelKind::Vxlan => "vxlan",
    }
}
