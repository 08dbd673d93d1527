//! Both ends of a session over the network of [`super::sim`].

use super::sim::Sim;
use super::*;

const MS: u64 = SECOND_NS / 1000;

/// Both start at once and connect at once.
fn eager(id: u8) -> Config {
    Config { connect_delay_s: 0, ..config(id) }
}

/// Rule 1: simultaneous starts end in one connection, the same one at both sides, in bounded time.
#[test]
fn rule_1_simultaneous_starts_end_in_one_connection() {
    let (mut slowest, mut flaps) = (0, 0);
    for seed in 0..400 {
        let max_delay_ns = [2 * MS, 100 * MS, 700 * MS, 1800 * MS][seed as usize % 4];
        let [mut left, mut right] = [eager(1), eager(2)];
        (left.seed, right.seed) = (seed * 2, seed * 2 + 1);
        if seed % 3 == 0 {
            (left.restart, right.restart) = (None, None);
        }
        let mut sim = Sim::new([left, right], seed, max_delay_ns);
        sim.start();
        let settled = |sim: &Sim| {
            let links = sim.links_in_use();
            links[0].is_some() && links[0] == links[1] && sim.connections() == [1, 1]
        };
        assert!(sim.run(180 * SECOND_NS, settled), "seed {seed}");
        slowest = slowest.max(sim.now);
        // A connection that was on its way may still turn up, and is turned away.
        sim.run(sim.now + 30 * SECOND_NS, |_| false);
        assert!(settled(&sim), "seed {seed}");
        let is_down = |(_, told): &&(u64, Action)| matches!(told, Action::Down(_));
        flaps += sim.told[0].iter().filter(is_down).count();
        let told = sim.told.clone();
        let left = sim.run(sim.now + 1000 * SECOND_NS, |sim| !settled(sim));
        assert!(!left, "seed {seed} at {}: {:?}", sim.now, sim.told);
        assert_eq!(sim.told, told, "seed {seed}");
    }
    assert!(slowest < 30 * SECOND_NS, "{slowest}");
    assert_eq!(flaps, 0, "came up twice");
}

/// Rule 1, with links that break all the time: once they don't, the session comes up.
#[test]
fn rule_1_breaking_links_leave_nothing_behind() {
    for seed in 0..200 {
        let mut sim = Sim::new([eager(1), eager(2)], seed, 300 * MS);
        sim.start();
        let mut random = Jitter::new(seed);
        for _ in 0..20 {
            let until = sim.now + random.number() % (3 * SECOND_NS);
            sim.run(until, |_| false);
            sim.break_links();
        }
        let up = |sim: &Sim| sim.both(State::Established) && sim.connections() == [1, 1];
        assert!(sim.run(sim.now + 180 * SECOND_NS, up), "seed {seed}");
        sim.run(sim.now + 30 * SECOND_NS, |_| false);
        let left = sim.run(sim.now + 1000 * SECOND_NS, |sim| !up(sim));
        assert!(!left, "seed {seed} at {}: {:?}", sim.now, sim.told);
    }
}

#[test]
fn a_passive_side_waits_and_two_of_them_wait_for_ever() {
    let passive = |id| Config { passive: true, ..config(id) };
    let mut sim = Sim::new([config(1), passive(2)], 1, 10 * MS);
    sim.start();
    assert!(sim.run(3 * SECOND_NS, |sim| sim.both(State::Established)));
    let mut sim = Sim::new([passive(1), passive(2)], 1, 10 * MS);
    sim.start();
    assert!(!sim.run(1000 * SECOND_NS, |sim| !sim.both(State::Active)));
}

#[test]
fn a_silent_network_is_noticed_after_the_hold_time() {
    let mut sim = Sim::new([config(1), config(2)], 1, 10 * MS);
    sim.start();
    assert!(sim.run(10 * SECOND_NS, |sim| sim.both(State::Established)));
    sim.run(1000 * SECOND_NS, |_| false);
    assert!(sim.both(State::Established));
    sim.black_hole = true;
    let since = sim.now;
    let is_down = |told: &Vec<_>| matches!(told.last(), Some((_, Action::Down(_))));
    assert!(sim.run(since + 241 * SECOND_NS, |sim| sim.told.iter().all(is_down)));
    assert!(sim.now - since > 150 * SECOND_NS);
    for told in &sim.told {
        let Some((_, Action::Down(down))) = told.last() else { panic!("{told:?}") };
        assert_eq!(down.reason, DownReason::Sent(Notification::new(4, 0)));
        assert!(down.retain.is_empty());
    }
}

/// Rule 18: an error at each OPEN makes a few attempts, not thousands.
#[test]
fn rule_18_rejected_opens_do_not_storm() {
    let wrong = Config { local_asn: 65_009, ..eager(2) };
    let mut sim = Sim::new([eager(1), wrong], 1, MS);
    sim.start();
    let mut errors = Vec::new();
    for _ in 0..600 {
        let before = sim.sides[0].state();
        sim.run(sim.now + SECOND_NS, |_| false);
        errors.push((before, sim.sides[0].state()));
    }
    let attempts = sim.sides[0].next_conn;
    assert!((5..=120).contains(&attempts), "{attempts} in 600 s");
    assert!(sim.told.iter().all(Vec::is_empty));
}

#[test]
fn a_stopped_side_stays_down_and_comes_back_when_started() {
    let mut sim = Sim::new([config(1), config(2)], 1, 10 * MS);
    sim.start();
    assert!(sim.run(10 * SECOND_NS, |sim| sim.both(State::Established)));
    let now = sim.now;
    sim.sides[0].stop(&StopReason::Shutdown("disk".into()), now);
    sim.act(0);
    sim.run(now + 600 * SECOND_NS, |_| false);
    assert_eq!(sim.sides[0].state(), State::Idle);
    let Some(Action::Down(down)) = sim.told[1].iter().map(|(_, told)| told).next_back() else {
        panic!("{:?}", sim.told[1]);
    };
    assert_eq!(down.reason.to_string(), "received Cease/Administrative Shutdown: disk");
    let now = sim.now;
    sim.sides[0].start(now);
    sim.act(0);
    assert!(sim.run(now + 60 * SECOND_NS, |sim| sim.both(State::Established)));
}
