//! TAP ports: the host's own stack, pods with bulk TCP, devices without AF_XDP.
//!
//! A TAP carries the packet's checksum and segmentation state in a virtio header, both ways, so
//! TCP streams travel in super-packets of up to 64 KiB. Packets are read into large frames; one
//! that fits is copied into a small frame at once, which AF_XDP can send and which leaves the few
//! large ones free.

pub(super) mod header;

use super::{BURST, Port, PortId, PortReport, RxState, TxOffloads};
use crate::packet::Packet;
use crate::segment;
use crate::sys::memory::{Arena, Frame, FramePool, HEADROOM, SMALL_CHUNK};
use crate::sys::tap::device::{self, Device, Step, Wanted};
use crate::sys::tap::poll::Poll;
use crate::sys::tap::uring::Uring;
use crate::sys::tap::{EngineCounters, HEADER_LEN, ROUND, Read};
use margay_tunnels::wire::ethernet::Mac;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

/// How packets are moved between the device and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// io_uring where it works, else poll.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// One system call a packet.
    Poll,
}

/// The TAP that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Device name, 1 to 15 bytes. Attached to if it exists, else made.
    pub name: String,
    /// The network namespace to make it in; our own when `None`.
    pub netns: Option<PathBuf>,
    /// Link address of the kernel's end; the kernel chooses when `None`.
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes: 68 to 65,521.
    pub mtu: u16,
    /// The device stays when we go, and the next process attaches to it.
    pub persistent: bool,
    /// Set up, else down.
    pub up: bool,
    /// How packets are moved.
    pub engine: Engine,
}

/// Why a TAP could not be opened, and the mend.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// A name that no device can have.
    #[error("device name {0:?}: must have 1 to 15 bytes, without '/' or white space")]
    Name(String),
    /// The MTU is out of range.
    #[error("device {name}: MTU {mtu} is not between 68 and 65521")]
    Mtu {
        /// The device.
        name: String,
        /// The MTU asked for.
        mtu: u16,
    },
    /// The namespace can't be entered.
    #[error("network namespace {path}: {source}; does it exist (`ip netns list`)?")]
    Namespace {
        /// Its path.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no TUN driver.
    #[error("/dev/net/tun: {0}; load the driver (`modprobe tun`) or give the container the device")]
    NoDriver(io::Error),
    /// We may not.
    #[error("device {name}: {source}; run as root or with CAP_NET_ADMIN")]
    Forbidden {
        /// The device.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody has it.
    #[error("device {0}: another process holds it; stop that process or choose another name")]
    Busy(String),
    /// A device of another kind has the name.
    #[error(
        "device {0}: exists and is not a TAP with one queue; \
         remove it (`ip link del {0}`) or choose another name"
    )]
    OtherKind(String),
    /// Anything else the kernel refused.
    #[error("device {name}: {what}: {source}")]
    Device {
        /// The device.
        name: String,
        /// What was asked.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// io_uring was demanded and does not work.
    #[error(
        "io_uring: {0}; choose the engine auto or poll, \
         or allow io_uring (kernel.io_uring_disabled, seccomp)"
    )]
    Uring(io::Error),
    /// The arena has no large frames, and packets are read into those.
    #[error("the packet memory has no large frames: TAP ports need at least 8")]
    NoLargeFrames,
}

/// A TAP port.
#[derive(Debug)]
pub struct TapPort {
    // Before the device: the engine lets go of the descriptor first.
    engine: AnyEngine,
    device: Device,
    id: PortId,
    why: String,
    bad_headers: u64,
    no_frames: u64,
}

#[derive(Debug)]
enum AnyEngine {
    Uring(Box<Uring>),
    Poll(Poll),
}

/// Opens a TAP; its packets come in as those of [`PortId::NONE`] until [`TapPort::with_id`].
pub fn open(arena: &Arc<Arena>, spec: &TapSpec) -> Result<TapPort, TapError> {
    check(arena, spec)?;
    let wanted = Wanted {
        name: spec.name.clone(),
        mac: spec.mac,
        mtu: spec.mtu,
        persistent: spec.persistent,
        up: spec.up,
    };
    let device = device::open(&wanted, spec.netns.as_deref())
        .map_err(|(step, source)| explained(spec, step, source))?;
    let fd = device::raw(&device.fd);
    let (engine, why) = match spec.engine {
        Engine::Poll => (AnyEngine::Poll(Poll::new(fd)), "poll: asked for".to_string()),
        wanted => match (Uring::new(fd), wanted) {
            (Ok(uring), _) => {
                (AnyEngine::Uring(Box::new(uring)), "io_uring, multishot read".to_string())
            }
            (Err(error), Engine::Uring) => return Err(TapError::Uring(error)),
            (Err(error), _) => (AnyEngine::Poll(Poll::new(fd)), format!("poll: io_uring: {error}")),
        },
    };
    Ok(TapPort { engine, device, id: PortId::NONE, why, bad_headers: 0, no_frames: 0 })
}

fn check(arena: &Arc<Arena>, spec: &TapSpec) -> Result<(), TapError> {
    let name = &spec.name;
    let bad = |byte: u8| byte == b'/' || byte == 0 || byte.is_ascii_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(bad) {
        return Err(TapError::Name(name.clone()));
    }
    if !(68..=65_521).contains(&spec.mtu) {
        return Err(TapError::Mtu { name: name.clone(), mtu: spec.mtu });
    }
    if arena.large_count() < 8 {
        return Err(TapError::NoLargeFrames);
    }
    Ok(())
}

fn explained(spec: &TapSpec, step: Step, source: io::Error) -> TapError {
    let name = spec.name.clone();
    let what = match (step, source.raw_os_error()) {
        (Step::Namespace, _) => {
            let path = spec.netns.as_ref().map(|path| path.display().to_string());
            return TapError::Namespace { path: path.unwrap_or_default(), source };
        }
        (Step::OpenTun, Some(libc::EACCES | libc::EPERM)) | (_, Some(libc::EPERM)) => {
            return TapError::Forbidden { name, source };
        }
        (Step::OpenTun, _) => return TapError::NoDriver(source),
        (Step::Attach, Some(libc::EBUSY)) => return TapError::Busy(name),
        (Step::Attach, Some(libc::EINVAL)) => return TapError::OtherKind(name),
        (Step::Attach, _) => "attaching to it",
        (Step::Persist, _) => "making it persistent or not",
        (Step::Header, _) => "setting the length of the virtio header",
        (Step::Address, _) => "setting its link address",
        (Step::Mtu, _) => "setting its MTU",
        (Step::Up, _) => "setting it up or down",
    };
    TapError::Device { name, what, source }
}

impl TapPort {
    /// The same port, its packets marked with `id`.
    pub fn with_id(self, id: PortId) -> TapPort {
        TapPort { id, ..self }
    }

    /// Index of the device in its namespace.
    pub fn if_index(&self) -> u32 {
        self.device.if_index
    }

    /// Sets the device up, where it was opened down.
    pub(super) fn set_up(&self) -> Result<(), TapError> {
        self.device.set_up().map_err(|source| TapError::Device {
            name: self.device.name.clone(),
            what: "setting it up",
            source,
        })
    }

    /// The packet in a frame that the engine has read; `None` when its header makes no sense, or no
    /// frame is free for it.
    fn take(&mut self, frame: Frame, len: usize, pool: &mut FramePool) -> Option<Packet> {
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(frame.bytes(HEADROOM - HEADER_LEN, HEADER_LEN));
        let Some(offload) = header::decode(&bytes, len) else {
            self.bad_headers += 1;
            self.recycle(frame, pool);
            return None;
        };
        let mut packet = Packet::new(frame, HEADROOM, len, self.id);
        // A frame is handed on only against another one: the port never gives its last away, or it
        // could not read what waits in the device, and nothing would wake it for that.
        let spare = (len > SMALL_CHUNK - HEADROOM).then(|| pool.alloc_large()).flatten();
        if let Some(spare) = spare {
            self.recycle(spare, pool);
        } else {
            let copy = segment::copy(&packet, pool);
            if let Ok((frame, ..)) = packet.into_single() {
                self.recycle(frame, pool);
            }
            self.no_frames += u64::from(copy.is_none());
            packet = copy?;
        }
        packet.set_offload(offload);
        packet.set_from_tap(true);
        Some(packet)
    }

    fn recycle(&mut self, frame: Frame, pool: &mut FramePool) {
        match &mut self.engine {
            AnyEngine::Uring(uring) => uring.recycle(frame, pool),
            AnyEngine::Poll(poll) => poll.recycle(frame, pool),
        }
    }

    /// True when the device had nothing more as of the last packet that was asked for.
    pub(super) fn is_drained(&mut self) -> bool {
        match &mut self.engine {
            AnyEngine::Uring(uring) => uring.is_drained(),
            AnyEngine::Poll(poll) => poll.is_drained(),
        }
    }

    fn counters(&self) -> EngineCounters {
        match &self.engine {
            AnyEngine::Uring(uring) => uring.counters,
            AnyEngine::Poll(poll) => poll.counters,
        }
    }
}

impl Port for TapPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        let mut bytes = 0;
        for _ in 0..budget.min(BURST) {
            if bytes >= ROUND {
                break;
            }
            let read = match &mut self.engine {
                AnyEngine::Uring(uring) => uring.read(pool),
                AnyEngine::Poll(poll) => poll.read(pool),
            };
            match read {
                Read::Packet(frame, len) => {
                    bytes += len;
                    out.extend(self.take(frame, len, pool));
                }
                Read::Empty => break,
                Read::Gone => return RxState::Gone,
            }
        }
        RxState::Up
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        match &mut self.engine {
            AnyEngine::Uring(uring) => {
                while !burst.is_empty() {
                    let count = uring.room(pool).min(burst.len());
                    if count == 0 {
                        break;
                    }
                    for packet in burst.drain(..count) {
                        uring.write(header::encode(&packet), packet, pool);
                    }
                    uring.enter(pool);
                }
            }
            AnyEngine::Poll(poll) => {
                for packet in burst.drain(..) {
                    poll.write(header::encode(&packet), packet, pool);
                }
            }
        }
    }

    fn service(&mut self, pool: &mut FramePool) {
        if let AnyEngine::Uring(uring) = &mut self.engine {
            uring.service(pool);
        }
    }

    fn has_unsent(&self) -> bool {
        matches!(&self.engine, AnyEngine::Uring(uring) if uring.has_unsent())
    }

    fn is_sending(&self) -> bool {
        matches!(&self.engine, AnyEngine::Uring(uring) if uring.is_writing())
    }

    fn poll_fd(&self) -> Option<RawFd> {
        // Readable when packets wait in the device. Those that io_uring has read already are given
        // out by the same call of `rx` that let it read them, or by the next ones.
        Some(device::raw(&self.device.fd))
    }

    fn tx_offloads(&self) -> TxOffloads {
        let Device { has_tso, has_uso, .. } = self.device;
        TxOffloads {
            csum: has_tso,
            tso4: has_tso,
            tso6: has_tso,
            uso: has_uso,
            join: has_tso,
            large_frames: true,
            taps_only: false,
        }
    }

    fn report(&self) -> PortReport {
        let EngineCounters { rx_errors, rx_no_frame, tx_down, tx_refused, tx_lent } =
            self.counters();
        let offloads = match (self.device.has_tso, self.device.has_uso) {
            (true, true) => "checksum, TSO and USO",
            (true, false) => "checksum and TSO",
            _ => "no offloads",
        };
        PortReport {
            kind: "tap",
            mode: format!("{}; {offloads}", self.why),
            frames_held: match &self.engine {
                AnyEngine::Uring(uring) => uring.frames_held(),
                AnyEngine::Poll(poll) => poll.frames_held(),
            },
            kernel: vec![
                ("rx_errors", rx_errors),
                ("rx_no_frame", rx_no_frame + self.no_frames),
                ("rx_bad_header", self.bad_headers),
                ("tx_down", tx_down),
                ("tx_refused", tx_refused),
                ("tx_lent", tx_lent),
            ],
        }
    }

    fn close(self: Box<Self>, pool: &mut FramePool) {
        match self.engine {
            AnyEngine::Uring(uring) => uring.close(pool),
            AnyEngine::Poll(poll) => poll.close(pool),
        }
    }
}
