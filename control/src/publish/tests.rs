use super::*;
use crate::kernel::Neighbor;
use crate::kernel::message::Update;
use crate::resolve::Origin;
use crate::resource::ip_pool::{EncapMode, IpPool};
use margay_fastpath::dataplane::DataplaneConfig;
use margay_fastpath::fib::Fib;
use proptest::prelude::*;

struct Bench {
    publisher: Publisher,
    fib: Arc<Fib>,
    ports: BTreeMap<Arc<str>, PublishedPort>,
    mirror: Mirror,
    learned: Learned,
    tunnels: TunnelPlan,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn port(id: u16, name: &str) -> PublishedPort {
    let entry = PortEntry::network(name, Mac([2, 0, 0, 0, 0, id as u8]), 1500);
    PublishedPort { id: PortId(id), entry, station: None, device: Some(u32::from(id) + 10) }
}

fn bench() -> Bench {
    let (writer, fib) = FibWriter::new();
    let config = DataplaneConfig { worker_cores: vec![None], frames: 64, large_frames: 0 };
    let (dataplane, _) = Dataplane::start(&config, fib.clone()).unwrap();
    let ports = [(0, "up0"), (1, "up1"), (2, "up2"), (3, "margay0")];
    let mut ports: BTreeMap<Arc<str>, PublishedPort> =
        ports.map(|(id, name)| (Arc::from(name), port(id, name))).into();
    if let Some(host) = ports.get_mut("margay0") {
        (host.station, host.device) = (Some(Mac([2, 0, 0, 0, 0, 99])), None);
    }
    let publisher = Publisher::new(Arc::new(dataplane), writer, "me");
    Bench {
        publisher,
        fib,
        ports,
        mirror: Mirror::default(),
        learned: Learned::default(),
        tunnels: TunnelPlan::default(),
    }
}

fn via(hops: &[(&str, &str)]) -> Target {
    let hop = |(port, address): &(&str, &str)| Hop::plain((*port).into(), ip(address));
    Target::Via(hops.iter().map(hop).collect())
}

impl Bench {
    fn publish(&mut self, routes: &[(&str, Target)]) -> Done {
        let route = |(prefix, target): &(&str, Target)| {
            (net(prefix), Route { origin: Origin::Store, target: target.clone(), metric: 1024 })
        };
        self.publisher.publish(Publication {
            ports: &self.ports,
            host: "margay0",
            routes: Arc::new(routes.iter().map(route).collect()),
            learned: &mut self.learned,
            tunnels: &self.tunnels,
            mirror: &self.mirror,
            attach: Vec::new(),
        })
    }

    fn neighbor(&mut self, device: u32, address: &str, last: u8) {
        let state = Neighbor::Resolved(Mac([2, 0, 0, 0, 1, last]));
        self.mirror.apply(Update::Neighbor(device, ip(address), state));
    }

    /// What a worker finds for an address.
    fn found(&self, address: &str) -> Entry {
        let tables = self.publisher.dataplane.tables();
        match ip(address) {
            IpAddr::V4(ip) => tables.target(self.fib.lookup_v4(ip)),
            IpAddr::V6(ip) => tables.target(self.fib.lookup_v6(ip)),
        }
    }

    fn next_hop(&self, address: &str) -> Adjacency {
        let Entry::Forward(id) = self.found(address) else { panic!("{:?}", self.found(address)) };
        self.publisher.dataplane.tables().adjacency(id).unwrap().clone()
    }
}

#[test]
fn targets_of_all_kinds_are_found_by_workers() {
    let mut bench = bench();
    bench.neighbor(10, "192.0.2.2", 2);
    let done = bench.publish(&[
        ("10.0.0.0/26", Target::Blackhole),
        ("10.0.0.1/32", via(&[("up0", "192.0.2.2")])),
        ("10.0.1.0/26", via(&[("up1", "192.0.2.2")])),
        ("10.0.2.0/26", via(&[("gone", "192.0.2.2")])),
        ("192.0.2.0/24", Target::OnLink("up0".into())),
        ("192.0.2.1/32", Target::Local),
        ("2001:db8::/32", Target::Prohibit),
        ("2001:db8:1::/48", Target::Unreachable),
    ]);
    assert_eq!((done.written, done.removed, done.stuck), (8, 0, false));
    assert_eq!(bench.found("10.0.0.9"), Entry::Blackhole);
    assert_eq!(bench.found("10.0.2.9"), Entry::Unreachable);
    assert_eq!(bench.found("192.0.2.9"), Entry::Glean(PortId(0)));
    assert_eq!(bench.found("192.0.2.1"), Entry::Local);
    assert_eq!(bench.found("2001:db8:1::1"), Entry::Unreachable);
    assert_eq!(bench.found("2001:db8:2::1"), Entry::Prohibit);
    assert_eq!(bench.found("203.0.113.1"), Entry::NoRoute);
    let resolved = bench.next_hop("10.0.0.1");
    assert_eq!((resolved.port, resolved.mac), (PortId(0), Some(Mac([2, 0, 0, 0, 1, 2]))));
    assert_eq!(bench.next_hop("10.0.1.1").mac, None, "another link");
    let tables = bench.publisher.dataplane.tables();
    let host = tables.host.and_then(|host| tables.adjacency(host)).unwrap();
    assert_eq!((host.port, host.mac), (PortId(3), Some(Mac([2, 0, 0, 0, 0, 99]))));
}

#[test]
fn a_resolved_neighbour_changes_tables_and_not_the_fib() {
    let mut bench = bench();
    let routes = [("10.0.0.0/8", via(&[("up0", "192.0.2.2")]))];
    bench.publish(&routes);
    assert_eq!(bench.next_hop("10.1.1.1").mac, None);
    bench.neighbor(10, "192.0.2.2", 7);
    assert_eq!(bench.publish(&routes), Done::default());
    assert_eq!(bench.next_hop("10.1.1.1").mac, Some(Mac([2, 0, 0, 0, 1, 7])));
}

#[test]
fn flows_keep_their_path_when_another_leaves() {
    let mut bench = bench();
    let paths = [("up0", "192.0.2.2"), ("up1", "192.0.2.3"), ("up2", "192.0.2.4")];
    let chosen = |bench: &Bench| -> Vec<IpAddr> {
        let tables = bench.publisher.dataplane.tables();
        let Entry::Ecmp(group) = bench.found("10.1.1.1") else { panic!() };
        let group = &tables.ecmp_groups[group as usize];
        let choose = |hash: u32| tables.adjacencies[group.select(hash).0 as usize].neighbor;
        (0..4096u32).map(|flow| choose(flow.wrapping_mul(0x9e37_79b9))).collect()
    };
    bench.publish(&[("10.0.0.0/8", via(&paths))]);
    let before = chosen(&bench);
    bench.publish(&[("10.0.0.0/8", via(&[paths[0], paths[2]]))]);
    let after = chosen(&bench);
    for (old, new) in before.iter().zip(&after) {
        assert!(*old == ip("192.0.2.3") || old == new, "only flows of the path that left move");
    }
    for path in ["192.0.2.2", "192.0.2.4"] {
        let share = after.iter().filter(|address| **address == ip(path)).count();
        assert!((1000..3100).contains(&share), "{path} has {share} of 4096");
    }
    bench.publish(&[("10.0.0.0/8", via(&paths))]);
    assert_eq!(chosen(&bench), before, "and come back");
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Local),
        Just(Target::Blackhole),
        (0u8..3).prop_map(|port| Target::OnLink(format!("up{port}").as_str().into())),
        prop::collection::btree_set((0u8..3, 2u8..6), 1..4).prop_map(|hops| {
            let hop = |(port, last)| {
                Hop::plain(format!("up{port}").as_str().into(), IpAddr::from([192, 0, 2, last]))
            };
            Target::Via(hops.into_iter().map(hop).collect())
        }),
    ]
}

/// Targets of prefixes by number.
fn round() -> impl Strategy<Value = BTreeMap<u8, Target>> {
    prop::collection::btree_map(0u8..16, target(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever was published before, what is found is what was published last.
    #[test]
    fn the_last_publication_counts(
        rounds in prop::collection::vec(round(), 1..8),
    ) {
        let mut bench = bench();
        for round in rounds {
            let names: Vec<(String, Target)> = round
                .into_iter()
                .map(|(at, target)| (format!("10.{}.0.0/{}", at, 16 + at % 3), target))
                .collect();
            let routes: Vec<(&str, Target)> =
                names.iter().map(|(name, target)| (name.as_str(), target.clone())).collect();
            bench.publish(&routes);
            let tables = bench.publisher.dataplane.tables();
            for at in 0..16u8 {
                let name = format!("10.{at}.0.0/{}", 16 + at % 3);
                let wanted = names.iter().find(|(other, _)| *other == name).map(|(_, to)| to);
                let neighbors = |ids: &mut dyn Iterator<Item = AdjacencyId>| {
                    let hop = |id: AdjacencyId| {
                        let next = &tables.adjacencies[id.0 as usize];
                        (next.port, next.neighbor)
                    };
                    ids.map(hop).collect::<std::collections::BTreeSet<_>>()
                };
                let hops = |hops: &[Hop]| -> std::collections::BTreeSet<_> {
                    hops.iter().map(|hop| (bench.ports[&hop.port].id, hop.address)).collect()
                };
                let fits = match (wanted, bench.found(&format!("10.{at}.0.1"))) {
                    (None, Entry::NoRoute) => true,
                    (Some(Target::Local), Entry::Local) => true,
                    (Some(Target::Blackhole), Entry::Blackhole) => true,
                    (Some(Target::OnLink(port)), Entry::Glean(id)) => bench.ports[port].id == id,
                    (Some(Target::Via(all)), Entry::Forward(id)) => {
                        hops(all) == neighbors(&mut std::iter::once(id))
                    }
                    (Some(Target::Via(all)), Entry::Ecmp(group)) => {
                        let buckets = &tables.ecmp_groups[group as usize].buckets;
                        hops(all) == neighbors(&mut buckets.iter().copied())
                    }
                    _ => false,
                };
                prop_assert!(fits, "{} {:?}", name, wanted);
            }
        }
    }
}

/// Next hops `192.0.2.N` on `up0`, and what the table says of them.
fn hops_table(last: &[u8]) -> crate::resolve::table::Table {
    let hop = |last: &u8| (format!("192.0.2.{last}"), "up0");
    crate::resolve::learned::tests::table(last.iter().map(hop))
}

fn set(last: &[u8], metric: u32) -> crate::resolve::learned::PathSet {
    let hops = last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect();
    crate::resolve::learned::PathSet::found(hops, metric)
}

impl Bench {
    fn learn(
        &mut self,
        routes: impl IntoIterator<Item = (IpNet, Option<crate::resolve::learned::PathSet>)>,
        table: &crate::resolve::table::Table,
    ) -> Done {
        let mut changed = Vec::new();
        for (prefix, set) in routes {
            let is_new = match set {
                Some(set) => self.learned.put(prefix, set, table),
                None => self.learned.remove(&prefix),
            };
            changed.extend(is_new.then_some(prefix));
        }
        let publication = Publication {
            ports: &self.ports,
            host: "margay0",
            routes: self.publisher.published.clone(),
            learned: &mut self.learned,
            tunnels: &self.tunnels,
            mirror: &self.mirror,
            attach: Vec::new(),
        };
        self.publisher.update(publication, &changed)
    }
}

#[test]
fn the_better_metric_has_a_prefix_and_the_other_comes_back() {
    let mut bench = bench();
    let table = hops_table(&[7]);
    let own = [("10.0.0.5/32", via(&[("up1", "192.0.2.2")])), ("10.0.0.0/26", Target::Blackhole)];
    bench.publish(&own);
    bench.learn([(net("10.0.0.0/26"), Some(set(&[7], 1024)))], &table);
    assert_eq!(bench.found("10.0.0.9"), Entry::Blackhole, "the own block is no worse");
    bench.learn([(net("10.0.0.5/32"), Some(set(&[7], 512)))], &table);
    assert_eq!(bench.next_hop("10.0.0.5").neighbor, ip("192.0.2.7"), "a route that is elevated");
    bench.publish(&own);
    assert_eq!(bench.next_hop("10.0.0.5").neighbor, ip("192.0.2.7"), "as well anew");
    bench.learn([(net("10.0.0.5/32"), None)], &table);
    assert_eq!(bench.next_hop("10.0.0.5").neighbor, ip("192.0.2.2"));
    bench.publish(&[]);
    assert_eq!(bench.next_hop("10.0.0.9").neighbor, ip("192.0.2.7"), "the own one is gone");
    bench.learn([(net("10.0.0.0/26"), None)], &table);
    assert_eq!(bench.found("10.0.0.9"), Entry::NoRoute);
}

#[test]
fn a_set_that_moves_is_no_change_of_the_fib() {
    let mut bench = bench();
    let table = hops_table(&[2, 3]);
    let routes = (0..64u8).map(|at| (net(&format!("10.{at}.0.0/16")), Some(set(&[2, 3], 1024))));
    let done = bench.learn(routes, &table);
    assert_eq!((done.written, done.stuck), (64, false));
    let Entry::Ecmp(_) = bench.found("10.1.1.1") else { panic!() };
    let moved = bench.learned.resolve(&hops_table(&[3]));
    assert_eq!(moved.len(), 1);
    assert_eq!(bench.publish(&[]), Done::default());
    assert_eq!(bench.next_hop("10.63.1.1").neighbor, ip("192.0.2.3"));
    bench.learned.resolve(&hops_table(&[]));
    bench.publish(&[]);
    assert_eq!(bench.found("10.63.1.1"), Entry::Unreachable);
}

/// A full table comes in batches. The work for a batch is as large as the batch: the last of a
/// hundred takes about as long as the first.
#[test]
fn batches_of_a_large_table_take_what_a_batch_takes() {
    let mut bench = bench();
    let table = hops_table(&[2, 3, 4]);
    let batch = |at: u32| {
        (0..1000u32).map(move |number| {
            let address = std::net::Ipv4Addr::from(((at * 1000 + number) << 8) + (1 << 24));
            let prefix = IpNet::new(address.into(), 24).unwrap();
            (prefix, Some(set(&[2 + (number % 3) as u8], 1024)))
        })
    };
    let mut times = Vec::new();
    for at in 0..100 {
        let begin = std::time::Instant::now();
        let done = bench.learn(batch(at), &table);
        times.push(begin.elapsed());
        assert_eq!((done.written, done.refused.len(), done.stuck), (1000, 0, false));
    }
    let typical = |times: &[std::time::Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2]
    };
    let (first, last) = (typical(&times[10..40]), typical(&times[70..]));
    assert!(last < first * 4 + std::time::Duration::from_millis(2), "{first:?}, {last:?}");
    assert_eq!(bench.learned.len(), [100_000, 0]);
    let before: std::time::Duration = times.iter().sum();
    let begin = std::time::Instant::now();
    assert_eq!(bench.publish(&[]), Done::default(), "a whole publication leaves them alone");
    assert!(begin.elapsed() < before / 4 + std::time::Duration::from_millis(5));
}

fn tunnel(remote: &str) -> Arc<Tunnel> {
    Arc::new(Tunnel { local: ip("192.0.2.1"), remote: ip(remote), vxlan: None })
}

fn through(remote: &str, ports: &[&str]) -> Target {
    let hop = |port: &&str| Hop {
        port: (*port).into(),
        address: ip("192.0.2.254"),
        tunnel: Some(tunnel(remote)),
    };
    Target::Via(ports.iter().map(hop).collect())
}

/// The tunnels that a target leads into.
fn remotes(bench: &Bench, entry: Entry) -> Vec<IpAddr> {
    let tables = bench.publisher.dataplane.tables();
    let ids: Vec<AdjacencyId> = match entry {
        Entry::Forward(id) => vec![id],
        Entry::Ecmp(group) => tables.ecmp_groups[group as usize].buckets.to_vec(),
        other => panic!("{other:?}"),
    };
    let mut remotes: Vec<IpAddr> = ids
        .iter()
        .map(|id| tables.adjacency(*id).unwrap().tunnel.unwrap())
        .map(|id| tables.tunnel(id).unwrap().remote)
        .collect();
    remotes.sort();
    remotes.dedup();
    remotes
}

#[test]
fn next_hops_name_their_tunnels_and_numbers_are_given_on_clean() {
    let mut bench = bench();
    bench.neighbor(10, "192.0.2.254", 2);
    bench.publish(&[
        ("10.65.0.0/26", through("172.16.0.1", &["up0", "up1"])),
        ("10.65.0.64/26", through("172.16.0.2", &["up0"])),
        ("10.65.0.128/26", via(&[("up0", "192.0.2.254")])),
    ]);
    assert_eq!(remotes(&bench, bench.found("10.65.0.1")), [ip("172.16.0.1")]);
    assert_eq!(remotes(&bench, bench.found("10.65.0.65")), [ip("172.16.0.2")]);
    assert!(bench.next_hop("10.65.0.129").tunnel.is_none());
    let next = bench.next_hop("10.65.0.65");
    assert!(next.mac.is_some() && next.neighbor == ip("192.0.2.254"));
    let id = next.tunnel.unwrap();
    bench.publisher.dataplane.path_mtus().learn(id, 1400, 0);
    bench.publish(&[("10.65.0.0/26", through("172.16.0.1", &["up0"]))]);
    assert!(bench.publisher.dataplane.tables().tunnel(id).is_none(), "its tunnel is gone");
    bench.publish(&[
        ("10.65.0.0/26", through("172.16.0.1", &["up0"])),
        ("10.65.0.64/26", through("172.16.0.3", &["up0"])),
    ]);
    assert_eq!(remotes(&bench, bench.found("10.65.0.65")), [ip("172.16.0.3")]);
    assert_eq!(bench.next_hop("10.65.0.65").tunnel, Some(id), "the number is used again");
    assert_eq!(bench.publisher.dataplane.path_mtus().get(id, 0), None, "and knows nothing");
}

#[test]
fn nodes_that_nothing_leads_to_are_known_as_sources() {
    let mut bench = bench();
    let mut model = crate::model::Model::default();
    for (name, address) in [("me", "192.0.2.1/24"), ("you", "192.0.2.2/24")] {
        let node = crate::resource::node::Node { ipv4: address.parse().ok(), ..Default::default() };
        model.nodes.insert(name.to_owned(), node);
    }
    let pool = IpPool::encapsulated("10.65.0.0/16", EncapMode::Always, EncapMode::Never);
    model.pools.insert("p".to_owned(), pool);
    bench.tunnels = TunnelPlan::of(&model, "me", &Default::default(), 1500);
    bench.publish(&[]);
    let tables = bench.publisher.dataplane.tables();
    let key = (margay_fastpath::tunnel::TunnelKind::Ipip, ip("192.0.2.2"));
    let id = tables.tunnel_end.sources[&key];
    assert_eq!(tables.tunnel(id).unwrap().remote, ip("192.0.2.2"));
    assert_eq!((tables.tunnel_end.v4, tables.tunnel_end.ipip), ([192, 0, 2, 1].into(), true));
    bench.tunnels = TunnelPlan::default();
    bench.publish(&[]);
    let tables = bench.publisher.dataplane.tables();
    assert!(tables.tunnel_end.sources.is_empty() && tables.tunnel(id).is_none());
}
