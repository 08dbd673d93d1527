use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn entry(class: usize, flow: u32, bytes: u32) -> Entry {
    Entry { class, weight: 1, flow, bytes, now_ns: 0 }
}

fn pop<T>(queue: &mut FairQueue<T>) -> Option<T> {
    queue.pop(0, |_| panic!("nothing waits long"))
}

const CLASSES: usize = 4;
const HASHES: usize = 3;

proptest! {
    #[test]
    fn queues_are_bounded_and_drop_from_the_longest_flow_of_the_longest_class(
        moves in prop::collection::vec((0..CLASSES, 0..HASHES, 1u32..9000, any::<bool>()), 1..400),
        each in 1usize..20,
        limit in 1usize..40,
    ) {
        let mut queue = FairQueue::new(each, limit);
        let mut model: Vec<Vec<VecDeque<usize>>> = vec![vec![VecDeque::new(); HASHES]; CLASSES];
        let length = |class: &Vec<VecDeque<usize>>| class.iter().map(VecDeque::len).sum::<usize>();
        for (number, (class, flow, bytes, pushes)) in moves.into_iter().enumerate() {
            if !pushes {
                let popped = pop(&mut queue);
                let mut flows = model.iter_mut().flatten();
                let found = flows.find(|flow| popped.is_some() && flow.front() == popped.as_ref());
                prop_assert_eq!(found.and_then(VecDeque::pop_front), popped);
                prop_assert!(popped.is_some() || model.iter().all(|class| length(class) == 0));
                continue;
            }
            let longest = model.iter().map(length).max().unwrap_or(0);
            let total: usize = model.iter().map(length).sum();
            let refused = queue.push(entry(class, flow as u32, bytes), number);
            match refused {
                Some(Refused { class: from, packet }) => {
                    let is_own = from == class && length(&model[class]) == each;
                    prop_assert!(is_own || total == limit && length(&model[from]) == longest);
                    let most = model[from].iter().map(VecDeque::len).max();
                    let flow = model[from].iter_mut().find(|flow| flow.front() == Some(&packet));
                    let flow = flow.expect("the oldest of a flow");
                    prop_assert_eq!(Some(flow.len()), most);
                    flow.pop_front();
                }
                None => prop_assert!(total < limit && length(&model[class]) < each),
            }
            model[class][flow].push_back(number);
            prop_assert_eq!(queue.len(), model.iter().map(length).sum::<usize>());
            prop_assert_eq!(queue.depth(class), length(&model[class]));
        }
        while queue.drop_longest().is_some() {}
        prop_assert!(queue.is_empty() && pop(&mut queue).is_none());
    }

    #[test]
    fn busy_classes_share_by_weight_and_their_flows_evenly(
        weights in prop::collection::vec(1u32..8, 2..6),
        lengths in prop::collection::vec(60u32..1514, 30),
        flows in 1usize..4,
    ) {
        let mut queue = FairQueue::new(64, 1000);
        let mut sent = vec![vec![0u64; flows]; weights.len()];
        let mut waiting = vec![vec![0usize; flows]; weights.len()];
        let mut next = 0;
        for _ in 0..20_000 {
            for (class, &weight) in weights.iter().enumerate() {
                for (flow, count) in waiting[class].iter_mut().enumerate() {
                    // The first flow has ever so many packets, which must not help it.
                    while *count < if flow == 0 { 8 } else { 3 } {
                        next += 1;
                        let bytes = lengths[(next * 7 + class) % lengths.len()];
                        let entry = Entry { weight, ..entry(class, flow as u32, bytes) };
                        let none = queue.push(entry, (class, flow, bytes));
                        prop_assert_eq!(none, None);
                        *count += 1;
                    }
                }
            }
            let (class, flow, bytes) = pop(&mut queue).expect("all are busy");
            waiting[class][flow] -= 1;
            sent[class][flow] += u64::from(bytes);
        }
        let total: u64 = sent.iter().flatten().sum();
        let all: u32 = weights.iter().sum();
        for (sent, weight) in sent.iter().zip(&weights) {
            let of_class: u64 = sent.iter().sum();
            let share = of_class as f64 * f64::from(all) / total as f64 / f64::from(*weight);
            prop_assert!((0.95..1.05).contains(&share), "{:?} {:?}", sent, weights);
            for flow in sent {
                let share = (*flow * flows as u64) as f64 / of_class as f64;
                prop_assert!((0.9..1.1).contains(&share), "{:?}", sent);
            }
        }
    }
}

#[test]
fn who_has_just_come_goes_before_those_who_waited() {
    let mut queue = FairQueue::new(100, 1000);
    for class in 0..5 {
        (0..50).for_each(|_| assert_eq!(queue.push(entry(class, 0, 1000), class), None));
    }
    (0..20).for_each(|_| assert!(pop(&mut queue).is_some()));
    queue.push(entry(7, 0, 1000), 7);
    assert_eq!(pop(&mut queue), Some(7));
    // Coming anew each time gives it no more than its share.
    let mut turns = 0;
    for _ in 0..60 {
        if queue.depth(7) == 0 {
            queue.push(entry(7, 0, 1000), 7);
        }
        turns += usize::from(pop(&mut queue) == Some(7));
    }
    assert!((8..=12).contains(&turns), "{turns} of 60 among six");
}

#[test]
fn a_class_that_cannot_be_gets_its_packet_back() {
    let mut queue = FairQueue::new(4, 4);
    let back = queue.push(entry(CLASSES_MAX, 0, 60), 9);
    assert_eq!(back, Some(Refused { class: CLASSES_MAX, packet: 9 }));
    assert_eq!(queue.push(entry(CLASSES_MAX - 1, 0, 60), 9), None);
    assert_eq!(queue.push(Entry { weight: 0, ..entry(3, 0, 60) }, 10), None);
    assert_eq!((pop(&mut queue), pop(&mut queue), pop(&mut queue)), (Some(9), Some(10), None));
    assert!(FairQueue::new(0, 4).push(entry(0, 0, 60), 1).is_some());
    assert!(FairQueue::new(4, 0).push(entry(0, 0, 60), 1).is_some());
}

#[test]
fn a_flow_that_waits_too_long_loses_packets_and_others_do_not() {
    let mut queue = FairQueue::new(1000, 2000);
    let mut lost = Vec::new();
    // A packet each millisecond from one flow, which has 300 already, and one each 10 from another.
    (0..300).for_each(|_| assert_eq!(queue.push(entry(0, 0, 1000), 0), None));
    for at in 1..600u64 {
        let now_ns = at * 1_000_000;
        queue.push(Entry { now_ns, ..entry(0, 0, 1000) }, 0);
        if at % 10 == 0 {
            queue.push(Entry { now_ns, ..entry(0, 1, 1000) }, 1);
        }
        queue.pop(now_ns, |flow| lost.push(flow));
    }
    assert!(lost.len() > 5 && lost.iter().all(|flow| *flow == 0), "{lost:?}");
}
