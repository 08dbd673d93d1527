//! One worker's pipeline between packets that are made and a sink that throws them away.

use ipnet::Ipv4Net;
use margay_fastpath::counters::WorkerCounters;
use margay_fastpath::fib::{Fib, FibWriter};
use margay_fastpath::flow::{Limits, Timeouts};
use margay_fastpath::nat::{Class, OWN_RANGE, Ranges, Rules};
use margay_fastpath::packet::Packet;
use margay_fastpath::pipeline::{Pipeline, View};
use margay_fastpath::port::{BURST, PortId};
use margay_fastpath::sys::memory::{Arena, FramePool, HEADROOM};
use margay_fastpath::tables::{Tables, TargetId};
use std::net::Ipv4Addr;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
/// Longer than any timeout.
const IDLE: u64 = 1000 * SECOND;
const FRAMES: usize = 4096;
/// Outside addresses: the 256 of a /24 are not enough for 4M mappings with room to spare.
const OUTSIDE: std::ops::Range<u32> = 0xc633_6400..0xc633_6500;

/// Translation of what comes from 10.0.0.0/8, for so many flows.
pub(crate) fn translation(sessions: usize) -> Rules {
    let class = |text: &str, class: Class| (text.parse().expect("a prefix"), class);
    let limits = Limits { sessions, per_source: 0 };
    Rules {
        generation: 1,
        ranges: Ranges::new(&[
            class("10.0.0.0/8", Class(Class::POOL.0 | Class::INSIDE.0)),
            class("198.51.100.0/24", Class::OUTSIDE),
        ]),
        outside_v4: OUTSIDE.map(Ipv4Addr::from).collect(),
        ports: OWN_RANGE,
        ..Rules::tracking(limits, Timeouts::default(), 1)
    }
}

pub(crate) struct Router {
    pub(crate) pipeline: Pipeline,
    pub(crate) now_ns: u64,
    tables: Tables,
    fib: Arc<Fib>,
    _writer: FibWriter,
    burst: Vec<Packet>,
    queue: Vec<Packet>,
}

impl Router {
    pub(crate) fn new(
        tables: Tables,
        routes: impl IntoIterator<Item = (Ipv4Net, TargetId)>,
    ) -> Router {
        let (mut writer, fib) = FibWriter::new();
        for (net, target) in routes {
            writer.insert(net.into(), target).unwrap_or_else(|error| panic!("{net}: {error}"));
        }
        let arena = Arena::new(FRAMES, 0).expect("16 MiB of memory");
        Router {
            pipeline: Pipeline::new(FramePool::new(arena), Arc::<WorkerCounters>::default()),
            now_ns: SECOND,
            tables: tables.ready(),
            fib,
            _writer: writer,
            burst: Vec::with_capacity(BURST),
            queue: Vec::with_capacity(BURST),
        }
    }

    /// Makes so many packets, a burst at most, of so many bytes that come in by a port.
    pub(crate) fn make(
        &mut self,
        port: PortId,
        (packets, len): (usize, usize),
        mut write: impl FnMut(usize, &mut [u8]),
    ) {
        for at in 0..packets.min(BURST) {
            let mut frame = self.pipeline.pool.alloc().expect("a frame");
            write(at, frame.bytes_mut(HEADROOM, len));
            self.burst.push(Packet::new(frame, HEADROOM, len, port));
        }
    }

    /// Carries the burst to the sink; `see` gets each packet that comes there.
    pub(crate) fn carry(&mut self, port: PortId, mut see: impl FnMut(usize, &Packet)) {
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.start_lap();
        self.pipeline.process(view, port, &mut self.burst);
        while let Some(port) = self.pipeline.egress.take(&mut self.queue) {
            if self.tables.limits_of(port).is_some() {
                self.pipeline.limit_to(view, port, &mut self.queue);
            }
            self.queue.iter().enumerate().for_each(|(at, packet)| see(at, packet));
            self.pipeline.pool.free_burst(&mut self.queue);
        }
    }

    /// Lets so much time pass that all flows end.
    pub(crate) fn end_all(&mut self, flows: u32) {
        self.now_ns += IDLE;
        // A tick ends a bounded number of them.
        for _ in 0..flows / 1024 + 64 {
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.tick(view);
        }
    }

    /// Packets that were dropped.
    pub(crate) fn lost(&self) -> u64 {
        self.pipeline.counters.drops().map(|(_, count)| count).sum()
    }
}
