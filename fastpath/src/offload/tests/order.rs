//! No packet that the program carries overtakes one of its flow that went to the worker before.

use super::*;
use nix::net::if_::if_nametoindex;
use std::process::Command;

/// A flow from the pod that is offloaded, and an ordinary packet of it. The program has seen none.
fn offloaded(rig: &mut Rig) -> Vec<u8> {
    let packet = rig.ordinary(&UDP4, POD, b"in order");
    for _ in 0..OFFLOAD_AFTER {
        assert_eq!(rig.feed(POD, std::slice::from_ref(&packet)).len(), 1);
    }
    packet
}

/// What the program says to a packet that came by a queue of a device with three.
fn verdict(rig: &Rig, packet: &[u8], rx_queue: u32) -> u32 {
    let ifindex = if_nametoindex("queues").unwrap_or_else(|_| {
        let arguments = "link add queues numrxqueues 3 type veth peer name peer";
        let added = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(added.success());
        if_nametoindex("queues").unwrap()
    });
    rig.programs[0].test_run(packet, XdpContext { ifindex, rx_queue }, 1).unwrap().verdict
}

#[test]
fn a_flow_is_carried_once_the_worker_is_done_with_it() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let packet = offloaded(&mut rig);
        rig.arrivals[0].set_given(0, 10);
        rig.arrivals[0].set_seen(0, 10);
        assert_eq!(rig.run(POD, &packet), None, "the worker may have earlier ones");
        // That was number 11.
        rig.arrivals[0].set_given(0, 11);
        assert_eq!(rig.run(POD, &packet), None);
        // Number 12, and 13 of another flow.
        rig.arrivals[0].set_given(0, 13);
        rig.arrivals[0].set_seen(0, 11);
        assert_eq!(rig.run(POD, &packet), None);
        rig.arrivals[0].set_given(0, 14);
        rig.arrivals[0].set_seen(0, 13);
        assert_eq!(rig.run(POD, &packet), None);
        rig.arrivals[0].set_given(0, 20);
        rig.arrivals[0].set_seen(0, 15);
        assert!(rig.run(POD, &packet).is_some(), "all up to 15 have left the worker");
        rig.arrivals[0].set_given(0, 30);
        assert!(rig.run(POD, &packet).is_some(), "others do not count any more");
    });
}

#[test]
fn a_flow_that_is_decided_anew_waits_again() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let packet = offloaded(&mut rig);
        assert!(rig.carry(POD, &packet).is_some());
        rig.map.generation().raise();
        rig.arrivals[0].set_seen(0, 5);
        rig.arrivals[0].set_given(0, 7);
        assert_eq!(rig.run(POD, &packet), None);
        rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!(rig.run(POD, &packet), None);
        rig.arrivals[0].set_seen(0, 7);
        assert_eq!(rig.run(POD, &packet), None, "number 8 is under way");
        rig.arrivals[0].set_seen(0, 8);
        assert!(rig.run(POD, &packet).is_some());
    });
}

#[test]
fn a_packet_that_only_the_worker_can_forward_is_waited_for() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let packet = offloaded(&mut rig);
        assert!(rig.carry(POD, &packet).is_some());
        rig.arrivals[0].set_given(0, 3);
        rig.arrivals[0].set_seen(0, 3);
        let long = rig.ordinary(&UDP4, POD, &[0; UPLINK_MTU as usize]);
        assert_eq!(rig.run(POD, &long), None, "its worker must make fragments of it");
        rig.arrivals[0].set_given(0, 4);
        assert_eq!(rig.run(POD, &packet), None);
        rig.arrivals[0].set_given(0, 5);
        rig.arrivals[0].set_seen(0, 5);
        assert!(rig.run(POD, &packet).is_some());
    });
}

/// Its last bytes are where the program does not look, behind what is linear of a long frame.
#[test]
fn a_packet_that_is_not_whole_in_one_piece_is_waited_for() {
    in_namespace(|| {
        for length in [20, 6000] {
            let mut rig = Rig::new(false);
            let packet = offloaded(&mut rig);
            assert!(rig.carry(POD, &packet).is_some());
            rig.arrivals[0].set_given(0, 3);
            rig.arrivals[0].set_seen(0, 3);
            let mut pieces = rig.ordinary(&UDP4, POD, &vec![7; length]);
            if length == 20 {
                pieces.truncate(pieces.len() - 1);
            }
            assert_eq!(rig.run(POD, &pieces), None);
            rig.arrivals[0].set_given(0, 4);
            assert_eq!(rig.run(POD, &packet), None, "{length} bytes are under way");
            rig.arrivals[0].set_given(0, 5);
            rig.arrivals[0].set_seen(0, 5);
            assert!(rig.run(POD, &packet).is_some());
        }
    });
}

#[test]
fn a_flow_that_comes_by_another_queue_waits_for_that() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let packet = offloaded(&mut rig);
        rig.arrivals[0].set_seen(0, 1);
        rig.arrivals[0].set_seen(1, 100);
        rig.arrivals[0].set_given(1, 100);
        assert_eq!(verdict(&rig, &packet, 0), XDP_PASS);
        assert_eq!(verdict(&rig, &packet, 1), XDP_PASS, "seen on the first queue only");
        assert_eq!(verdict(&rig, &packet, 1), XDP_PASS);
        rig.arrivals[0].set_seen(1, 101);
        assert_eq!(verdict(&rig, &packet, 1), XDP_REDIRECT);
        // There is no third one.
        rig.map.generation().raise();
        rig.feed(POD, std::slice::from_ref(&packet));
        assert_eq!([(); 3].map(|()| verdict(&rig, &packet, 2)), [XDP_PASS; 3]);
    });
}

#[test]
fn a_flow_that_waits_is_dropped_while_the_worker_is_far_behind() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let packet = offloaded(&mut rig);
        let arrivals = |rig: &Rig, given, seen, taken| {
            rig.arrivals[0].set_given(0, given);
            rig.arrivals[0].set_seen(0, seen);
            rig.arrivals[0].set_room(0, taken, 8);
        };
        arrivals(&rig, 1007, 1000, 1000);
        assert_eq!(verdict(&rig, &packet, 0), XDP_PASS, "the first one tells that it waits");
        assert_eq!(verdict(&rig, &packet, 0), XDP_PASS, "seven eighths");
        arrivals(&rig, 1008, 1000, 1000);
        assert_eq!(verdict(&rig, &packet, 0), XDP_DROP);
        assert_eq!(rig.arrivals[0].refused(0), 1);
        // The worker takes packets, but they wait for others there.
        arrivals(&rig, 1_000_000, 1000, 1_000_000 - 4);
        assert_eq!(verdict(&rig, &packet, 0), XDP_PASS, "half of the room");
        arrivals(&rig, 1_000_008, 1000, 1_000_000);
        assert_eq!(verdict(&rig, &packet, 0), XDP_DROP, "none of it");
        arrivals(&rig, 1_000_008, 1_000_009, 1_000_008);
        assert_eq!(verdict(&rig, &packet, 0), XDP_REDIRECT, "its last packet has left");
        // Without a worker it is the kernel's.
        rig.map.generation().raise();
        rig.feed(POD, std::slice::from_ref(&packet));
        rig.arrivals[0].set_seen(0, 0);
        rig.arrivals[0].end_credit(0);
        assert_eq!([(); 3].map(|()| verdict(&rig, &packet, 0)), [XDP_PASS; 3]);
    });
}

#[test]
fn other_packets_are_dropped_when_there_is_no_room() {
    in_namespace(|| {
        let mut rig = Rig::new(false);
        let packet = rig.ordinary(&TCP6, POD, b"not offloaded");
        rig.arrivals[0].set_given(0, 4);
        rig.arrivals[0].set_room(0, 0, 5);
        assert_eq!(verdict(&rig, &packet, 0), XDP_PASS);
        rig.arrivals[0].set_given(0, 5);
        assert_eq!([(); 2].map(|()| verdict(&rig, &packet, 0)), [XDP_DROP; 2]);
        assert_eq!(verdict(&rig, &packet, 1), XDP_PASS, "the other queue has room");
        assert_eq!(rig.arrivals[0].refused(0), 2);
    });
}
