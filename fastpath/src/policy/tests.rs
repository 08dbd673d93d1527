//! Two endpoints of a node and one elsewhere: who is asked, in which order, and what is not asked.

use super::*;
use margay_acl::Stage;
use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Place, Profile, Rule, Update};
use std::collections::BTreeMap;

const POD_A: PortId = PortId(1);
const POD_B: PortId = PortId(2);
const UPLINK: PortId = PortId(0);
const HOST: PortId = PortId(3);

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// The profiles `allow`; `web`, which lets TCP to port 80 in and nothing out; and `none`.
fn profiles(compiler: &mut Compiler) {
    let allow = vec![Rule::new(Action::Allow)];
    let mut web = Rule::new(Action::Allow);
    web.protocol = Some(6);
    web.destination.ports = vec![model::Port::Range(80, 80)];
    for (name, ingress, egress) in
        [("allow", allow.clone(), allow), ("web", vec![web], Vec::new()), ("none", vec![], vec![])]
    {
        let profile = Profile { labels: BTreeMap::new(), ingress, egress };
        compiler.apply(Update::Profile(name.to_owned(), Some(Arc::new(profile)))).unwrap();
    }
}

/// A node with two endpoints, and one that policy does not know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sketch {
    pub(crate) generation: u32,
    /// Profiles of the endpoints on ports 1 and 2.
    pub(crate) profiles: [&'static str; 2],
    /// Their addresses.
    pub(crate) own: [&'static str; 2],
    pub(crate) to_host: ToHost,
    pub(crate) rejudges: bool,
    /// Connections that the endpoint on port 2 may receive.
    pub(crate) most: Option<u32>,
}

impl Sketch {
    pub(crate) fn of(first: &'static str, second: &'static str) -> Sketch {
        Sketch {
            generation: 1,
            profiles: [first, second],
            own: ["10.0.0.1", "10.0.0.2"],
            to_host: ToHost::Accept,
            rejudges: false,
            most: None,
        }
    }

    pub(crate) fn build(self) -> Policy {
        let mut compiler = Compiler::new();
        profiles(&mut compiler);
        for (name, at) in [("a", 0), ("b", 1)] {
            let endpoint = model::Endpoint {
                labels: BTreeMap::new(),
                addresses: vec![self.own[at].parse().unwrap()],
                ports: Vec::new(),
                profiles: vec![self.profiles[at].to_owned()],
                place: Place::Workload,
            };
            compiler.apply(Update::Endpoint(name.to_owned(), Some(Arc::new(endpoint)))).unwrap();
        }
        let classifier = compiler.commit().unwrap();
        let endpoint = |name: &str| {
            let handle = compiler.handle(name);
            let is_open = |direction| {
                handle.is_some_and(|handle| classifier.is_open(handle, Stage::Normal, direction))
            };
            let open = Direction::ALL.into_iter().all(is_open);
            Endpoint { name: name.into(), handle, staged: None, open, connections: [None, None] }
        };
        let mut endpoints = vec![endpoint("a"), endpoint("b"), endpoint("c")];
        endpoints[1].connections[Direction::Ingress as usize] =
            self.most.map(|most| ConnectionLimit { most, connections: Arc::default() });
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let own = self.own.map(|own| IpNet::from(own.parse::<IpAddr>().unwrap()));
        Policy::new(Layout {
            generation: self.generation,
            endpoints,
            classifier: classifier.clone(),
            staged: None,
            guards: &[],
            tunnels: None,
            seats: &[
                (UPLINK, Seat::Network),
                (POD_A, Seat::Endpoint(0)),
                (POD_B, Seat::Endpoint(1)),
                (HOST, Seat::Host),
                (PortId(9), Seat::Endpoint(2)),
            ],
            behind: &[
                (own[0], 0),
                (own[1], 1),
                (net("203.0.113.0/24"), 1),
                (net("203.0.113.128/25"), 0),
            ],
            local: &["172.16.0.1".parse().unwrap()],
            to_host: self.to_host,
            rejudges: self.rejudges,
        })
    }
}

fn policy(first: &'static str, second: &'static str, to_host: ToHost) -> Policy {
    Sketch { to_host, ..Sketch::of(first, second) }.build()
}

fn question(from: Seat, src: &str, dst: &str, dst_port: u16) -> Question {
    let (src, dst) = (address(src), address(dst));
    let tuple = Tuple { src, dst, src_port: 4000, dst_port, protocol: 6 };
    Question { from, tuple, icmp_code: 0 }
}

fn dropped(
    policy: &Policy,
    in_port: PortId,
    src: &str,
    dst: &str,
    port: u16,
) -> Option<DropReason> {
    policy.judge(&question(policy.seat(in_port), src, dst, port)).real.dropped
}

#[test]
fn egress_of_the_source_and_ingress_of_the_destination_are_asked() {
    let policy = policy("allow", "web", ToHost::Accept);
    let asked = |in_port, src: &str, dst: &str, port| dropped(&policy, in_port, src, dst, port);
    assert_eq!(asked(POD_A, "10.0.0.1", "10.0.0.2", 80), None);
    assert_eq!(asked(POD_A, "10.0.0.1", "10.0.0.2", 81), Some(DropReason::PolicyIngress));
    assert_eq!(asked(POD_B, "10.0.0.2", "10.0.0.1", 80), Some(DropReason::PolicyEgress));
    assert_eq!(asked(POD_B, "10.0.0.2", "198.51.100.1", 80), Some(DropReason::PolicyEgress));
    assert_eq!(asked(UPLINK, "198.51.100.1", "10.0.0.2", 80), None);
    assert_eq!(asked(UPLINK, "198.51.100.1", "10.0.0.2", 22), Some(DropReason::PolicyIngress));
    let both = policy.judge(&question(policy.seat(POD_A), "10.0.0.1", "10.0.0.2", 80)).real.rulings;
    // The source is open: it need not be asked.
    assert_eq!(both.map(|ruling| ruling.is_some()), [true, false]);
    let first =
        policy.judge(&question(policy.seat(POD_B), "10.0.0.2", "10.0.0.1", 80)).real.rulings;
    assert_eq!(first[Direction::Ingress as usize], None);
    assert_eq!(first[Direction::Egress as usize].map(|ruling| ruling.endpoint), Some(1));
}

#[test]
fn the_longest_range_behind_an_endpoint_is_its() {
    let policy = policy("allow", "web", ToHost::Accept);
    let asked = |dst: &str| dropped(&policy, UPLINK, "198.51.100.1", dst, 22);
    assert_eq!(asked("203.0.113.1"), Some(DropReason::PolicyIngress));
    assert_eq!(asked("203.0.113.129"), None);
    assert!(policy.concerns(UPLINK, address("203.0.113.1")));
    assert!(!policy.concerns(UPLINK, address("203.0.113.129")));
}

#[test]
fn what_the_host_sends_to_its_pods_is_let_in_and_what_it_forwards_is_not() {
    let policy = policy("allow", "web", ToHost::Accept);
    assert_eq!(dropped(&policy, HOST, "172.16.0.1", "10.0.0.2", 22), None);
    let forwarded = dropped(&policy, HOST, "198.51.100.1", "10.0.0.2", 22);
    assert_eq!(forwarded, Some(DropReason::PolicyIngress));
}

#[test]
fn pods_reach_the_host_as_far_as_it_lets_them() {
    let asked = |to_host| {
        let policy = policy("allow", "web", to_host);
        [POD_A, POD_B].map(|port| dropped(&policy, port, "10.0.0.1", "172.16.0.1", 22))
    };
    assert_eq!(asked(ToHost::Accept), [None, Some(DropReason::PolicyEgress)]);
    let refused = [Some(DropReason::EndpointToHost), Some(DropReason::PolicyEgress)];
    assert_eq!(asked(ToHost::Drop), refused);
}

#[test]
fn a_workload_that_policy_does_not_know_sends_and_gets_nothing() {
    let policy = policy("allow", "web", ToHost::Accept);
    let sent = dropped(&policy, PortId(9), "10.0.0.9", "198.51.100.1", 80);
    assert_eq!(sent, Some(DropReason::UnknownEndpoint));
    assert!(policy.concerns(PortId(9), address("198.51.100.1")));
}

#[test]
fn only_endpoints_that_are_not_open_concern_policy() {
    let policy = policy("allow", "web", ToHost::Accept);
    assert!(policy.concerns(POD_B, address("198.51.100.1")));
    assert!(policy.concerns(UPLINK, address("10.0.0.2")));
    assert!(!policy.concerns(POD_A, address("198.51.100.1")));
    assert!(!policy.concerns(UPLINK, address("10.0.0.1")));
    assert!(!policy.concerns(PortId::NONE, address("10.0.0.1")));
}

#[test]
fn who_sends_is_told_by_the_port_or_else_by_the_address() {
    let policy = policy("web", "allow", ToHost::Accept);
    let asked = |from| policy.judge(&question(from, "10.0.0.1", "10.0.0.2", 80)).real.dropped;
    assert_eq!(asked(policy.seat(POD_A)), Some(DropReason::PolicyEgress));
    assert_eq!(asked(Seat::Network), None);
    assert_eq!(policy.seat_of(address("10.0.0.1")), Seat::Endpoint(0));
    assert_eq!(policy.seat_of(address("172.16.0.1")), Seat::Host);
    assert_eq!(policy.seat_of(address("198.51.100.1")), Seat::Network);
}

#[test]
fn equal_content_is_known_as_such() {
    let first = policy("allow", "web", ToHost::Accept);
    let other = policy("allow", "web", ToHost::Drop);
    assert!(first.says_the_same(&first) && !first.says_the_same(&other));
}
