//! Addresses of this node inside of tunnels, on the TAP to margay.
//!
//! The host's own packets to pods elsewhere leave by that device, so the kernel takes its address
//! as their source, and the answers come back through the tunnel.

use super::KernelError;
use super::mirror::Mirror;
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Makes the addresses of a device equal to `wanted`, each alone in its prefix; link-local ones
/// stay. What the kernel refused.
pub(crate) async fn reconcile(
    handle: &Handle,
    device: u32,
    wanted: &BTreeSet<IpAddr>,
    mirror: &Mirror,
) -> Vec<KernelError> {
    let present: BTreeSet<IpAddr> = mirror
        .addresses_of(device)
        .map(|net| net.addr())
        .filter(|address| !is_link_local(*address))
        .collect();
    let mut refused = Vec::new();
    for address in wanted.difference(&present) {
        let length = IpNet::from(*address).prefix_len();
        let done = handle.address().add(device, *address, length).execute().await;
        let failed = |error| KernelError::new(format!("address {address}"), &error);
        refused.extend(done.err().map(failed));
    }
    for address in present.difference(wanted) {
        let found = handle.address().get().set_link_index_filter(device);
        let mut messages = found.set_address_filter(*address).execute();
        while let Ok(Some(message)) = messages.try_next().await {
            let done = handle.address().del(message).execute().await;
            let failed = |error| KernelError::new(format!("address {address} to go"), &error);
            refused.extend(done.err().map(failed));
        }
    }
    refused
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
