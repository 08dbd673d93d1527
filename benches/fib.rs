//! The FIB with a full Internet table: load, memory, lookups, changes; beside prefix-trie, and
//! beside DPDK's `dpdk-test-fib` on the same prefixes and addresses.
//!
//! The table is the real one of `$MARGAY_DATA/prefixes.txt.gz` (one CIDR a line), or without it
//! a generated one of the same shape. The report comes first, then criterion's own benches. See
//! `benches/README.md` for the command and for figures.

#[path = "fib/dpdk.rs"]
mod dpdk;
#[path = "../tests/data/internet_table.rs"]
#[allow(dead_code, unreachable_pub)]
mod internet_table;
#[path = "fib/report.rs"]
mod report;
#[path = "fib/table.rs"]
mod table;

use criterion::{Criterion, Throughput, criterion_group};
use ipnet::IpNet;
use margay_fastpath::fib::{Fib, FibWriter};
use margay_fastpath::tables::TargetId;
use std::hint::black_box;
use std::sync::Arc;
use table::{Addresses, Table};

/// Next hops that the routes are spread over.
const TARGETS: usize = 1000;

fn loaded(table: &Table) -> (FibWriter, Arc<Fib>) {
    let (mut writer, fib) = FibWriter::new();
    for (number, net) in table.nets().enumerate() {
        let target = TargetId((number % TARGETS) as u32 + 1);
        writer.insert(net, target).expect("a full table fits");
    }
    writer.reclaim();
    (writer, fib)
}

fn lookups(criterion: &mut Criterion) {
    let table = Table::load();
    let addresses = Addresses::inside(&table, 1 << 20);
    let (_writer, fib) = loaded(&table);
    let mut group = criterion.benchmark_group("fib");
    group.throughput(Throughput::Elements(addresses.v4.len() as u64));
    group.sample_size(20);
    group.bench_function("v4 one by one", |bencher| {
        bencher.iter(|| addresses.v4.iter().map(|one| fib.lookup_v4(*one).0).fold(0, u32::max));
    });
    group.bench_function("v6 one by one", |bencher| {
        bencher.iter(|| addresses.v6.iter().map(|one| fib.lookup_v6(*one).0).fold(0, u32::max));
    });
    let mut out = [TargetId::default(); 64];
    group.bench_function("v4 in bursts of 64", |bencher| {
        bencher.iter(|| {
            for burst in addresses.v4.chunks(64) {
                fib.lookup_v4_batch(burst, black_box(&mut out));
            }
        });
    });
    group.bench_function("v6 in bursts of 64", |bencher| {
        bencher.iter(|| {
            for burst in addresses.v6.chunks(64) {
                fib.lookup_v6_batch(burst, black_box(&mut out));
            }
        });
    });
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let table = Table::load();
    let (mut writer, _fib) = loaded(&table);
    let mut group = criterion.benchmark_group("fib flap, one prefix");
    group.sample_size(20);
    let examples =
        ["10.0.0.0/24", "10.0.0.1/32", "10.0.0.0/16", "0.0.0.0/0", "2001:db8:7::/48", "2000::/3"];
    for text in examples {
        let net: IpNet = text.parse().expect("a prefix");
        group.bench_function(text, |bencher| {
            bencher.iter(|| {
                writer.insert(net, TargetId(7)).expect("room for one");
                writer.remove(net);
                // Nobody reads here, so nobody can hold a node.
                writer.reclaim();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, changes);

fn main() {
    report::print();
    if std::env::args().any(|argument| argument == "--report-only") {
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
