//! Opening devices: the one place that knows the port kinds of the packet path.
//!
//! Calls here block (an AF_XDP socket that has just been closed takes up to a second to be free
//! again) and run in the namespace of the calling thread. Not for workers, nor for async tasks.

use crate::config::{Config, XdpMode};
use crate::publish::stable_hash;
use crate::resolve::ports::PortKind;
use margay_fastpath::offload::FlowMap;
use margay_fastpath::port::tap::{self, Engine, TapSpec};
use margay_fastpath::port::tc::{self, TcDevice};
use margay_fastpath::port::xdp::{self, XdpDevice, XdpSpec};
use margay_fastpath::port::{Port, PortId};
use margay_fastpath::steering::{Steered, Steering};
use margay_fastpath::sys::memory::Arena;
use margay_tunnels::wire::ethernet::Mac;
use std::path::Path;
use std::sync::Arc;

/// Packets that the kernel processes in one busy poll.
const BUSY_POLL_BUDGET: u32 = 64;

/// Link address of margay's end of a TAP: Calico's for the host's end of every pod, which makes it
/// fe80::ecee:eeff:feee:eeee.
const GATEWAY_MAC: Mac = Mac([0xee; 6]);
/// MTU of a TAP where nothing says otherwise, in bytes.
pub(crate) const TAP_MTU: u16 = 1500;

/// A device that could not be opened; the text has a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OpenError(pub(crate) String);

impl OpenError {
    fn of(error: impl std::fmt::Display) -> OpenError {
        OpenError(error.to_string())
    }
}

/// Which port to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Its number.
    pub(crate) id: PortId,
    /// Its name: the device's, but for TAPs of pods.
    pub(crate) name: &'a str,
    /// What it is for.
    pub(crate) kind: &'a PortKind,
    /// Link address of the device, where it is there already; for TAPs the one that it is to have.
    pub(crate) mac: Option<Mac>,
    /// MTU that a TAP is to have.
    pub(crate) mtu: u16,
    /// The number of workers.
    pub(crate) workers: usize,
}

/// An open port.
pub(crate) struct Opened {
    /// Parts, one a worker, the first for the worker that owns the port.
    pub(crate) parts: Vec<Box<dyn Port>>,
    /// Link address of margay on the link.
    pub(crate) mac: Mac,
    /// Link address of the only station behind it, for TAPs.
    pub(crate) station: Option<Mac>,
    /// MTU of a TAP.
    pub(crate) mtu: Option<u16>,
    /// What must live as long as the port.
    pub(crate) keep: Keep,
}

/// What must live as long as a port, and ends after it.
#[derive(Debug, Default)]
pub(crate) enum Keep {
    /// Nothing: the port is all there is.
    #[default]
    Nothing,
    /// An AF_XDP device.
    Xdp(#[allow(dead_code)] XdpDevice),
    /// The programs of a veth by tc.
    Tc(#[allow(dead_code)] TcDevice),
}

/// Opens devices.
#[derive(Debug)]
pub(crate) struct Devices {
    steering: Steering,
    xdp_mode: XdpMode,
    busy_poll: bool,
    bulk: bool,
}

impl Devices {
    /// Makes what all ports share.
    pub(crate) fn new(config: &Config, arena: &Arc<Arena>) -> Result<Devices, OpenError> {
        let steering = Steering::new(arena, config.tunnels.vxlan_port).map_err(OpenError::of)?;
        let steering = match config.offload.then(FlowMap::new) {
            Some(Ok(map)) => steering.with_offload(map),
            Some(Err(error)) => {
                tracing::warn!("no flow offload: {error}");
                steering
            }
            None => steering,
        };
        let Config { xdp_mode, busy_poll, bulk_transmit: bulk, .. } = *config;
        Ok(Devices { steering, xdp_mode, busy_poll, bulk })
    }

    /// The flows that XDP programs carry by themselves, if they are to.
    pub(crate) fn offload(&self) -> Option<&Arc<FlowMap>> {
        self.steering.offload()
    }

    /// Sets which packets to the host's addresses do not stay with the kernel.
    pub(crate) fn steer(&self, steered: &Steered) -> Result<(), OpenError> {
        self.steering.set(steered).map_err(OpenError::of)
    }

    /// Opens a port.
    pub(crate) fn open(&self, request: Request) -> Result<Opened, OpenError> {
        match request.kind {
            PortKind::Uplink => {
                let spec = XdpSpec::uplink(request.id, request.name);
                self.open_xdp(request, XdpSpec { parts: request.workers, ..spec })
            }
            PortKind::Veth => self.open_xdp(request, XdpSpec::pod(request.id, request.name)),
            PortKind::Tc => self.open_tc(request),
            PortKind::Tap { netns, device } => {
                // The pod's addresses are on it: it outlives the daemon.
                let spec = tap_spec(device, Some(netns), request.mtu, true);
                self.open_tap(request, spec)
            }
            PortKind::Host => {
                let spec = tap_spec(request.name, None, request.mtu, false);
                self.open_tap(request, spec)
            }
        }
    }

    /// Removes the device of a TAP that has been closed and that nobody wants any more.
    pub(crate) fn remove_tap(&self, netns: &Path, device: &str) -> Result<(), OpenError> {
        let spec = tap_spec(device, Some(netns), TAP_MTU, false);
        // A device that is not persistent goes with its last owner.
        tap::open(self.steering.umem().arena(), &spec).map(drop).map_err(OpenError::of)
    }

    fn open_tap(&self, request: Request, spec: TapSpec) -> Result<Opened, OpenError> {
        let station = request.mac.unwrap_or_else(|| station_mac(request.name));
        let spec = TapSpec { mac: Some(station), ..spec };
        let port = tap::open(self.steering.umem().arena(), &spec).map_err(OpenError::of)?;
        Ok(Opened {
            parts: vec![Box::new(port.with_id(request.id))],
            mac: GATEWAY_MAC,
            station: Some(station),
            mtu: Some(request.mtu),
            keep: Keep::Nothing,
        })
    }

    fn open_tc(&self, request: Request) -> Result<Opened, OpenError> {
        let mac = request.mac.ok_or_else(|| OpenError("it has no link address".to_owned()))?;
        let (device, port) =
            tc::open(&self.steering, request.id, request.name).map_err(OpenError::of)?;
        Ok(Opened {
            parts: vec![Box::new(port)],
            mac,
            station: None,
            mtu: None,
            keep: Keep::Tc(device),
        })
    }

    fn open_xdp(&self, request: Request, spec: XdpSpec) -> Result<Opened, OpenError> {
        let mode = match self.xdp_mode {
            XdpMode::Auto => xdp::XdpMode::Auto,
            XdpMode::Native => xdp::XdpMode::Native,
            XdpMode::Generic => xdp::XdpMode::Generic,
        };
        let busy_poll = self.busy_poll.then_some(BUSY_POLL_BUDGET);
        let mac = request.mac.ok_or_else(|| OpenError("it has no link address".to_owned()))?;
        let spec = XdpSpec { mode, busy_poll, bulk: self.bulk, ..spec };
        let (device, parts) = xdp::open(&self.steering, &spec).map_err(OpenError::of)?;
        Ok(Opened {
            parts: parts.into_iter().map(|part| Box::new(part) as Box<dyn Port>).collect(),
            mac,
            station: None,
            mtu: None,
            keep: Keep::Xdp(device),
        })
    }
}

fn tap_spec(name: &str, netns: Option<&Path>, mtu: u16, persistent: bool) -> TapSpec {
    TapSpec {
        name: name.to_owned(),
        netns: netns.map(Path::to_owned),
        mac: None,
        mtu,
        persistent,
        up: true,
        engine: Engine::Auto,
    }
}

/// A link address for the device behind a port: locally administered, and the same each time.
fn station_mac(name: &str) -> Mac {
    let [.., a, b, c, d, e] = stable_hash(name).to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}
