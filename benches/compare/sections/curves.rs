//! What a packet costs in memory, between packets that are made and a sink: over routes, flows,
//! policies, ports and the length of bursts, one of them at a time while the others are held.
//!
//! Only the pipeline and the sink are timed, not the making of packets. Each point is a worker of
//! its own; points are measured in random order.

#[path = "../../flows/policy.rs"]
mod policy;
#[path = "../../flows/router.rs"]
mod router;
#[path = "../../flows/tables.rs"]
mod tables;
mod traffic;
mod worker;

use crate::report::{Look, Outcome, Row};
use crate::rig::pin;
use crate::{Arguments, Measures, ROUTER_CORE};
use anyhow::Result;
use margay_fastpath::policy::Policy;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use traffic::Traffic;
use worker::{Cost, Stages, Worker};

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Routes,
    Flows,
    Policies,
    FirstPackets,
    Ports,
    Everything,
    Beginning,
    Bursts,
    EverythingInBursts,
}

type Points = &'static [(&'static str, u32)];

struct Curve {
    over: Over,
    name: &'static str,
    points: Points,
    setting: &'static str,
    /// Why it bends, where it does.
    why: &'static str,
}

/// Packets that come in together, most first.
const BURSTS: Points = &[("64", 64), ("32", 32), ("8", 8), ("1", 1)];

const CURVES: [Curve; 9] = [
    Curve {
        over: Over::Routes,
        name: "routes",
        points: &[
            ("1", 1),
            ("1,000", 1_000),
            ("10,000", 10_000),
            ("100,000", 100_000),
            ("1,000,000", 1_000_000),
        ],
        setting: "no flow is tracked; routes of 21 to 28 bits, three of four of 24, spread over \
                  the address space; destinations at random in all of them",
        why: "each packet reads a word of a table of 64 MiB, and one in sixteen here (28 bits) a \
              second one: few routes stay in the caches, a million come from memory, a burst's \
              words at a time",
    },
    Curve {
        over: Over::Flows,
        name: "flows",
        points: &[("1", 1), ("1,000", 1_000), ("100,000", 100_000), ("1,000,000", 1_000_000)],
        setting: "tracked, from an endpoint with one policy, without translation; one route; \
                  packets of all flows in an order in which neighbours in time are not neighbours \
                  in memory",
        why: "each packet reads a line of the index, which says where its session is, and writes \
              that one: two lines from memory where the caches do not hold all of them",
    },
    Curve {
        over: Over::Policies,
        name: "policies, packets of known flows",
        points: &[("0", 0), ("1", 1), ("100", 100), ("1,000", 1_000), ("10,000", 10_000)],
        setting: "1,000 flows of one endpoint, one route; each policy has a rule that does not \
                  match, and one behind them lets all pass; flows are tracked from the first \
                  policy on, and without any they are not",
        why: "without a policy no flow is looked for, from the first one on each packet's is; how \
              many there are costs nothing",
    },
    Curve {
        over: Over::FirstPackets,
        name: "policies, first packets of flows",
        points: &[("1", 1), ("100", 100), ("1,000", 1_000), ("10,000", 10_000)],
        setting: "the same; 65,536 flows begin in a table that has held as many before",
        why: "a first packet asks the rules: it finds the classes of its addresses and ports, \
              which begin to differ with the second policy, and a word of each for every 64 rules",
    },
    Curve {
        over: Over::Ports,
        name: "ports",
        points: &[("1", 1), ("10", 10), ("100", 100), ("1,000", 1_000)],
        setting: "no flow is tracked; so many ports to receive by and as many to send by, a route \
                  to each of these; bursts of 64 from each port in turn, at random to all ports",
        why: "neighbours in a burst leave by different ports: each port's packets are picked out \
              of the burst and given to it by themselves, with ten ports six at a time, with a \
              hundred and more one or two",
    },
    Curve {
        over: Over::Everything,
        name: "flows, with everything on",
        points: &[("1", 1), ("1,000", 1_000), ("100,000", 100_000), ("1,000,000", 1_000_000)],
        setting: "of an endpoint with 100 policies and a limit each way that is not reached, \
                  tracked and translated (a port of 256 outside addresses each); bursts of 64 from \
                  the endpoint and of answers in turn, all flows in an order in which neighbours \
                  in time are not neighbours in memory",
        why: "two lines a packet as over flows; translated flows have two to four entries in the \
              index, which is larger by that",
    },
    Curve {
        over: Over::Beginning,
        name: "flows that begin, with everything on",
        points: &[("1,000", 1_000), ("65,536", 1 << 16), ("1,000,000", 1_000_000)],
        setting: "the same, first packets only: so many flows begin in a table that has held as \
                  many before; 1,000 ns are a million new flows a second",
        why: "a new flow writes four entries of the index, two lines of its session and its \
              neighbours in two lists: all of them from memory with a million flows",
    },
    Curve {
        over: Over::Bursts,
        name: "burst",
        points: BURSTS,
        setting: "no flow is tracked; 1,000 routes; so many packets come in together",
        why: "what is done once for each burst (its ports, its room in the queue, its look at the \
              clock) is spread over fewer packets, and less is asked of memory before it is needed",
    },
    Curve {
        over: Over::EverythingInBursts,
        name: "burst, with everything on",
        points: BURSTS,
        setting: "1,000 known flows with everything on, as above; so many packets come in together",
        why: "the same, and a packet alone waits for each line that it needs",
    },
];

const KNOWN: u32 = 1_000;
const NEW: u32 = 1 << 16;
/// What a point may cost more than the first and still count as flat.
const FLAT: f64 = 1.1;
const WARM_UP: Duration = Duration::from_millis(200);

pub(crate) fn run(arguments: &Arguments) -> Vec<Outcome> {
    CURVES.into_iter().flat_map(|curve| of_curve(curve, arguments)).collect()
}

fn of_curve(curve: Curve, arguments: &Arguments) -> [Outcome; 2] {
    let Curve { over, name, points, setting, why } = curve;
    let stages: RefCell<BTreeMap<u32, Stages>> = RefCell::default();
    let mut peers: Vec<(&'static str, Measures<'_, 2>)> = Vec::new();
    for (text, count) in points {
        let stages = &stages;
        peers.push((
            *text,
            Box::new(move |time| {
                let (cost, by_stage) = measure(over, *count, time)?;
                stages.borrow_mut().insert(*count, by_stage);
                Ok([cost.ns(), cost.cycles()])
            }),
        ));
    }
    let mut figures = crate::run_figures(&mut peers, arguments);
    drop(peers);
    for rows in &mut figures {
        for row in rows.iter_mut() {
            row.at =
                points.iter().find(|(text, _)| *text == row.name).map_or(0.0, |it| it.1.into());
        }
    }
    let [ns, cycles] = figures;
    let mut stages = stages.into_inner();
    let stages: Vec<(&str, Stages)> =
        points.iter().filter_map(|(text, count)| Some((*text, stages.remove(count)?))).collect();
    let said = match verdict(&ns) {
        Some(bend) => format!("{bend}: {why}"),
        None => "flat: no point costs 10 % more than the first".to_owned(),
    };
    let mut notes = vec![setting.to_owned(), said + &reason(&stages)];
    notes.extend(stages.iter().map(|(text, stages)| {
        let parts: Vec<String> =
            stages.iter().map(|(name, cycles)| format!("{name} {cycles:.0}")).collect();
        format!("cycles by stage at {text}: {}", parts.join(", "))
    }));
    let outcome = |unit, look, notes, rows| Outcome {
        title: format!("curves: a packet over {name}"),
        unit,
        look,
        notes,
        rows,
    };
    let of_counter = vec!["of the time-stamp counter".to_owned()];
    [outcome("ns", Look::Curve, notes, ns), outcome("cycles", Look::TableOnly, of_counter, cycles)]
}

/// Where the curve bends; `None` if it is flat.
fn verdict(rows: &[Row]) -> Option<String> {
    let base = rows.first().and_then(Row::median).unwrap_or(f64::NAN);
    let mut bent = rows.iter().filter(|row| row.median().is_some_and(|it| it > base * FLAT));
    let beyond = |row: &Row| (row.median().unwrap_or(f64::NAN) / base - 1.0) * 100.0;
    let first = bent.next()?;
    let mut said = format!(
        "bends: at {} it costs {:.0} % more than at {}",
        first.name,
        beyond(first),
        rows[0].name
    );
    if let Some(last) = bent.next_back() {
        said += &format!(", at {} {:.0} %", last.name, beyond(last));
    }
    Some(said)
}

/// Which stages cost more at the last point than at the first.
fn reason(stages: &[(&str, Stages)]) -> String {
    let ([(_, first), ..], [.., (_, last)]) = (stages, stages) else { return String::new() };
    let before = |name: &str| first.iter().find(|it| it.0 == name).map_or(0.0, |it| it.1);
    let more = last.iter().map(|(name, cycles)| (name, cycles - before(name)));
    let more: Vec<String> = more
        .filter(|(_, cycles)| cycles.abs() >= 1.0)
        .map(|(name, cycles)| format!("{name} {cycles:+.0}"))
        .collect();
    format!("; cycles from the first point to the last: {}", more.join(", "))
}

/// On a thread of its own, on the router's core.
fn measure(over: Over, count: u32, time: Duration) -> Result<(Cost, Stages)> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin(ROUTER_CORE);
            on_core(over, count, time)
        });
        thread.join().map_err(|_| anyhow::anyhow!("the worker panicked"))?
    })
}

/// Of one rule each; without any there is no endpoint that is asked.
fn policies(count: u32) -> Option<Policy> {
    (count > 0).then(|| policy::policy(count, 1))
}

fn on_core(over: Over, count: u32, time: Duration) -> Result<(Cost, Stages)> {
    let (mut worker, mut traffic) = match over {
        Over::Routes => (Worker::with_routes(count)?, Traffic::to_routes(count)),
        Over::Flows => (Worker::with_policies(policies(1))?, Traffic::of_flows(count)),
        Over::Policies => (Worker::with_policies(policies(count))?, Traffic::of_flows(KNOWN)),
        Over::FirstPackets => {
            return first_packets(Worker::with_policies(policies(count))?, NEW, time);
        }
        Over::Everything => (Worker::with_everything()?, Traffic::of_flows(count)),
        Over::Beginning => return first_packets(Worker::with_everything()?, count, time),
        Over::Ports => (Worker::with_ports(count as u16)?, Traffic::to_ports(count)),
        Over::Bursts => (Worker::with_routes(KNOWN)?, Traffic::to_routes(KNOWN)),
        Over::EverythingInBursts => (Worker::with_everything()?, Traffic::of_flows(KNOWN)),
    };
    worker.begin_all(&mut traffic)?;
    if matches!(over, Over::Everything | Over::EverythingInBursts) {
        worker.learn(&mut traffic);
    }
    if matches!(over, Over::Bursts | Over::EverythingInBursts) {
        worker.in_bursts(count as usize);
    }
    run_for(&mut worker, &mut traffic, WARM_UP)?;
    worker.forget_stages();
    let cost = run_for(&mut worker, &mut traffic, time)?;
    Ok((cost, worker.stages(cost)))
}

fn run_for(worker: &mut Worker, traffic: &mut Traffic, time: Duration) -> Result<Cost> {
    let (start, mut cost) = (Instant::now(), Cost::default());
    while start.elapsed() < time {
        cost.add(worker.turn(traffic, 1 << 15)?);
    }
    Ok(cost)
}

/// Flows that begin, end, and begin again.
fn first_packets(mut worker: Worker, flows: u32, time: Duration) -> Result<(Cost, Stages)> {
    let mut cost = Cost::default();
    let mut traffic = Traffic::of_flows(flows);
    worker.begin_all(&mut traffic)?;
    worker.end_all(flows);
    worker.forget_stages();
    let start = Instant::now();
    while cost.is_none() || start.elapsed() < time {
        cost.add(worker.begin_all(&mut traffic)?);
        worker.end_all(flows);
    }
    Ok((cost, worker.stages(cost)))
}
