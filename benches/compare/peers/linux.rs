//! The kernel as the router of the rig.

use crate::peers::forwarder;
use crate::rig::Rig;
use anyhow::Result;

/// Lets the kernel forward, on the router's core.
pub(crate) fn route_by_kernel(rig: &Rig) -> Result<()> {
    rig.router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    let mut lines = String::new();
    for net in forwarder::routes()? {
        lines += &format!("route add {net} via 10.20.0.2\n");
    }
    rig.router.ip(&lines)?;
    rig.pin_receive()
}
