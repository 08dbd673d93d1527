//! When a port is told that what it brought has left the worker.

use super::*;
use crate::port::TxOffloads;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// A port without packets.
#[derive(Default, Clone)]
struct Silent {
    unsent: Arc<AtomicBool>,
    sending: Arc<AtomicBool>,
    settled: Arc<AtomicUsize>,
}

impl Port for Silent {
    fn rx(&mut self, _: &mut FramePool, _: &mut Vec<Packet>, _: usize) -> RxState {
        RxState::Up
    }

    fn tx(&mut self, _: &mut FramePool, _: &mut Vec<Packet>) {}

    fn service(&mut self, _: &mut FramePool) {}

    fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed)
    }

    fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    fn settle(&mut self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    fn tx_offloads(&self) -> TxOffloads {
        TxOffloads::default()
    }

    fn report(&self) -> PortReport {
        PortReport::default()
    }

    fn close(self: Box<Self>, _: &mut FramePool) {}
}

#[test]
fn nothing_is_settled_while_a_device_has_yet_to_take_packets() {
    const RX: PortId = PortId(0);
    const TX: PortId = PortId(1);
    let mut rig = Rig::new(&[]);
    let (rx, tx) = (Silent::default(), Silent::default());
    rig.worker.attach(RX, Box::new(rx.clone()), Arc::default());
    rig.worker.attach(TX, Box::new(tx.clone()), Arc::default());
    let settled = |unsent: bool, worker: &mut Worker| {
        tx.unsent.store(unsent, Ordering::Relaxed);
        worker.serve(TX);
        let before = rx.settled.load(Ordering::Relaxed);
        worker.serve(RX);
        rx.settled.load(Ordering::Relaxed) > before
    };
    assert!(!settled(false, &mut rig.worker), "there is no offload");
    assert!(rig.shared.offload.set(FlowMap::new().unwrap()).is_ok());
    assert!(settled(false, &mut rig.worker));
    assert!(!settled(true, &mut rig.worker));
    assert!(!settled(true, &mut rig.worker));
    assert!(settled(false, &mut rig.worker));
    assert!(!settled(true, &mut rig.worker));
    rig.worker.detach(TX);
    assert!(settled(true, &mut rig.worker), "its packets are gone with it");
    rig.end();
}

#[test]
fn a_port_whose_packets_another_thread_sends_is_not_left_alone() {
    const PORT: PortId = PortId(0);
    let mut rig = Rig::new(&[]);
    let port = Silent::default();
    rig.worker.attach(PORT, Box::new(port.clone()), Arc::default());
    port.sending.store(true, Ordering::Relaxed);
    for turn in 2..5 {
        rig.worker.turn(turn * slot::COLD_AFTER_NS);
        assert_eq!(rig.worker.hot, [PORT]);
    }
    port.sending.store(false, Ordering::Relaxed);
    rig.worker.turn(5 * slot::COLD_AFTER_NS);
    assert_eq!(rig.worker.hot, []);
    rig.end();
}
