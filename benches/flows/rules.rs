//! Flows under policy: what its rules cost packets of known flows, and first ones.

use crate::Arguments;
use crate::policy::policy;
use crate::traffic::Traffic;
use crate::worker::{Cost, Worker};
use std::time::Duration;

/// Rules of one policy.
const EACH: u32 = 100;

/// First packets and later ones with each number of rules, in turns.
pub(crate) fn run(arguments: &Arguments) {
    let flows = arguments.flows.first().copied().unwrap_or(1 << 16);
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut costs: Vec<Vec<[Cost; 2]>> = vec![Vec::new(); arguments.rules.len()];
    for _ in 0..arguments.repeats {
        for (rules, costs) in arguments.rules.iter().zip(&mut costs) {
            let mut traffic = Traffic::new(flows, 1);
            let mut worker = Worker::with_policy(flows as usize, policy(*rules, EACH));
            // Once for the table's memory.
            worker.open_all(&mut traffic);
            worker.end_all(flows);
            let new = worker.open_all(&mut traffic);
            let known = crate::steady(&mut worker, &mut traffic, time, false);
            worker.assert_no_loss();
            costs.push([new, known]);
        }
    }
    println!("one worker, {flows} flows from an endpoint with policy, no translation");
    println!("{:>7} {:>20} {:>24} {:>7}", "rules", "new flows, ns", "known flows, ns", "");
    let mut first = None;
    for (rules, costs) in arguments.rules.iter().zip(&costs) {
        let median = |at: usize| {
            let mut values: Vec<f64> = costs.iter().map(|pair| pair[at].ns()).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (new, known) = (median(0), median(1));
        let first = *first.get_or_insert(known);
        println!("{rules:>7} {new:>20.1} {known:>24.1} {:>+6.1}%", (known / first - 1.0) * 100.0);
    }
}
