//! Searches on a simulated router whose throughput and buffer are known.

use super::*;
use proptest::prelude::*;
use std::convert::Infallible;

/// Forwards `rate` frames a second, keeps `buffer` frames, and now and then loses one for nothing.
#[derive(Debug, Clone, Copy)]
struct Router {
    rate: f64,
    buffer: u64,
    /// Fastest that the generator sends.
    generator: f64,
    /// One trial of so many loses a frame; 0 for none.
    noise: u32,
    random: u32,
}

impl Router {
    fn run(&mut self, trial: Trial) -> Result<Outcome, Infallible> {
        let offered = trial.per_second.map_or(self.generator, |rate| rate as f64);
        let offered = offered.min(self.generator);
        let due = (offered * trial.time.as_secs_f64()) as u64;
        let sent = trial.frames.unwrap_or(u64::MAX).min(due);
        let time = Duration::from_secs_f64(sent as f64 / offered);
        let served = (self.rate * time.as_secs_f64()) as u64;
        let mut received = sent.min(served + self.buffer);
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if self.noise > 0 && (self.random >> 16).is_multiple_of(self.noise) {
            received = received.saturating_sub(1);
        }
        Ok(Outcome { sent, received, time })
    }
}

fn search() -> Search {
    Search {
        most: None,
        loss: 0.0,
        precision: 0.01,
        short: Duration::from_secs(1),
        full: Duration::from_secs(10),
        attempts: 1,
    }
}

fn find(search: &Search, mut router: Router) -> Throughput {
    let Ok(found) = throughput(search, &mut |trial| router.run(trial));
    found
}

fn router(rate: f64, generator: f64) -> Router {
    Router { rate, buffer: 0, generator, noise: 0, random: 1 }
}

proptest! {
    /// RFC 2544 26.1: the fastest rate at which all frames that are sent arrive.
    #[test]
    fn the_throughput_of_a_known_router_is_found(
        rate in 1_000f64..5_000_000.0,
        faster in 1.05f64..50.0,
        buffer in 0u64..2000,
    ) {
        let search = search();
        let found = find(&search, Router { buffer, ..router(rate, rate * faster) });
        let best = found.best.unwrap();
        prop_assert!(best.received >= best.sent);
        // A buffer lets a trial of full length pass at a little more than the router's rate.
        let limit = rate + buffer as f64 / search.full.as_secs_f64();
        prop_assert!(best.offered() <= limit * 1.001 + 1.0, "{} of {limit}", best.offered());
        prop_assert!(best.offered() >= rate * 0.96 - 2.0, "{} of {rate}", best.offered());
        prop_assert!(found.trials.len() <= 40, "{}", found.trials.len());
    }

    #[test]
    fn a_loss_that_is_allowed_is_used_up_and_not_exceeded(
        rate in 10_000f64..5_000_000.0,
        loss in 0.001f64..0.05,
    ) {
        let search = Search { loss, precision: 0.001, ..search() };
        let best = find(&search, router(rate, rate * 3.0)).best.unwrap();
        prop_assert!(best.loss() <= loss);
        let limit = rate / (1.0 - loss);
        prop_assert!(best.offered() <= limit * 1.0001 + 1.0);
        prop_assert!(best.offered() >= limit * 0.995 - 2.0, "{} of {limit}", best.offered());
    }

    /// One trial of eight loses a frame for nothing; four attempts at each rate do not mind.
    #[test]
    fn noise_is_no_router(rate in 10_000f64..5_000_000.0, random: u32) {
        let search = Search { attempts: 4, ..search() };
        let noisy = Router { noise: 8, random, ..router(rate, rate * 4.0) };
        let best = find(&search, noisy).best.unwrap();
        prop_assert!(best.offered() <= rate + 1.0);
        prop_assert!(best.offered() >= rate * 0.9, "{} of {rate}", best.offered());
    }

    /// RFC 9004: the buffer's time is found behind what is forwarded meanwhile.
    #[test]
    fn the_buffer_of_a_known_router_is_found(
        rate in 100_000f64..2_000_000.0,
        faster in 1.2f64..20.0,
        buffer in 100u64..50_000,
    ) {
        let mut router = Router { buffer, ..router(rate, rate * faster) };
        let plan = Bursts { most: (rate * faster * 2.0) as u64, repeats: 3, precision: 2 };
        let Ok(found) = back_to_back(&plan, &mut |trial| router.run(trial));
        prop_assert_eq!(found.bursts.len(), 3);
        prop_assert!(!found.unbounded);
        prop_assert!((found.deviation() - 0.0).abs() < 1e-6);
        let wanted = buffer as f64 / (rate * faster);
        let got = found.buffer_time(rate);
        prop_assert!((got - wanted).abs() <= wanted * 0.05 + 20.0 / rate, "{} {}", got, wanted);
    }
}

#[test]
fn a_router_that_is_faster_than_the_generator_is_said_to_be() {
    let found = find(&search(), router(9e6, 4e6));
    assert!(found.generator_bound);
    assert!((found.best.unwrap().offered() - 4e6).abs() < 2.0);
    assert_eq!(found.trials.len(), 2);
    let search = Search { most: Some(1_000_000), full: Duration::ZERO, ..search() };
    let found = find(&search, router(9e6, 4e6));
    assert_eq!((found.best.unwrap().sent, found.trials.len()), (1_000_000, 1));
}

#[test]
fn what_forwards_nothing_has_no_throughput_and_ends() {
    let found = find(&search(), router(0.0, 1e6));
    assert_eq!((found.best, found.generator_bound), (None, false));
    assert!(found.trials.len() < 60, "{}", found.trials.len());
    let always = Router { noise: 1, ..router(1e5, 1e6) };
    let found = find(&Search { attempts: 1000, ..search() }, always);
    assert_eq!((found.best, found.trials.len()), (None, MAX_TRIALS));
    let plan = Bursts { most: 1 << 20, repeats: 2, precision: 1 };
    let mut dead = router(0.0, 1e6);
    let Ok(found) = back_to_back(&plan, &mut |trial| dead.run(trial));
    assert_eq!((found.bursts, found.unbounded), (vec![0, 0], false));
}

#[test]
fn a_rate_that_the_generator_cannot_keep_is_not_passed() {
    // The generator's first trial fails by the router; then it is slower than that.
    let mut router = router(5e5, 1e6);
    let Ok(found) = throughput(&search(), &mut |trial| {
        let outcome = router.run(trial);
        router.generator = 3e5;
        outcome
    });
    let best = found.best.unwrap();
    assert!(best.offered() <= 3e5 && best.offered() > 2.7e5, "{}", best.offered());
}

#[test]
fn bursts_that_are_never_too_long_are_said_to_be() {
    let mut fast = router(2e6, 1e6);
    let plan = Bursts { most: 10_000, repeats: 2, precision: 1 };
    let Ok(found) = back_to_back(&plan, &mut |trial| fast.run(trial));
    assert_eq!((found.bursts, found.unbounded), (vec![10_000], true));
}
