//! Who has a congested port: by a line whose ring is full, and by a rate that is configured.

use super::*;
use crate::limit::{Limits, PortRate};
use crate::nat::Ranges;
use crate::worker::queue::{ALL_MAX, EACH_MAX, QUEUE_MAX, RESERVED_MAX, STALL_NS};
use margay_tunnels::wire::tcp;
use proptest::prelude::*;

/// Of ten pods and more.
const UPLINK: u8 = 12;
const PODS: u8 = 10;
const GIGABIT: u64 = 1_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Pods, and an uplink with this line.
fn rig(line: Option<Line>) -> Rig {
    let mut links = vec![pod(); usize::from(UPLINK) + 1];
    links[usize::from(UPLINK)] = LinkConfig { line, ..LinkConfig::default() };
    Rig::new(&links)
}

fn gigabit() -> Option<Line> {
    Some(Line { bits_per_s: GIGABIT, ring: 64 })
}

/// The uplink's rate, and weights by pod.
fn limit(rig: &mut Rig, bits_per_s: Option<u64>, weights: &[u32]) {
    let weights: Vec<_> = (0..).map(PortId).zip(weights.iter().copied()).collect();
    let rate = |bits_per_s| (PortId(UPLINK.into()), Arc::new(PortRate::new(bits_per_s, 1, 1)));
    let rates: Vec<_> = bits_per_s.map(rate).into_iter().collect();
    let limits = Limits::new(&[], Ranges::default()).with_weights(&weights).with_rates(&rates);
    rig.publish(|tables| tables.limits = Some(Arc::new(limits)));
}

fn dropped(rig: &Rig, reason: DropReason) -> u64 {
    rig.worker.pipeline.counters.drops[reason as usize].get()
}

/// Bytes by pod that come out of the uplink in so much time, with so many pods that flood.
fn shares(rig: &mut Rig, floods: &[usize], time_ns: u64) -> Vec<u64> {
    let mut bytes = vec![0; floods.len()];
    let begin_ns = rig.clock.now_ns();
    // The beginning is not counted: queues must be full first.
    while rig.clock.now_ns() < begin_ns + time_ns + time_ns / 4 {
        for (pod, len) in floods.iter().enumerate() {
            rig.flood(pod as u8, UPLINK, *len);
        }
        rig.turn();
        let is_counted = rig.clock.now_ns() > begin_ns + time_ns / 4;
        for packet in rig.arrived(UPLINK) {
            bytes[usize::from(packet.from)] += if is_counted { packet.len as u64 } else { 0 };
        }
    }
    bytes
}

fn assert_shares(bytes: &[u64], weights: &[u64], leeway: f64) {
    let (all, total): (u64, u64) = (weights.iter().sum(), bytes.iter().sum());
    for (bytes, weight) in bytes.iter().zip(weights) {
        let share = *bytes as f64 * all as f64 / (total * weight) as f64;
        assert!((share - 1.0).abs() <= leeway, "{share} of a fair share");
    }
}

#[test]
fn ten_greedy_endpoints_share_a_line_evenly_whatever_their_packets() {
    let lens = [60, 1514, 1514, 1514, 600, 600, 1514, 1514, 1514, 1514];
    for rate in [None, Some(GIGABIT / 2)] {
        // A turn with ten full bursts takes as long as 200 packets on the line.
        let mut rig = rig(Some(Line { bits_per_s: GIGABIT, ring: 256 }));
        limit(&mut rig, rate, &[]);
        let bytes = shares(&mut rig, &lens, SECOND_NS / 5);
        println!("rate {rate:?}: {bytes:?}");
        // Who sends small packets is held by the worker's turns: a burst each.
        assert_shares(&bytes[1..], &[1; 9], 0.05);
        let may = rate.unwrap_or(GIGABIT) / 8 / 5;
        let total: u64 = bytes.iter().sum();
        assert!(total.abs_diff(may) * 100 <= may, "{total} bytes of {may}");
        rig.end();
    }
}

#[test]
fn weights_of_1_2_and_4_hold() {
    for rate in [None, Some(GIGABIT / 10)] {
        let mut rig = rig(gigabit());
        limit(&mut rig, rate, &[1, 2, 4]);
        let bytes = shares(&mut rig, &[FULL; 3], SECOND_NS / 5);
        println!("rate {rate:?}: {bytes:?}");
        assert_shares(&bytes, &[1, 2, 4], 0.05);
        rig.end();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, ..ProptestConfig::default() })]

    /// Of pods that flood one uplink each worker has some, as uneven as it comes.
    #[test]
    fn workers_share_an_uplink_among_all_their_endpoints(
        weights in prop::collection::vec(1u32..4, 4..=8),
        on_second in 0usize..8,
        lens in prop::collection::vec(200usize..1514, 10),
    ) {
        // A worker moves a million packets a second, in or out: it has more than this rate takes,
        // of each endpoint too, even when all are with the one that has no uplink.
        let (pods, rate) = (weights.len(), GIGABIT / 2);
        let mut rig = Rig::with_workers(&vec![pod(); usize::from(UPLINK) + 1], 2);
        limit(&mut rig, Some(rate), &weights);
        rig.start_second((pods - on_second.min(pods)) as u8..pods as u8, UPLINK);
        let bytes = shares(&mut rig, &lens[..pods], SECOND_NS / 10);
        let (all, total): (u32, u64) = (weights.iter().sum(), bytes.iter().sum());
        for (bytes, weight) in bytes.iter().zip(&weights) {
            let share = *bytes as f64 * f64::from(all) / (total * u64::from(*weight)) as f64;
            prop_assert!((0.95..1.05).contains(&share), "{:?} of {:?}", bytes, weights);
        }
        prop_assert!(total.abs_diff(rate / 80) * 100 <= rate / 80, "{} bytes", total);
        rig.end();
    }
}

/// One endpoint floods with short packets; nine send a hundredth of the line each.
#[test]
fn nine_endpoints_beside_a_flood_lose_nothing_and_hardly_wait() {
    let run = |is_flooded: bool, rate: Option<u64>| {
        let mut rig = rig(gigabit());
        limit(&mut rig, rate, &[]);
        let step_ns = FULL as u64 * 8 * 100 * SECOND_NS / rate.unwrap_or(GIGABIT);
        let end_ns = rig.clock.now_ns() + 200 * step_ns;
        let (mut sent, mut arrived, mut next_ns) = ([0u64; 10], [0u64; 10], [0u64; 10]);
        let mut latencies = Vec::new();
        while rig.clock.now_ns() < end_ns {
            if is_flooded {
                rig.flood(0, UPLINK, SHORTEST);
            }
            for pod in 1..PODS {
                let at = usize::from(pod);
                if next_ns[at] <= rig.clock.now_ns() {
                    next_ns[at] = rig.clock.now_ns() + step_ns;
                    rig.send(pod, UPLINK, (1, FULL));
                    sent[at] += 1;
                }
            }
            rig.turn();
            let now_ns = rig.clock.now_ns();
            for packet in rig.arrived(UPLINK) {
                arrived[usize::from(packet.from)] += 1;
                if packet.from > 0 {
                    latencies.push(now_ns - packet.sent_ns);
                }
            }
        }
        for _ in 0..2_000 {
            rig.turn();
            rig.arrived(UPLINK).iter().for_each(|packet| arrived[usize::from(packet.from)] += 1);
        }
        assert_eq!(sent[1..], arrived[1..]);
        assert!(sent[1..].iter().all(|sent| *sent >= 150), "{sent:?}");
        rig.end();
        p99(latencies)
    };
    for rate in [None, Some(GIGABIT / 2)] {
        let (quiet_ns, flooded_ns) = (run(false, rate), run(true, rate));
        println!("rate {rate:?}: p99 latency {quiet_ns} ns, {flooded_ns} ns beside a flood");
        assert!(flooded_ns <= quiet_ns + 1_000_000, "{flooded_ns} ns, quiet {quiet_ns} ns");
    }
}

#[test]
fn a_flow_is_not_starved_by_another_one_of_its_endpoint() {
    let mut rig = rig(gigabit());
    limit(&mut rig, Some(GIGABIT / 10), &[]);
    let (mut sent, mut arrived, mut next_ns) = (0, 0, 0);
    let end_ns = rig.clock.now_ns() + SECOND_NS / 2;
    while rig.clock.now_ns() < end_ns {
        if next_ns <= rig.clock.now_ns() {
            next_ns = rig.clock.now_ns() + 1_000_000;
            rig.send(0, UPLINK, (7, FULL));
            sent += 1;
        }
        // Not the whole ring, so that the other flow has room in it.
        while rig.far[0].link.under_way() < 64 {
            rig.send(0, UPLINK, (3, FULL));
        }
        rig.turn();
        arrived += rig.arrived(UPLINK).iter().filter(|packet| packet.flow == 7).count();
    }
    assert!(sent > 400 && arrived + 12 >= sent, "{arrived} of {sent}");
    rig.end();
}

#[test]
fn a_port_without_a_rate_that_takes_all_has_no_queue() {
    let mut rig = rig(None);
    for _ in 0..100 {
        (0..PODS).for_each(|pod| rig.flood(pod, UPLINK, FULL));
        rig.turn();
        rig.arrived(UPLINK);
    }
    assert!(rig.worker.slots.iter().flatten().all(|slot| slot.queue.is_none()));
    assert!(rig.worker.backlog.is_empty());
    rig.end();
}

/// A segment of BGP to 10.0.12.2, as the host's stack sends it.
fn bgp(from: u8) -> Vec<u8> {
    let mut bytes = frame((from, UPLINK), 1, (FULL, 0));
    bytes[23] = protocol::TCP;
    bytes[34..38].copy_from_slice(&[0x90, 0, 0, 179]);
    bytes[34 + tcp::MIN_HEADER_LEN - 8] = 0x50;
    ipv4::fill_checksum(&mut bytes[14..]);
    bytes
}

/// What is reserved waits for no more than the packets that are in the ring.
#[test]
fn bgp_of_the_host_and_own_errors_go_first() {
    const HOST: u8 = 11;
    let mut rig = rig(Some(Line { bits_per_s: GIGABIT / 10, ring: 8 }));
    rig.publish(|tables| {
        tables.host = Some(AdjacencyId(HOST.into()));
        let uplink = tables.ports[usize::from(UPLINK)].as_mut().unwrap();
        uplink.icmp_source_v4 = Some([10, 0, UPLINK, 1].into());
    });
    shares(&mut rig, &[FULL; 10], 100_000_000);
    assert!(rig.worker.queued > 900, "{} wait", rig.worker.queued);
    // From the far side of the uplink to nowhere: an error goes back.
    let mut lost = frame((UPLINK, 99), 2, (FULL, 0));
    lost[26..30].copy_from_slice(&[10, 0, UPLINK, 2]);
    ipv4::fill_checksum(&mut lost[14..]);
    rig.send_bytes(UPLINK, &lost);
    rig.send_bytes(HOST, &bgp(HOST));
    let begin_ns = rig.clock.now_ns();
    let (mut seen_bgp, mut seen_error) = (false, false);
    while !(seen_bgp && seen_error) {
        (0..PODS).for_each(|pod| rig.flood(pod, UPLINK, FULL));
        rig.turn();
        for packet in rig.arrived(UPLINK) {
            seen_bgp |= packet.from == HOST;
            seen_error |= packet.from == UPLINK;
        }
        // Eight in the ring and those of the burst that was chosen before: 9 ms at this rate.
        assert!(rig.clock.now_ns() < begin_ns + 10_000_000, "{seen_bgp} {seen_error}");
    }
    assert!(rig.worker.queued > 900);
    rig.end();
}

#[test]
fn what_waits_is_bounded_by_endpoint_port_and_worker() {
    let mut rig = rig(None);
    // So slow that nothing moves.
    limit(&mut rig, Some(1), &[]);
    let fill = |rig: &mut Rig, pods: std::ops::Range<u8>| {
        for _ in 0..40 {
            pods.clone().for_each(|pod| rig.flood(pod, UPLINK, SHORTEST));
            rig.turn();
        }
        rig.worker.queued
    };
    // One more has its turn, and waits for its time.
    assert_eq!(fill(&mut rig, 0..1), EACH_MAX + 1);
    assert_eq!(fill(&mut rig, 1..PODS), QUEUE_MAX + 1);
    assert!(dropped(&rig, DropReason::TxFull) > 1000);
    rig.end();
    let mut rig = super::egress::rig(None);
    let rate = |port: u16| (PortId(port), Arc::new(PortRate::new(1, 1, 1)));
    let rates: Vec<_> = (2..UPLINK.into()).map(rate).collect();
    let limits = Limits::new(&[], Ranges::default()).with_rates(&rates);
    rig.publish(|tables| tables.limits = Some(Arc::new(limits)));
    for to in (2..UPLINK).cycle().take(200) {
        rig.flood(0, to, SHORTEST);
        rig.flood(1, to, SHORTEST);
        rig.turn();
    }
    assert!((ALL_MAX..=ALL_MAX + 10).contains(&rig.worker.queued), "{}", rig.worker.queued);
    rig.end();
}

#[test]
fn reserved_packets_are_bounded_too() {
    const HOST: u8 = 11;
    let mut rig = rig(None);
    limit(&mut rig, Some(1), &[]);
    rig.publish(|tables| tables.host = Some(AdjacencyId(HOST.into())));
    for _ in 0..10 {
        (0..64).for_each(|_| rig.send_bytes(HOST, &bgp(HOST)));
        rig.turn();
    }
    // One more has its turn, and waits for its time.
    assert_eq!(rig.worker.queued, RESERVED_MAX + 1);
    rig.end();
}

/// A line that carries nothing: its ring stays full.
#[test]
fn what_waits_for_a_dead_port_goes_after_a_while() {
    let mut rig = rig(Some(Line { bits_per_s: 1, ring: 4 }));
    for _ in 0..20 {
        rig.flood(0, UPLINK, FULL);
        rig.turn();
    }
    assert!(rig.worker.queued >= EACH_MAX, "{}", rig.worker.queued);
    rig.clock.advance(STALL_NS);
    rig.worker.turn(rig.clock.now_ns());
    assert!(rig.worker.queued <= BURST, "{}", rig.worker.queued);
    rig.end();
}

#[test]
fn a_port_that_goes_takes_what_waits_for_it_along() {
    let mut rig = rig(gigabit());
    shares(&mut rig, &[FULL; 10], 20_000_000);
    assert!(rig.worker.queued > 100);
    rig.worker.detach(PortId(UPLINK.into()));
    assert_eq!((rig.worker.queued, rig.worker.backlog.len()), (0, 0));
    rig.end();
}
