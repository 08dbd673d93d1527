//! A full Internet table, the real one and a generated twin, beside prefix-trie.

use super::internet_table::{Random, internet_v4, internet_v6};
use super::races::race;
use super::*;
use prefix_trie::PrefixMap;
use std::io::Read;
use std::time::Instant;

/// The real table in the directory that MARGAY_DATA names: one CIDR a line, gzipped.
fn real_table() -> Option<Vec<IpNet>> {
    let Ok(directory) = std::env::var("MARGAY_DATA") else {
        println!("SKIPPED: MARGAY_DATA is not set");
        return None;
    };
    let file = std::fs::File::open(format!("{directory}/prefixes.txt.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    Some(text.lines().map(net).collect())
}

fn generated_table() -> Vec<IpNet> {
    let v4 = internet_v4(180_000, 1).into_iter().map(IpNet::from);
    v4.chain(internet_v6(32_000, 2).into_iter().map(IpNet::from)).collect()
}

/// Half inside prefixes of the table, half anywhere in the space that is routed at all.
fn addresses(table: &[IpNet], count: usize, seed: u64) -> Vec<IpAddr> {
    let mut random = Random(seed);
    let mut address = |number: usize| {
        let picked = table[random.below(table.len() as u64) as usize];
        let keep = if number.is_multiple_of(2) { picked.prefix_len() } else { 4 };
        match picked {
            IpNet::V4(net) => {
                let noise = (random.next() as u32).checked_shr(keep.into()).unwrap_or(0);
                IpAddr::from(Ipv4Addr::from_bits(net.addr().to_bits() ^ noise))
            }
            IpNet::V6(net) => {
                let noise = random.wide().checked_shr(keep.into()).unwrap_or(0);
                IpAddr::from(Ipv6Addr::from_bits(net.addr().to_bits() ^ noise))
            }
        }
    };
    (0..count).map(&mut address).collect()
}

fn host(address: &IpAddr) -> IpNet {
    IpNet::from(*address)
}

/// Loads everything and compares `count` random addresses, one by one and in batches.
fn compare(table: &[IpNet], count: usize) {
    let (mut writer, fib) = FibWriter::new();
    let mut v4: PrefixMap<Ipv4Net, TargetId> = PrefixMap::new();
    let mut v6: PrefixMap<Ipv6Net, TargetId> = PrefixMap::new();
    let start = Instant::now();
    for (number, net) in table.iter().enumerate() {
        let target = TargetId(number as u32 % MAX_TARGET + 1);
        assert_eq!(writer.insert(*net, target), Ok(None), "{net}");
    }
    println!("{} prefixes in {:?}: {:?}", table.len(), start.elapsed(), writer.usage());
    for (net, target) in writer.iter() {
        match net {
            IpNet::V4(net) => v4.insert(net, target),
            IpNet::V6(net) => v6.insert(net, target),
        };
    }
    assert_eq!(v4.len() + v6.len(), table.len());
    let (mut one, mut many) = (Vec::new(), Vec::new());
    let mut covered = 0;
    for round in 0..count.div_ceil(100_000) as u64 {
        for address in addresses(table, 100_000, round) {
            let expected = match host(&address) {
                IpNet::V4(host) => v4.get_lpm(&host).map(|(_, target)| *target),
                IpNet::V6(host) => v6.get_lpm(&host).map(|(_, target)| *target),
            };
            covered += usize::from(expected.is_some());
            let expected = expected.unwrap_or_default();
            assert_eq!(fib.lookup(address), expected, "{address}");
            match address {
                IpAddr::V4(address) => one.push((address, expected)),
                IpAddr::V6(address) => many.push((address, expected)),
            }
        }
        compare_batches(&fib, &mut one, &mut many);
    }
    assert!(covered > count / 2, "only {covered} of {count} addresses have a route");
}

fn compare_batches(
    fib: &Fib,
    v4: &mut Vec<(Ipv4Addr, TargetId)>,
    v6: &mut Vec<(Ipv6Addr, TargetId)>,
) {
    let (addresses, expected): (Vec<_>, Vec<_>) = v4.drain(..).unzip();
    let mut answers = vec![TargetId::default(); addresses.len()];
    fib.lookup_v4_batch(&addresses, &mut answers);
    assert_eq!(answers, expected);
    let (addresses, expected): (Vec<_>, Vec<_>) = v6.drain(..).unzip();
    let mut answers = vec![TargetId::default(); addresses.len()];
    fib.lookup_v6_batch(&addresses, &mut answers);
    assert_eq!(answers, expected);
    fib.v6.lookup_batch_by(None, &addresses, &mut answers);
    assert_eq!(answers, expected);
}

#[test]
fn generated_table_equals_prefix_trie() {
    compare(&generated_table(), 1_000_000);
}

#[test]
fn real_table_equals_prefix_trie_on_ten_million_addresses() {
    let Some(table) = real_table() else { return };
    assert_eq!(table.len(), 1_062_046);
    compare(&table, 10_000_000);
}

#[test]
fn generated_table_never_shows_a_wrong_next_hop_while_it_is_rebuilt() {
    let table = generated_table();
    race(&table, &addresses(&table, 50_000, 77));
}

#[test]
fn real_table_never_shows_a_wrong_next_hop_while_it_is_rebuilt() {
    let Some(table) = real_table() else { return };
    race(&table, &addresses(&table, 200_000, 78));
}
