//! The report: one table of figures for people, margay beside its peers.

use crate::table::{Addresses, Table};
use crate::{TARGETS, dpdk, loaded};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use margay_fastpath::fib::FibWriter;
use margay_fastpath::sys::clock::cycles;
use margay_fastpath::tables::TargetId;
use prefix_trie::PrefixMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Passes over all addresses; the median counts.
const PASSES: usize = 7;

/// Cost of one operation.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    cycles: f64,
    ns: f64,
}

/// The median cost of one of `count` operations that `pass` does.
fn median(count: usize, mut pass: impl FnMut()) -> Cost {
    let mut costs: Vec<Cost> = (0..PASSES).map(|_| once(count, &mut pass)).collect();
    costs.sort_by(|one, other| one.cycles.total_cmp(&other.cycles));
    costs[PASSES / 2]
}

fn once(count: usize, pass: &mut impl FnMut()) -> Cost {
    let (time, start) = (Instant::now(), cycles());
    pass();
    let spent = cycles() - start;
    let ns = time.elapsed().as_nanos() as f64;
    Cost { cycles: spent as f64 / count as f64, ns: ns / count as f64 }
}

fn row(what: &str, v4: Cost, v6: Cost) {
    let cell = |cost: Cost| format!("{:7.1} cycles {:7.1} ns", cost.cycles, cost.ns);
    println!("{what:<34} {:>26} {:>26}", cell(v4), cell(v6));
}

/// Anonymous memory of the process, in MiB.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Measures everything and prints it.
pub(crate) fn print() {
    let table = Table::load();
    let addresses = Addresses::inside(&table, 1 << 20);
    println!("table: {}, {} IPv4 + {} IPv6 prefixes", table.origin, table.v4.len(), table.v6.len());
    println!("addresses: {} of each, random inside random prefixes\n", addresses.v4.len());
    println!("{:<34} {:>26} {:>26}", "", "IPv4", "IPv6");
    changes(&table);
    changes_under_a_reader(&table, &addresses);
    lookups(&table, &addresses);
    prefix_trie(&table, &addresses);
    dpdk::print(&table, &addresses);
}

fn changes(table: &Table) {
    let v4: Vec<IpNet> = table.v4.iter().copied().map(IpNet::V4).collect();
    let v6: Vec<IpNet> = table.v6.iter().copied().map(IpNet::V6).collect();
    let before = resident_mib();
    let (mut writer, _fib) = FibWriter::new();
    let mut add = |nets: &[IpNet], spread: usize| {
        once(nets.len(), &mut || {
            for (number, net) in nets.iter().enumerate() {
                let target = TargetId(((number + spread) % TARGETS) as u32 + 1);
                writer.insert(*net, target).expect("a full table fits");
            }
        })
    };
    let first = (add(&v4, 0), add(&v6, 0));
    let retarget = (add(&v4, 1), add(&v6, 1));
    row("margay: add, file order", first.0, first.1);
    row("margay: change the next hop", retarget.0, retarget.1);
    let usage = writer.usage();
    writer.reclaim();
    let resident = resident_mib() - before;
    let mut remove = |nets: &[IpNet]| {
        once(nets.len(), &mut || {
            for net in nets {
                black_box(writer.remove(*net));
            }
        })
    };
    let gone = (remove(&v4), remove(&v6));
    row("margay: delete, file order", gone.0, gone.1);
    let load = (first.0.ns * v4.len() as f64 + first.1.ns * v6.len() as f64) / 1e6;
    println!("margay: whole table loaded in {load:.0} ms; {resident:.0} MiB resident; {usage:?}\n");
}

/// Every prefix goes and comes back, while another thread looks addresses up in bursts.
fn changes_under_a_reader(table: &Table, addresses: &Addresses) {
    if std::thread::available_parallelism().map_or(1, |count| count.get()) < 2 {
        println!("margay: changes under a reader: SKIPPED: they take two processors");
        return;
    }
    let (mut writer, fib) = loaded(table);
    let (stop, looked_up) = (AtomicBool::new(false), AtomicU64::new(0));
    let reader = || {
        let mut out = [TargetId::default(); 64];
        let bursts = addresses.v4.chunks(64).zip(addresses.v6.chunks(64)).cycle();
        for (v4, v6) in bursts.take_while(|_| !stop.load(Ordering::Relaxed)) {
            fib.lookup_v4_batch(v4, black_box(&mut out));
            fib.lookup_v6_batch(v6, black_box(&mut out));
            looked_up.fetch_add(128, Ordering::Release);
        }
    };
    let wait_for_the_reader = || {
        // Three bursts further, it has been between two lookups.
        let before = looked_up.load(Ordering::Acquire);
        while looked_up.load(Ordering::Acquire) < before + 384 {
            std::hint::spin_loop();
        }
    };
    let mut flap = |nets: &[IpNet]| {
        once(2 * nets.len(), &mut || {
            for nets in nets.chunks(1024) {
                nets.iter().for_each(|net| {
                    black_box(writer.remove(*net));
                });
                for net in nets {
                    writer.insert(*net, TargetId(7)).expect("room for what was there");
                }
                wait_for_the_reader();
                writer.reclaim();
            }
        })
    };
    let v4: Vec<IpNet> = table.v4.iter().copied().map(IpNet::V4).collect();
    let v6: Vec<IpNet> = table.v6.iter().copied().map(IpNet::V6).collect();
    std::thread::scope(|scope| {
        scope.spawn(reader);
        let costs = (flap(&v4), flap(&v6));
        stop.store(true, Ordering::Relaxed);
        row("margay: a change, under a reader", costs.0, costs.1);
        let [v4, v6] = [costs.0, costs.1].map(|cost| 1e3 / cost.ns);
        println!("margay: {v4:.2} and {v6:.2} million changes a second under a reader\n");
    });
}

fn lookups(table: &Table, addresses: &Addresses) {
    let (_writer, fib) = loaded(table);
    let count = addresses.v4.len();
    let v4 = median(count, || {
        for address in &addresses.v4 {
            black_box(fib.lookup_v4(*address));
        }
    });
    let v6 = median(count, || {
        for address in &addresses.v6 {
            black_box(fib.lookup_v6(*address));
        }
    });
    row("margay: lookup, one by one", v4, v6);
    let mut out = [TargetId::default(); 64];
    let v4 = median(count, || {
        for burst in addresses.v4.chunks(64) {
            fib.lookup_v4_batch(burst, black_box(&mut out));
        }
    });
    let v6 = median(count, || {
        for burst in addresses.v6.chunks(64) {
            fib.lookup_v6_batch(burst, black_box(&mut out));
        }
    });
    row("margay: lookup, bursts of 64", v4, v6);
}

fn prefix_trie(table: &Table, addresses: &Addresses) {
    let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
    let add_v4 = once(table.v4.len(), &mut || {
        for net in &table.v4 {
            black_box(v4.insert(*net, 1u32));
        }
    });
    let add_v6 = once(table.v6.len(), &mut || {
        for net in &table.v6 {
            black_box(v6.insert(*net, 1u32));
        }
    });
    let count = addresses.v4.len();
    let look_v4 = median(count, || {
        for address in &addresses.v4 {
            black_box(v4.get_lpm(&Ipv4Net::from(*address)));
        }
    });
    let look_v6 = median(count, || {
        for address in &addresses.v6 {
            black_box(v6.get_lpm(&Ipv6Net::from(*address)));
        }
    });
    row("prefix-trie: lookup", look_v4, look_v6);
    row("prefix-trie: add", add_v4, add_v6);
    let gone_v4 = once(table.v4.len(), &mut || {
        for net in &table.v4 {
            black_box(v4.remove(net));
        }
    });
    let gone_v6 = once(table.v6.len(), &mut || {
        for net in &table.v6 {
            black_box(v6.remove(net));
        }
    });
    row("prefix-trie: delete", gone_v4, gone_v6);
}
