//! The program of tc beside the pipeline: whole super-packets, and the order by time.

use super::same::{Beside, compare_by};
use super::*;
use crate::limit::{Cost, Rate, Rates, WayLimits};
use crate::packet::{Gso, Offload};
use crate::sys::clock::monotonic_ns;
use margay_acl::Direction as Way;
use std::process::Command;

/// Verdicts of tc.
const DROP: u32 = 2;
const REDIRECT: u32 = 7;
const GSO_SIZE: u32 = 900;

impl Rig {
    /// Through the program of tc of a port once: `None` for what comes to the worker.
    pub(super) fn run_tc(&self, from: PortId, frame: &[u8], gso_size: u32) -> Option<Vec<u8>> {
        let program = &self.programs[usize::from(from.0)];
        let run = program.test_run_tc(frame, gso_size).unwrap();
        if run.packet != frame {
            assert_eq!(run.verdict, REDIRECT);
            return Some(run.packet);
        }
        // At once, or when the program has ended; or it is the kernel's.
        assert!([DROP, REDIRECT, u32::MAX].contains(&run.verdict), "{}", run.verdict);
        None
    }

    /// The verdict, with the packet as it came.
    fn verdict_tc(&self, frame: &[u8], gso_size: u32) -> u32 {
        self.programs[0].test_run_tc(frame, gso_size).unwrap().verdict
    }
}

/// In a namespace whose loopback, which stands for the TAP, takes packets.
fn with_tap(test: impl FnOnce() + Send) {
    in_namespace(|| {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        test();
    });
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

#[test]
fn carried_packets_are_what_the_pipeline_sends_routed() {
    with_tap(|| {
        for flow in [UDP4, TCP4, UDP6, TCP6] {
            compare_by(Hook::Tc, flow, false, Beside::Nothing);
        }
    });
}

#[test]
fn carried_packets_are_what_the_pipeline_sends_translated() {
    with_tap(|| {
        for flow in [UDP4, TCP4, UDP6, TCP6] {
            compare_by(Hook::Tc, flow, true, Beside::Nothing);
        }
    });
}

#[test]
fn carried_packets_are_what_the_pipeline_sends_limited() {
    with_tap(|| {
        [UDP4, TCP6].into_iter().for_each(|flow| compare_by(Hook::Tc, flow, true, Beside::Limits));
    });
}

/// One that cannot be carried whole is the worker's, which cuts or refuses it.
#[test]
fn super_packets_are_carried_whole_if_their_segments_fit() {
    with_tap(|| {
        for flow in [TCP4, TCP6] {
            let mut rig = Rig::by(Hook::Tc, true);
            rig.offload(&flow);
            rig.arrivals[0].set_seen(0, u64::MAX);
            let ordinary = rig.ordinary(&flow, POD, b"x");
            assert!(rig.carry(POD, &ordinary).is_some());
            let long = rig.ordinary(&flow, POD, &payload(3000));
            let headers = if flow.v6 { 60 } else { 40 };
            let fits = u32::from(UPLINK_MTU) - headers;
            let carried = rig.run_tc(POD, &long, fits).expect("its segments fit");
            assert_eq!(
                (carried.len(), &carried[carried.len() - 3000..]),
                (long.len(), &payload(3000)[..])
            );
            assert_eq!(rig.run_tc(POD, &long, fits + 1), None, "one byte too long");
            assert!(rig.carry(POD, &ordinary).is_some());
            assert_eq!(rig.run_tc(POD, &long, 0), None, "it is one packet");
            assert!(rig.carry(POD, &ordinary).is_some());
            let padded = [&long[..], &[0; 3]].concat();
            assert_eq!(rig.run_tc(POD, &padded, fits), None, "more than the IP packet");
        }
        let mut rig = Rig::by(Hook::Tc, false);
        rig.offload(&UDP4);
        let long = rig.ordinary(&UDP4, POD, &payload(3000));
        assert_eq!(rig.run_tc(POD, &long, GSO_SIZE), None, "who knows what is in it");
    });
}

fn cost_of(frame: &[u8], flow: &Flow) -> Cost {
    let arena = Arena::new(64, 2).unwrap();
    let mut pool = FramePool::new(arena);
    let mut memory = pool.alloc_large().unwrap();
    memory.bytes_mut(HEADROOM, frame.len()).copy_from_slice(frame);
    let mut packet = Packet::new(memory, HEADROOM, frame.len(), POD);
    (packet.l3, packet.l4) = (14, if flow.v6 { 54 } else { 34 });
    let gso = if flow.v6 { Gso::Tcp6 } else { Gso::Tcp4 };
    packet.set_offload(Offload { gso, gso_size: GSO_SIZE as u16, ..Offload::default() });
    let cost = Cost::of(&packet);
    packet.free(&mut pool);
    cost
}

#[test]
fn super_packets_cost_and_count_what_their_segments_will() {
    with_tap(|| {
        for flow in [TCP4, TCP6] {
            let mut rig = Rig::by(Hook::Tc, false);
            let wide = |per_second| Some(Rate { per_second, burst: 1 << 30 });
            let rates = Rates { bits: wide(1 << 30), peak: None, packets: wide(1 << 20) };
            let way = WayLimits { rates, shaped: false };
            rig.limit(&[(POD, [way; 2])]);
            rig.offload(&flow);
            let ordinary = rig.ordinary(&flow, POD, b"x");
            assert!(rig.carry(POD, &ordinary).is_some());
            rig.pipeline.read_offload();
            let account = |rig: &Rig| {
                let way = rig.tables.limits_of(POD).unwrap().way(Way::Egress);
                let totals = way.account.totals(rig.now_ns);
                (totals.packets, totals.bytes)
            };
            let (before, port) = (account(&rig), rig.map.totals(POD));
            let long = rig.ordinary(&flow, POD, &payload(3000));
            assert!(rig.run_tc(POD, &long, GSO_SIZE).is_some());
            rig.pipeline.read_offload();
            let (after, cost) = (account(&rig), cost_of(&long, &flow));
            assert_eq!(cost.packets, 4);
            let grown = (after.0 - before.0, after.1 - before.1);
            assert_eq!(grown, (u64::from(cost.packets), u64::from(cost.bytes)));
            let totals = rig.map.totals(POD);
            let grown = (totals.rx_packets - port.rx_packets, totals.rx_bytes - port.rx_bytes);
            assert_eq!(grown, (1, long.len() as u64));
        }
    });
}

/// What is beyond a limit as one may pass in parts.
#[test]
fn a_super_packet_beyond_a_limit_is_the_workers_and_a_packet_is_dropped() {
    with_tap(|| {
        let mut rig = Rig::by(Hook::Tc, false);
        rig.offload(&TCP4);
        // As good as no rate; a burst of 2000 bytes, or of three packets: the worker gets one.
        for rates in [
            Rates { bits: Some(Rate { per_second: 1000, burst: 16_000 }), ..Rates::default() },
            Rates { packets: Some(Rate { per_second: 1, burst: 3 }), ..Rates::default() },
        ] {
            rig.limit(&[(POD, [WayLimits::default(), WayLimits { rates, shaped: false }])]);
            let small = rig.ordinary(&TCP4, POD, b"x");
            rig.now_ns = monotonic_ns() - rig.clock_ns;
            rig.feed(POD, std::slice::from_ref(&small));
            rig.arrivals[0].set_seen(0, u64::MAX);
            assert_eq!(rig.run_tc(POD, &small, 0), None, "decided anew");
            let long = rig.ordinary(&TCP4, POD, &payload(3000));
            let dropped = rig.map.totals(POD).rx_packets;
            assert_eq!(rig.run_tc(POD, &long, GSO_SIZE), None);
            assert_eq!(rig.map.totals(POD).rx_packets, dropped, "it was not dropped");
            assert!(rig.run_tc(POD, &small, 0).is_some(), "it took nothing");
            let medium = rig.ordinary(&TCP4, POD, &payload(1300));
            let _ = rig.run_tc(POD, &medium, 0);
            assert_eq!(rig.verdict_tc(&medium, 0), DROP);
            assert_eq!(rig.map.totals(POD).rx_packets, dropped + 1);
        }
    });
}

/// A flow from the pod that is offloaded, and a packet of it. The program has seen none.
fn offloaded(rig: &mut Rig, flow: &Flow) -> Vec<u8> {
    let packet = rig.ordinary(flow, POD, &payload(1200));
    for _ in 0..OFFLOAD_AFTER {
        assert_eq!(rig.feed(POD, std::slice::from_ref(&packet)).len(), 1);
    }
    packet
}

#[test]
fn a_flow_is_carried_once_the_worker_has_had_its_last_packet() {
    with_tap(|| {
        let mut rig = Rig::by(Hook::Tc, false);
        let packet = offloaded(&mut rig, &UDP4);
        rig.arrivals[0].set_seen(0, monotonic_ns());
        assert_eq!(rig.run(POD, &packet), None, "the worker may have earlier ones");
        assert_eq!(rig.run(POD, &packet), None);
        let between = monotonic_ns();
        assert_eq!(rig.run(POD, &packet), None);
        rig.arrivals[0].set_seen(0, between);
        assert_eq!(rig.run(POD, &packet), None, "one went there after that");
        rig.arrivals[0].set_seen(0, monotonic_ns());
        assert!(rig.run(POD, &packet).is_some());
        rig.arrivals[0].set_seen(0, 0);
        assert!(rig.run(POD, &packet).is_some(), "what others do does not count any more");
        let long = rig.ordinary(&UDP4, POD, &[0; UPLINK_MTU as usize]);
        assert_eq!(rig.run(POD, &long), None, "its worker must make fragments of it");
        assert_eq!(rig.run(POD, &packet), None);
        rig.arrivals[0].set_seen(0, monotonic_ns());
        assert!(rig.run(POD, &packet).is_some());
    });
}

#[test]
fn a_flow_that_is_decided_anew_waits_again() {
    with_tap(|| {
        let mut rig = Rig::by(Hook::Tc, false);
        let packet = offloaded(&mut rig, &UDP6);
        assert!(rig.carry(POD, &packet).is_some());
        rig.map.generation().raise();
        rig.arrivals[0].set_seen(0, 0);
        assert_eq!(rig.run(POD, &packet), None);
        rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!([(); 2].map(|()| rig.run(POD, &packet)), [None, None]);
        rig.arrivals[0].set_seen(0, monotonic_ns());
        assert!(rig.run(POD, &packet).is_some());
    });
}

/// A packet that the TAP has no room for is not waited for.
#[test]
fn what_the_tap_drops_does_not_count() {
    in_namespace(|| {
        let mut rig = Rig::by(Hook::Tc, false);
        let packet = offloaded(&mut rig, &UDP4);
        rig.arrivals[0].set_seen(0, u64::MAX);
        // The loopback is down.
        assert_eq!([(); 3].map(|()| rig.run(POD, &packet)), [None, None, None]);
        assert_eq!(rig.map.records.word(1, layout::WENT_NS).load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_sender_that_never_lets_the_worker_finish_is_made_to_pause() {
    with_tap(|| {
        let mut rig = Rig::by(Hook::Tc, false);
        let packet = offloaded(&mut rig, &TCP4);
        let udp = offloaded(&mut rig, &UDP4);
        let refused = |rig: &Rig| rig.arrivals[0].refused(0);
        for frame in [&packet, &udp] {
            (0..2).for_each(|_| assert_eq!(rig.run_tc(POD, frame, 0), None));
        }
        let since = |rig: &Rig, row: u32, ago_ns: u64| {
            let at_ns = monotonic_ns() - ago_ns;
            rig.map.records.word(row, layout::SINCE).store(at_ns, Ordering::Relaxed);
        };
        let went = |rig: &Rig| rig.map.records.word(1, layout::WENT_NS).load(Ordering::Relaxed);
        [1, 2].into_iter().for_each(|row| since(&rig, row, 40_000_000));
        let before = went(&rig);
        rig.arrivals[0].set_read(0, u64::MAX);
        assert_eq!((rig.run_tc(POD, &packet, 0), refused(&rig)), (None, 0), "it has been read");
        rig.arrivals[0].set_read(0, 0);
        let before = before.max(went(&rig));
        assert_eq!((rig.run_tc(POD, &packet, 600), refused(&rig)), (None, 1));
        assert_eq!(went(&rig), before, "the worker did not get it");
        assert_eq!((rig.run_tc(POD, &packet, 0), refused(&rig)), (None, 1), "no super-packet");
        assert_eq!((rig.run_tc(POD, &udp, 600), refused(&rig)), (None, 1), "no TCP");
        assert!(went(&rig) > before);
        // It is long enough.
        since(&rig, 1, 500_000_000);
        (0..3).for_each(|_| assert_eq!(rig.run_tc(POD, &packet, 600), None));
        assert_eq!(refused(&rig), 1);
        rig.arrivals[0].set_seen(0, u64::MAX);
        assert!(rig.run_tc(POD, &packet, 600).is_some());
        assert_eq!(rig.map.records.word(1, layout::SINCE).load(Ordering::Relaxed), 0);
    });
}

#[test]
fn nothing_is_sent_to_a_port_that_is_gone() {
    with_tap(|| {
        let mut rig = Rig::by(Hook::Tc, false);
        rig.offload(&UDP4);
        rig._leases.remove(1);
        let packet = rig.ordinary(&UDP4, POD, b"where to");
        assert_eq!(rig.carry(POD, &packet), None);
        rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!(rig.carry(POD, &packet), None);
    });
}
