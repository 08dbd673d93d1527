//! What an AF_XDP port is opened with.
//!
//! What a port costs: its posted frames; its rings, 48 kB for a pod's; and in the kernel about 145
//! bytes for each small chunk of the arena and each queue (Linux 6.18: 9.5 MB at 65,536 chunks),
//! because a queue's pool has an entry for every chunk of the registration. So a node with many
//! pods has a small arena, not a large one.

use crate::port::PortId;
use crate::sys::xdp::RingSizes;

/// Where in the kernel's receive path packets are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// In the driver where it can, else behind it.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Behind the driver: slow, on any device.
    Generic,
}

/// How many frames a queue keeps posted for receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillLevels {
    /// Without traffic; 1 at least. What idle ports cost of packet memory.
    pub idle: usize,
    /// With traffic: the level grows fourfold whenever half of it was used between two rounds,
    /// while a sixteenth of the arena is free.
    pub most: usize,
    /// A queue opened when frames are scarce starts with this part of the free ones, at most:
    /// 256 is one in 256.
    pub share: usize,
}

impl FillLevels {
    /// Fewest frames that a queue is opened with, however scarce they are.
    pub const LEAST: usize = 4;

    /// The levels of a queue that is opened while `free` frames are free.
    pub(super) fn with_free(self, free: usize) -> FillLevels {
        let fair = (free / self.share.max(1)).max(Self::LEAST);
        FillLevels { idle: self.idle.min(fair), ..self }
    }
}

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdpSpec {
    /// The number that its packets carry.
    pub port: PortId,
    /// The device's name, in the network namespace of the calling thread.
    pub device: String,
    /// Parts to make, one for each worker that serves it; a device with fewer queues gives fewer.
    pub parts: usize,
    /// Native or generic.
    pub mode: XdpMode,
    /// Try zero-copy where the device says that it has it.
    pub zero_copy: bool,
    /// Drive the device from the worker, at most this many packets (up to 64) at a time.
    pub busy_poll: Option<u32>,
    /// Whether long bursts may leave past the tx ring, where the device is one for it.
    pub bulk: bool,
    /// Sizes of the rings of each queue.
    pub rings: RingSizes,
    /// Frames posted on each queue.
    pub fill: FillLevels,
}

impl XdpSpec {
    /// A link to the network: large rings, filled at once.
    pub fn uplink(port: PortId, device: &str) -> XdpSpec {
        XdpSpec {
            port,
            device: device.to_string(),
            parts: 1,
            mode: XdpMode::Auto,
            zero_copy: true,
            busy_poll: None,
            bulk: true,
            rings: RingSizes { rx: 2048, tx: 2048, fill: 4096, completion: 4096 },
            fill: FillLevels { idle: 2048, most: 4096, share: 8 },
        }
    }

    /// One of many pods: a thousand of them, idle, hold 32,000 frames, and fewer where the arena
    /// is small.
    pub fn pod(port: PortId, device: &str) -> XdpSpec {
        XdpSpec {
            rings: RingSizes { rx: 512, tx: 512, fill: 512, completion: 1024 },
            fill: FillLevels { idle: 32, most: 512, share: 256 },
            ..XdpSpec::uplink(port, device)
        }
    }

    /// What is wrong with the numbers, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let RingSizes { rx, tx, fill, completion } = self.rings;
        let sizes = [rx, tx, fill, completion];
        if !sizes.iter().all(|size| size.is_power_of_two() && (32..=32_768).contains(size)) {
            return Some("ring sizes must be powers of two from 32 to 32768");
        }
        if completion < tx {
            return Some("the completion ring must not be smaller than the tx ring");
        }
        if self.fill.idle == 0 || self.fill.most < self.fill.idle {
            return Some("fill levels must be 1 <= idle <= most");
        }
        if self.parts == 0 {
            return Some("a port has one part at least");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_pods_leave_frames_for_traffic() {
        for (arena, left) in [(65_536, 33_536), (32_768, 3_000), (16_384, 100)] {
            let mut free = arena;
            for _ in 0..1000 {
                free -= XdpSpec::pod(PortId(0), "pod").fill.with_free(free).idle;
            }
            assert!(free >= left, "{free} of {arena}");
        }
    }
}
