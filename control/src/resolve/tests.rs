use super::*;
use crate::config::StaticRouteKind;
use crate::kernel::message::{Replaces, Update};
use crate::kernel::{Link, Neighbor, NextHop, ROUTE_PROTOCOL, RouteKind, Table as KernelTable};
use crate::resource::block::{BlockAffinity, IpamBlock};
use crate::resource::ip_pool::{EncapMode, IpPool};
use crate::resource::node::Node;
use crate::resource::workload_endpoint::{Attachment, WorkloadEndpoint};
use crate::resource::{Key, Resource};
use crate::store::Event;
use margay_tunnels::wire::ethernet::Mac;
use proptest::prelude::*;

const UP0: u32 = 2;
const UP1: u32 = 3;
const CALI1: u32 = 4;
const HOST: u32 = 5;
const OTHER: u32 = 6;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// One input, of either side.
#[derive(Debug, Clone)]
enum Input {
    Store(Event),
    Kernel(Update),
}

fn key(kind: &str, name: &str) -> Key {
    Key { kind: kind.into(), namespace: String::new(), name: name.into() }
}

fn node(name: &str, v4: &str) -> Input {
    let node = Node { ipv4: v4.parse().ok(), ..Node::default() };
    Input::Store(Event::Put(key("Node", name), Resource::Node(node)))
}

fn affinity(name: &str, node: &str, cidr: &str, confirmed: bool) -> Input {
    let affinity = BlockAffinity { cidr: net(cidr), node: node.into(), confirmed };
    Input::Store(Event::Put(key("BlockAffinity", name), Resource::BlockAffinity(affinity)))
}

fn block(name: &str, node: Option<&str>, cidr: &str) -> Input {
    let block = IpamBlock { cidr: net(cidr), node: node.map(str::to_owned) };
    Input::Store(Event::Put(key("IPAMBlock", name), Resource::IpamBlock(block)))
}

fn endpoint(node: &str, interface: &str, address: &str, tap: bool) -> Input {
    let attachment = match tap {
        true => Attachment::Tap { netns: "/run/netns/x".into(), device: "eth0".into() },
        false => Attachment::Veth,
    };
    let endpoint = WorkloadEndpoint {
        node: node.into(),
        pod: interface.into(),
        interface: interface.into(),
        addresses: vec![ip(address)],
        attachment,
        ..WorkloadEndpoint::default()
    };
    let key = key("WorkloadEndpoint", &format!("{node}-{interface}"));
    Input::Store(Event::Put(key, Resource::WorkloadEndpoint(Box::new(endpoint))))
}

fn link(index: u32, name: &str) -> Input {
    Input::Kernel(Update::Link(Link {
        index,
        name: name.into(),
        kind: "veth".into(),
        mac: Some(Mac([2, 0, 0, 0, 0, index as u8])),
        mtu: 1500,
        up: true,
        running: true,
    }))
}

fn address(device: u32, text: &str) -> Input {
    Input::Kernel(Update::Address(device, net(text)))
}

fn hop(device: u32, gateway: Option<&str>) -> NextHop {
    NextHop { device, gateway: gateway.map(ip), weight: 1 }
}

fn kernel_route(prefix: &str, kind: RouteKind, hops: Vec<NextHop>) -> crate::kernel::Route {
    crate::kernel::Route {
        table: KernelTable::Main,
        prefix: net(prefix),
        kind,
        protocol: 3,
        metric: 0,
        next_hops: hops,
    }
}

fn route(prefix: &str, kind: RouteKind, hops: Vec<NextHop>) -> Input {
    Input::Kernel(Update::Route(kernel_route(prefix, kind, hops), Replaces::Nothing))
}

fn neighbor(device: u32, address: &str) -> Input {
    let state = Neighbor::Resolved(Mac([2, 0, 0, 0, 1, 1]));
    Input::Kernel(Update::Neighbor(device, ip(address), state))
}

/// Two uplinks, one pod's device, the TAP to the host, and a device that is not margay's.
fn host() -> Vec<Input> {
    vec![
        link(UP0, "up0"),
        link(UP1, "up1"),
        link(CALI1, "cali1"),
        link(HOST, "margay0"),
        link(OTHER, "eth9"),
        address(UP0, "192.0.2.1/24"),
        address(UP1, "198.51.100.1/24"),
        route("192.0.2.0/24", RouteKind::Unicast, vec![hop(UP0, None)]),
        route("198.51.100.0/24", RouteKind::Unicast, vec![hop(UP1, None)]),
        route("203.0.113.0/24", RouteKind::Unicast, vec![hop(OTHER, None)]),
    ]
}

fn run(inputs: &[Input], statics: &[StaticRoute]) -> Wanted {
    let (mut model, mut mirror) = (Model::default(), Mirror::default());
    for input in inputs.iter().cloned() {
        match input {
            Input::Store(event) => model.apply(event),
            Input::Kernel(update) => drop(mirror.apply(update)),
        }
    }
    resolved(&model, &mirror, statics)
}

fn resolved(model: &Model, mirror: &Mirror, static_routes: &[StaticRoute]) -> Wanted {
    let attached = ["up0", "up1", "cali1", "calit", "margay0"].map(Arc::from).into();
    let host_device = "margay0";
    let attached = &attached;
    let tunnels = &TunnelPlan::of(model, "me", &Default::default(), 1500);
    let node = "me";
    resolve(Inputs {
        node,
        model,
        mirror,
        static_routes,
        host_device,
        attached,
        bgp: None,
        tunnels,
    })
}

fn target(wanted: &Wanted, prefix: &str) -> Target {
    wanted.routes.get(&net(prefix)).map(|route| route.target.clone()).expect("a route")
}

fn via(port: &str, address: &str) -> Target {
    Target::Via(vec![Hop::plain(port.into(), ip(address))])
}

#[test]
fn a_cluster_of_two_nodes() {
    let mut inputs = host();
    inputs.extend([
        node("me", "192.0.2.1/24"),
        node("you", "192.0.2.2/24"),
        affinity("a", "me", "10.65.0.0/26", true),
        affinity("b", "you", "10.65.0.64/26", true),
        affinity("c", "you", "10.65.0.128/26", false),
        affinity("d", "me", "10.65.1.7/32", true),
        endpoint("me", "cali1", "10.65.0.1", false),
        endpoint("me", "calit", "10.65.0.3", true),
        endpoint("me", "cali9", "10.65.0.9", false),
        endpoint("you", "cali2", "10.65.0.65", false),
        endpoint("you", "cali3", "10.65.0.4", false),
    ]);
    let wanted = run(&inputs, &[]);
    assert_eq!(target(&wanted, "10.65.0.1/32"), via("cali1", "10.65.0.1"));
    assert_eq!(target(&wanted, "10.65.0.3/32"), via("calit", "10.65.0.3"));
    assert_eq!(target(&wanted, "10.65.0.9/32"), Target::Unreachable, "its device is not there");
    assert_eq!(target(&wanted, "10.65.0.0/26"), Target::Blackhole);
    assert_eq!(target(&wanted, "10.65.0.64/26"), via("up0", "192.0.2.2"));
    assert_eq!(target(&wanted, "10.65.0.4/32"), via("up0", "192.0.2.2"), "borrowed");
    assert!(!wanted.routes.contains_key(&net("10.65.0.65/32")), "inside its own block");
    assert!(!wanted.routes.contains_key(&net("10.65.0.128/26")), "pending");
    assert!(!wanted.routes.contains_key(&net("10.65.1.7/32")), "a hole for one address");

    let kernel = &wanted.kernel_routes;
    assert_eq!(kernel[&net("10.65.0.1/32")].next_hops, [hop(CALI1, None)]);
    assert_eq!(kernel[&net("10.65.0.3/32")].next_hops, [hop(HOST, None)]);
    assert_eq!(kernel[&net("10.65.0.64/26")].next_hops, [hop(UP0, Some("192.0.2.2"))]);
    assert_eq!(kernel[&net("10.65.0.0/26")].kind, RouteKind::Blackhole);
    assert_eq!(kernel[&net("169.254.1.1/32")].next_hops, [hop(HOST, None)]);
}

fn pool(name: &str, cidr: &str, ipip_mode: EncapMode, vxlan_mode: EncapMode) -> Input {
    let pool = IpPool::encapsulated(cidr, ipip_mode, vxlan_mode);
    Input::Store(Event::Put(key("IPPool", name), Resource::IpPool(pool)))
}

/// The next hops of a route: port, address, and the far end of the tunnel.
fn hops(wanted: &Wanted, prefix: &str) -> Vec<(String, String, Option<String>)> {
    let Target::Via(hops) = target(wanted, prefix) else { panic!("{:?}", target(wanted, prefix)) };
    let text = |hop: &Hop| {
        let remote = hop.tunnel.as_ref().map(|tunnel| tunnel.remote.to_string());
        (hop.port.to_string(), hop.address.to_string(), remote)
    };
    hops.iter().map(text).collect()
}

#[test]
fn blocks_in_pools_with_tunnels_are_reached_through_them() {
    use EncapMode::{CrossSubnet, Never};
    let two = vec![hop(UP0, Some("192.0.2.254")), hop(UP1, Some("198.51.100.254"))];
    let mut inputs = host();
    inputs.extend([
        route("172.16.0.0/12", RouteKind::Unicast, two),
        node("me", "192.0.2.1/24"),
        node("near", "192.0.2.2/24"),
        node("far", "172.16.5.5/24"),
        node("lost", "100.64.0.1/24"),
        node("behind", "203.0.113.9/24"),
        pool("p", "10.65.0.0/16", CrossSubnet, Never),
        pool("q", "10.66.0.0/16", Never, EncapMode::Always),
        affinity("a", "near", "10.65.0.0/26", true),
        affinity("b", "far", "10.65.0.64/26", true),
        affinity("c", "lost", "10.65.0.128/26", true),
        affinity("d", "behind", "10.65.0.192/26", true),
        affinity("e", "near", "10.66.0.0/26", true),
        endpoint("far", "cali3", "10.65.0.4", false),
    ]);
    let wanted = run(&inputs, &[]);
    let hop_of = |port: &str, address: &str, remote: Option<&str>| {
        (port.to_owned(), address.to_owned(), remote.map(str::to_owned))
    };
    assert_eq!(hops(&wanted, "10.65.0.0/26"), [hop_of("up0", "192.0.2.2", None)]);
    let both = [
        hop_of("up0", "192.0.2.254", Some("172.16.5.5")),
        hop_of("up1", "198.51.100.254", Some("172.16.5.5")),
    ];
    assert_eq!(hops(&wanted, "10.65.0.64/26"), both, "over both ways of the underlay");
    assert_eq!(hops(&wanted, "10.65.0.4/32"), both, "borrowed");
    assert_eq!(hops(&wanted, "10.66.0.0/26"), [hop_of("up0", "192.0.2.2", Some("192.0.2.2"))]);
    assert_eq!(target(&wanted, "10.65.0.128/26"), Target::Unreachable);
    assert_eq!(target(&wanted, "10.65.0.192/26"), Target::Unreachable, "behind another's device");
    let kernel = |prefix: &str| wanted.kernel_routes.get(&net(prefix)).map(|it| &it.next_hops[..]);
    assert_eq!(kernel("10.65.0.0/26"), Some(&[hop(UP0, Some("192.0.2.2"))][..]));
    assert_eq!(kernel("10.65.0.64/26"), Some(&[hop(HOST, None)][..]), "the host's own, to margay");
    assert_eq!(kernel("10.65.0.128/26"), None);
}

#[test]
fn the_blocks_own_word_beats_claims() {
    let mut inputs = host();
    inputs.extend([
        node("you", "192.0.2.2/24"),
        node("they", "198.51.100.3/24"),
        affinity("1", "you", "10.0.0.0/26", true),
        affinity("2", "they", "10.0.0.0/26", true),
        affinity("3", "you", "10.0.0.64/26", true),
        block("b1", Some("they"), "10.0.0.0/26"),
        block("b2", None, "10.0.0.64/26"),
    ]);
    let wanted = run(&inputs, &[]);
    assert_eq!(target(&wanted, "10.0.0.0/26"), via("up1", "198.51.100.3"));
    assert!(!wanted.routes.contains_key(&net("10.0.0.64/26")));
}

#[test]
fn a_node_behind_a_gateway_is_reached_recursively() {
    let mut inputs = host();
    inputs.extend([
        route("172.16.0.0/12", RouteKind::Unicast, vec![hop(UP1, Some("198.51.100.254"))]),
        node("far", "172.16.5.5/24"),
        node("lost", "100.64.0.1/24"),
        affinity("a", "far", "10.1.0.0/26", true),
        affinity("b", "lost", "10.2.0.0/26", true),
    ]);
    let wanted = run(&inputs, &[]);
    assert_eq!(target(&wanted, "10.1.0.0/26"), via("up1", "198.51.100.254"));
    let kernel = &wanted.kernel_routes[&net("10.1.0.0/26")];
    assert_eq!(kernel.next_hops, [hop(UP1, Some("198.51.100.254"))]);
    assert_eq!(target(&wanted, "10.2.0.0/26"), Target::Unreachable);
    assert!(!wanted.kernel_routes.contains_key(&net("10.2.0.0/26")));
}

#[test]
fn kernel_routes_are_seen_from_the_packet_path() {
    let mut inputs = host();
    let two = vec![hop(UP0, Some("192.0.2.9")), hop(UP1, Some("198.51.100.9"))];
    inputs.extend([
        route("0.0.0.0/0", RouteKind::Unicast, two),
        route("10.1.0.0/16", RouteKind::Blackhole, vec![]),
        route("10.2.0.0/16", RouteKind::Unreachable, vec![]),
        route("10.3.0.0/16", RouteKind::Prohibit, vec![]),
        route("10.4.0.0/16", RouteKind::Unicast, vec![hop(OTHER, Some("203.0.113.9"))]),
        route("10.5.0.0/16", RouteKind::Unicast, vec![hop(HOST, None)]),
        route("127.0.0.0/8", RouteKind::Local, vec![]),
    ]);
    let mut own = kernel_route("10.6.0.0/16", RouteKind::Unicast, vec![hop(UP0, None)]);
    own.protocol = ROUTE_PROTOCOL;
    inputs.push(Input::Kernel(Update::Route(own, Replaces::Nothing)));
    let wanted = run(&inputs, &[]);
    let ecmp = Target::Via(vec![
        Hop::plain("up0".into(), ip("192.0.2.9")),
        Hop::plain("up1".into(), ip("198.51.100.9")),
    ]);
    assert_eq!(target(&wanted, "0.0.0.0/0"), ecmp);
    assert_eq!(target(&wanted, "192.0.2.0/24"), Target::OnLink("up0".into()));
    assert_eq!(target(&wanted, "192.0.2.1/32"), Target::Local);
    assert_eq!(target(&wanted, "10.1.0.0/16"), Target::Blackhole);
    assert_eq!(target(&wanted, "10.2.0.0/16"), Target::Unreachable);
    assert_eq!(target(&wanted, "10.3.0.0/16"), Target::Prohibit);
    assert_eq!(target(&wanted, "10.4.0.0/16"), Target::Local, "not margay's device");
    assert_eq!(target(&wanted, "203.0.113.0/24"), Target::Local);
    assert_eq!(target(&wanted, "10.5.0.0/16"), Target::Unreachable, "it would turn in circles");
    assert!(!wanted.routes.contains_key(&net("10.6.0.0/16")), "margay's own are no input");
    assert!(!wanted.routes.contains_key(&net("127.0.0.0/8")));
    assert_eq!(wanted.routes[&net("0.0.0.0/0")].origin, Origin::Kernel);
}

#[test]
fn neighbours_on_links_get_routes() {
    let mut inputs = host();
    inputs.extend([
        neighbor(UP0, "192.0.2.77"),
        neighbor(UP0, "198.51.100.77"),
        neighbor(UP0, "fe80::1"),
        neighbor(UP1, "198.51.100.78"),
        neighbor(CALI1, "10.65.0.1"),
        endpoint("me", "cali1", "10.65.0.1", false),
    ]);
    let wanted = run(&inputs, &[]);
    assert_eq!(target(&wanted, "192.0.2.77/32"), via("up0", "192.0.2.77"));
    assert_eq!(target(&wanted, "198.51.100.78/32"), via("up1", "198.51.100.78"));
    assert!(!wanted.routes.contains_key(&net("198.51.100.77/32")), "on another link");
    assert_eq!(wanted.routes[&net("10.65.0.1/32")].origin, Origin::Store);
    assert_eq!(wanted.routes.keys().filter(|prefix| prefix.addr().is_ipv6()).count(), 0);
}

#[test]
fn static_routes_win_over_kernel_and_store() {
    let statics = |text: &str| -> Vec<StaticRoute> { serde_saphyr::from_str(text).unwrap() };
    let mut inputs = host();
    inputs.extend([
        route("0.0.0.0/0", RouteKind::Unicast, vec![hop(UP0, Some("192.0.2.9"))]),
        node("you", "192.0.2.2/24"),
        affinity("b", "you", "10.65.0.64/26", true),
    ]);
    let wanted = run(
        &inputs,
        &statics(
            "- {prefix: 0.0.0.0/0, via: 198.51.100.9}\n- {prefix: 0.0.0.0/0, via: 192.0.2.8}\n\
             - {prefix: 10.65.0.64/26, type: prohibit}\n- {prefix: 10.7.0.0/16, device: up1}\n\
             - {prefix: 10.8.0.0/16, device: eth9, via: 203.0.113.3}\n\
             - {prefix: 10.9.0.0/16, via: 100.64.0.1}\n- {prefix: 10.10.0.0/16, device: none0}\n",
        ),
    );
    let both = Target::Via(vec![
        Hop::plain("up0".into(), ip("192.0.2.8")),
        Hop::plain("up1".into(), ip("198.51.100.9")),
    ]);
    assert_eq!(target(&wanted, "0.0.0.0/0"), both);
    assert_eq!(target(&wanted, "10.65.0.64/26"), Target::Prohibit);
    assert_eq!(wanted.kernel_routes[&net("10.65.0.64/26")].kind, RouteKind::Prohibit);
    assert_eq!(target(&wanted, "10.7.0.0/16"), Target::OnLink("up1".into()));
    assert_eq!(target(&wanted, "10.8.0.0/16"), Target::Local, "through the host's stack");
    let through_host = &wanted.kernel_routes[&net("10.8.0.0/16")];
    assert_eq!(through_host.next_hops, [hop(OTHER, Some("203.0.113.3"))]);
    assert_eq!(target(&wanted, "10.9.0.0/16"), via("up0", "192.0.2.9"), "by the kernel's default");
    assert_eq!(target(&wanted, "10.10.0.0/16"), Target::Unreachable);
    let statics = [StaticRoute {
        prefix: net("192.0.2.1/32"),
        via: None,
        device: None,
        kind: Some(StaticRouteKind::Blackhole),
    }];
    assert_eq!(target(&run(&inputs, &statics), "192.0.2.1/32"), Target::Local, "own address");
}

/// Changes of one resource or kernel object, so that each is put and removed several times.
fn change() -> impl Strategy<Value = Input> {
    let name = prop::sample::select(vec!["me", "you", "they"]);
    let last = 0u8..4;
    let put = prop_oneof![
        (name.clone(), last.clone()).prop_map(|(name, at)| node(name, &format!("192.0.2.{at}/24"))),
        (last.clone(), name.clone(), last.clone(), any::<bool>()).prop_map(
            |(id, name, at, sure)| {
                affinity(&id.to_string(), name, &format!("10.0.0.{}/26", u16::from(at) * 64), sure)
            }
        ),
        (last.clone(), prop::option::of(name.clone()), last.clone()).prop_map(|(id, name, at)| {
            block(&id.to_string(), name, &format!("10.0.0.{}/26", u16::from(at) * 64))
        }),
        (0u8..3, 0u8..2).prop_map(|(mode, kind)| {
            let mode = [EncapMode::Never, EncapMode::Always, EncapMode::CrossSubnet][mode as usize];
            let (ipip, vxlan) =
                if kind == 0 { (mode, EncapMode::Never) } else { (EncapMode::Never, mode) };
            pool("p", "10.0.0.0/16", ipip, vxlan)
        }),
        (name, last.clone(), any::<u8>(), any::<bool>()).prop_map(|(name, id, at, tap)| {
            endpoint(name, &format!("cali{id}"), &format!("10.0.0.{at}"), tap)
        }),
    ];
    let kernel = prop_oneof![
        last.clone().prop_map(|at| neighbor(UP0, &format!("192.0.2.{at}"))),
        last.clone().prop_map(|at| {
            Input::Kernel(Update::NeighborGone(UP0, ip(&format!("192.0.2.{at}"))))
        }),
        (last, prop::sample::select(vec![UP0, UP1, OTHER])).prop_map(|(at, device)| {
            let kind = RouteKind::Unicast;
            let to = kernel_route(&format!("172.{at}.0.0/16"), kind, vec![hop(device, None)]);
            Input::Kernel(Update::Route(to, Replaces::Same))
        }),
    ];
    let removal = |input: Input| match input {
        Input::Store(Event::Put(key, _)) => Input::Store(Event::Remove(key)),
        other => other,
    };
    prop_oneof![3 => put.clone(), 1 => put.prop_map(removal), 2 => kernel]
}

fn object(input: &Input) -> String {
    match input {
        Input::Store(Event::Put(key, _) | Event::Remove(key)) => key.to_string(),
        Input::Kernel(Update::Neighbor(device, ip, _) | Update::NeighborGone(device, ip)) => {
            format!("neighbour {device} {ip}")
        }
        Input::Kernel(Update::Route(route, _)) => format!("route {}", route.prefix),
        Input::Kernel(other) => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The last word on each object decides: squashed to it, reversed in the order of objects,
    /// duplicated, or split by looking in between, the same follows.
    #[test]
    fn output_depends_on_the_state_and_not_on_history(
        changes in prop::collection::vec(change(), 0..40),
    ) {
        let all: Vec<Input> = host().into_iter().chain(changes.clone()).collect();
        let expected = run(&all, &[]);

        let mut squashed: Vec<Input> = Vec::new();
        for (at, input) in changes.iter().enumerate() {
            let last = changes[at + 1..].iter().all(|later| object(later) != object(input));
            squashed.extend(last.then(|| input.clone()));
        }
        let begin = |rest: Vec<Input>| -> Vec<Input> { host().into_iter().chain(rest).collect() };
        prop_assert_eq!(&run(&begin(squashed.clone()), &[]), &expected);

        let reversed: Vec<Input> = squashed.iter().rev().cloned().collect();
        prop_assert_eq!(&run(&begin(reversed), &[]), &expected);

        let twice = |input: &Input| [input.clone(), input.clone()];
        let doubled: Vec<Input> = all.iter().flat_map(twice).collect();
        prop_assert_eq!(&run(&doubled, &[]), &expected);

        let (mut model, mut mirror) = (Model::default(), Mirror::default());
        let mut split = Wanted::default();
        for input in all {
            match input {
                Input::Store(event) => model.apply(event),
                Input::Kernel(update) => drop(mirror.apply(update)),
            }
            split = resolved(&model, &mirror, &[]);
        }
        prop_assert_eq!(&split, &expected);
    }
}
