//! Translation against a naive model: random packets of all kinds, bursts, and time that passes.
//!
//! Every packet that leaves is compared byte for byte with the one that the model has made anew,
//! and every now and then all flows, ports and waiting fragments are compared. `MARGAY_SOAK=N`
//! makes the runs N times as long.

use super::*;
use list::{Model, Outcome, agrees};
use probe::Probe;
use proptest::prelude::*;
use real::Real;
use traffic::Traffic;

mod list;
mod probe;
mod real;
mod traffic;

/// Packets of each run by default: ten seconds for all.
const PACKETS: usize = 20_000;

/// What a run is about.
#[derive(Debug, Clone, Copy)]
struct Setting {
    workers: u16,
    filtering: Filtering,
    /// The IPv4 outside address is the host's own, with this many ports.
    host_ports: Option<u16>,
    sessions: usize,
    per_source: u32,
    /// Packets of a burst at most.
    burst: u64,
}

const PLAIN: Setting = Setting {
    workers: 1,
    filtering: Filtering::AddressAndPortDependent,
    host_ports: None,
    sessions: 100_000,
    per_source: 0,
    burst: 1,
};

impl Setting {
    fn rules(self) -> Rules {
        let class = |text: &str, bits: u16| (text.parse().unwrap(), Class(bits));
        let mut prefixes = vec![
            class("10.1.0.0/16", Class::POOL.0 | Class::INSIDE.0),
            class("10.2.0.0/16", Class::POOL.0),
            class("2001:db8:1::/48", Class::POOL.0 | Class::INSIDE.0),
            class("172.16.0.0/24", Class::NODE.0),
            class("172.16.0.1/32", Class::LOCAL.0),
            class("2001:db8:ff::1/128", Class::OUTSIDE.0),
        ];
        let (outside, ports) = match self.host_ports {
            Some(count) => ("172.16.0.1", PortRange { first: 61_000, last: 61_000 + (count - 1) }),
            None => ("192.0.2.1", rules().ports),
        };
        prefixes.push(class(&format!("{outside}/32"), Class::OUTSIDE.0));
        Rules {
            ranges: Ranges::new(&prefixes),
            outside_v4: vec![outside.parse().unwrap()],
            ports,
            taken: vec![61_003],
            filtering: self.filtering,
            limits: Limits { sessions: self.sessions, per_source: self.per_source },
            workers: self.workers,
            ..rules()
        }
    }
}

/// The trackers and the model side by side.
struct Run {
    bench: Bench,
    model: Model,
    traffic: Traffic,
    /// Packets by what became of them.
    left: usize,
    drops: std::collections::BTreeMap<&'static str, usize>,
    waited: usize,
}

impl Run {
    fn new(setting: Setting) -> Run {
        let rules = setting.rules();
        Run {
            model: Model::new(rules.clone()),
            traffic: Traffic::new(&rules),
            bench: Bench::new(rules),
            left: 0,
            drops: Default::default(),
            waited: 0,
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.bench.pass(seconds);
        self.model.pass_time(seconds);
        for worker in &mut self.bench.workers {
            for packet in worker.expired.drain(..) {
                self.model.waiting.expired -= 1;
                packet.free(&mut self.bench.pool);
            }
        }
        assert_eq!(self.model.waiting.expired, 0);
        self.model.compare(&Real(&self.bench.workers));
    }

    /// Sends packets, and those that they release.
    fn send(&mut self, probes: &[Probe]) {
        let packets = probes.iter().map(|probe| self.bench.packet(&probe.bytes())).collect();
        self.carry(probes.to_vec(), packets);
        while !self.model.waiting.released.is_empty() {
            let released = self.bench.workers.iter_mut().flat_map(|at| at.released.drain(..));
            let packets: Vec<Packet> = released.collect();
            assert_eq!(packets.len(), self.model.waiting.released.len());
            let probes = packets.iter().map(|packet| {
                let all = &mut self.model.waiting.released;
                let at = all.iter().position(|probe| probe.bytes() == packet.head());
                all.swap_remove(at.expect("one of those that wait"))
            });
            let probes = probes.collect();
            self.carry(probes, packets);
        }
        assert!(self.bench.workers.iter().all(|worker| worker.released.is_empty()));
    }

    fn carry(&mut self, probes: Vec<Probe>, mut packets: Vec<Packet>) {
        let verdicts = match packets.len() {
            1 => vec![self.bench.track(&mut packets[0])],
            count => {
                let mut verdicts = vec![Verdict::Go; count];
                let Bench { workers, rules, now_ns, .. } = &mut self.bench;
                workers[0].track(rules, &mut packets, &mut verdicts, *now_ns);
                verdicts
            }
        };
        for ((probe, packet), verdict) in probes.into_iter().zip(packets).zip(verdicts) {
            let out: Vec<u8> = packet.segments().flatten().copied().collect();
            match verdict {
                Verdict::Wait => {
                    let now_ns = self.bench.now_ns;
                    assert!(self.bench.workers[0].wait(packet, now_ns).is_ok());
                }
                _ => packet.free(&mut self.bench.pool),
            }
            let real = Real(&self.bench.workers);
            let outcome = self.model.step(probe, &real);
            assert!(agrees(&outcome, verdict, &out), "{probe:?}: {verdict:?}, not {outcome:?}");
            self.model.follow(&real);
            match outcome {
                Outcome::Leaves(_) => self.left += 1,
                Outcome::Drop(reason) | Outcome::DropEither(reason, _) => {
                    *self.drops.entry(reason.name()).or_default() += 1;
                }
                Outcome::Waits => self.waited += 1,
            }
        }
    }

    /// Some packets; `below` is all that is random.
    fn go_on(&mut self, burst: u64, below: &mut impl FnMut(u64) -> u64) -> usize {
        if below(40) == 0 {
            let seconds = [0, 1, 2, 7, 29, 31, 59, 120, 239, 700, 3000, 440_000];
            self.pass(seconds[below(seconds.len() as u64) as usize]);
        }
        let count = 1 + below(burst);
        let probes: Vec<Probe> =
            (0..count).map(|_| self.traffic.next(&self.model.flows, below)).collect();
        self.send(&probes);
        probes.len()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for worker in &mut self.bench.workers {
            worker.clear();
            worker.expired.drain(..).for_each(|packet| packet.free(&mut self.bench.pool));
        }
    }
}

fn soak() -> usize {
    std::env::var("MARGAY_SOAK").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// A long run.
fn against_the_model(seed: u64, setting: Setting) -> Run {
    let mut state = seed;
    let mut below = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % bound
    };
    let (mut run, mut sent) = (Run::new(setting), 0);
    while sent < PACKETS * soak() {
        sent += run.go_on(setting.burst, &mut below);
    }
    run.pass(0);
    assert!(run.left * 3 > sent, "of {sent} packets only {} left", run.left);
    assert!(run.waited > sent / 200, "fragments out of order: {}", run.waited);
    run.pass(1_000_000);
    assert!(run.model.flows.is_empty());
    run
}

#[test]
fn one_worker_translates_as_a_plain_list_says() {
    let run = against_the_model(1, PLAIN);
    assert!(run.drops["flow-invalid"] > 100 && run.drops["nat-unsolicited"] > 100);
}

#[test]
fn every_filtering_lets_in_what_a_plain_list_says() {
    for filtering in [Filtering::AddressDependent, Filtering::EndpointIndependent] {
        against_the_model(2, Setting { filtering, ..PLAIN });
    }
}

#[test]
fn several_workers_do_together_what_one_does() {
    for workers in 2..=4 {
        let filtering = Filtering::EndpointIndependent;
        against_the_model(3, Setting { workers, filtering, ..PLAIN });
    }
}

#[test]
fn packets_of_a_burst_are_taken_one_after_the_other() {
    against_the_model(4, Setting { burst: 24, ..PLAIN });
}

#[test]
fn the_hosts_own_address_and_few_ports_of_it() {
    for (seed, ports) in [(5, 4), (6, 64)] {
        let setting = Setting { host_ports: Some(ports), ..PLAIN };
        let run = against_the_model(seed, setting);
        assert!(ports > 4 || run.drops["nat-ports-exhausted"] > 20, "{:?}", run.drops);
    }
}

#[test]
fn a_full_table_gives_up_only_what_is_not_assured() {
    let run = against_the_model(7, Setting { sessions: 4, ..PLAIN });
    let full = run.drops.get("flow-table-full").copied().unwrap_or(0);
    assert!(run.model.gave_way > 100 && full > 0, "{}, {full}", run.model.gave_way);
}

#[test]
fn a_source_has_no_more_flows_than_it_may() {
    let run = against_the_model(8, Setting { per_source: 7, ..PLAIN });
    assert!(run.drops["flow-source-limit"] > 100, "{:?}", run.drops);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Short runs of every setting, which shrink to the few packets that matter.
    #[test]
    fn any_few_packets_are_translated_as_a_plain_list_says(
        choices in proptest::collection::vec(any::<u16>(), 50..600),
        (workers, filter, ports) in (1u16..4, 0usize..3, 0usize..4),
        (per_source, burst) in (0u32..6, 1u64..12),
    ) {
        let filtering = [
            Filtering::AddressAndPortDependent,
            Filtering::AddressDependent,
            Filtering::EndpointIndependent,
        ][filter];
        let host_ports = [None, None, Some(4), Some(40)][ports];
        let burst = if workers == 1 { burst } else { 1 };
        let setting = Setting { workers, filtering, host_ports, per_source, burst, ..PLAIN };
        let mut run = Run::new(setting);
        let mut choices = choices.into_iter();
        let mut is_over = false;
        while !is_over {
            run.go_on(burst, &mut |bound| {
                let choice = choices.next();
                is_over |= choice.is_none();
                u64::from(choice.unwrap_or(0)) % bound
            });
        }
        run.pass(3);
    }
}
