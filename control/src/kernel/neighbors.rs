//! Asking the kernel for link addresses.
//!
//! `NTF_USE` does what a packet of the host's own would do: an unknown or failed neighbour is
//! asked for, a stale one is confirmed. Packets that margay sends do not count as use to the
//! kernel, so the neighbours in use are told to it from time to time; a dead one is found so.

use super::KernelError;
use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use std::net::IpAddr;

/// Marks a neighbour as used; the answer comes as an event.
pub async fn request(handle: &Handle, device: u32, address: IpAddr) -> Result<(), KernelError> {
    let request = handle
        .neighbours()
        .add(device, address)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    let what = format!("neighbour {address} on device {device}");
    request.execute().await.map_err(|error| KernelError::new(what, &error))
}
