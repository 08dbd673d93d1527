use super::*;
use crate::fib::FibWriter;
use crate::port::{PortReport, RxState, TxOffloads};
use crate::sys::memory::HEADROOM;
use crate::tables::{Adjacency, AdjacencyId, PortEntry, Target, TargetId};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::AtomicBool;

const FRAMES: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// A port over one end of a datagram socket pair: a real descriptor to wait on, no privilege.
struct Wire {
    socket: UnixDatagram,
    id: PortId,
}

impl Port for Wire {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        for _ in 0..budget {
            let mut bytes = [0; 2048];
            match self.socket.recv(&mut bytes) {
                Ok(0) => return RxState::Gone,
                Ok(length) => {
                    let Some(mut frame) = pool.alloc() else { return RxState::Up };
                    frame.bytes_mut(HEADROOM, length).copy_from_slice(&bytes[..length]);
                    out.push(Packet::new(frame, HEADROOM, length, self.id));
                }
                Err(_) => return RxState::Up,
            }
        }
        RxState::Up
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        for packet in burst.drain(..) {
            let _ = self.socket.send(packet.head());
            packet.free(pool);
        }
    }

    fn service(&mut self, _pool: &mut FramePool) {}

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn tx_offloads(&self) -> TxOffloads {
        TxOffloads::default()
    }

    fn report(&self) -> PortReport {
        PortReport { kind: "wire", ..PortReport::default() }
    }

    fn close(self: Box<Self>, _pool: &mut FramePool) {}
}

fn wire(id: PortId) -> (Box<Wire>, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    (Box::new(Wire { socket: near, id }), far)
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// Port `n` has link address `n` and leads to 10.0.n.0/24, and belongs to worker `n % workers`.
fn tables(ports: u8, workers: u16, resolved: bool) -> Tables {
    let entry = |n: u8| PortEntry {
        worker: u16::from(n) % workers,
        icmp_source_v4: Some([10, 0, n, 1].into()),
        ..PortEntry::network(&format!("wire{n}"), mac(n), 1500)
    };
    let adjacency = |n: u8| Adjacency {
        port: PortId(n.into()),
        neighbor: [10, 0, n, 2].into(),
        mac: resolved.then(|| mac(100 + n)),
        tunnel: None,
    };
    let forward = |n: u8| Target::Forward(AdjacencyId(n.into()));
    Tables {
        ports: (0..ports).map(|n| Some(entry(n))).collect(),
        targets: std::iter::once(Target::NoRoute).chain((0..ports).map(forward)).collect(),
        adjacencies: (0..ports).map(adjacency).collect(),
        ..Tables::default()
    }
}

struct Fixture {
    dataplane: Dataplane,
    events: Receiver<Event>,
    far: Vec<UnixDatagram>,
    workers: u16,
}

fn fixture(workers: u16, ports: u8, resolved: bool) -> Fixture {
    let (mut writer, fib) = FibWriter::new();
    for n in 0..ports {
        let net = format!("10.0.{n}.0/24").parse().unwrap();
        writer.insert(net, TargetId(u32::from(n) + 1)).unwrap();
    }
    let worker_cores = vec![None; usize::from(workers)];
    let config = DataplaneConfig { worker_cores, frames: FRAMES, large_frames: 0 };
    let (dataplane, events) = Dataplane::start(&config, fib).unwrap();
    assert!(dataplane.publish(tables(ports, workers, resolved)));
    let far = (0..ports).map(|n| {
        let (near, far) = wire(PortId(n.into()));
        dataplane.attach(PortId(n.into()), usize::from(u16::from(n) % workers), near);
        far
    });
    let far = far.collect();
    Fixture { dataplane, events, far, workers }
}

fn packet(to: u8, from: u8, payload: u8) -> Vec<u8> {
    let mut bytes = ethernet::header(mac(from), mac(200), ethernet::IPV4).to_vec();
    let (src, dst) = ([10, 0, from, 2].into(), [10, 0, to, 2].into());
    bytes.extend(ipv4::header(src, dst, protocol::UDP, 64, 9));
    bytes.extend([0, 1, 0, 2, 0, 9, 0, 0, payload]);
    bytes
}

impl Fixture {
    fn receive(&self, port: usize) -> Vec<u8> {
        let mut bytes = [0; 2048];
        let length = self.far[port].recv(&mut bytes).expect("a packet in time");
        bytes[..length].to_vec()
    }

    /// Stops all and checks that every frame is back in the arena.
    fn end(self) {
        let arena = self.dataplane.arena().clone();
        drop(self.dataplane);
        assert_eq!(arena.free_small(), FRAMES);
    }
}

#[test]
fn packets_cross_from_port_to_port() {
    let all = fixture(1, 3, true);
    for payload in 0..200 {
        all.far[0].send(&packet(1, 0, payload)).unwrap();
        let got = all.receive(1);
        assert_eq!((got[5], got[11], got[22], got[42]), (101, 1, 63, payload));
    }
    let report = all.dataplane.report();
    let traffic = |n: u16| {
        let ports = &report.workers[0].ports;
        let (_, counters, state) = ports.iter().find(|(id, ..)| *id == PortId(n)).unwrap();
        assert_eq!(state.as_ref().unwrap().kind, "wire");
        (counters.rx_packets.get(), counters.tx_packets.get(), counters.tx_bytes.get())
    };
    assert_eq!((traffic(0), traffic(1)), ((200, 0, 0), (0, 200, 200 * 43)));
    all.end();
}

#[test]
fn a_packet_for_another_workers_port_is_handed_over() {
    let all = fixture(2, 2, true);
    for payload in 0..100 {
        all.far[0].send(&packet(1, 0, payload)).unwrap();
        assert_eq!(all.receive(1)[42], payload);
    }
    let report = all.dataplane.report();
    assert_eq!(report.workers[0].counters.handed_over.get(), 100);
    assert_eq!(all.workers, 2);
    all.end();
}

#[test]
fn an_idle_worker_sleeps_and_wakes_for_packets() {
    let all = fixture(1, 2, true);
    let deadline = Instant::now() + PATIENCE;
    while !all.dataplane.report().workers[0].asleep {
        assert!(Instant::now() < deadline, "the worker never slept");
        std::thread::yield_now();
    }
    all.far[0].send(&packet(1, 0, 7)).unwrap();
    assert_eq!(all.receive(1)[42], 7);
    all.end();
}

/// A busy port is taken out of the set that is waited on; it must be in it again when the worker
/// sleeps, and what came in between must not wait for the next packet.
#[test]
fn a_port_that_was_busy_wakes_its_worker_again() {
    let all = fixture(1, 2, true);
    for round in 0..20u8 {
        for _ in 0..300 {
            all.far[0].send(&packet(1, 0, round)).unwrap();
            assert_eq!(all.receive(1)[42], round);
        }
        let deadline = Instant::now() + PATIENCE;
        while !all.dataplane.report().workers[0].asleep {
            assert!(Instant::now() < deadline, "the worker never slept");
            std::thread::yield_now();
        }
    }
    all.end();
}

#[test]
fn an_unresolved_neighbor_is_asked_for_and_then_served() {
    let all = fixture(1, 2, false);
    all.far[0].send(&packet(1, 0, 7)).unwrap();
    let address: IpAddr = [10, 0, 1, 2].into();
    let wanted = Event::NeighborNeeded { port: PortId(1), address };
    assert_eq!(all.events.recv_timeout(PATIENCE), Ok(wanted));
    assert!(all.dataplane.publish(tables(2, 1, true)));
    all.dataplane.neighbor_result(PortId(1), address, true);
    assert_eq!(all.receive(1)[42], 7);
    all.end();
}

#[test]
fn a_detached_port_is_closed_and_its_packets_are_dropped() {
    let all = fixture(1, 2, true);
    assert!(all.dataplane.detach(PortId(1)));
    assert!(all.far[1].send(b"x").is_err(), "the near end is closed");
    all.far[0].send(&packet(1, 0, 7)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let counters = all.dataplane.report().workers[0].counters.clone();
    while counters.drops().next().is_none() {
        assert!(Instant::now() < deadline, "nothing was dropped");
        std::thread::yield_now();
    }
    let drops: Vec<_> = counters.drops().collect();
    assert_eq!(drops, [(crate::drop_reason::DropReason::PortDown, 1)]);
    all.end();
}

#[test]
fn a_device_that_goes_away_is_reported_once() {
    let all = fixture(1, 2, true);
    all.far[0].send(&[]).unwrap();
    assert_eq!(all.events.recv_timeout(PATIENCE), Ok(Event::PortGone { port: PortId(0) }));
    let report = all.dataplane.report();
    assert!(!report.workers[0].panicked);
    assert!(all.events.try_recv().is_err());
    all.end();
}

#[test]
fn a_worker_that_panics_closes_its_ports_and_says_so() {
    let all = fixture(2, 2, true);
    all.dataplane.tell(0, Command::Panic);
    let said = all.events.recv_timeout(PATIENCE).unwrap();
    let message = "asked to panic".to_owned();
    assert_eq!(said, Event::WorkerPanicked { worker: 0, message });
    assert!(all.far[0].send(b"x").is_err(), "its port is closed");
    let report = all.dataplane.report();
    assert!(report.workers[0].panicked && !report.workers[1].panicked);
    assert!(all.dataplane.publish(tables(2, 2, true)), "a dead worker holds nobody up");
    all.end();
}

#[test]
fn a_flooding_port_leaves_the_others_their_turn() {
    let all = fixture(1, 3, true);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            all.far[0].set_nonblocking(true).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let _ = all.far[0].send(&packet(1, 0, 0));
            }
        });
        let sink = scope.spawn(|| {
            all.far[1].set_nonblocking(true).unwrap();
            let mut bytes = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                let _ = all.far[1].recv(&mut bytes);
            }
        });
        for payload in 0..100 {
            all.far[2].send(&packet(2, 2, payload)).unwrap();
            assert_eq!(all.receive(2)[42], payload);
        }
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        sink.join().unwrap();
    });
    all.end();
}

#[test]
fn a_capture_sees_what_comes_goes_and_falls() {
    use crate::capture::Point;
    use crate::drop_reason::DropReason;
    let all = fixture(1, 2, true);
    let (captured, missed) = all.dataplane.capture(CaptureFilter::default());
    all.dataplane.report();
    all.far[0].send(&packet(1, 0, 7)).unwrap();
    all.receive(1);
    let mut bad = packet(1, 0, 8);
    bad[24] ^= 1;
    all.far[0].send(&bad).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let one = captured.recv_timeout(PATIENCE).unwrap();
        seen.push((one.port.0, one.point, one.bytes[42]));
    }
    let dropped = Point::Drop(DropReason::BadChecksum);
    let wanted = [(0, Point::Rx, 7), (1, Point::Tx, 7), (0, Point::Rx, 8), (0, dropped, 8)];
    assert_eq!(seen, wanted);
    assert_eq!(missed.load(Ordering::Relaxed), 0);
    all.dataplane.end_capture();
    all.end();
}
