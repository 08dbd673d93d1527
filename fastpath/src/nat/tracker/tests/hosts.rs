//! Host endpoints and what is forwarded: the endpoint `edge` on port 0 and what its stages say, by
//! TCP port; a pod that lets everything pass on port 1.

use super::*;
use crate::drop_reason::DropReason as Reason;
use crate::policy::{Endpoint, HostGuard, Layout, Policy, Seat, ToHost, Way};
use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Kind, Place, PolicyKey, Rule, Scope, Update};
use margay_acl::selector::Selector;
use std::sync::Arc;

const UPLINK: PortId = PortId(0);
const POD: PortId = PortId(1);
const FAR: &str = "198.51.100.1:5000";
const SYN: u8 = 2;
const ACK: u8 = 16;

fn on(action: Action, port: u16) -> Rule {
    let mut rule = Rule::new(action);
    rule.protocol = Some(6);
    rule.destination.ports = vec![model::Port::Range(port, port)];
    rule
}

/// Scope, ingress, egress.
type Said = (Scope, Vec<Rule>, Vec<Rule>);

/// Untracked 90 is let in and 83 is not; before DNAT 82 and 81; on the way 80; out goes all but 84.
fn said() -> Vec<Said> {
    let pair = |allow, deny| vec![on(Action::Allow, allow), on(Action::Deny, deny)];
    let out = vec![on(Action::Deny, 84), Rule::new(Action::Allow)];
    vec![
        (Scope::Untracked, pair(90, 83), Vec::new()),
        (Scope::PreDnat, pair(82, 81), Vec::new()),
        (Scope::Forward, vec![on(Action::Allow, 80)], out),
    ]
}

fn policy(generation: u32, said: &[Said], is_of_tunnels: bool) -> Arc<Policy> {
    let mut compiler = Compiler::new();
    let profile = model::Profile {
        ingress: vec![Rule::new(Action::Allow)],
        egress: vec![Rule::new(Action::Allow)],
        ..model::Profile::default()
    };
    compiler.apply(Update::Profile("open".to_owned(), Some(Arc::new(profile)))).unwrap();
    for (name, place) in
        [("pod", Place::Workload), ("edge", Place::Host { every_interface: false })]
    {
        let endpoint = model::Endpoint {
            labels: [("name".to_owned(), name.to_owned())].into(),
            addresses: Vec::new(),
            ports: Vec::new(),
            profiles: vec!["open".to_owned()],
            place,
        };
        compiler.apply(Update::Endpoint(name.to_owned(), Some(Arc::new(endpoint)))).unwrap();
    }
    let some = |rules: &Vec<Rule>| (!rules.is_empty()).then(|| rules.clone());
    for (at, (scope, ingress, egress)) in said.iter().enumerate() {
        let (kind, namespace) = (Kind::GlobalNetworkPolicy, String::new());
        let policy = model::Policy {
            tier: "default".to_owned(),
            order: Some(at as f64),
            selector: Selector::parse("name == 'edge'").unwrap(),
            scope: *scope,
            staged: None,
            ingress: some(ingress),
            egress: some(egress),
        };
        let key = PolicyKey { kind, namespace, name: format!("p{at}") };
        compiler.apply(Update::Policy(key, Some(Arc::new(policy)))).unwrap();
    }
    let classifier = compiler.commit().unwrap().clone();
    let endpoint = |name: &str| Endpoint {
        name: name.into(),
        handle: compiler.handle(name),
        staged: None,
        open: true,
        connections: [None, None],
    };
    let has = |wanted| said.iter().find(|(scope, ..)| *scope == wanted);
    let forward = has(Scope::Forward);
    let guard = HostGuard {
        endpoint: 1,
        untracked: has(Scope::Untracked).is_some(),
        pre_dnat: has(Scope::PreDnat).is_some(),
        forward: [
            forward.is_some_and(|(_, ingress, _)| !ingress.is_empty()),
            forward.is_some_and(|(_, _, egress)| !egress.is_empty()),
        ],
    };
    Arc::new(Policy::new(Layout {
        generation,
        classifier,
        staged: None,
        endpoints: vec![endpoint("pod"), endpoint("edge")],
        guards: &[(UPLINK, guard)],
        tunnels: Some(guard).filter(|_| is_of_tunnels),
        seats: &[(POD, Seat::Endpoint(0))],
        behind: &[("10.0.0.2/32".parse().unwrap(), 0)],
        local: &["172.16.0.1".parse().unwrap()],
        to_host: ToHost::Accept,
        rejudges: true,
    }))
}

struct Node {
    bench: Bench,
}

impl Node {
    fn new(said: &[Said], is_of_tunnels: bool) -> Node {
        let limits = Limits { sessions: 1000, per_source: 0 };
        Node::with(Rules::tracking(limits, Timeouts::default(), 1), said, is_of_tunnels)
    }

    fn with(rules: Rules, said: &[Said], is_of_tunnels: bool) -> Node {
        let bench = Bench::new(rules);
        let mut node = Node { bench };
        node.follow(&policy(1, said, is_of_tunnels));
        node
    }

    fn follow(&mut self, policy: &Arc<Policy>) {
        self.bench.workers[0].follow_policy(Some(policy));
    }

    /// One packet, which goes on by `out` if it may.
    fn send(&mut self, ways: (PortId, Way), bytes: &[u8], is_inner: bool) -> Verdict {
        self.send_and_tell(ways, bytes, is_inner).0
    }

    /// The same, and whether host endpoints were asked and have accepted it.
    fn send_and_tell(
        &mut self,
        (port, out): (PortId, Way),
        bytes: &[u8],
        is_inner: bool,
    ) -> (Verdict, bool, bool) {
        let mut packet = self.bench.packet(bytes);
        packet.in_port = port;
        if is_inner {
            packet.set_from_tunnel();
        }
        let mut verdict = self.bench.track(&mut packet);
        let (asked, judged) = (packet.is_asked(), packet.is_judged());
        packet.free(&mut self.bench.pool);
        let tracker = &mut self.bench.workers[0];
        for begun in std::mem::take(&mut tracker.begun) {
            if let Err(denied) = tracker.ask_way_out(&begun, out) {
                verdict = denied;
            }
        }
        (verdict, asked, judged)
    }

    fn inbound(&mut self, port: u16, flags: u8) -> Verdict {
        let out = Way { port: POD, tunnelled: false };
        self.send((UPLINK, out), &tcp(FAR, &format!("10.0.0.2:{port}"), flags), false)
    }

    fn outbound(&mut self, port: u16, tunnelled: bool) -> Verdict {
        let out = Way { port: UPLINK, tunnelled };
        self.send((POD, out), &tcp("10.0.0.2:4000", &format!("198.51.100.1:{port}"), SYN), false)
    }
}

const DENIED: Verdict = Verdict::Drop(Reason::PolicyHost);

#[test]
fn stages_are_asked_in_calicos_order() {
    let mut node = Node::new(&said(), false);
    assert_eq!(node.inbound(80, SYN), Verdict::Go, "allowed on the way");
    assert_eq!(node.inbound(79, SYN), DENIED, "what no forward rule allows");
    assert_eq!(node.inbound(81, SYN), DENIED, "before DNAT");
    assert_eq!(node.inbound(82, SYN), Verdict::Go, "accepted before DNAT: nobody else is asked");
    assert_eq!(node.inbound(83, SYN), DENIED, "untracked");
    assert_eq!(node.inbound(90, SYN), Verdict::Go, "accepted untracked: nobody else is asked");
    assert_eq!(node.bench.sessions(), 3, "what is denied takes no session");
}

#[test]
fn the_way_out_is_asked_about_and_what_is_denied_there_is_no_flow() {
    let mut node = Node::new(&said(), false);
    assert_eq!(node.outbound(85, false), Verdict::Go);
    assert_eq!(node.bench.sessions(), 1);
    assert_eq!(node.outbound(84, false), DENIED);
    assert_eq!(node.bench.sessions(), 1);
    let answer = tcp("198.51.100.1:85", "10.0.0.2:4000", SYN | ACK);
    let back = Way { port: POD, tunnelled: false };
    assert_eq!(node.send((UPLINK, back), &answer, false), Verdict::Go, "answers pass");
}

#[test]
fn what_is_inside_of_a_tunnel_is_no_traffic_of_the_device() {
    let closed = tcp(FAR, "10.0.0.2:79", SYN);
    let to_pod = Way { port: POD, tunnelled: false };
    let mut node = Node::new(&said(), false);
    assert_eq!(node.send((UPLINK, to_pod), &closed, true), Verdict::Go);
    assert_eq!(node.outbound(84, true), Verdict::Go);
    let mut guarded = Node::new(&said(), true);
    assert_eq!(guarded.send((UPLINK, to_pod), &closed, true), DENIED, "an endpoint of all devices");
    assert_eq!(guarded.outbound(84, true), DENIED);
}

#[test]
fn untracked_rules_see_packets_of_known_flows_too() {
    let mut node = Node::new(&[], false);
    assert_eq!(node.inbound(83, SYN), Verdict::Go);
    assert_eq!(node.bench.sessions(), 0, "nobody has anything to say");
    node.follow(&policy(2, &said()[2..], false));
    assert_eq!(node.inbound(80, SYN), Verdict::Go);
    let closing = vec![(Scope::Untracked, vec![on(Action::Deny, 80)], Vec::new())];
    node.follow(&policy(3, &closing, false));
    assert_eq!(node.inbound(80, ACK), DENIED);
}

#[test]
fn the_host_itself_is_not_asked_about_on_the_way() {
    let mut node = Node::new(&said(), false);
    let to_host = Way { port: PortId(7), tunnelled: false };
    for (port, expected) in [(79, Verdict::Go), (81, DENIED), (83, DENIED)] {
        let packet = tcp(FAR, &format!("172.16.0.1:{port}"), SYN);
        assert_eq!(node.send((UPLINK, to_host), &packet, false), expected, "{port}");
    }
}

#[test]
fn flows_are_judged_anew_where_policy_says_so() {
    let mut node = Node::new(&said(), false);
    assert_eq!(node.inbound(80, SYN), Verdict::Go);
    let other = vec![(Scope::Forward, vec![on(Action::Allow, 1)], Vec::new())];
    node.follow(&policy(2, &other, false));
    assert_eq!(node.inbound(80, ACK), DENIED);
    assert_eq!(node.bench.sessions(), 0);
}

#[test]
fn what_is_translated_for_the_host_says_what_was_asked_before() {
    use crate::service::{Endpoint, Service, Services};
    let address: IpAddr = "172.16.0.1".parse().unwrap();
    let own = |port| Endpoint { address: address.into(), port, protocol: 6 };
    let at =
        |port| Endpoint { address: "10.96.0.1".parse::<IpAddr>().unwrap().into(), ..own(port) };
    let service = |to| Service::new(vec![own(to)], false);
    let fronts = [80, 82, 90].map(|port| (vec![at(port)], service(port)));
    let rules = Rules {
        ranges: Ranges::new(&[
            ("10.96.0.0/30".parse().unwrap(), Class::FRONTEND),
            ("172.16.0.1/32".parse().unwrap(), Class::BACKEND),
        ]),
        services: Some(Services::new(fronts, [])),
        ..rules()
    };
    let mut node = Node::with(rules, &said(), false);
    let out = Way { port: PortId(7), tunnelled: false };
    let mut send = |to: &str| node.send_and_tell((UPLINK, out), &tcp(FAR, to, SYN), false);
    assert_eq!(send("10.96.0.1:80"), (Verdict::Rewritten, true, false), "nobody has accepted it");
    assert_eq!(send("10.96.0.1:82"), (Verdict::Rewritten, true, true), "accepted before DNAT");
    assert_eq!(send("10.96.0.1:90"), (Verdict::Rewritten, true, true), "accepted untracked");
    assert!(!send("172.16.0.1:82").1, "the kernel asks about what is not translated");
}
