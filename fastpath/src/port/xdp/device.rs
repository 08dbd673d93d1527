//! The control side's hold on an AF_XDP device: its steering program, and the ends of its sockets.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::whole::Whole;
use crate::offload::{Arrivals, PortLease};
use crate::sys::bpf::{Link, Map};
use crate::sys::memory::FramePool;
use crate::sys::xdp::socket::Socket;
use crate::sys::xdp::umem::Umem;

/// What the parts of a device share with their [`XdpDevice`].
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    mode: String,
    umem: Arc<Umem>,
    xsks: Map,
    arrivals: Option<Arc<Arrivals>>,
    retired: Mutex<Retired>,
}

/// Sockets whose part is closed, for the control side to close.
#[derive(Debug)]
struct Retired {
    sockets: Vec<Socket>,
    whole: Vec<Whole>,
    /// The device is still held; without it parts close their sockets themselves.
    held: bool,
}

impl Shared {
    pub(super) fn new(
        name: String,
        mode: String,
        umem: Arc<Umem>,
        (xsks, arrivals): (Map, Option<Arc<Arrivals>>),
    ) -> Shared {
        let retired = Mutex::new(Retired { sockets: Vec::new(), whole: Vec::new(), held: true });
        Shared { name, mode, umem, xsks, arrivals, retired }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn mode(&self) -> &str {
        &self.mode
    }

    pub(super) fn new_pool(&self) -> FramePool {
        FramePool::new(self.umem.arena().clone())
    }

    /// True while a sixteenth of the arena's small frames is free.
    pub(super) fn has_free_frames(&self) -> bool {
        let arena = self.umem.arena();
        arena.free_small() * 16 > arena.small_count()
    }

    pub(super) fn occupy(&self, queue: u32, socket: RawFd) -> std::io::Result<()> {
        self.xsks.update(&queue.to_ne_bytes(), &socket.to_ne_bytes())
    }

    pub(super) fn vacate(&self, queue: u32) {
        // An empty slot is what we want; the map has no other way to fail.
        let _ = self.xsks.delete(&queue.to_ne_bytes());
        if let Some(arrivals) = &self.arrivals {
            arrivals.end_credit(queue);
        }
    }

    fn retired(&self) -> MutexGuard<'_, Retired> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn retire(&self, sockets: Vec<Socket>, whole: Option<Whole>) {
        let mut retired = self.retired();
        if retired.held {
            retired.sockets.extend(sockets);
            retired.whole.extend(whole);
        } else {
            drop(retired);
            drop((sockets, whole));
        }
    }

    fn take_retired(&self, held: bool) -> (Vec<Socket>, Vec<Whole>) {
        let mut retired = self.retired();
        retired.held = held;
        (std::mem::take(&mut retired.sockets), std::mem::take(&mut retired.whole))
    }
}

/// An open device. Hold it as long as its parts are in use: dropping it takes the steering program
/// off the device and gives all of it back to the host's kernel.
#[derive(Debug)]
#[must_use = "dropping it gives the device back to the kernel"]
pub struct XdpDevice {
    shared: Arc<Shared>,
    index: u32,
    queues: u32,
    link: Option<Link>,
    lease: Option<PortLease>,
}

impl XdpDevice {
    pub(super) fn new(
        shared: Arc<Shared>,
        index: u32,
        queues: u32,
        (link, lease): (Link, Option<PortLease>),
    ) -> XdpDevice {
        XdpDevice { shared, index, queues, link: Some(link), lease }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The device's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How it works and why so: "native, copy: veth has no zero-copy".
    pub fn mode(&self) -> &str {
        &self.shared.mode
    }

    /// Gives all its queues back to the kernel, as after a worker's panic. The program stays.
    pub fn releaser(&self) -> Releaser {
        Releaser::new(self.shared.clone(), (0..self.queues).collect())
    }

    /// Closes the sockets of parts that are closed; their frames are in the arena again then.
    /// Dropping the device does it too.
    pub fn collect(&self) {
        drop(self.shared.take_retired(true));
    }

    /// Ends the device: the same as dropping it. When all parts were closed before, every frame
    /// is in the arena afterwards; a part that still lives ends its sockets itself.
    pub fn close(self) {}
}

impl Drop for XdpDevice {
    fn drop(&mut self) {
        self.lease = None;
        (0..self.queues).for_each(|queue| self.shared.vacate(queue));
        self.link = None;
        drop(self.shared.take_retired(false));
    }
}

/// Gives queues back to the kernel without touching the port that owns them: for the day when
/// its worker no longer can.
#[derive(Debug, Clone)]
pub struct Releaser {
    shared: Arc<Shared>,
    queues: Vec<u32>,
}

impl Releaser {
    pub(super) fn new(shared: Arc<Shared>, queues: Vec<u32>) -> Releaser {
        Releaser { shared, queues }
    }

    /// Empties the slots: packets of these queues pass to the host's stack from now on.
    pub fn release(&self) {
        self.queues.iter().for_each(|queue| self.shared.vacate(*queue));
    }
}
