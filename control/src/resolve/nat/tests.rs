//! Calico's rule, row by row of its own description (felix's NAT-outgoing chain).

use super::*;
use crate::resource::ip_pool::{EncapMode, IpPool};
use crate::resource::node::Node;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(cidr: &str, nat_outgoing: bool) -> IpPool {
    IpPool { nat_outgoing, ..IpPool::encapsulated(cidr, EncapMode::Never, EncapMode::Never) }
}

fn model(pools: Vec<IpPool>) -> Model {
    let mut model = Model::default();
    for (at, pool) in pools.into_iter().enumerate() {
        model.pools.insert(format!("pool-{at}"), pool);
    }
    for (name, v4) in [("me", "172.16.0.1/24"), ("other", "172.16.0.2/24")] {
        let node = Node { ipv4: v4.parse().ok(), ..Node::default() };
        model.nodes.insert(name.into(), node);
    }
    model
}

fn resolve(model: &Model, settings: &NatSettings, ports: Option<PortRange>) -> Option<Rules> {
    let local = [ip("172.16.0.1"), ip("10.9.9.9")];
    let taken = [61_005];
    rules(NatInputs {
        node: "me",
        model,
        settings,
        local: &local,
        ports,
        taken: &taken,
        workers: 2,
        before: None,
    })
}

const PORTS: Option<PortRange> = Some(crate::config::DEFAULT_PORTS);

/// Whether a packet is translated.
fn translated(rules: &Rules, src: &str, dst: &str) -> bool {
    let class = |text: &str| rules.ranges.class(ip(text).into());
    rules.is_translated(class(src), class(dst))
}

#[test]
fn from_a_pool_with_nat_outgoing_to_no_pool() {
    let disabled = IpPool { disabled: true, ..pool("10.3.0.0/16", true) };
    let balancer = IpPool { load_balancer_only: true, ..pool("192.0.2.0/24", true) };
    let model =
        model(vec![pool("10.1.0.0/16", true), pool("10.2.0.0/16", false), disabled, balancer]);
    let rules = resolve(&model, &NatSettings::default(), PORTS).unwrap();
    for (src, dst, expected) in [
        ("10.1.0.5", "198.51.100.1", true),
        ("10.1.0.5", "10.1.0.6", false),
        ("10.1.0.5", "10.2.0.6", false),
        ("10.1.0.5", "10.3.0.6", false),
        ("10.2.0.5", "198.51.100.1", false),
        ("10.3.0.5", "198.51.100.1", true),
        ("192.0.2.5", "198.51.100.1", false),
        ("10.1.0.5", "192.0.2.5", true),
        ("10.1.0.5", "172.16.0.2", true),
        ("10.1.0.5", "172.16.0.1", false),
        ("172.16.0.1", "198.51.100.1", false),
        ("198.51.100.1", "10.1.0.5", false),
    ] {
        assert_eq!(translated(&rules, src, dst), expected, "{src} to {dst}");
    }
    assert_eq!(rules.outside_v4, ["172.16.0.1".parse::<std::net::Ipv4Addr>().unwrap()]);
    assert_eq!((rules.workers, rules.taken.as_slice()), (2, &[61_005][..]));
    let outgoing_exclusions = Exclusions::IPPoolsAndHostIPs;
    let settings = NatSettings { outgoing_exclusions, ..NatSettings::default() };
    let rules = resolve(&model, &settings, PORTS).unwrap();
    assert!(!translated(&rules, "10.1.0.5", "172.16.0.2"));
}

#[test]
fn without_natting_pools_or_an_outside_address_there_are_no_rules() {
    let settings = NatSettings::default();
    assert_eq!(resolve(&model(vec![pool("10.1.0.0/16", false)]), &settings, PORTS), None);
    assert_eq!(resolve(&model(vec![pool("2001:db8:1::/48", true)]), &settings, PORTS), None);
    // All ports are the kernel's, and only an address of its own remains.
    let natted = model(vec![pool("10.1.0.0/16", true)]);
    assert_eq!(resolve(&natted, &settings, None), None);
    let outgoing_addresses = vec![ip("192.0.2.1")];
    let settings = NatSettings { outgoing_addresses, ..NatSettings::default() };
    let rules = resolve(&natted, &settings, None).unwrap();
    assert_eq!(rules.outside_v4, ["192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap()]);
}
