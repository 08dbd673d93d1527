//! The short way beside the whole one: two trackers get the same bursts, under the same changes of
//! rules and policy, and one of them sends every packet the whole way.

use super::*;
use crate::flow::Session;
use crate::policy::Policy;
use crate::policy::tests::Sketch;
use margay_tunnels::wire::tcp as flag;
use proptest::prelude::*;
use std::sync::Arc;

const PODS: [&str; 3] = ["10.0.0.1:4000", "10.0.0.2:80", "10.0.0.2:81"];
const FAR: [&str; 3] = ["198.51.100.1:53", "198.51.100.2:80", "10.2.0.9:7"];
/// What most packets carry, and what changes flows.
const FLAGS: [u8; 8] = [
    flag::ACK,
    flag::ACK,
    flag::ACK,
    flag::SYN,
    flag::SYN | flag::ACK,
    flag::FIN | flag::ACK,
    flag::RST,
    0,
];

/// A packet by numbers: everything of it is chosen among a few.
type Pick = (u8, u8, u8, u8);

#[derive(Debug, Clone)]
enum Step {
    Burst(Vec<Pick>),
    /// Seconds.
    Pass(u64),
    /// Which of some rules.
    Rules(u8),
    /// Which of some policies; whether flows are judged anew.
    Policy(u8, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => proptest::collection::vec(any::<Pick>(), 1..24).prop_map(Step::Burst),
        1 => (0u64..200).prop_map(Step::Pass),
        1 => any::<u8>().prop_map(Step::Rules),
        1 => any::<(u8, bool)>().prop_map(|(which, anew)| Step::Policy(which, anew)),
    ];
    proptest::collection::vec(step, 1..60)
}

fn some_rules(which: u8, generation: u64) -> Rules {
    let class = |text: &str, bits: u16| (text.parse().unwrap(), Class(bits));
    let inside = if which.is_multiple_of(2) { Class::INSIDE.0 } else { 0 };
    let ranges = Ranges::new(&[
        class("10.0.0.0/24", Class::POOL.0 | inside),
        class("10.2.0.0/16", Class::POOL.0),
        class("192.0.2.0/28", Class::OUTSIDE.0),
    ]);
    let last = if which.is_multiple_of(3) { 2 } else { 1 };
    let outside_v4 = vec![Ipv4Addr::new(192, 0, 2, last)];
    let limits = Limits { sessions: 12, per_source: 0 };
    Rules { generation, ranges, outside_v4, limits, ..rules() }
}

fn some_policy(which: u8, rejudges: bool, generation: u32) -> Option<Arc<Policy>> {
    let names = ["allow", "web", "none"];
    let name = |at: u8| names[usize::from(at) % names.len()];
    let most = which.is_multiple_of(5).then_some(2);
    let sketch = Sketch { generation, rejudges, most, ..Sketch::of("allow", name(which)) };
    (!which.is_multiple_of(4)).then(|| Arc::new(sketch.build()))
}

/// The packet, and the port that it comes in by. `known` are flows as they came and as they left.
fn packet(pick: Pick, known: &[(SocketAddr, SocketAddr)]) -> (Vec<u8>, PortId) {
    let (who, what, far, odd) = pick;
    let (pod, far) = (PODS[usize::from(who) % 3], FAR[usize::from(far) % 3]);
    let answers = what & 1 != 0;
    let seen = known.get(usize::from(odd) % known.len().max(1)).filter(|_| answers);
    let (src, dst) = match seen {
        Some((src, dst)) => (dst.to_string(), src.to_string()),
        None if answers => (far.to_owned(), pod.to_owned()),
        None => (pod.to_owned(), far.to_owned()),
    };
    let own = if pod == PODS[0] { PortId(1) } else { PortId(2) };
    let port = if answers { PortId(0) } else { own };
    let port = if odd == 255 { PortId(u16::from(what) % 3) } else { port };
    let bytes = match what & 2 {
        0 => udp(&src, &dst, b"data"),
        _ => tcp(&src, &dst, FLAGS[usize::from(what >> 2) % FLAGS.len()]),
    };
    (bytes, port)
}

/// All that can be seen of a session.
fn shown(session: &Session) -> impl PartialEq + std::fmt::Debug + use<> {
    let tuples = (session.original(), session.translated());
    let life = (session.state(), session.is_replied(), session.is_assured(), session.last_seen_s);
    (tuples, life, session.packets, session.bytes, session.judged, session.has_mapping())
}

struct Pair {
    benches: [Bench; 2],
    known: Vec<(SocketAddr, SocketAddr)>,
    generation: u32,
    short: u32,
}

impl Pair {
    fn new() -> Pair {
        let benches = [0, 1].map(|_| Bench::new(some_rules(0, 1)));
        Pair { benches, known: Vec::new(), generation: 1, short: 0 }
    }

    fn step(&mut self, step: &Step) {
        self.generation += 1;
        match step {
            Step::Burst(picks) => self.burst(picks),
            Step::Pass(seconds) => self.benches.iter_mut().for_each(|bench| bench.pass(*seconds)),
            Step::Rules(which) => self.benches.iter_mut().for_each(|bench| {
                bench.rules = some_rules(*which, self.generation.into());
            }),
            Step::Policy(which, anew) => {
                for bench in &mut self.benches {
                    // Each has its own, for its counts of connections.
                    let policy = some_policy(*which, *anew, self.generation);
                    bench.workers[0].follow_policy(policy.as_ref());
                }
            }
        }
    }

    fn burst(&mut self, picks: &[Pick]) {
        let made: Vec<_> = picks.iter().map(|pick| packet(*pick, &self.known)).collect();
        let [short, whole] = &mut self.benches;
        // What it knows of flows is of other rules, each time.
        whole.workers[0].begin_epoch();
        let mut outcomes = [short, whole].map(|bench| {
            let Bench { pool, rules, workers, now_ns, .. } = bench;
            let mut burst: Vec<Packet> = Vec::new();
            for (bytes, port) in &made {
                let mut frame = pool.alloc().unwrap();
                frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(bytes);
                let mut packet = Packet::new(frame, HEADROOM, bytes.len(), *port);
                parse_any(&mut packet, Mac(MAC), pool).unwrap();
                burst.push(packet);
            }
            let mut verdicts = vec![Verdict::Go; burst.len()];
            workers[0].follow_rules(rules);
            let alike = workers[0].find_alike(&burst, &verdicts, &mut Vec::new());
            workers[0].track(rules, &mut burst, &mut verdicts, *now_ns);
            let out: Vec<Vec<u8>> = burst.iter().map(|packet| packet.head().to_vec()).collect();
            burst.drain(..).for_each(|packet| packet.free(pool));
            (verdicts, out, alike)
        });
        self.short += outcomes[0].2.count_ones();
        assert_eq!(outcomes[1].2, 0, "all go the whole way");
        assert_eq!((&outcomes[0].0, &outcomes[0].1), (&outcomes[1].0, &outcomes[1].1));
        for (verdict, out) in outcomes[0].0.drain(..).zip(&outcomes[0].1) {
            if matches!(verdict, Verdict::Go | Verdict::Rewritten) {
                verify(out);
                self.known.push(endpoints(out));
            }
        }
        let keep = self.known.len().saturating_sub(16);
        self.known.drain(..keep);
        self.compare();
    }

    fn compare(&self) {
        let all = |bench: &Bench| {
            let mut all = Vec::new();
            bench.workers[0].list(0, u32::MAX, |id, session, left_s| {
                all.push((id, shown(session), left_s));
            });
            (all, bench.workers[0].report())
        };
        assert_eq!(all(&self.benches[0]), all(&self.benches[1]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn it_ends_where_the_whole_way_does(steps in steps()) {
        let mut pair = Pair::new();
        steps.iter().for_each(|step| pair.step(step));
    }
}

#[test]
fn established_flows_take_it_until_rules_or_policy_change() {
    let mut pair = Pair::new();
    let short = |pair: &mut Pair, step: Step| {
        let before = pair.short;
        pair.step(&step);
        pair.step(&Step::Burst(vec![(0, 0, 0, 0); 4]));
        let after = pair.short - before;
        pair.step(&Step::Burst(vec![(0, 0, 0, 0); 4]));
        (after, pair.short - before - after)
    };
    assert_eq!(short(&mut pair, Step::Pass(0)), (0, 4));
    assert_eq!(short(&mut pair, Step::Pass(1)), (4, 4));
    assert_eq!(short(&mut pair, Step::Rules(0)), (0, 4));
    assert_eq!(short(&mut pair, Step::Policy(1, false)), (0, 4));
    // Fragments never do, and nothing that changes a connection.
    let datagram = udp("10.0.0.1:4000", "198.51.100.1:53", b"data");
    let mut packet = pair.benches[0].packet(&datagram);
    assert!(crate::nat::subject::plain_v4(&packet).is_some());
    packet.head_mut()[20] = 0x20;
    assert!(crate::nat::subject::plain_v4(&packet).is_none());
    packet.free(&mut pair.benches[0].pool);
    let syn = tcp("10.0.0.1:4000", "198.51.100.1:53", flag::SYN);
    let packet = pair.benches[0].packet(&syn);
    assert!(crate::nat::subject::plain_v4(&packet).is_none());
    packet.free(&mut pair.benches[0].pool);
}
