//! Random changes, each answer compared with a scan over all prefixes.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Change {
    Insert(IpNet, u32),
    Remove(IpNet),
    Reclaim,
}

/// The slow twin.
fn scan(routes: &BTreeMap<IpNet, u32>, address: IpAddr) -> u32 {
    let matching = routes.iter().filter(|(net, _)| net.contains(&address));
    matching.max_by_key(|(net, _)| net.prefix_len()).map_or(0, |(_, target)| *target)
}

/// Few places, so that prefixes nest and lie side by side.
fn net_v4() -> impl Strategy<Value = IpNet> {
    let base = prop::sample::select(vec![0u32, 0x0a00_0000, 0x0a01_0200, 0xffff_ff00]);
    let len = prop_oneof![1 => 0u8..=12, 40 => 13u8..=32, 60 => 22u8..=32];
    (base, 0u32..0x400, any::<bool>(), len).prop_map(|(base, noise, high, len)| {
        let noise = if high { noise << 14 } else { noise };
        IpNet::new(Ipv4Addr::from_bits(base ^ noise).into(), len).unwrap().trunc()
    })
}

fn net_v6() -> impl Strategy<Value = IpNet> {
    let base = prop::sample::select(vec![0u128, 0x2001_0db8 << 96, 0xfd00 << 112, u128::MAX]);
    let dense = (prop::sample::select(vec![36u8, 40, 44, 48, 56, 60, 64, 72, 96, 124]), 0u128..64)
        .prop_map(|(len, number)| (number << (128 - len), len));
    let loose = (0u128..16, 0u32..124, prop_oneof![0u8..=128, Just(24u8), Just(32), Just(64)])
        .prop_map(|(noise, shift, len)| (noise << shift, len));
    let deep = (0u128..64, 0u128..3, 96u8..=128)
        .prop_map(|(slot, low, len)| (slot << 80 | low << 20 | low, len));
    (base, prop_oneof![3 => dense, 1 => loose, 1 => deep]).prop_map(|(base, (noise, len))| {
        IpNet::new(Ipv6Addr::from_bits(base ^ noise).into(), len).unwrap().trunc()
    })
}

fn changes(net: impl Strategy<Value = IpNet> + Clone) -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (net.clone(), 0u32..5).prop_map(|(net, target)| Change::Insert(net, target)),
        3 => net.prop_map(Change::Remove),
        1 => Just(Change::Reclaim),
    ];
    prop::collection::vec(change, 1..250)
}

/// First and last address of a prefix, and their neighbours outside.
fn edges(net: &IpNet) -> Vec<IpAddr> {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .to_vec()
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .to_vec()
        }
    }
}

fn mentioned(changes: &[Change]) -> Vec<IpAddr> {
    let nets = changes.iter().filter_map(|change| match change {
        Change::Insert(net, _) | Change::Remove(net) => Some(net),
        Change::Reclaim => None,
    });
    let mut addresses: Vec<IpAddr> = nets.flat_map(edges).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn check(changes: &[Change]) -> Result<(), TestCaseError> {
    let (mut writer, fib) = FibWriter::new();
    let mut routes = BTreeMap::new();
    let addresses = mentioned(changes);
    for (number, change) in changes.iter().enumerate() {
        match *change {
            Change::Insert(net, target) => {
                let old = routes.insert(net, target).map(TargetId);
                prop_assert_eq!(writer.insert(net, TargetId(target)), Ok(old));
            }
            Change::Remove(net) => {
                prop_assert_eq!(writer.remove(net), routes.remove(&net).map(TargetId));
                prop_assert_eq!(writer.get(net), None);
            }
            Change::Reclaim => writer.reclaim(),
        }
        let near = match change {
            Change::Insert(net, _) | Change::Remove(net) => edges(net),
            Change::Reclaim => Vec::new(),
        };
        let everywhere = number % 16 == 15 || number + 1 == changes.len();
        for address in if everywhere { &addresses } else { &near } {
            prop_assert_eq!(lookup(&fib, *address), scan(&routes, *address), "{}", address);
        }
    }
    let mut listed: Vec<(IpNet, u32)> = writer.iter().map(|(net, to)| (net, to.0)).collect();
    prop_assert_eq!(listed.len(), writer.len_v4() + writer.len_v6());
    listed.sort();
    prop_assert_eq!(listed, routes.iter().map(|(net, to)| (*net, *to)).collect::<Vec<_>>());
    for net in routes.keys() {
        writer.remove(*net);
    }
    writer.reclaim();
    prop_assert_eq!(writer.usage(), FibUsage::default());
    addresses.iter().try_for_each(|address| {
        prop_assert_eq!(lookup(&fib, *address), 0);
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn v4_equals_the_scan_after_any_changes(changes in changes(net_v4().boxed())) {
        check(&changes)?;
    }

    #[test]
    fn v6_equals_the_scan_after_any_changes(changes in changes(net_v6().boxed())) {
        check(&changes)?;
    }
}
