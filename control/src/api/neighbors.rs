//! `show neighbors`.

use crate::kernel::Neighbor;
use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A host on the link of a port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighborAnswer {
    /// Name of the port.
    pub port: String,
    /// Its address.
    pub address: IpAddr,
    /// Its link address, once it is resolved.
    pub mac: Option<String>,
    /// `resolved`, `permanent` (written by somebody), `pending` or `failed`.
    pub state: String,
}

pub(crate) fn answer(status: &Status) -> Vec<NeighborAnswer> {
    let snapshot = status.snapshot();
    let mut neighbors: Vec<NeighborAnswer> = snapshot
        .neighbors
        .iter()
        .map(|(port, address, state)| {
            let word = match state {
                Neighbor::Resolved(_) => "resolved",
                Neighbor::Permanent(_) => "permanent",
                Neighbor::Pending => "pending",
                Neighbor::Failed => "failed",
            };
            NeighborAnswer {
                port: port.to_string(),
                address: *address,
                mac: state.mac().map(|mac| mac.to_string()),
                state: word.to_owned(),
            }
        })
        .collect();
    // Stations behind TAPs are not known to the kernel.
    for adjacency in &status.dataplane().tables().adjacencies {
        let port = snapshot.ports.iter().find(|(_, port)| {
            !port.kind.is_device()
                && port.open.as_ref().is_some_and(|open| open.0 == adjacency.port)
        });
        let Some(((name, _), false)) = port.map(|port| (port, adjacency.neighbor.is_unspecified()))
        else {
            continue;
        };
        neighbors.push(NeighborAnswer {
            port: name.to_string(),
            address: adjacency.neighbor,
            mac: adjacency.mac.map(|mac| mac.to_string()),
            state: if adjacency.mac.is_some() { "resolved" } else { "pending" }.to_owned(),
        });
    }
    neighbors
}
