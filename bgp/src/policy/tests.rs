use super::*;
use proptest::prelude::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn set(texts: &[&str]) -> PrefixSet {
    texts.iter().map(|text| net(text)).collect()
}

fn local(prefix: &str, metric: Option<u32>) -> RouteFacts<'static> {
    RouteFacts {
        prefix: net(prefix),
        origin: Origin::Local { metric },
        interface: None,
        next_hop: None,
        local_pref: None,
        communities: &[],
        large_communities: &[],
        as_path: &[],
    }
}

fn learned(prefix: &str, local_pref: u32) -> RouteFacts<'static> {
    RouteFacts { origin: Origin::Peer, local_pref: Some(local_pref), ..local(prefix, None) }
}

fn verdict(policy: &Policy, facts: &RouteFacts) -> Verdict {
    let mut verdict = Verdict { metric: Some(1), prepend: vec![1], ..Verdict::default() };
    evaluate(policy, facts, &mut verdict);
    verdict
}

fn accepts(matches: Vec<Match>, facts: &RouteFacts) -> bool {
    verdict(&Policy::new(vec![Rule::accept(matches)], false), facts).accept
}

fn prefix(cidr: &str, operator: PrefixOperator, lengths: Option<(u8, u8)>) -> Vec<Match> {
    vec![Match::Prefix(PrefixMatch { cidr: net(cidr), operator, lengths })]
}

#[test]
fn prefixes_are_compared_by_operator() {
    use PrefixOperator::{Equal, In, NotEqual, NotIn};
    let cases = [
        (Equal, None, [true, false, false]),
        (NotEqual, None, [false, true, true]),
        (In, None, [true, true, false]),
        (NotIn, None, [false, false, true]),
        (In, Some((17, 32)), [false, true, false]),
        (Equal, Some((17, 32)), [false, true, false]),
        (NotIn, Some((17, 32)), [true, false, true]),
        (In, Some((25, 32)), [false, false, false]),
    ];
    for (operator, lengths, expected) in cases {
        let wanted = prefix("10.1.0.0/16", operator, lengths);
        let got = ["10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8"]
            .map(|route| accepts(wanted.clone(), &local(route, None)));
        assert_eq!(got, expected, "{operator:?} {lengths:?}");
    }
}

#[test]
fn attributes_are_matched() {
    let facts = RouteFacts {
        communities: &[65000 << 16 | 7],
        large_communities: &[[1, 2, 3]],
        as_path: &[65001, 65002],
        interface: Some("eth12"),
        next_hop: "10.0.0.2".parse().ok(),
        ..learned("10.0.0.0/8", 100)
    };
    let community = |text: &str| Match::Community(text.parse().unwrap());
    let holds = [
        Match::FromPeer,
        community("65000:7"),
        community("1:2:3"),
        Match::AsPathPrefix(vec![65001]),
        Match::AsPathPrefix(vec![65001, 65002]),
        Match::Interface(Pattern::new("eth*")),
        Match::LocalPref(100),
        Match::LocalPrefAbove(99),
        Match::NextHop(vec!["10.0.0.2".parse().unwrap()]),
    ];
    let does_not = [
        community("65000:8"),
        community("1:2:4"),
        Match::AsPathPrefix(vec![65002]),
        Match::AsPathPrefix(vec![65001, 65002, 65003]),
        Match::Interface(Pattern::new("cali*")),
        Match::LocalPref(101),
        Match::LocalPrefAbove(100),
        Match::MetricBelow(u32::MAX),
        Match::NextHop(vec!["10.0.0.3".parse().unwrap()]),
    ];
    holds.iter().for_each(|one| assert!(accepts(vec![one.clone()], &facts), "{one:?}"));
    does_not.iter().for_each(|one| assert!(!accepts(vec![one.clone()], &facts), "{one:?}"));
    assert!(accepts(holds.to_vec(), &facts), "all of them together");
    assert!(!accepts([&holds[..], &does_not[..1]].concat(), &facts));
    assert!(!accepts(vec![Match::FromPeer], &local("10.0.0.0/8", None)));
}

#[test]
fn the_first_rule_that_decides_counts() {
    let inside = || prefix("10.0.0.0/8", PrefixOperator::In, None);
    let rules = vec![
        Rule::change(inside(), vec![Operation::AddCommunity(Community::Standard(5))]),
        Rule::reject(prefix("10.1.0.0/16", PrefixOperator::In, None)),
        Rule::accept(inside()),
    ];
    let policy = Policy::new(rules, false);
    let taken = verdict(&policy, &local("10.2.0.0/16", None));
    assert_eq!((taken.accept, &taken.communities[..]), (true, &[Community::Standard(5)][..]));
    assert!(!verdict(&policy, &local("10.1.1.0/24", None)).accept);
    assert!(!verdict(&policy, &local("192.0.2.0/24", None)).accept);
    assert!(verdict(&Policy::accept_all(), &local("192.0.2.0/24", None)).accept);
    assert!(!verdict(&Policy::reject_all(), &local("192.0.2.0/24", None)).accept);
}

#[test]
fn operations_change_the_route_and_a_community_is_added_once() {
    let community = Operation::AddCommunity("1:2:3".parse().unwrap());
    let operations = vec![
        community.clone(),
        community,
        Operation::PrependAsPath(vec![1, 2]),
        Operation::PrependAsPath(vec![3]),
        Operation::SetLocalPref(7),
    ];
    let rule = Rule { matches: Vec::new(), operations, action: Action::Accept };
    let policy = Policy::new(vec![rule], false);
    let taken = verdict(&policy, &learned("10.0.0.0/8", 100));
    assert_eq!(taken.prepend, [3, 1, 2]);
    assert_eq!(taken.communities, [Community::Large([1, 2, 3])]);
    assert_eq!(taken.local_pref, Some(7));
    let has_it = RouteFacts { large_communities: &[[1, 2, 3]], ..learned("10.0.0.0/8", 100) };
    assert_eq!(verdict(&policy, &has_it).communities, []);
}

#[test]
fn metrics_travel_as_local_preferences() {
    let exchange = Rule::change(Vec::new(), vec![Operation::ExchangeMetric { normal: 1024 }]);
    let policy = Policy::new(vec![exchange], true);
    let of = |facts| {
        let verdict = verdict(&policy, &facts);
        (verdict.local_pref, verdict.metric)
    };
    assert_eq!(of(local("10.0.0.0/8", None)), (Some(2_147_482_623), Some(1024)));
    assert_eq!(of(local("10.0.0.0/8", Some(512))), (Some(2_147_483_135), Some(512)));
    assert_eq!(of(learned("10.0.0.0/8", 2_147_483_135)), (None, Some(512)));
    assert_eq!(of(learned("10.0.0.0/8", 100)), (None, Some(2_147_483_547)));
    let (_, metric) = of(learned("10.0.0.0/8", u32::MAX));
    assert!(metric > Some(METRIC_BASE), "a preference out of range is not elevated: {metric:?}");
}

#[test]
fn ipip_is_for_next_hops_outside_the_subnet() {
    let policy = |subnet: Option<&str>| {
        let operation = Operation::Ipip { unless_next_hop_in: subnet.map(net) };
        let metric = Operation::SetMetric { normal: 1024 };
        Policy::new(vec![Rule::change(Vec::new(), vec![operation, metric])], true)
    };
    let via = |hop: &str| RouteFacts { next_hop: hop.parse().ok(), ..learned("10.0.0.0/8", 100) };
    assert!(verdict(&policy(None), &via("192.0.2.9")).ipip);
    assert!(!verdict(&policy(Some("192.0.2.0/24")), &via("192.0.2.9")).ipip);
    let far = verdict(&policy(Some("192.0.2.0/24")), &via("198.51.100.9"));
    assert_eq!((far.ipip, far.metric), (true, Some(2_147_483_547)));
    assert!(policy(Some("192.0.2.0/24")).dependence().next_hop);
    assert!(!policy(None).dependence().next_hop);
}

#[test]
fn interface_patterns() {
    let cases = [
        ("*", "", true),
        ("*.cali", "vxlan.cali", true),
        ("*.cali", "vxlan.calico", false),
        ("bpf*.cali", "bpfout.cali", true),
        ("eth?", "eth0", true),
        ("eth?", "eth", false),
        ("a*b*c", "axxbyybzzc", true),
        ("a*b*c", "axxbyybzz", false),
        ("tunl0", "tunl0", true),
        ("tunl0", "tunl01", false),
    ];
    for (pattern, name, expected) in cases {
        assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} {name}");
    }
}

#[test]
fn communities_have_16_or_32_bits_a_part() {
    for good in ["0:0", "65535:65535", "1:2:4294967295"] {
        assert_eq!(good.parse::<Community>().unwrap().to_string(), good);
    }
    for bad in ["", "1", "65536:1", "1:65536", "1:2:4294967296", "1:2:3:4", "+1:2", "a:b", "1:"] {
        assert_eq!(bad.parse::<Community>(), Err(NotACommunity), "{bad}");
    }
}

#[test]
fn more_prefix_conditions_than_bits_have_no_class() {
    let rules = |count| (0..count).map(|_| Rule::accept(vec![Match::OneOf(set(&[]))])).collect();
    assert_eq!(Policy::new(rules(64), true).prefix_class(net("10.0.0.0/8")), Some(0));
    assert_eq!(Policy::new(rules(65), true).prefix_class(net("10.0.0.0/8")), None);
}

fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (0u32..64, 24u8..=32)
        .prop_map(|(low, length)| IpNet::new(IpAddr::from((10 << 24 | low).to_be_bytes()), length));
    let v6 = (0u128..64, 120u8..=128).prop_map(|(low, length)| {
        IpNet::new(IpAddr::from((0xfd << 120 | low).to_be_bytes()), length)
    });
    prop_oneof![3 => v4, 1 => v6].prop_map(|net| net.expect("a length in range").trunc())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let condition = prop_oneof![
        prop::collection::vec(any_net(), 0..6)
            .prop_map(|nets| Match::OneOf(nets.into_iter().collect())),
        prop::collection::vec(any_net(), 0..6)
            .prop_map(|nets| Match::Within(nets.into_iter().collect())),
        Just(Match::MetricBelow(1024)),
        Just(Match::FromPeer),
    ];
    let action = prop_oneof![Just(Action::Accept), Just(Action::Reject), Just(Action::Continue)];
    (prop::collection::vec(condition, 0..3), 0u32..3, action).prop_map(
        |(matches, value, action)| {
            let operations = vec![Operation::AddCommunity(Community::Standard(value))];
            Rule { matches, operations, action }
        },
    )
}

proptest! {
    #[test]
    fn sets_answer_like_a_walk_over_their_members(
        nets in prop::collection::vec(any_net(), 0..20),
        asked in any_net(),
    ) {
        let set: PrefixSet = nets.iter().copied().collect();
        prop_assert_eq!(set.contains(&asked), nets.contains(&asked));
        prop_assert_eq!(set.covers(&asked), nets.iter().any(|net| net.contains(&asked)));
    }

    #[test]
    fn prefixes_of_one_class_get_one_verdict(
        rules in prop::collection::vec(any_rule(), 0..6),
        prefixes in prop::collection::vec(any_net(), 2..30),
        metric in prop::option::of(1000u32..1050),
    ) {
        let policy = Policy::new(rules, false);
        let mut seen = std::collections::BTreeMap::new();
        for prefix in prefixes {
            let facts = RouteFacts { prefix, ..local("10.0.0.0/8", metric) };
            let got = verdict(&policy, &facts);
            let class = policy.prefix_class(prefix).unwrap();
            let first = seen.entry(class).or_insert_with(|| got.clone());
            prop_assert_eq!(&*first, &got);
        }
        prop_assert!(policy.dependence().prefix || seen.len() == 1);
    }
}
