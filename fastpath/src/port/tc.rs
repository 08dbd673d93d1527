//! Ports on veths by tc: pods whose super-packets are to stay whole.
//!
//! A TAP of its own stands beside each such veth. One program gives it what the pod sends and is
//! the workers', another one gives the pod what a worker writes to it (see
//! [`crate::steering::program`]). For the worker the port is that TAP. Both programs hang on BPF
//! links and the TAP on its descriptor, so nothing is left of them when the process dies.

use super::tap::{self, Engine, TapError, TapPort, TapSpec};
use super::{Port, PortId, PortReport, RxState, TxOffloads};
use crate::packet::Packet;
use crate::steering::{Steering, SteeringError};
use crate::sys::bpf::Link;
use crate::sys::memory::FramePool;
use crate::sys::xdp::netdev::Device;
use std::io;
use std::os::fd::RawFd;

/// Why a veth could not be served by tc, and the mend.
#[derive(Debug, thiserror::Error)]
pub enum TcError {
    /// There is no such device.
    #[error("no network device is named {device}: {source}")]
    NoDevice {
        /// The name.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It has no far end that packets could come in by.
    #[error("{device} is no veth: only those can be served by tc")]
    OtherKind {
        /// The name.
        device: String,
    },
    /// The TAP beside it.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The programs are not to be had.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// A program could not be attached.
    #[error("tc program not attached to {device}: {source}{}", mend(.source))]
    Attach {
        /// The device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn mend(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) => "; links to tc need Linux 6.6: attach the pod by veth or tap",
        Some(libc::EPERM | libc::EACCES) => "; margay needs CAP_NET_ADMIN and CAP_BPF",
        _ => "",
    }
}

/// The control side's hold on a veth: dropping it gives what the pod sends back to the kernel.
#[derive(Debug)]
#[must_use = "dropping it gives the device back to the kernel"]
pub struct TcDevice {
    _steering: Link,
    _delivery: Link,
}

/// A port on a veth by tc.
#[derive(Debug)]
pub struct TcPort {
    tap: TapPort,
    name: String,
}

/// Name of the TAP beside the device with this index.
fn tap_name(index: u32) -> String {
    format!("mgytc{index}")
}

/// Opens the veth `device` of the calling thread's network namespace; its packets come in as those
/// of `port`. Blocks up to a second where a TAP of a process that has just died is in the way.
pub fn open(
    steering: &Steering,
    port: PortId,
    device: &str,
) -> Result<(TcDevice, TcPort), TcError> {
    let veth = Device::by_name(device)
        .map_err(|source| TcError::NoDevice { device: device.to_owned(), source })?;
    if veth.driver != "veth" {
        return Err(TcError::OtherKind { device: device.to_owned() });
    }
    let name = tap_name(veth.index);
    let spec = TapSpec {
        name: name.clone(),
        netns: None,
        mac: None,
        mtu: veth.mtu.clamp(68, 65_521) as u16,
        persistent: false,
        up: false,
        engine: Engine::Auto,
    };
    let tap = tap::open(steering.umem().arena(), &spec)?.with_id(port);
    keep_quiet(&name);
    let (sent, written) = steering.load_tc(veth.index, tap.if_index())?;
    let attach = |program, index, name: &str| {
        Link::attach_tc(program, index)
            .map_err(|source| TcError::Attach { device: name.to_owned(), source })
    };
    let delivery = attach(&written, tap.if_index(), &name)?;
    tap.set_up()?;
    let held = TcDevice { _steering: attach(&sent, veth.index, device)?, _delivery: delivery };
    Ok((held, TcPort { tap, name }))
}

/// The kernel's own stack has nothing to say on the TAP: it would tell the worker about its groups
/// and look for routers. Without IPv6 there is no such setting, and nothing to be kept from.
fn keep_quiet(name: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

impl Port for TcPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        self.tap.rx(pool, out, budget)
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        self.tap.tx(pool, burst);
    }

    fn service(&mut self, pool: &mut FramePool) {
        self.tap.service(pool);
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.tap.poll_fd()
    }

    fn tx_offloads(&self) -> TxOffloads {
        self.tap.tx_offloads()
    }

    fn report(&self) -> PortReport {
        let report = self.tap.report();
        PortReport { kind: "tc", mode: format!("by {}: {}", self.name, report.mode), ..report }
    }

    fn close(self: Box<Self>, pool: &mut FramePool) {
        Box::new(self.tap).close(pool);
    }
}
