//! The io_uring engine: one multishot read into provided buffers, and batched writes.
//!
//! One request reads for ever: the kernel fills the large frames of the buffer ring one after the
//! other, and a burst of reads costs one system call, none when nothing came. Writes of a burst go
//! in with one call. The ring runs its work in the worker's own calls only (DEFER_TASKRUN), which
//! ties it to the thread that enables it: the first to call, the worker.

use super::buffer_ring::BufferRing;
use super::lending::Lending;
use super::{EngineCounters, HEADER_LEN, READ_AT, READ_LEN, ROUND, Read};
use crate::packet::{MAX_SEGMENTS, Packet};
use crate::port::BURST;
use crate::sys::memory::{Frame, FramePool};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

/// Buffers of a port with little traffic.
const FEW_BUFFERS: usize = 2;
/// Fewest buffers of a port with traffic.
const BUSY_BUFFERS: usize = 4;
/// Turns without a packet after which a port goes back to few buffers: large frames are scarce,
/// and a thousand idle ports must not sit on them. Workers leave a port alone after 2000.
const IDLE_TURNS: u32 = 1000;
/// Most buffers: 2.3 MB of large frames a busy port.
pub(super) const MAX_BUFFERS: usize = 32;
const SQ_ENTRIES: u32 = 2 * BURST as u32;
const CQ_ENTRIES: u32 = 4 * BURST as u32;
const GROUP: u16 = 0;
const READ: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
/// How long closing waits for the kernel: this often a twentieth of a second.
const CLOSE_TRIES: usize = 20;

/// The engine's state. The descriptor is the port's, and outlives it.
pub(crate) struct Uring {
    fd: RawFd,
    ring: IoUring,
    buffers: BufferRing,
    /// Frames in the kernel's hands, by buffer number.
    provided: [Option<Frame>; MAX_BUFFERS],
    provided_count: usize,
    wanted: usize,
    /// Packets and bytes read since the kernel last ran out of buffers.
    recent: (usize, usize),
    idle_turns: u32,
    /// Read, and not asked for yet.
    ready: VecDeque<(Frame, usize)>,
    slots: Box<[Slot]>,
    free_slots: Vec<u16>,
    enabled: bool,
    armed: bool,
    gone: bool,
    pub(super) lending: Lending,
    pub(crate) counters: EngineCounters,
}

/// One write under way: all that the kernel may look at until it is done.
struct Slot {
    header: [u8; HEADER_LEN],
    packet: Option<Packet>,
    /// It is the kernel's thread that writes it.
    lent: bool,
    vectors: Vec<libc::iovec>,
}

// SAFETY: the vectors point into the slot itself and into frames that the slot's packet owns;
// nothing in it is tied to a thread.
unsafe impl Send for Slot {}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Uring {
    /// Errs where io_uring is forbidden, or too old for multishot reads (Linux 6.7).
    pub(crate) fn new(fd: RawFd) -> io::Result<Uring> {
        let ring: IoUring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(CQ_ENTRIES)
            .build(SQ_ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::ReadMulti::CODE) {
            return Err(io::Error::other("this kernel has no multishot read"));
        }
        let buffers = BufferRing::new()?;
        let (base, entries) = (buffers.address(), MAX_BUFFERS as u16);
        let submitter = ring.submitter();
        // SAFETY: the buffer ring is a page of its own, and is unmapped after `ring` is dropped:
        // fields are dropped in the order in which they are declared.
        unsafe { submitter.register_buf_ring_with_flags(base, entries, GROUP, 0) }?;
        let slot =
            |_| Slot { header: [0; HEADER_LEN], packet: None, lent: false, vectors: Vec::new() };
        Ok(Uring {
            fd,
            ring,
            buffers,
            provided: [const { None }; MAX_BUFFERS],
            provided_count: 0,
            wanted: FEW_BUFFERS,
            recent: (0, 0),
            idle_turns: 0,
            ready: VecDeque::with_capacity(MAX_BUFFERS),
            slots: (0..BURST).map(slot).collect(),
            free_slots: (0..BURST as u16).collect(),
            enabled: false,
            armed: false,
            gone: false,
            lending: Lending::default(),
            counters: EngineCounters::default(),
        })
    }

    /// Provides frames and asks for packets, as far as either is missing.
    pub(crate) fn service(&mut self, pool: &mut FramePool) {
        self.lending.turn();
        self.idle_turns += 1;
        if self.idle_turns == IDLE_TURNS && self.wanted > FEW_BUFFERS {
            self.shrink(pool);
        }
        for _ in self.provided_count + self.ready.len()..self.wanted {
            let Some(frame) = pool.alloc_large() else {
                self.counters.rx_no_frame += 1;
                break;
            };
            self.provide(frame, pool);
        }
        if !self.armed && !self.gone && self.provided_count > 0 {
            // The length is the buffer's: the kernel refuses another one.
            let read = opcode::ReadMulti::new(Fd(self.fd), 0, GROUP).build();
            self.armed = self.push(&read.user_data(READ));
        }
        self.enter(pool);
    }

    /// Takes buffers back from the kernel. The read is called off for that: while none is under
    /// way nobody but us looks at the buffer ring. If it does not end at once, this waits for the
    /// next idle time.
    fn shrink(&mut self, pool: &mut FramePool) {
        self.call_off();
        self.enter(pool);
        if self.armed {
            return;
        }
        self.wanted = FEW_BUFFERS;
        while self.provided_count > FEW_BUFFERS {
            let number = usize::from(self.buffers.retract());
            if let Some(frame) = self.take_provided(number) {
                pool.free(frame);
            }
        }
    }

    fn call_off(&mut self) {
        if self.armed {
            self.push(&opcode::AsyncCancel::new(READ).build().user_data(CANCEL));
        }
    }

    fn take_provided(&mut self, number: usize) -> Option<Frame> {
        let frame = self.provided.get_mut(number)?.take();
        self.provided_count -= usize::from(frame.is_some());
        frame
    }

    /// The next packet of those that the kernel has read; asks the kernel when there is none.
    pub(crate) fn read(&mut self, pool: &mut FramePool) -> Read {
        if self.ready.is_empty() {
            self.enter(pool);
        }
        match self.ready.pop_front() {
            Some((frame, len)) => Read::Packet(frame, len),
            None if self.gone => Read::Gone,
            None => Read::Empty,
        }
    }

    /// True when the kernel had nothing more to read as of the last [`Uring::read`].
    pub(crate) fn is_drained(&mut self) -> bool {
        let queue = self.ring.submission();
        let at_rest = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        at_rest && self.armed && self.ready.is_empty()
    }

    /// True while packets that it was given are not all known to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        self.free_slots.len() < BURST
    }

    /// Keeps a frame for a later read.
    pub(crate) fn recycle(&mut self, frame: Frame, pool: &mut FramePool) {
        if self.provided_count + self.ready.len() < self.wanted {
            self.provide(frame, pool);
        } else {
            pool.free(frame);
        }
    }

    fn provide(&mut self, mut frame: Frame, pool: &mut FramePool) {
        let Some(number) = self.provided.iter().position(Option::is_none) else {
            return pool.free(frame);
        };
        let room = frame.bytes_mut(READ_AT, READ_LEN);
        self.buffers.push(room, number as u16);
        self.provided[number] = Some(frame);
        self.provided_count += 1;
    }

    /// How many packets [`Uring::write`] takes now.
    pub(crate) fn room(&mut self, pool: &mut FramePool) -> usize {
        if self.free_slots.len() < BURST {
            self.enter(pool);
        }
        self.free_slots.len()
    }

    /// Queues a packet; [`Uring::enter`] sends it. There must be [`Uring::room`].
    pub(crate) fn write(
        &mut self,
        header: [u8; HEADER_LEN],
        mut packet: Packet,
        pool: &mut FramePool,
    ) {
        let Some(number) = self.free_slots.pop() else {
            self.counters.tx_refused += 1;
            return packet.free(pool);
        };
        let slot = &mut self.slots[usize::from(number)];
        let entry = if packet.segment_count() == 1
            && let Some(room) = packet.push_front(HEADER_LEN)
        {
            room.copy_from_slice(&header);
            let bytes = packet.head();
            opcode::Write::new(Fd(self.fd), bytes.as_ptr(), bytes.len() as u32).build()
        } else {
            slot.header = header;
            slot.fill_vectors(&packet);
            let count = slot.vectors.len() as u32;
            opcode::Writev::new(Fd(self.fd), slot.vectors.as_ptr(), count).build()
        };
        slot.packet = Some(packet);
        slot.lent = self.lending.lend();
        self.counters.tx_lent += u64::from(slot.lent);
        let flags = if slot.lent { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        if !self.push(&entry.flags(flags).user_data(number.into())) {
            self.counters.tx_refused += 1;
            self.end_write(number, pool);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        let mut queue = self.ring.submission();
        // SAFETY: what the entry points to lives until its completion is seen: frames of the buffer
        // ring in `provided`, packets and vectors of writes in `slots`. The slots do not move.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// Submits what is queued, lets the kernel do its work, and takes what is done.
    pub(crate) fn enter(&mut self, pool: &mut FramePool) {
        if !self.enabled {
            if self.ring.submitter().register_enable_rings().is_err() {
                self.gone = true;
                return;
            }
            self.enabled = true;
            self.lending.prepare(&self.ring.submitter());
        }
        // The second call is for what the first has made due: failed writes end as task work.
        for _ in 0..2 {
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                break;
            }
            drop(queue);
            // A call that is interrupted or finds the kernel short of memory is made again in the
            // next turn: what was not submitted is still queued.
            let _ = self.ring.submit();
        }
        self.reap(pool);
    }

    /// True while the kernel's thread has packets to write, which wait for nothing else.
    pub(crate) fn is_writing(&self) -> bool {
        self.lending.is_under_way()
    }

    fn reap(&mut self, pool: &mut FramePool) {
        while let Some(done) = { self.ring.completion().next() } {
            match done.user_data() {
                READ => self.end_read(&done, pool),
                CANCEL => {}
                slot => {
                    if done.result() < 0 {
                        self.gone |= self.counters.write_failed(-done.result());
                    }
                    self.end_write(slot as u16, pool);
                }
            }
        }
    }

    fn end_read(&mut self, done: &cqueue::Entry, pool: &mut FramePool) {
        self.armed = cqueue::more(done.flags());
        let number = cqueue::buffer_select(done.flags());
        // The number is the kernel's word: one that it does not hold is not believed.
        let frame = number.and_then(|number| self.take_provided(number.into()));
        let length = usize::try_from(done.result()).unwrap_or(0);
        match frame {
            Some(frame) if length > HEADER_LEN && length <= READ_LEN => {
                self.idle_turns = 0;
                self.recent = (self.recent.0 + 1, self.recent.1 + length);
                self.ready.push_back((frame, length - HEADER_LEN));
                return;
            }
            Some(frame) => self.provide(frame, pool),
            None => {}
        }
        match -done.result() {
            libc::ENOBUFS => {
                self.lending.note_more();
                let (packets, bytes) = std::mem::take(&mut self.recent);
                let fitting = ROUND * packets / bytes.max(1);
                self.wanted = fitting.clamp(BUSY_BUFFERS, MAX_BUFFERS);
            }
            libc::EBADFD => self.gone = true,
            libc::ECANCELED => {}
            _ => self.counters.rx_errors += 1,
        }
    }

    fn end_write(&mut self, number: u16, pool: &mut FramePool) {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else { return };
        if let Some(packet) = slot.packet.take() {
            if std::mem::take(&mut slot.lent) {
                self.lending.end();
            }
            packet.free(pool);
            self.free_slots.push(number);
        }
    }

    pub(crate) fn frames_held(&self) -> usize {
        let writing = self.slots.iter().filter_map(|slot| slot.packet.as_ref());
        self.provided_count + self.ready.len() + writing.map(Packet::segment_count).sum::<usize>()
    }

    /// Takes everything back from the kernel. Frames that it does not give back in time are
    /// counted as lost, and never used again.
    pub(crate) fn close(mut self, pool: &mut FramePool) {
        self.call_off();
        let pause = Timespec::new().nsec(50_000_000);
        let wait = SubmitArgs::new().timespec(&pause);
        for _ in 0..CLOSE_TRIES {
            if !self.enabled || (!self.armed && self.free_slots.len() == BURST) {
                break;
            }
            let _ = self.ring.submitter().submit_with_args(1, &wait);
            self.reap(pool);
        }
        let quiet = !self.enabled || !self.armed;
        let Uring { ring, provided, ready, .. } = self;
        drop(ring);
        ready.into_iter().for_each(|(frame, _)| pool.free(frame));
        if quiet {
            provided.into_iter().flatten().for_each(|frame| pool.free(frame));
        }
    }
}

impl Slot {
    fn fill_vectors(&mut self, packet: &Packet) {
        let vector = |part: &[u8]| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        };
        self.vectors.clear();
        if self.vectors.capacity() == 0 {
            self.vectors.reserve_exact(MAX_SEGMENTS + 1);
        }
        self.vectors.push(vector(&self.header));
        self.vectors.extend(packet.segments().map(vector));
    }
}
