//! The margay daemon as the router of the rig.

use crate::peers::forwarder;
use crate::rig::Rig;
use anyhow::Result;
use margay::lab::daemon::{Daemon, DaemonSpec};
use margay::lab::store::Store;
use serde_json::Value;

/// The daemon with these settings, its worker pinned to the router's core. With offload the
/// kernel's receive is there too, as it is for Linux: that is where offloaded flows are carried.
pub(crate) fn route_by_margay(
    rig: &Rig,
    store: &Store,
    offload: bool,
    settings: Value,
) -> Result<Daemon> {
    let via = "10.20.0.2".parse()?;
    let routes = forwarder::routes()?.into_iter().map(|net| (net.into(), via));
    let spec = DaemonSpec {
        uplinks: vec!["in0".to_owned(), "out0".to_owned()],
        static_routes: routes.collect(),
        offload,
        ..DaemonSpec::new(env!("CARGO_BIN_EXE_margay"), "edge1", store, &rig.scope)
    };
    let daemon = rig.daemon(spec, settings)?;
    if offload {
        rig.pin_receive()?;
    }
    Ok(daemon)
}
