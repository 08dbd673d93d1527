//! The FIB beside slower twins: a scan over all prefixes, and the prefix-trie crate.

#[path = "../../../tests/data/internet_table.rs"]
#[allow(unreachable_pub)]
mod internet_table;
mod properties;
mod races;
mod whole_table;

use super::*;

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(fib: &Fib, address: &str) -> u32 {
    fib.lookup(address.parse().unwrap()).0
}

/// All forms of lookup, which must agree.
fn lookup(fib: &Fib, address: IpAddr) -> u32 {
    let one = fib.lookup(address);
    let mut many = [TargetId(u32::MAX); 20];
    match address {
        IpAddr::V4(address) => fib.lookup_v4_batch(&[address; 20], &mut many),
        IpAddr::V6(address) => {
            fib.v6.lookup_batch_by(None, &[address; 20], &mut many);
            assert_eq!(many, [one; 20], "batch of plain loads and single lookup of {address}");
            fib.lookup_v6_batch(&[address; 20], &mut many);
        }
    }
    assert_eq!(many, [one; 20], "batch and single lookup of {address}");
    one.0
}

#[test]
fn longest_prefix_wins_and_its_removal_uncovers_the_next() {
    let (mut writer, fib) = FibWriter::new();
    let nested = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/23",
        "10.1.2.0/24",
        "10.1.2.0/25",
        "10.1.2.64/26",
        "10.1.2.77/32",
        "::/0",
        "2000::/3",
        "2001:db8::/32",
        "2001:db8:1::/48",
        "2001:db8:1:2::/64",
        "2001:db8:1:2::/96",
        "2001:db8:1:2::77/128",
    ];
    for (number, text) in nested.iter().enumerate() {
        assert_eq!(writer.insert(net(text), TargetId(number as u32 + 1)), Ok(None));
    }
    assert_eq!((writer.len_v4(), writer.len_v6()), (8, 7));
    for number in (0..8).rev() {
        assert_eq!(at(&fib, "10.1.2.77"), number + 1);
        assert_eq!(writer.remove(net(nested[number as usize])), Some(TargetId(number + 1)));
    }
    for number in (8..15).rev() {
        assert_eq!(at(&fib, "2001:db8:1:2::77"), number + 1);
        assert_eq!(writer.remove(net(nested[number as usize])), Some(TargetId(number + 1)));
    }
    assert_eq!((at(&fib, "10.1.2.77"), at(&fib, "2001:db8:1:2::77")), (0, 0));
    assert_eq!((writer.len_v4(), writer.len_v6(), writer.iter().count()), (0, 0, 0));
}

#[test]
fn a_prefix_to_target_0_hides_the_default_route() {
    let (mut writer, fib) = FibWriter::new();
    for (all, some) in [("0.0.0.0/0", "10.0.0.0/8"), ("::/0", "2001:db8::/32")] {
        writer.insert(net(all), TargetId(9)).unwrap();
        writer.insert(net(some), TargetId(0)).unwrap();
    }
    assert_eq!((at(&fib, "10.0.0.1"), at(&fib, "11.0.0.1")), (0, 9));
    assert_eq!((at(&fib, "2001:db8::1"), at(&fib, "2001:db9::1")), (0, 9));
}

#[test]
fn host_bits_are_ignored_and_edges_of_the_address_space_work() {
    let (mut writer, fib) = FibWriter::new();
    writer.insert(net("10.1.2.3/8"), TargetId(1)).unwrap();
    assert_eq!(writer.get(net("10.0.0.0/8")), Some(TargetId(1)));
    for (number, text) in
        ["0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/32", "255.255.255.255/32", "255.255.255.0/24"]
            .into_iter()
            .enumerate()
    {
        writer.insert(net(text), TargetId(10 + number as u32)).unwrap();
    }
    assert_eq!(at(&fib, "0.0.0.0"), 12);
    assert_eq!(at(&fib, "0.0.0.1"), 10);
    assert_eq!(at(&fib, "255.255.255.255"), 13);
    assert_eq!(at(&fib, "255.255.255.254"), 14);
    let top = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    writer.insert(net(&format!("{top}/128")), TargetId(3)).unwrap();
    writer.insert(net("8000::/1"), TargetId(4)).unwrap();
    writer.insert(net("::/128"), TargetId(5)).unwrap();
    assert_eq!((at(&fib, top), at(&fib, "8000::"), at(&fib, "::"), at(&fib, "::1")), (3, 4, 5, 0));
    writer.remove(net(&format!("{top}/128")));
    assert_eq!(at(&fib, top), 4);
}

#[test]
fn a_target_beyond_24_bits_is_refused() {
    let (mut writer, _) = FibWriter::new();
    let (most, more) = (TargetId(MAX_TARGET), TargetId(MAX_TARGET + 1));
    assert_eq!(writer.insert(net("10.0.0.0/8"), most), Ok(None));
    let refused = writer.insert(net("10.0.0.0/8"), more);
    assert_eq!(refused, Err(FibError::TargetTooLarge(more)));
    assert_eq!(refused.unwrap_err().to_string(), "target 16777216 is above the greatest, 16777215");
    assert_eq!(writer.get(net("10.0.0.0/8")), Some(most));
}

#[test]
fn full_v4_groups_name_the_resource_and_come_back_after_reclaim() {
    let limits = FibLimits { groups_v4: 2, ..FibLimits::default() };
    let (mut writer, fib) = FibWriter::with_limits(limits).unwrap();
    let error = FibError::Full(Resource::GroupsV4);
    let full = Err(error);
    for third in 0..2 {
        writer.insert(net(&format!("10.0.{third}.1/32")), TargetId(1)).unwrap();
    }
    assert_eq!(writer.insert(net("10.0.9.1/32"), TargetId(2)), full);
    assert_eq!((at(&fib, "10.0.9.1"), writer.len_v4()), (0, 2));
    assert_eq!(
        writer.insert(net("10.0.1.2/32"), TargetId(3)),
        Ok(None),
        "in a group that is there"
    );
    writer.remove(net("10.0.0.1/32"));
    assert_eq!(writer.insert(net("10.0.9.1/32"), TargetId(2)), full, "readers may be in it");
    assert_eq!(writer.usage().retired, 1);
    writer.reclaim();
    assert_eq!(writer.insert(net("10.0.9.1/32"), TargetId(2)), Ok(None));
    assert_eq!((at(&fib, "10.0.9.1"), at(&fib, "10.0.9.2"), at(&fib, "10.0.0.1")), (2, 0, 0));
    assert_eq!(
        error.to_string(),
        "the FIB is full: no more groups for IPv4 prefixes longer than /24"
    );
}

#[test]
fn full_prefixes_still_let_targets_change() {
    let limits = FibLimits { prefixes: 1, ..FibLimits::default() };
    let (mut writer, _) = FibWriter::with_limits(limits).unwrap();
    for (one, other, resource) in [
        ("10.0.0.0/8", "11.0.0.0/8", Resource::PrefixesV4),
        ("2001:db8::/32", "2001:db9::/32", Resource::PrefixesV6),
    ] {
        assert_eq!(writer.insert(net(one), TargetId(1)), Ok(None));
        assert_eq!(writer.insert(net(other), TargetId(1)), Err(FibError::Full(resource)));
        assert_eq!(writer.insert(net(one), TargetId(2)), Ok(Some(TargetId(1))));
    }
}

#[test]
fn full_v6_nodes_leave_a_right_table_and_removal_needs_none() {
    for limits in [
        FibLimits { strides_v6: 40, ..FibLimits::default() },
        FibLimits { buckets_v6: 80, ..FibLimits::default() },
    ] {
        let (mut writer, fib) = FibWriter::with_limits(limits).unwrap();
        let mut there = Vec::new();
        let refused = (0..100_000u32).find_map(|number| {
            let third = number.wrapping_mul(0x9e37_79b1) >> 20;
            let wanted = net(&format!("20{:02x}:db8:{third:x}:{number:x}::/64", number % 7));
            let done = writer.insert(wanted, TargetId(number + 1)).err();
            there.extend(done.is_none().then_some((wanted, number + 1)));
            done
        });
        assert!(matches!(refused, Some(FibError::Full(Resource::StridesV6 | Resource::BucketsV6))));
        assert!(there.len() > 30, "{there:?}");
        for (wanted, number) in &there {
            assert_eq!(lookup(&fib, wanted.addr()), *number);
        }
        for (wanted, number) in there {
            assert_eq!(writer.remove(wanted), Some(TargetId(number)));
            assert_eq!(lookup(&fib, wanted.addr()), 0);
        }
        writer.reclaim();
        assert_eq!(writer.usage(), FibUsage::default());
    }
}

/// Resident memory of the process that no file stands behind, in KiB.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_small_table_is_small_in_memory() {
    // Other tests would be measured too, so this one runs again, alone in a process.
    const ALONE: &str = "MARGAY_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "fib::tests::a_small_table_is_small_in_memory";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let before = resident_kib();
    let (mut writer, fib) = FibWriter::new();
    for text in ["0.0.0.0/0", "10.0.0.0/24", "10.0.1.1/32", "::/0", "2001:db8::/48"] {
        writer.insert(net(text), TargetId(1)).unwrap();
    }
    for first in 0..=255u8 {
        assert_eq!(fib.lookup_v4(Ipv4Addr::new(first, 1, 2, 3)), TargetId(1));
        assert_eq!(
            fib.lookup_v6(Ipv6Addr::new(u16::from(first) << 8, 0, 0, 0, 0, 0, 0, 1)),
            TargetId(1)
        );
    }
    let grown = resident_kib() - before;
    assert!(grown < 1024, "{grown} KiB for five prefixes");
}
