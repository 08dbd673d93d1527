//! Ports on veths by tc: pods whose super-packets are to stay whole.
//!
//! A TAP of its own stands beside each such veth. One program gives it what the pod sends and is
//! the workers', another one gives the pod what a worker writes to it (see
//! [`crate::steering::program`]). For the worker the port is that TAP. Both programs hang on BPF
//! links and the TAP on its descriptor, so nothing is left of them when the process dies.

use super::tap::{self, Engine, TapError, TapPort, TapSpec};
use super::{BURST, Port, PortId, PortReport, RxState, TxOffloads};
use crate::offload::{Arrivals, PortLease};
use crate::packet::Packet;
use crate::steering::{Steering, SteeringError};
use crate::sys::bpf::Link;
use crate::sys::clock::monotonic_ns;
use crate::sys::memory::FramePool;
use crate::sys::xdp::netdev::{Device, send_at_once};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

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
    _lease: Option<PortLease>,
}

/// A port on a veth by tc.
#[derive(Debug)]
pub struct TcPort {
    tap: TapPort,
    name: String,
    arrival: Option<Arrival>,
}

/// Packets that the TAP's queue (of 1,000, as the kernel makes it) and what is read ahead hold at
/// most.
const ROOM: usize = 1000 + 2 * BURST;

/// The port's part in flow offload: up to when packets that the TAP had then have left the worker.
#[derive(Debug)]
struct Arrival {
    arrivals: Arc<Arrivals>,
    /// All that the TAP had then has been read.
    read_ns: u64,
    /// The same as of the last mark.
    marked_ns: u64,
    /// When packets began to be counted, and how many have been read since.
    counted: (u64, usize),
}

impl Arrival {
    fn new(arrivals: Arc<Arrivals>) -> Arrival {
        Arrival { arrivals, read_ns: 0, marked_ns: 0, counted: (u64::MAX, 0) }
    }

    /// `packets` were read since `from_ns`, and it was `empty` after that.
    fn read(&mut self, from_ns: u64, packets: usize, empty: bool) {
        if empty {
            return self.note_read(from_ns);
        }
        // As many as its queue has room for are all that it had.
        if self.counted.0 == u64::MAX {
            self.counted = (from_ns, 0);
        }
        self.counted.1 += packets;
        if self.counted.1 >= ROOM {
            self.note_read(self.counted.0);
        }
    }

    fn note_read(&mut self, until_ns: u64) {
        self.read_ns = until_ns;
        self.counted = (u64::MAX, 0);
        self.arrivals.set_read(0, until_ns);
    }
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
    // Flows move to the program and back only if it is told what the TAP took.
    let at_once = steering.offload().is_some()
        && match send_at_once(tap.if_index()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(device, %error, "no flow offload: the TAP beside it queues packets");
                false
            }
        };
    let devices = (veth.index, tap.if_index());
    let (sent, written, arrivals) = steering.load_tc(devices, at_once.then_some(port))?;
    let attach = |program, index, name: &str| {
        Link::attach_tc(program, index)
            .map_err(|source| TcError::Attach { device: name.to_owned(), source })
    };
    let delivery = attach(&written, tap.if_index(), &name)?;
    tap.set_up()?;
    let _steering = attach(&sent, veth.index, device)?;
    let map = steering.offload().filter(|_| arrivals.is_some());
    let _lease = map.and_then(|map| map.open_tc_port(port, veth.index));
    let arrival = arrivals.map(Arrival::new);
    Ok((TcDevice { _steering, _delivery: delivery, _lease }, TcPort { tap, name, arrival }))
}

/// The kernel's own stack has nothing to say on the TAP: it would tell the worker about its groups
/// and look for routers. Without IPv6 there is no such setting, and nothing to be kept from.
fn keep_quiet(name: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

impl Port for TcPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        let Some(arrival) = &mut self.arrival else { return self.tap.rx(pool, out, budget) };
        let (from_ns, before) = (monotonic_ns(), out.len());
        let state = self.tap.rx(pool, out, budget);
        arrival.read(from_ns, out.len() - before, self.tap.is_drained());
        state
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        self.tap.tx(pool, burst);
    }

    fn service(&mut self, pool: &mut FramePool) {
        self.tap.service(pool);
    }

    fn has_unsent(&self) -> bool {
        self.tap.has_unsent()
    }

    fn is_sending(&self) -> bool {
        self.tap.is_sending()
    }

    fn mark(&mut self) {
        if let Some(arrival) = &mut self.arrival {
            arrival.marked_ns = arrival.read_ns;
        }
    }

    fn settle(&mut self) {
        if let Some(arrival) = &self.arrival {
            arrival.arrivals.set_seen(0, arrival.marked_ns);
        }
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.tap.poll_fd()
    }

    fn tx_offloads(&self) -> TxOffloads {
        self.tap.tx_offloads()
    }

    fn report(&self) -> PortReport {
        let report = self.tap.report();
        let mode = format!("by {}: {}", self.name, report.mode);
        let mut kernel = report.kernel;
        if let Some(arrival) = &self.arrival {
            kernel.push(("rx_ring_full", arrival.arrivals.refused(0)));
        }
        PortReport { kind: "tc", mode, kernel, ..report }
    }

    fn close(self: Box<Self>, pool: &mut FramePool) {
        Box::new(self.tap).close(pool);
    }
}
