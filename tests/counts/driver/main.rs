//! Bursts through one worker's pipeline, for tests/counts to count their instructions.
//!
//! Each case runs warm first, then [`counted`] runs it once, and a line says which case that was
//! and with how many packets. Nothing here measures time.

mod cases;
#[path = "../../../benches/flows/policy.rs"]
mod policy;
#[path = "../../../benches/flows/tables.rs"]
mod tables;
#[path = "../../../benches/flows/traffic.rs"]
#[allow(dead_code, reason = "the bench uses all of it")]
mod traffic;

use cases::{CASES, Case};
use margay_fastpath::packet::Packet;
use margay_fastpath::pipeline::{Pipeline, View};
use margay_fastpath::port::pcap::{Capture, NullPort, ReplayPort};
use margay_fastpath::port::{BURST, Port, PortId};
use margay_fastpath::sys::memory::{Arena, FramePool};
use std::sync::Arc;

/// Sizes of bursts.
const SIZES: [usize; 4] = [1, 8, 32, BURST];
/// Any moment.
const NOW_NS: u64 = 1_000_000_000;

/// One worker between what it is given and a sink.
struct Worker {
    pipeline: Pipeline,
    case: Case,
    burst: Vec<Packet>,
    queue: Vec<Packet>,
    sink: NullPort,
}

impl Worker {
    fn new(case: Case) -> Worker {
        let case = Case { tables: case.tables.ready(), ..case };
        let arena = Arena::new(1024, 0).expect("4 MiB of memory");
        let pipeline = Pipeline::new(FramePool::new(arena), Arc::default());
        let (burst, queue) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
        Worker { pipeline, case, burst, queue, sink: NullPort::default() }
    }

    /// All packets of `frames`, in bursts of `size`; `see` gets what leaves.
    fn run(&mut self, frames: &mut ReplayPort, size: usize, mut see: impl FnMut(&[Packet])) {
        let view = View { tables: &self.case.tables, fib: &self.case.fib, now_ns: NOW_NS };
        while frames.remaining() > 0 {
            frames.rx(&mut self.pipeline.pool, &mut self.burst, size);
            self.pipeline.process(view, PortId(0), &mut self.burst);
            while self.pipeline.egress.take(&mut self.queue).is_some() {
                see(&self.queue);
                self.sink.tx(&mut self.pipeline.pool, &mut self.queue);
            }
        }
    }

    fn see_all(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        self.run(&mut replay(frames), BURST, |packets| {
            seen.extend(packets.iter().map(|packet| packet.head().to_vec()));
        });
        seen
    }
}

fn replay(frames: &[Vec<u8>]) -> ReplayPort {
    let mut capture = Capture::default();
    frames.iter().for_each(|frame| capture.push(0, frame));
    ReplayPort::new(Arc::new(capture), PortId(0), false)
}

/// What callgrind counts: it is told the name of this function.
#[inline(never)]
fn counted(worker: &mut Worker, frames: &mut ReplayPort, size: usize) {
    worker.run(frames, size, |_| ());
}

fn main() {
    for make in CASES {
        for size in SIZES {
            let mut worker = Worker::new(make());
            let seen = worker.see_all(&worker.case.before.clone());
            let frames = (worker.case.frames)(&seen);
            if worker.case.is_warm {
                worker.run(&mut replay(&frames), size, |_| ());
            }
            println!("case {} {size} {}", worker.case.name, frames.len());
            counted(&mut worker, &mut replay(&frames), size);
            let lost: Vec<_> = worker.pipeline.counters.drops().collect();
            assert!(lost.is_empty(), "{} lost packets: {lost:?}", worker.case.name);
        }
    }
}
