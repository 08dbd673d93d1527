//! Translation against a model that is a plain list of mappings and flows, over random packets.
//!
//! The model doesn't choose ports: it takes the one that it is shown, and holds it to the rules.

use super::*;
use std::collections::BTreeMap;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// When a UDP flow ends, by inside and far endpoint.
type Flows = BTreeMap<(SocketAddr, SocketAddr), (SocketAddr, u64)>;

fn run(seed: u64, steps: usize, workers: u16) {
    let mut random = Random(seed);
    let filtering = Filtering::AddressDependent;
    let mut bench = Bench::new(Rules { workers, filtering, ..rules() });
    let mut flows: Flows = BTreeMap::new();
    for step in 0..steps {
        if random.below(30) == 0 {
            bench.pass(random.below(100));
            let now = bench.now_ns / SECOND;
            flows.retain(|_, (_, end)| *end > now);
            assert_eq!(bench.sessions(), flows.len(), "step {step}");
        }
        let pod = format!("10.1.0.{}:{}", random.below(6), 4000 + random.below(6));
        let server = format!("198.51.100.{}:{}", random.below(4), 50 + random.below(3));
        let (inside, far) = (to(&pod), to(&server));
        let end = bench.now_ns / SECOND + 120;
        if random.below(2) == 0 {
            let (outside, dst) = bench.udp(&pod, &server).unwrap();
            assert_eq!(dst, far);
            for ((other, _), (known, _)) in &flows {
                assert_eq!(*other == inside, *known == outside, "one mapping, one inside endpoint");
            }
            flows.insert((inside, far), (outside, end));
            continue;
        }
        // A packet to an outside endpoint: one that is in use, mostly.
        let port = 4000 + random.below(6) as u16;
        let outside = match flows.iter().nth(random.below(flows.len() as u64 + 1) as usize) {
            Some((_, (outside, _))) => *outside,
            None => SocketAddr::new([192, 0, 2, 1].into(), port),
        };
        let owner = flows.iter().find(|(_, (known, _))| *known == outside).map(|(key, _)| key.0);
        let may = |(key, _): (&(SocketAddr, SocketAddr), &(SocketAddr, u64))| {
            Some(key.0) == owner && key.1.ip() == far.ip()
        };
        let got = bench.udp(&server, &outside.to_string());
        match owner.filter(|_| flows.iter().any(may)) {
            Some(inside) => {
                assert_eq!(got, Ok((far, inside)), "step {step}");
                flows.insert((inside, far), (outside, end));
            }
            None => assert_eq!(got, Err(Verdict::Drop(DropReason::NatUnsolicited)), "step {step}"),
        }
    }
    let used: u32 =
        bench.workers.iter().flat_map(|worker| worker.report().ports).map(|ports| ports.used).sum();
    let mapped: std::collections::BTreeSet<_> =
        flows.values().map(|(outside, _)| *outside).collect();
    bench.pass(0);
    assert_eq!(used as usize, mapped.len());
}

#[test]
fn four_hundred_thousand_packets_are_translated_as_a_plain_list_says() {
    for seed in 0..4 {
        run(seed, 100_000, 1 + seed as u16);
    }
}
