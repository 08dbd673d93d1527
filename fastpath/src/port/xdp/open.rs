//! Opens a device for AF_XDP: what is in the way, which mode, and how the queues are shared out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::XdpPort;
use super::arrival::Arrival;
use super::bulk::Bulk;
use super::device::{Shared, XdpDevice};
use super::queue::Queue;
use super::spec::{XdpMode, XdpSpec};
use super::whole::Whole;
use crate::steering::{PROGRAM_NAME, Steering, SteeringError};
use crate::sys::bpf::{AttachMode, Link, Program};
use crate::sys::memory::{FramePool, HEADROOM, SMALL_CHUNK};
use crate::sys::xdp::netdev::Device;
use crate::sys::xdp::{self, SocketError, SocketSpec};

/// Why a device could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// There is no such device.
    #[error("no network device is named {device}: {source}")]
    NoDevice {
        /// The name.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The numbers of the spec make no sense.
    #[error("{device}: {fault}")]
    Spec {
        /// The device.
        device: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// Someone else's program is on the device.
    #[error(
        "{device} already has XDP program id {id} ({name}): margay does not replace it; stop the \
         program that owns it, or detach it with `ip link set dev {device} xdp off` (and the same \
         with xdpgeneric)"
    )]
    ForeignProgram {
        /// The device.
        device: String,
        /// The kernel's number of the program.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The steering program is not to be had.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// The program could not be attached.
    #[error("steering program not attached to {device} ({mode}): {source}{}", mend(.source))]
    Attach {
        /// The device.
        device: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A queue's socket could not be opened.
    #[error("AF_XDP socket on queue {queue} of {device}: {source}{}", mend(&.source.source))]
    Socket {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// What failed.
        source: SocketError,
    },
}

fn mend(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; margay needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "; packet memory must be locked: raise the limit (LimitMEMLOCK=infinity in the unit, \
             ulimit -l) or grant CAP_IPC_LOCK"
        }
        Some(libc::EBUSY) => {
            "; another AF_XDP socket has that queue: stop the program that owns it"
        }
        Some(libc::ERANGE) => {
            "; the driver takes no XDP at this MTU: lower it, or use generic mode"
        }
        Some(libc::ENOSPC) => {
            "; the driver has too few queues for XDP: give the device as many receive queues as \
             its peer has transmit queues (ethtool -L)"
        }
        Some(libc::EOPNOTSUPP) => "; the driver has no native XDP: use generic mode",
        _ => "",
    }
}

/// Largest MTU whose frames fit into one chunk, behind the kernel's headroom.
const CHUNK_MTU: u32 = (SMALL_CHUNK - HEADROOM - 18) as u32;

/// How long a program of a margay that has just gone may still be in the way.
const OWN_PROGRAM_RETRIES: u32 = 10;
const OWN_PROGRAM_WAIT: Duration = Duration::from_millis(100);

/// Opens a device on all its queues, shared out over at most `spec.parts` parts. Blocks, up to
/// three seconds a queue when the device has just been closed: not for workers. The parts take
/// nothing from the kernel until they are served.
pub fn open(steering: &Steering, spec: &XdpSpec) -> Result<(XdpDevice, Vec<XdpPort>), XdpError> {
    let name = &spec.device;
    if let Some(fault) = spec.fault() {
        return Err(XdpError::Spec { device: name.clone(), fault });
    }
    let device = find_free(name)?;
    let xsks = steering.new_xskmap(device.rx_queues)?;
    let (program, arrivals) = steering.load(&xsks, spec.port, device.rx_queues)?;
    let (link, attached) = attach(&program, &device, spec.mode)?;
    // Behind the driver, packets of one queue may come on several processors.
    let arrivals = arrivals.filter(|_| attached.mode == AttachMode::Native);
    let offload = steering.offload().filter(|_| arrivals.is_some());
    let lease = offload.and_then(|map| map.open_port(spec.port, device.index));
    let zero_copy =
        spec.zero_copy && attached.mode == AttachMode::Native && device.zero_copy != Some(false);
    let mut queues = Vec::new();
    let mut refused = None;
    let mut pool = FramePool::new(steering.umem().arena().clone());
    for number in 0..device.rx_queues {
        let socket = SocketSpec {
            ifindex: device.index,
            queue: number,
            rings: spec.rings,
            zero_copy,
            jumbo: device.mtu > CHUNK_MTU,
            busy_poll: spec.busy_poll,
        };
        let opened = xdp::open(steering.umem(), &socket).map_err(|source| XdpError::Socket {
            device: name.clone(),
            queue: number,
            source,
        })?;
        refused = refused.or(opened.zero_copy_refused);
        let fill = spec.fill.with_free(steering.umem().arena().free_small());
        let arrival = arrivals.clone().zip(offload.cloned());
        let arrival = arrival.map(|maps| Arrival::new(maps, number, spec, device.mtu));
        let mut queue = Queue::new(opened.socket, number, fill, arrival);
        queue.socket.fill_to(&mut pool, fill.idle);
        queues.push(queue);
    }
    let first = queues.first().map(|queue| &queue.socket);
    let mode =
        mode_text(&device, spec, &attached, first.is_some_and(|s| s.is_zero_copy()), refused);
    let shared = Shared::new(name.clone(), mode, steering.umem().clone(), (xsks, arrivals));
    let handle = XdpDevice::new(Arc::new(shared), device.index, device.rx_queues, (link, lease));
    let bulk = spec.bulk && device.driver == "veth" && device.rx_queues == 1;
    let parts = share_out(spec, &handle, queues, bulk)?;
    Ok((handle, parts))
}

/// Queue 0 to part 0, queue 1 to part 1, and so on in turn.
fn share_out(
    spec: &XdpSpec,
    handle: &XdpDevice,
    queues: Vec<Queue>,
    bulk: bool,
) -> Result<Vec<XdpPort>, XdpError> {
    let count = spec.parts.min(queues.len());
    let mut shares: Vec<Vec<Queue>> = (0..count).map(|_| Vec::new()).collect();
    for (at, queue) in queues.into_iter().enumerate() {
        shares[at % count].push(queue);
    }
    let shared = handle.shared();
    let part = |share| {
        let bulk = bulk.then(|| Bulk::new(handle.index()));
        let ways = (bulk, open_whole(&spec.device, handle.index()));
        XdpPort::new(spec.port, shared.clone(), share, ways, spec.busy_poll.is_some())
    };
    let parts: io::Result<Vec<XdpPort>> = shares.into_iter().map(part).collect();
    parts.map_err(|source| XdpError::Socket {
        device: spec.device.clone(),
        queue: 0,
        source: SocketError { step: "watch the queues", source },
    })
}

/// Without it packets from TAPs are cut here, and sent like others.
fn open_whole(device: &str, if_index: u32) -> Option<Whole> {
    let opened = Whole::open(if_index);
    if let Err(error) = &opened {
        tracing::warn!(device, %error, "no packet socket: super-packets are cut before the device");
    }
    opened.ok()
}

/// The device, once no program is on it. One of ours, of a process that is just ending, is given
/// a second; another's is refused at once.
fn find_free(name: &str) -> Result<Device, XdpError> {
    let find = || {
        let no_device = |source| XdpError::NoDevice { device: name.to_string(), source };
        Device::by_name(name).map_err(no_device)
    };
    let mut device = find()?;
    for _ in 0..OWN_PROGRAM_RETRIES {
        if device.program.as_ref().is_none_or(|program| program.name != PROGRAM_NAME) {
            break;
        }
        std::thread::sleep(OWN_PROGRAM_WAIT);
        device = find()?;
    }
    match device.program {
        Some(program) => Err(XdpError::ForeignProgram {
            device: name.to_string(),
            id: program.id,
            name: if program.name.is_empty() { "unnamed".to_string() } else { program.name },
        }),
        None => Ok(device),
    }
}

struct Attached {
    mode: AttachMode,
    /// Why it is not native although that was tried.
    native_refused: Option<io::Error>,
}

fn attach(program: &Program, device: &Device, mode: XdpMode) -> Result<(Link, Attached), XdpError> {
    let fail = |mode: &'static str, source: io::Error| XdpError::Attach {
        device: device.name.clone(),
        mode,
        source,
    };
    let mut native_refused = None;
    if mode != XdpMode::Generic {
        match Link::attach_xdp(program, device.index, AttachMode::Native) {
            Ok(link) => {
                return Ok((link, Attached { mode: AttachMode::Native, native_refused: None }));
            }
            Err(error) if mode == XdpMode::Native => return Err(fail("native", error)),
            Err(error) => native_refused = Some(error),
        }
    }
    match Link::attach_xdp(program, device.index, AttachMode::Generic) {
        Ok(link) => Ok((link, Attached { mode: AttachMode::Generic, native_refused })),
        Err(error) => Err(fail("generic", error)),
    }
}

fn mode_text(
    device: &Device,
    spec: &XdpSpec,
    attached: &Attached,
    zero_copy: bool,
    refused: Option<io::Error>,
) -> String {
    let kind = if device.driver.is_empty() { &device.name } else { &device.driver };
    let errno = |error: &io::Error| {
        error.raw_os_error().map_or_else(String::new, |code| format!("{:?}", Errno::from_raw(code)))
    };
    match (attached.mode, &attached.native_refused) {
        (AttachMode::Generic, Some(error)) => {
            format!("generic, copy: {kind} refuses native XDP ({})", errno(error))
        }
        (AttachMode::Generic, None) => "generic, copy: as configured".to_string(),
        (AttachMode::Native, _) if zero_copy => "native, zero-copy".to_string(),
        (AttachMode::Native, _) => match refused {
            Some(error) => format!("native, copy: {kind} refuses zero-copy ({})", errno(&error)),
            None if !spec.zero_copy => "native, copy: as configured".to_string(),
            None => format!("native, copy: {kind} has no zero-copy"),
        },
    }
}
