//! A reader under a writer that takes the whole table away and puts it back.
//!
//! The writer publishes how many changes it has begun and how many it has finished. The reader
//! takes the second number before a lookup and the first one after, and so knows which states of
//! the table the answer may belong to: it must be the right one of one of them.

use super::internet_table::Random;
use super::*;
use prefix_trie::PrefixMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// When prefix number n goes, and when it comes back, as numbers of changes.
struct Schedule {
    gone_at: Vec<usize>,
    back_at: Vec<usize>,
}

impl Schedule {
    fn is_there(&self, prefix: usize, changes: usize) -> bool {
        changes <= self.gone_at[prefix] || changes > self.back_at[prefix]
    }
}

#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    finished: AtomicUsize,
    lookups: AtomicU64,
    stop: AtomicBool,
}

struct Reader<'a> {
    fib: &'a Fib,
    schedule: &'a Schedule,
    progress: &'a Progress,
    chains: &'a [(IpAddr, Vec<usize>)],
}

/// Takes all of `table` away in random order and puts it back in another one, while a reader looks
/// up `addresses`.
pub(super) fn race(table: &[IpNet], addresses: &[IpAddr]) {
    let mut table = table.to_vec();
    table.extend([net("0.0.0.0/0"), net("::/0")]);
    let (mut writer, fib) = FibWriter::new();
    for (number, net) in table.iter().enumerate() {
        writer.insert(*net, TargetId(number as u32 + 1)).unwrap();
    }
    let chains = chains(&table, addresses);
    let mut order: Vec<usize> = (0..table.len()).collect();
    let mut schedule = Schedule { gone_at: vec![0; table.len()], back_at: vec![0; table.len()] };
    let mut random = Random(5);
    random.shuffle(&mut order);
    let going = order.clone();
    random.shuffle(&mut order);
    for (at, (gone, back)) in going.iter().zip(&order).enumerate() {
        schedule.gone_at[*gone] = at;
        schedule.back_at[*back] = table.len() + at;
    }
    let progress = Progress::default();
    let reader = Reader { fib: &fib, schedule: &schedule, progress: &progress, chains: &chains };
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| reader.run());
        let mut change = |work: &mut dyn FnMut(&mut FibWriter)| {
            progress.begun.fetch_add(1, SeqCst);
            work(&mut writer);
            progress.finished.fetch_add(1, SeqCst);
            if writer.usage().retired >= 1024 {
                progress.wait_for_a_lookup();
                writer.reclaim();
            }
        };
        for number in going {
            change(&mut |writer| assert!(writer.remove(table[number]).is_some()));
        }
        for number in order {
            let target = TargetId(number as u32 + 1);
            change(&mut |writer| assert_eq!(writer.insert(table[number], target), Ok(None)));
        }
        progress.wait_for_a_lookup();
        progress.stop.store(true, SeqCst);
        let seen = reading.join().unwrap();
        println!(
            "{} changes, {} lookups, {seen} of them while a change was made",
            progress.finished.load(SeqCst),
            progress.lookups.load(SeqCst)
        );
    });
    assert_eq!(writer.len_v4() + writer.len_v6(), table.len());
}

impl Progress {
    /// Returns once the reader has begun and ended a lookup, or is gone.
    fn wait_for_a_lookup(&self) {
        let (start, before) = (Instant::now(), self.lookups.load(SeqCst));
        while self.lookups.load(SeqCst) < before + 128 && !self.stop.load(SeqCst) {
            assert!(start.elapsed() < Duration::from_secs(20), "the reader stands still");
            std::thread::yield_now();
        }
    }
}

/// Of each address the prefixes that cover it, the longest first.
fn chains(table: &[IpNet], addresses: &[IpAddr]) -> Vec<(IpAddr, Vec<usize>)> {
    let mut v4: PrefixMap<Ipv4Net, usize> = PrefixMap::new();
    let mut v6: PrefixMap<Ipv6Net, usize> = PrefixMap::new();
    for (number, net) in table.iter().enumerate() {
        match net {
            IpNet::V4(net) => v4.insert(*net, number),
            IpNet::V6(net) => v6.insert(*net, number),
        };
    }
    let chain = |address: &IpAddr| {
        let mut chain: Vec<usize> = match IpNet::from(*address) {
            IpNet::V4(host) => v4.cover(&host).map(|(_, number)| *number).collect(),
            IpNet::V6(host) => v6.cover(&host).map(|(_, number)| *number).collect(),
        };
        chain.sort_by_key(|number| std::cmp::Reverse(table[*number].prefix_len()));
        (*address, chain)
    };
    addresses.iter().map(chain).collect()
}

impl Reader<'_> {
    /// Looks up until told to stop; the number of answers that fell into a change.
    fn run(&self) -> u64 {
        let stop_on_panic = StopOnDrop(self.progress);
        let (v4, v6): (Vec<_>, Vec<_>) =
            self.chains.iter().partition(|(address, _)| address.is_ipv4());
        let mut during = 0;
        for (v4, v6) in
            std::iter::repeat(()).flat_map(|()| v4.chunks(64).zip(v6.chunks(64).cycle()))
        {
            if self.progress.stop.load(SeqCst) {
                break;
            }
            for (address, chain) in v4.iter().chain(v6) {
                let finished = self.progress.finished.load(SeqCst);
                let answer = self.fib.lookup(*address);
                during += self.check((*address, chain), answer, finished);
                self.progress.lookups.fetch_add(1, SeqCst);
            }
            self.check_batches(v4, v6);
        }
        drop(stop_on_panic);
        during
    }

    fn check_batches(&self, v4: &[&(IpAddr, Vec<usize>)], v6: &[&(IpAddr, Vec<usize>)]) {
        let mut answers = [TargetId::default(); 128];
        let (answers_v4, answers_v6) = answers.split_at_mut(64);
        let addresses_v4: Vec<Ipv4Addr> = v4
            .iter()
            .filter_map(
                |(address, _)| if let IpAddr::V4(one) = address { Some(*one) } else { None },
            )
            .collect();
        let addresses_v6: Vec<Ipv6Addr> = v6
            .iter()
            .filter_map(
                |(address, _)| if let IpAddr::V6(one) = address { Some(*one) } else { None },
            )
            .collect();
        let finished = self.progress.finished.load(SeqCst);
        self.fib.lookup_v4_batch(&addresses_v4, answers_v4);
        self.fib.lookup_v6_batch(&addresses_v6, answers_v6);
        let answers = answers_v4.iter().zip(v4).chain(answers_v6.iter().zip(v6));
        for (answer, (address, chain)) in answers {
            self.check((*address, chain), *answer, finished);
        }
        self.progress.lookups.fetch_add(64, SeqCst);
    }

    /// 1 when changes were made meanwhile. Panics when the answer was right at no moment.
    fn check(&self, (address, chain): (IpAddr, &[usize]), answer: TargetId, from: usize) -> u64 {
        let to = self.progress.begun.load(SeqCst);
        let right = |changes: usize| {
            let there = chain.iter().find(|prefix| self.schedule.is_there(**prefix, changes));
            TargetId(there.map_or(0, |prefix| *prefix as u32 + 1))
        };
        // The answer changes only where a prefix that covers the address goes or comes.
        let mut moments = vec![from];
        for prefix in chain {
            let events = [self.schedule.gone_at[*prefix] + 1, self.schedule.back_at[*prefix] + 1];
            moments.extend(events.into_iter().filter(|event| (from..=to).contains(event)));
        }
        assert!(
            moments.iter().any(|changes| right(*changes) == answer),
            "{address}: {answer:?} was right at no moment of {from}..={to}"
        );
        u64::from(to > from)
    }
}

/// Lets the writer end when the reader has panicked.
struct StopOnDrop<'a>(&'a Progress);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
    }
}
