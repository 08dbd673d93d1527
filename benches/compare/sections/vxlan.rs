//! Packets into a VXLAN tunnel: margay's encapsulation beside the kernel's device, set up as
//! Calico's agent does it.

use crate::peers::daemon::route_by_margay;
use crate::peers::{forwarder, linux};
use crate::report::{Look, Outcome};
use crate::rig::{FLOWS, IN_MAC, Rig};
use crate::{Arguments, Measure};
use anyhow::{Result, ensure};
use margay::lab::network::Encap;
use margay::lab::store::Pool;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The other node's block.
const BLOCK: &str = "10.65.1.0/24";
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 65, 1, 1);
/// Addresses in it that packets go to.
const PODS: u32 = 250;
/// A link address inside of the tunnel; the sink does not look.
const VTEP: &str = "66:0a:0b:0c:0d:0e";
/// TTL of outer packets.
const TTL: u8 = 64;

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay, VXLAN", Box::new(|time| margay(false, time))),
        ("margay, VXLAN, offload", Box::new(|time| margay(true, time))),
        ("margay, without a tunnel", Box::new(|time| plain(true, time))),
        ("Linux, VXLAN device", Box::new(kernel)),
        ("Linux, without a tunnel", Box::new(|time| plain(false, time))),
    ];
    let notes = vec![
        format!(
            "packets of 64 bytes, {FLOWS} flows to {PODS} addresses of another node's block, which \
             leave in outer packets of 114; VNI 4096, port 4789, no outer UDP checksum; rig and \
             cores as for veth"
        ),
        "margay: AF_XDP alone, or with offload as for veth; Linux: an FDB entry and permanent \
         neighbours, as Felix makes them"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    let title = "vxlan: encapsulation, 64 bytes".to_owned();
    vec![Outcome { title, unit: "Mpps", look: Look::MoreIsBetter, notes, rows }]
}

fn frames() -> Vec<Vec<u8>> {
    let frame = |at: u32| {
        let src = (Ipv4Addr::new(10, 10, 0, 2), 1024 + at as u16);
        forwarder::udp(IN_MAC, src, (Ipv4Addr::from(u32::from(FIRST) + at % PODS), 9))
    };
    (0..FLOWS).map(frame).collect()
}

fn margay(offload: bool, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let store = rig.store()?;
    store.put_node("edge1", "10.20.0.1/24".parse()?, "fd20::1/64".parse()?)?;
    store.put_node("far", "10.20.0.2/24".parse()?, "fd20::2/64".parse()?)?;
    let pool = Pool { encap: Encap::Vxlan, block_size: 24, ..Pool::new("10.65.0.0/16".parse()?) };
    store.put_pool("pods", pool)?;
    store.put_affinity("far", BLOCK.parse()?)?;
    let daemon = route_by_margay(&rig, &store, offload, Value::Null)?;
    let rate = rig.measure_frames(&frames(), TTL, time)?;
    let ports = daemon.show("ports")?;
    let carried = ports.as_array().into_iter().flatten().map(|port| &port["offloadedTxPackets"]);
    let is_carried = carried.filter_map(Value::as_u64).any(|packets| packets > 0);
    ensure!(is_carried == offload, "carried by the program: {is_carried}");
    Ok(rate)
}

fn kernel(time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    linux::route_by_kernel(&rig)?;
    rig.router.ip(
        "link add vx0 mtu 1450 type vxlan id 4096 dstport 4789 local 10.20.0.1 dev out0 \
         nolearning\n\
         addr add 10.65.0.0/32 dev vx0\n\
         link set vx0 up",
    )?;
    rig.tool("bridge", &["fdb", "add", VTEP, "dev", "vx0", "dst", "10.20.0.2"])?;
    rig.router.ip(&format!(
        "neigh add 10.65.1.0 lladdr {VTEP} dev vx0 nud permanent\n\
         route add {BLOCK} via 10.65.1.0 dev vx0 onlink"
    ))?;
    rig.measure_frames(&frames(), TTL, time)
}

/// The same packets by an ordinary route.
fn plain(is_margay: bool, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    if !is_margay {
        linux::route_by_kernel(&rig)?;
        rig.router.ip(&format!("route add {BLOCK} via 10.20.0.2"))?;
        return rig.measure_frames(&frames(), 63, time);
    }
    let store = rig.store()?;
    store.put_node("far", "10.20.0.2/24".parse()?, "fd20::2/64".parse()?)?;
    let routes = serde_json::json!({
        "staticRoutes": [{ "prefix": BLOCK, "via": "10.20.0.2" }],
    });
    let _daemon = route_by_margay(&rig, &store, false, routes)?;
    rig.measure_frames(&frames(), 63, time)
}
