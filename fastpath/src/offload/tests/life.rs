//! When flows are offloaded, what takes them back, and what of them is counted.

use super::*;
use crate::capture::{CaptureFilter, Tap};
use crate::ecmp;
use crate::flow::State;

fn carried_both_ways(rig: &mut Rig, flow: &Flow) -> [bool; 2] {
    [rig.is_carried(flow, POD), rig.is_carried(flow, UPLINK)]
}

#[test]
fn a_flow_is_offloaded_after_some_packets_and_not_before() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        for count in 1..=OFFLOAD_AFTER {
            assert!(!rig.is_carried(&UDP4, POD), "after {} packets", count - 1);
            let packet = rig.ordinary(&UDP4, POD, b"one more");
            rig.feed(POD, &[packet]);
        }
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [true, false]);
    });
}

/// Some of so many have the same place among those that are counted.
#[test]
fn flows_that_come_strictly_in_turn_are_all_offloaded() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let flows: Vec<_> = (0..1000).map(|at| Flow { ports: (5000 + at, 53), ..UDP4 }).collect();
        let packets: Vec<_> = flows.iter().map(|flow| rig.ordinary(flow, POD, b"it")).collect();
        for _ in 0..4 * OFFLOAD_AFTER {
            for packet in &packets {
                rig.now_ns += 2_000;
                rig.feed(POD, std::slice::from_ref(packet));
            }
        }
        let left = flows.iter().filter(|flow| !rig.is_carried(flow, POD)).count();
        assert_eq!(left, 0);
    });
}

#[test]
fn a_change_of_routes_neighbors_or_ports_takes_effect_at_once() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.offload(&UDP4);
        rig.writer.insert("172.16.0.9/32".parse().unwrap(), TargetId(3)).unwrap();
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [false, false]);
        let packet = rig.ordinary(&UDP4, POD, b"another way");
        assert_eq!(rig.feed(POD, std::slice::from_ref(&packet))[0].0, OTHER);
        let carried = rig.carry(POD, &packet).expect("one packet brings it back");
        assert_eq!(carried[6..12], OTHER_MAC.0);
        // A neighbour.
        rig.tables.adjacencies[2].mac = Some(Mac([2, 0, 0, 0, 0, 0x77]));
        rig.map.generation().raise();
        assert_eq!(rig.carry(POD, &packet), None);
        let sent = rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!(
            (&sent[0].1[..6], rig.carry(POD, &packet)),
            (&[2, 0, 0, 0, 0, 0x77][..], Some(sent[0].1.clone()))
        );
        // No next hop, and a port that is gone.
        rig.tables.adjacencies[2].mac = None;
        rig.map.generation().raise();
        rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!(rig.carry(POD, &packet), None);
        rig.writer.remove("172.16.0.9/32".parse().unwrap());
        rig.feed(POD, std::slice::from_ref(&packet));
        rig.offload(&UDP4);
        rig.map.set_egress(UPLINK, None);
        assert_eq!(rig.carry(POD, &packet), None);
        rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!(rig.carry(POD, &packet), None);
    });
}

/// Marks are the worker's to make.
#[test]
fn flows_of_an_endpoint_whose_packets_are_marked_are_not_offloaded() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.offload(&UDP4);
        let wanted = limit::Wanted { dscp: limit::dscp::Dscp::new(46), ..Default::default() };
        let limited = (POD, Arc::new(limit::EndpointLimits::new(wanted, 1, 1)));
        rig.tables.limits = Some(Arc::new(limit::Limits::new(&[limited], Ranges::default())));
        rig.map.generation().raise();
        for from in [POD, UPLINK].repeat(usize::from(OFFLOAD_AFTER) + 2) {
            let packet = rig.ordinary(&UDP4, from, b"seen by the worker");
            assert_eq!(rig.feed(from, &[packet]).len(), 1);
        }
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [false, true]);
    });
}

#[test]
fn many_paths_are_chosen_from_as_the_pipeline_does() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let member = |id, key| ecmp::Member { adjacency: AdjacencyId(id), key, weight: 1 };
        let group = ecmp::build_weighted(&[member(0, 1), member(2, 2)], 7);
        rig.tables.ecmp_groups.push(group);
        rig.tables.targets[1] = Target::Ecmp(0);
        let mut ports = [0; 3];
        for port in 0..40 {
            for flow in [UDP4, TCP6] {
                let flow = Flow { ports: (5000 + port, 80), ..flow };
                let packet = rig.ordinary(&flow, POD, b"some");
                let mut sent = Vec::new();
                for _ in 0..OFFLOAD_AFTER {
                    sent = rig.feed(POD, std::slice::from_ref(&packet));
                }
                let carried = rig.carry(POD, &packet).expect("it is offloaded");
                assert_eq!(sent[0].1, carried);
                ports[usize::from(sent[0].0.0)] += 1;
            }
        }
        assert!(ports[1] > 10 && ports[2] > 10, "{ports:?}");
    });
}

#[test]
fn fin_ends_the_offload_of_both_directions() {
    in_namespace(|| {
        let mut rig = Rig::new(true);
        rig.offload(&TCP4);
        let fin = frame(POD_MAC, &TCP4.tuple(), tcp::FIN | tcp::ACK, &[]);
        assert_eq!(rig.carry(POD, &fin), None);
        rig.feed(POD, &[fin]);
        for _ in 0..2 * OFFLOAD_AFTER {
            assert_eq!(carried_both_ways(&mut rig, &TCP4), [false, false]);
            let packet = rig.ordinary(&TCP4, POD, b"half closed");
            rig.feed(POD, &[packet]);
        }
        assert_eq!(rig.sessions()[0].state(), State::TcpFinWait);
        assert_eq!(rig.pipeline.offloaded(), 0);
    });
}

#[test]
fn a_datagram_that_makes_a_stream_is_the_workers() {
    in_namespace(|| {
        let mut rig = Rig::new(true);
        let question = rig.ordinary(&UDP4, POD, b"question");
        for _ in 0..OFFLOAD_AFTER {
            rig.feed(POD, std::slice::from_ref(&question));
        }
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [true, false]);
        let answer = rig.ordinary(&UDP4, UPLINK, b"answer");
        rig.feed(UPLINK, &[answer]);
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [false, false]);
        rig.feed(POD, &[question]);
        assert_eq!(rig.sessions()[0].state(), State::UdpStream);
        rig.offload(&UDP4);
    });
}

#[test]
fn what_was_carried_is_counted_and_keeps_the_session_alive() {
    in_namespace(|| {
        let mut rig = Rig::new(true);
        rig.offload(&UDP4);
        rig.tick_at(rig.now_ns);
        let (before, forwarded) = (rig.sessions().remove(0), rig.pipeline.counters.forwarded.get());
        let length = rig.ordinary(&UDP4, POD, b"12345").len() as u64 - 14;
        for from in [POD, POD, UPLINK] {
            let packet = rig.ordinary(&UDP4, from, b"12345");
            assert!(rig.carry(from, &packet).is_some());
        }
        rig.pipeline.read_offload();
        let after = rig.sessions().remove(0);
        assert!(after.is_offloaded());
        assert_eq!(after.packets, [before.packets[0] + 2, before.packets[1] + 1]);
        assert_eq!(after.bytes, before.bytes + 3 * length);
        assert_eq!(rig.pipeline.counters.forwarded.get(), forwarded + 3);
        let totals = rig.map.totals(POD);
        assert!(totals.rx_packets >= 2 && totals.tx_packets >= 1);
        // Nobody has read the row when the session's time is over; the packet counts all the same.
        let timeout = Timeouts::default().of(State::UdpStream, true);
        let later_ns = rig.now_ns + u64::from(timeout) * 1_000_000_000;
        let row = FlowMap::share(0, 1).start;
        let word = |word| rig.map.records.word(row, word);
        let used_ns = crate::sys::clock::monotonic_ns() + 5_000_000_000;
        word(layout::USED_NS).store(used_ns, Ordering::Relaxed);
        word(layout::PACKETS).fetch_add(1, Ordering::Relaxed);
        rig.tick_at(later_ns + 3_000_000_000);
        assert_eq!(rig.sessions().len(), 1, "it was used 5 s later than the last packet before");
        rig.tick_at(later_ns + 8_000_000_000);
        rig.tick_at(later_ns + 8_100_000_000);
        assert_eq!((rig.sessions().len(), rig.pipeline.offloaded()), (0, 0));
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [false, false]);
    });
}

#[test]
fn idle_flows_come_back_and_their_rows_are_used_again() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        for _ in 0..3 {
            rig.offload(&UDP4);
            assert_eq!(rig.pipeline.offloaded(), 2);
            rig.tick_at(rig.now_ns + IDLE_NS / 2);
            assert_eq!(rig.pipeline.offloaded(), 2);
            rig.tick_at(rig.now_ns + IDLE_NS);
            assert_eq!(rig.pipeline.offloaded(), 0);
            assert_eq!(carried_both_ways(&mut rig, &UDP4), [false, false]);
            rig.tick_at(rig.now_ns + 1_000_000_000);
        }
        let share = FlowMap::share(0, 1);
        let used = (share.start..share.start + 10).filter(|row| {
            rig.map.records.word(*row, layout::LINK as usize / 8).load(Ordering::Relaxed) != 0
        });
        assert_eq!(used.count(), 2);
    });
}

/// By another queue of its port.
#[test]
fn a_flow_that_has_come_to_another_worker_stays_with_that() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.offload(&UDP4);
        let others = FlowMap::share(1, 2).end - 1;
        for word in 0..layout::WORDS {
            let own = rig.map.records.word(FlowMap::share(0, 1).start, word);
            rig.map
                .records
                .word(others, word)
                .store(own.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        assert!(rig.map.insert(&Key { port: POD, tuple: UDP4.tuple() }, others));
        rig.tick_at(rig.now_ns + 2 * IDLE_NS);
        assert_eq!(rig.pipeline.offloaded(), 0);
        assert_eq!(carried_both_ways(&mut rig, &UDP4), [true, false]);
    });
}

#[test]
fn ended_flows_and_other_policy_take_effect_at_once() {
    in_namespace(|| {
        let mut rig = Rig::new(true);
        rig.offload(&TCP4);
        let tracker = rig.pipeline.tracker().unwrap();
        let mut ids = Vec::new();
        tracker.list(0, 100, |id, session, _| ids.push((id, session.original())));
        for (id, original) in ids {
            assert!(rig.pipeline.end_flow(id, &original));
        }
        let packet = frame(POD_MAC, &TCP4.tuple(), tcp::ACK, b"after the end");
        assert_eq!(rig.carry(POD, &packet), None);
        assert_eq!(rig.pipeline.offloaded(), 0);
    });
}

#[test]
fn a_capture_sees_every_packet() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        rig.offload(&UDP4);
        let (sender, receiver) = crossbeam::channel::bounded(100);
        let (filter, missed) = (CaptureFilter::default(), Arc::default());
        rig.pipeline.tap = Some(Tap { filter, sender, missed });
        rig.pipeline.recall_offload();
        for _ in 0..2 * OFFLOAD_AFTER {
            let packet = rig.ordinary(&UDP4, POD, b"seen");
            assert_eq!(rig.carry(POD, &packet), None);
            rig.feed(POD, &[packet]);
        }
        assert!(receiver.len() >= 2 * usize::from(OFFLOAD_AFTER));
        rig.pipeline.tap = None;
        let packet = rig.ordinary(&UDP4, POD, b"not seen");
        rig.feed(POD, std::slice::from_ref(&packet));
        assert!(rig.carry(POD, &packet).is_some());
    });
}

#[test]
fn flows_and_installs_are_bounded() {
    assert_eq!(FlowMap::share(0, 1), 1..MAX_FLOWS + 1);
    assert_eq!(
        (FlowMap::share(2, 3).end, FlowMap::share(0, 3).end),
        (MAX_FLOWS, FlowMap::share(1, 3).start)
    );
    in_namespace(|| {
        let mut rig = Rig::new(false);
        for port in 0..INSTALLS_PER_TICK as u16 + 100 {
            let flow = Flow { ports: (port, 9), ..UDP4 };
            let packet = rig.ordinary(&flow, POD, b"many");
            for _ in 0..OFFLOAD_AFTER {
                rig.feed(POD, std::slice::from_ref(&packet));
            }
        }
        assert_eq!(rig.pipeline.offloaded(), INSTALLS_PER_TICK);
        rig.tick_at(rig.now_ns + 50_000_000);
        let flow = Flow { ports: (60_000, 9), ..UDP4 };
        let packet = rig.ordinary(&flow, POD, b"many");
        for _ in 0..OFFLOAD_AFTER {
            rig.feed(POD, std::slice::from_ref(&packet));
        }
        assert_eq!(rig.pipeline.offloaded(), INSTALLS_PER_TICK + 1);
        assert!(rig.map.open_port(PortId(MAX_PORTS as u16), 1).is_none());
    });
}
