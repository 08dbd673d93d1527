//! Questions of the packet path for link addresses, and the kernel's answers.
//!
//! A question is put to the kernel at once, and answered when the kernel resolves the neighbour or
//! gives it up. Neighbours in use are named to the kernel again from time to time, so that it
//! confirms them; see [`crate::kernel::neighbors`].

use super::Router;
use crate::kernel::{self, Neighbor};
use ahash::{AHashMap, AHashSet};
use futures::{StreamExt, stream};
use margay_fastpath::port::PortId;
use margay_fastpath::tables::Adjacency;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions that may be open; further ones are asked again by the packet path.
pub(super) const QUESTIONS_MAX: usize = 4096;
/// How long a question stays open without an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests to the kernel under way at once.
const IN_FLIGHT: usize = 32;

type NextHop = (PortId, IpAddr);

/// The open questions, and the neighbours that the kernel has told of since the last step.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: AHashMap<NextHop, Instant>,
    told: AHashSet<(u32, IpAddr)>,
}

impl Questions {
    pub(super) fn changed(&mut self, neighbors: Vec<(u32, IpAddr)>) {
        self.told.extend(neighbors);
    }

    /// Puts a question to the kernel.
    pub(super) fn ask(
        &mut self,
        handle: &rtnetlink::Handle,
        next_hop: NextHop,
        device: Option<u32>,
        now: Instant,
    ) {
        let Some(device) = device else { return };
        if self.open.len() < QUESTIONS_MAX {
            self.open.insert(next_hop, now);
            request_all(handle, vec![(device, next_hop.1)]);
        }
    }
}

/// Names neighbours to the kernel, in the background.
pub(super) fn request_all(handle: &rtnetlink::Handle, neighbors: Vec<(u32, IpAddr)>) {
    if neighbors.is_empty() {
        return;
    }
    let handle = handle.clone();
    tokio::spawn(async move {
        let ask = |(device, address)| kernel::neighbors::request(&handle, device, address);
        let mut asked = stream::iter(neighbors).map(ask).buffer_unordered(IN_FLIGHT);
        while let Some(outcome) = asked.next().await {
            if let Err(error) = outcome {
                tracing::debug!("{error}");
            }
        }
    });
}

/// Linux turns a permanent entry that is marked as used into one that it asks for itself, and
/// forgets the address (seen with 6.18).
fn may_confirm(known: Option<Neighbor>) -> bool {
    !matches!(known, Some(Neighbor::Permanent(_)))
}

impl Router {
    /// Next hops on links between routers: few, and every packet to elsewhere needs one. Pods are
    /// left out: there may be thousands, most of them silent, and the kernel's tables are small.
    fn gateways(&self) -> impl Iterator<Item = &Adjacency> {
        let tables = self.publisher.tables();
        tables
            .adjacencies
            .iter()
            .filter(|adjacency| tables.port(adjacency.port).is_some_and(|port| !port.workload))
    }

    /// Gateways whose link address is not known.
    pub(super) fn unresolved(&self) -> AHashSet<NextHop> {
        let unknown = self.gateways().filter(|adjacency| adjacency.mac.is_none());
        unknown.map(|adjacency| (adjacency.port, adjacency.neighbor)).collect()
    }

    /// The same neighbours by the kernel's devices, those that have one.
    pub(super) fn with_devices(
        &self,
        next_hops: impl IntoIterator<Item = NextHop>,
    ) -> Vec<(u32, IpAddr)> {
        let devices: AHashMap<PortId, u32> =
            self.ports.open().filter_map(|(_, _, open)| Some((open.id, open.device?.0))).collect();
        let on_device = |(port, address)| Some((*devices.get(&port)?, address));
        next_hops.into_iter().filter_map(on_device).collect()
    }

    /// Answers the questions that the kernel has decided, after the tables were published.
    pub(super) fn answer(&mut self, now: Instant) {
        let told = std::mem::take(&mut self.questions.told);
        let devices: AHashMap<PortId, u32> =
            self.ports.open().filter_map(|(_, _, open)| Some((open.id, open.device?.0))).collect();
        let (mirror, dataplane) = (&self.mirror, &self.dataplane);
        self.questions.open.retain(|(port, address), since| {
            let Some(device) = devices.get(port) else { return false };
            match mirror.neighbor(*device, *address) {
                Some(Neighbor::Resolved(_) | Neighbor::Permanent(_)) => {
                    dataplane.neighbor_result(*port, *address, true);
                    false
                }
                Some(Neighbor::Failed) if told.contains(&(*device, *address)) => {
                    dataplane.neighbor_result(*port, *address, false);
                    false
                }
                _ => now.duration_since(*since) < PATIENCE,
            }
        });
    }

    /// Finds out anew which devices take the frames of offloaded flows.
    pub(crate) fn look_at_devices(&self) {
        self.dataplane.look_at_devices();
    }

    /// Names the gateways and hosts on uplinks to the kernel as used, so that it confirms them.
    /// A pod tells of itself: it asks for its gateway from time to time.
    pub(crate) fn keep_neighbors(&self) {
        let used = self.gateways().map(|adjacency| (adjacency.port, adjacency.neighbor));
        let mut used = self.with_devices(used);
        used.retain(|(device, address)| may_confirm(self.mirror.neighbor(*device, *address)));
        request_all(&self.handle, used);
    }

    /// The kernel's neighbours on margay's ports.
    pub(super) fn neighbors(&self) -> Vec<(Arc<str>, IpAddr, Neighbor)> {
        let names: AHashMap<u32, &Arc<str>> =
            self.ports.open().filter_map(|(name, _, open)| Some((open.device?.0, name))).collect();
        let of_port =
            |(device, address, state)| Some(((*names.get(&device)?).clone(), address, state));
        let mut neighbors: Vec<_> = self.mirror.neighbors().filter_map(of_port).collect();
        neighbors.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        neighbors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::message;
    use rtnetlink::packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
    };

    #[test]
    fn what_somebody_wrote_is_left_alone() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 7;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        for (state, is_asked) in [(NeighbourState::Permanent, false), (NeighbourState::Stale, true)]
        {
            message.header.state = state;
            let (device, address, known) = message::neighbor(&message).unwrap();
            assert_eq!((device, address.to_string().as_str()), (7, "192.0.2.1"));
            assert_eq!(known.mac().unwrap().to_string(), "02:00:00:00:00:01");
            assert_eq!(may_confirm(Some(known)), is_asked, "{state:?}");
        }
    }
}
