//! A million routes from veth to veth, beside 256: margay learns them by BGP, the kernel has them
//! in its table.

use crate::peers::{feed, forwarder};
use crate::report::{Look, Outcome};
use crate::rig::{IN_MAC, Rig};
use crate::{Arguments, Measure};
use anyhow::{Result, anyhow, ensure};
use margay::lab::daemon::DaemonSpec;
use margay::lab::process;
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Numbers of routes, and of destinations in them.
const MANY: u32 = 1_000_000;
const FEW: u32 = 256;
const DESTINATIONS: u32 = 1 << 18;
const SPEAKER: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
/// Routes that `ip` gets at once.
const PIECE: usize = 100_000;
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    let mut peers: Vec<(&'static str, Measure<'_>)> = vec![
        ("margay, 1,000,000 routes", Box::new(|time| margay(MANY, time))),
        ("margay, 256 routes", Box::new(|time| margay(FEW, time))),
        ("Linux, 1,000,000 routes", Box::new(|time| linux(MANY, time))),
        ("Linux, 256 routes", Box::new(|time| linux(FEW, time))),
    ];
    let notes = vec![
        format!(
            "{DESTINATIONS} destinations at random in all routes, in random order; 64 bytes, rig \
             and cores as for veth; routes of 21 to 28 bits, three of four of 24"
        ),
        "margay: AF_XDP alone, routes by BGP from the generator's side, none of them in the kernel"
            .to_owned(),
    ];
    let rows = crate::run_all(&mut peers, arguments);
    let title = "routes: 1,000,000 and 256, veth to veth".to_owned();
    vec![Outcome { title, unit: "Mpps", look: Look::MoreIsBetter, notes, rows }]
}

fn routes(count: u32) -> impl Iterator<Item = (Ipv4Addr, u8)> {
    (0..count).map(forwarder::wide_route)
}

fn frames(count: u32) -> Vec<Vec<u8>> {
    let frame = |at: u32| {
        let (net, _) = forwarder::wide_route(forwarder::mixed(at) % count);
        let dst = Ipv4Addr::from(u32::from(net) + 1 + (at & 7));
        forwarder::udp(IN_MAC, (SPEAKER, 1024), (dst, 9))
    };
    (0..DESTINATIONS).map(frame).collect()
}

fn linux(count: u32, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    rig.router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    let lines: Vec<String> =
        routes(count).map(|(net, len)| format!("route add {net}/{len} via {NEXT_HOP}")).collect();
    for piece in lines.chunks(PIECE) {
        rig.router.ip(&piece.join("\n"))?;
    }
    rig.pin_receive()?;
    rig.measure_frames(&frames(count), 63, time)
}

fn margay(count: u32, time: Duration) -> Result<f64> {
    let rig = Rig::new()?;
    let store = rig.store()?;
    store.put_node_of("edge1", "10.10.0.1/24".parse()?, "fd10::1/64".parse()?, feed::AS.into())?;
    store.put_peer("edge1", SPEAKER.into(), feed::AS.into(), false)?;
    let spec = DaemonSpec {
        uplinks: vec!["in0".to_owned(), "out0".to_owned()],
        bgp: true,
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge1", &store, &rig.scope)
    };
    let sockets = spec.bird_sockets();
    let listener = rig.generator.enter(|| feed::listen(SPEAKER))?;
    let settings = json!({
        "bgp": { "enabled": true, "birdSockets": sockets, "kernelRoutes": 0 },
    });
    let daemon = rig.daemon(spec, settings)?;
    let _session = std::thread::scope(|scope| {
        let session = scope.spawn(|| feed::send(&listener, SPEAKER, routes(count), NEXT_HOP));
        session.join().map_err(|_| anyhow!("the speaker panicked"))?
    })?;
    process::wait_for("the routes to be in the FIB", WAIT, || {
        let found = daemon.show("status")?["bgp"]["routesV4"].as_u64().unwrap_or(0);
        let (net, len) = forwarder::wide_route(count - 1);
        // While the route is not there, the command fails.
        let has_last = daemon.show(&format!("routes {net}/{len}")).is_ok();
        Ok((found >= u64::from(count) && has_last).then_some(()))
    })?;
    let rate = rig.measure_frames(&frames(count), 63, time)?;
    let lost = daemon.drops()?.get("no-route").copied().unwrap_or(0);
    ensure!(lost == 0, "{lost} packets had no route");
    Ok(rate)
}
