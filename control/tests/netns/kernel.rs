//! The mirror, margay's routes, and neighbours, against a real kernel.

use crate::{in_namespace, sh};
use ipnet::IpNet;
use margay_control::kernel::mirror::Mirror;
use margay_control::kernel::routes::{self, Wanted};
use margay_control::kernel::watch::{self, Told, Watch};
use margay_control::kernel::{self, Neighbor, NextHop, RouteKind, Table};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The mirror as the control loop would keep it.
struct Follower {
    watch: Watch,
    mirror: Mirror,
    dumps: usize,
}

impl Follower {
    fn new(receive_buffer: usize) -> Follower {
        let watch = watch::start(receive_buffer).unwrap();
        Follower { watch, mirror: Mirror::default(), dumps: 0 }
    }

    async fn follow(&mut self) {
        let told = tokio::time::timeout(LIMIT, self.watch.told.recv()).await;
        match told.expect("the kernel tells something").expect("the watch lives") {
            Told::Everything(mirror) => {
                self.dumps += 1;
                self.mirror.replace(*mirror);
            }
            Told::Updates(updates) => {
                for update in updates {
                    if self.mirror.apply(update).resync {
                        self.watch.resync();
                    }
                }
            }
        }
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Mirror) -> bool) {
        let end = std::time::Instant::now() + LIMIT;
        while self.dumps == 0 || !reached(&self.mirror) {
            assert!(std::time::Instant::now() < end, "{what}: {:#?}", self.mirror);
            self.follow().await;
        }
    }
}

fn index(mirror: &Mirror, name: &str) -> u32 {
    mirror.link_by_name(name).expect("a device").index
}

fn has_route(mirror: &Mirror, prefix: &str) -> bool {
    mirror.routes().any(|route| route.table == Table::Main && route.prefix == net(prefix))
}

fn unicast(device: u32, gateway: Option<&str>) -> Wanted {
    let gateway = gateway.map(|text| text.parse().unwrap());
    Wanted { kind: RouteKind::Unicast, next_hops: vec![NextHop { device, gateway, weight: 1 }] }
}

const PAIR: &str = "ip link add up0 type veth peer name far0 && ip link set up0 up && \
    ip link set far0 up && ip addr add 192.0.2.1/24 dev up0 && ip addr add 2001:db8::1/64 dev up0 \
    nodad";

#[test]
fn the_mirror_follows_the_kernel() {
    in_namespace(async || {
        let mut kernel = Follower::new(watch::RECEIVE_BUFFER);
        kernel.follow().await;
        sh(PAIR);
        sh("ip route add 10.1.0.0/16 nexthop via 192.0.2.2 nexthop via 192.0.2.3 weight 3; \
            ip route add blackhole 10.2.0.0/16; ip route add unreachable 10.3.0.0/16; \
            ip route add prohibit 10.4.0.0/16; \
            ip -6 route add 2001:db8:1::/48 nexthop via 2001:db8::2 nexthop via 2001:db8::3; \
            ip route add 10.5.0.0/16 via 192.0.2.2 table 77");
        let routes = ["10.1.0.0/16", "10.4.0.0/16", "2001:db8:1::/48", "192.0.2.0/24"];
        kernel.until("routes", |mirror| routes.iter().all(|to| has_route(mirror, to))).await;
        let up0 = kernel.mirror.link_by_name("up0").unwrap().clone();
        assert_eq!((up0.kind.as_str(), up0.mtu, up0.up), ("veth", 1500, true));
        assert!(kernel.mirror.addresses().any(|at| at == (up0.index, net("192.0.2.1/24"))));
        let find = |prefix: &str| {
            kernel.mirror.routes().find(|route| route.prefix == net(prefix)).unwrap().clone()
        };
        let ways = find("10.1.0.0/16").next_hops;
        let weights: Vec<u16> = ways.iter().map(|way| way.weight).collect();
        assert_eq!(weights, [1, 3]);
        assert!(ways.iter().all(|way| way.device == up0.index && way.gateway.is_some()));
        assert_eq!(find("10.2.0.0/16").kind, RouteKind::Blackhole);
        assert_eq!(find("10.3.0.0/16").kind, RouteKind::Unreachable);
        assert_eq!(find("10.4.0.0/16").kind, RouteKind::Prohibit);
        assert!(!has_route(&kernel.mirror, "10.5.0.0/16"), "another table");
        kernel
            .until("both ways over IPv6", |mirror| {
                let route = mirror.routes().find(|route| route.prefix == net("2001:db8:1::/48"));
                route.is_some_and(|route| route.next_hops.len() == 2)
            })
            .await;

        sh("ip link set up0 mtu 9000; ip route del 10.2.0.0/16");
        kernel
            .until("a changed MTU, a route that went", |mirror| {
                mirror.link_by_name("up0").is_some_and(|link| link.mtu == 9000)
                    && !has_route(mirror, "10.2.0.0/16")
            })
            .await;
        sh("ip link set up0 down");
        kernel
            .until("routes that left without an event", |mirror| {
                !has_route(mirror, "10.1.0.0/16") && !has_route(mirror, "192.0.2.0/24")
            })
            .await;
        sh("ip link del up0");
        kernel.until("no device", |mirror| mirror.link_by_name("up0").is_none()).await;
    });
}

#[test]
fn an_overrun_is_followed_by_a_dump() {
    in_namespace(async || {
        let mut kernel = Follower::new(4096);
        kernel.follow().await;
        sh(PAIR);
        sh("i=0; while [ $i -lt 2000 ]; do echo route add 10.$((i/256)).$((i%256)).0/24 dev up0; \
            i=$((i+1)); done | ip -batch -");
        kernel
            .until("all routes", |mirror| {
                let routes = mirror.routes().filter(|route| route.table == Table::Main);
                routes.filter(|route| route.prefix.prefix_len() == 24).count() == 2001
            })
            .await;
        assert!(kernel.dumps >= 2, "4 KiB cannot have held 2000 events");
    });
}

#[test]
fn routes_are_written_changed_and_removed_and_foreign_ones_left_alone() {
    in_namespace(async || {
        sh(PAIR);
        sh("ip route add 10.65.0.1/32 dev up0 proto static; \
            ip route add 10.65.9.0/24 via 192.0.2.9 metric 1024 proto static; \
            ip route add 10.65.8.0/24 via 192.0.2.9 metric 1024 proto 158");
        let handle = kernel::connect().unwrap();
        let mut mirror = watch::dump(&handle).await.unwrap();
        let up0 = index(&mirror, "up0");
        let ends = |kind| Wanted { kind, next_hops: vec![] };
        let both = vec![
            NextHop { device: up0, gateway: Some("192.0.2.2".parse().unwrap()), weight: 1 },
            NextHop { device: up0, gateway: Some("192.0.2.3".parse().unwrap()), weight: 2 },
        ];
        let mut wanted: BTreeMap<IpNet, Wanted> = BTreeMap::from([
            (net("10.65.0.1/32"), unicast(up0, None)),
            (net("10.65.0.0/26"), ends(RouteKind::Blackhole)),
            (net("10.65.1.0/26"), unicast(up0, Some("192.0.2.2"))),
            (net("10.65.2.0/26"), Wanted { kind: RouteKind::Unicast, next_hops: both }),
            (net("fd65::1/128"), unicast(up0, None)),
            (net("fd65::/122"), ends(RouteKind::Blackhole)),
            (net("fd65:0:0:1::/64"), unicast(up0, Some("2001:db8::2"))),
        ]);
        assert_eq!(routes::reconcile(&handle, &wanted, &mut mirror).await, []);
        let shown = sh("ip route show proto 158; ip -6 route show proto 158");
        for line in [
            "blackhole 10.65.0.0/26 metric 1024",
            "10.65.0.1 dev up0 scope link metric 1024",
            "10.65.1.0/26 via 192.0.2.2 dev up0 metric 1024",
            "nexthop via 192.0.2.3 dev up0 weight 2",
            "fd65::1 dev up0 metric 1024",
            "blackhole fd65::/122 dev lo metric 1024",
            "fd65:0:0:1::/64 via 2001:db8::2 dev up0 metric 1024",
        ] {
            assert!(shown.contains(line), "{line} not in:\n{shown}");
        }
        assert!(!shown.contains("10.65.8.0"), "a predecessor's route that is not wanted");

        // What the mirror was told equals what the kernel has, and is left as it is.
        let before = sh("ip -d route show table main; ip -6 -d route show proto 158");
        mirror = watch::dump(&handle).await.unwrap();
        assert_eq!(mirror.own_routes().count(), wanted.len());
        assert_eq!(routes::reconcile(&handle, &wanted, &mut mirror).await, []);
        assert_eq!(sh("ip -d route show table main; ip -6 -d route show proto 158"), before);

        wanted.insert(net("10.65.1.0/26"), unicast(up0, Some("192.0.2.77")));
        wanted.insert(net("fd65:0:0:1::/64"), unicast(up0, Some("2001:db8::77")));
        wanted.insert(net("10.65.9.0/24"), unicast(up0, None));
        wanted.remove(&net("fd65::1/128"));
        let refused = routes::reconcile(&handle, &wanted, &mut mirror).await;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].what.contains("10.65.9.0/24"), "a foreign route is not written over");
        let shown = sh("ip route; ip -6 route");
        assert!(shown.contains("10.65.1.0/26 via 192.0.2.77 dev up0 proto 158"), "{shown}");
        assert!(shown.contains("fd65:0:0:1::/64 via 2001:db8::77 dev up0 proto 158"), "{shown}");
        assert!(!shown.contains("fd65::1 "), "{shown}");

        assert_eq!(routes::remove_all(&handle).await, []);
        assert_eq!(sh("ip route show proto 158; ip -6 route show proto 158"), "");
        let foreign = sh("ip route show proto static");
        assert!(foreign.contains("10.65.0.1") && foreign.contains("10.65.9.0/24 via 192.0.2.9"));
    });
}

#[test]
fn the_routes_of_a_killed_predecessor_are_taken_over_without_a_gap() {
    in_namespace(async || {
        sh(PAIR);
        sh("ip route add 10.65.0.1/32 dev up0 scope link metric 1024 proto 158; \
            ip route add 10.65.0.2/32 dev up0 scope link metric 1024 proto 158");
        let mut kernel = Follower::new(watch::RECEIVE_BUFFER);
        kernel.until("a dump", |mirror| mirror.own_routes().count() == 2).await;
        let up0 = index(&kernel.mirror, "up0");
        let wanted = BTreeMap::from([
            (net("10.65.0.1/32"), unicast(up0, None)),
            (net("10.65.0.3/32"), unicast(up0, None)),
        ]);
        let handle = kernel::connect().unwrap();
        let mut mirror = kernel.mirror.clone();
        assert_eq!(routes::reconcile(&handle, &wanted, &mut mirror).await, []);
        let mut events = Vec::new();
        while !events.iter().any(|event: &String| event.contains("10.65.0.2")) {
            let told = tokio::time::timeout(LIMIT, kernel.watch.told.recv()).await.unwrap();
            if let Some(Told::Updates(updates)) = told {
                events.extend(updates.iter().map(|update| format!("{update:?}")));
            }
        }
        assert!(!events.iter().any(|event| event.contains("10.65.0.1/32")), "{events:#?}");
    });
}

#[test]
fn neighbours_are_asked_for_and_given_up() {
    in_namespace(async || {
        sh("ip link add up0 type veth peer name far0 && ip link set up0 up && ip link set far0 up");
        sh("ip addr add 192.0.2.1/24 dev up0; sysctl -qw net.ipv4.conf.far0.arp_ignore=0; \
            sysctl -qw net.ipv4.neigh.up0.retrans_time_ms=50");
        let mut kernel = Follower::new(watch::RECEIVE_BUFFER);
        kernel.until("a dump", |_| true).await;
        let up0 = index(&kernel.mirror, "up0");
        let nobody: IpAddr = "192.0.2.99".parse().unwrap();
        let handle = kernel::connect().unwrap();
        kernel::neighbors::request(&handle, up0, nobody).await.unwrap();
        kernel
            .until("a failure", |mirror| mirror.neighbor(up0, nobody) == Some(Neighbor::Failed))
            .await;
        // Nobody answered, and then somebody is there.
        sh("ip neigh replace 192.0.2.99 lladdr 02:00:00:00:00:99 dev up0 nud reachable");
        kernel
            .until("an answer", |mirror| {
                matches!(mirror.neighbor(up0, nobody), Some(Neighbor::Resolved(_)))
            })
            .await;
        sh("ip neigh del 192.0.2.99 dev up0");
        kernel
            .until("no neighbour", |mirror| {
                !matches!(mirror.neighbor(up0, nobody), Some(Neighbor::Resolved(_)))
            })
            .await;
    });
}
