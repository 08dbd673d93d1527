//! Policy at the first packet of a flow. Endpoint A, 10.0.0.1, is open; B, 10.0.0.2, lets TCP to
//! port 80 in and nothing out, unless a test says otherwise.

use super::icmp::unreachable;
use super::*;
use crate::drop_reason::DropReason as Reason;
use crate::policy::ToHost;
use crate::policy::tests::Sketch;
use crate::service::{Endpoint, Service, Services};

const UPLINK: PortId = PortId(0);
const A: PortId = PortId(1);
const B: PortId = PortId(2);
const HOST: PortId = PortId(3);
const SYN: u8 = 2;
const ACK: u8 = 16;
const FAR: &str = "198.51.100.1:5000";
const POD_A: &str = "10.0.0.1:4000";
const POD_B: &str = "10.0.0.2:80";

pub(super) struct Node {
    pub(super) bench: Bench,
}

impl Node {
    fn new(sketch: Sketch, rules: Rules) -> Node {
        let mut node = Node { bench: Bench::new(rules) };
        node.follow(Some(sketch));
        node
    }

    /// Flows are tracked for policy only.
    pub(super) fn plain(sketch: Sketch) -> Node {
        let limits = Limits { sessions: 1000, per_source: 0 };
        Node::new(sketch, Rules::tracking(limits, Timeouts::default(), 1))
    }

    pub(super) fn follow(&mut self, sketch: Option<Sketch>) {
        let policy = sketch.map(|sketch| std::sync::Arc::new(sketch.build()));
        self.bench.workers.iter_mut().for_each(|one| one.follow_policy(policy.as_ref()));
    }

    fn send(&mut self, port: PortId, bytes: &[u8]) -> Verdict {
        let mut packet = self.bench.packet(bytes);
        packet.in_port = port;
        let verdict = self.bench.track(&mut packet);
        packet.free(&mut self.bench.pool);
        verdict
    }

    pub(super) fn tcp(&mut self, port: PortId, (src, dst): (&str, &str), flags: u8) -> Verdict {
        self.send(port, &tcp(src, dst, flags))
    }
}

fn denied(reason: Reason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn the_first_packet_decides_and_the_answers_follow() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    assert_eq!(node.tcp(UPLINK, (FAR, POD_B), SYN), Verdict::Go);
    assert_eq!(node.tcp(B, (POD_B, FAR), SYN | ACK), Verdict::Go);
    assert_eq!(node.tcp(UPLINK, (FAR, POD_B), ACK), Verdict::Go);
    assert_eq!(node.bench.sessions(), 1);
    let ssh = node.tcp(UPLINK, (FAR, "10.0.0.2:22"), SYN);
    assert_eq!(ssh, denied(Reason::PolicyIngress));
    assert_eq!(node.tcp(B, ("10.0.0.2:9", FAR), SYN), denied(Reason::PolicyEgress));
    assert_eq!(node.send(B, &udp("10.0.0.2:9", FAR, b"x")), denied(Reason::PolicyEgress));
    assert_eq!(node.bench.sessions(), 1, "what is denied takes no session");
}

#[test]
fn open_endpoints_and_passers_by_are_not_tracked() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    assert_eq!(node.tcp(A, (POD_A, FAR), SYN), Verdict::Go);
    assert_eq!(node.tcp(UPLINK, (FAR, POD_A), SYN | ACK), Verdict::Go);
    assert_eq!(node.tcp(UPLINK, (FAR, "192.0.2.9:80"), ACK), Verdict::Go);
    assert_eq!(node.bench.sessions(), 0);
    assert_eq!(node.tcp(A, (POD_A, POD_B), SYN), Verdict::Go);
    assert_eq!(node.bench.sessions(), 1);
}

#[test]
fn what_can_begin_no_flow_falls_where_policy_is() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    assert_eq!(node.tcp(UPLINK, (FAR, POD_B), SYN | ACK), denied(Reason::FlowInvalid));
    assert_eq!(node.tcp(UPLINK, (FAR, POD_A), SYN | ACK), Verdict::Go);
    // An ICMP error belongs to the flow that it is about, or to none.
    let (far, pod) = ([198, 51, 100, 1], [10, 0, 0, 2]);
    let answer = tcp(POD_B, FAR, SYN | ACK);
    let error = unreachable(far, pod, 1, &answer[14..]);
    assert_eq!(node.send(UPLINK, &error), denied(Reason::FlowInvalid));
    assert_eq!(node.tcp(UPLINK, (FAR, POD_B), SYN), Verdict::Go);
    assert_eq!(node.send(UPLINK, &error), Verdict::Go);
}

#[test]
fn established_flows_live_on_through_changes_of_policy() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    node.tcp(UPLINK, (FAR, POD_B), SYN);
    let closed = Sketch { generation: 2, ..Sketch::of("allow", "none") };
    node.follow(Some(closed));
    assert_eq!(node.tcp(UPLINK, (FAR, POD_B), ACK), Verdict::Go);
    assert_eq!(node.tcp(B, (POD_B, FAR), ACK), Verdict::Go);
    let new = node.tcp(UPLINK, ("198.51.100.1:5001", POD_B), SYN);
    assert_eq!(new, denied(Reason::PolicyIngress));
}

#[test]
fn flows_are_judged_anew_at_once_where_that_is_asked_for() {
    for answers_first in [false, true] {
        let first = Sketch { rejudges: true, ..Sketch::of("allow", "web") };
        let mut node = Node::plain(first);
        node.tcp(UPLINK, (FAR, POD_B), SYN);
        node.tcp(UPLINK, ("198.51.100.1:5001", POD_B), SYN);
        node.follow(Some(Sketch { generation: 2, ..first }));
        assert_eq!(node.tcp(UPLINK, (FAR, POD_B), ACK), Verdict::Go, "still allowed");
        node.follow(Some(Sketch { generation: 3, profiles: ["allow", "none"], ..first }));
        let fate = match answers_first {
            true => node.tcp(B, (POD_B, FAR), ACK),
            false => node.tcp(UPLINK, (FAR, POD_B), ACK),
        };
        assert_eq!(fate, denied(Reason::PolicyIngress), "as the flow began, not as it goes");
        assert_eq!(node.bench.sessions(), 1, "the other one has not been seen yet");
    }
}

#[test]
fn policy_sees_the_endpoint_of_a_service() {
    let at = |text: &str, port| {
        let address: IpAddr = text.parse().unwrap();
        Endpoint { address: address.into(), port, protocol: 6 }
    };
    let class = |text: &str, bits: Class| (text.parse().unwrap(), bits);
    let service = |port| Service::new(vec![at("10.0.0.2", port)], false);
    let rules = Rules {
        ranges: Ranges::new(&[
            class("10.0.0.0/24", Class::POOL),
            class("10.96.0.0/30", Class::FRONTEND),
            class("10.0.0.2/32", Class::BACKEND),
        ]),
        services: Some(Services::new(
            [(vec![at("10.96.0.1", 8080)], service(80)), (vec![at("10.96.0.2", 80)], service(22))],
            [],
        )),
        ..rules()
    };
    let mut node = Node::new(Sketch::of("allow", "web"), rules);
    assert_eq!(node.tcp(A, (POD_A, "10.96.0.1:8080"), SYN), Verdict::Rewritten);
    assert_eq!(node.tcp(B, (POD_B, POD_A), SYN | ACK), Verdict::Rewritten);
    let ssh = node.tcp(A, (POD_A, "10.96.0.2:80"), SYN);
    assert_eq!(ssh, denied(Reason::PolicyIngress));
    assert_eq!(node.bench.sessions(), 1);
}

#[test]
fn translated_flows_are_judged_before_they_are() {
    let own = ["10.1.0.1", "10.1.0.2"];
    let mut node = Node::new(Sketch { own, ..Sketch::of("allow", "web") }, rules());
    assert_eq!(node.tcp(A, ("10.1.0.1:4000", FAR), SYN), Verdict::Rewritten);
    assert_eq!(node.tcp(B, ("10.1.0.2:4000", FAR), SYN), denied(Reason::PolicyEgress));
    assert_eq!(node.tcp(UPLINK, (FAR, "192.0.2.1:4000"), SYN | ACK), Verdict::Rewritten);
    assert_eq!(node.tcp(UPLINK, (FAR, "10.1.0.2:80"), SYN), Verdict::Go);
    assert_eq!(node.tcp(B, ("10.1.0.2:80", FAR), SYN | ACK), Verdict::Go);
    let ssh = node.tcp(UPLINK, (FAR, "10.1.0.2:22"), SYN);
    assert_eq!(ssh, denied(Reason::PolicyIngress));
}

#[test]
fn the_host_reaches_its_pods_and_what_margay_makes_passes() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    assert_eq!(node.tcp(HOST, ("172.16.0.1:9", "10.0.0.2:22"), SYN), Verdict::Go);
    assert_eq!(node.tcp(B, ("10.0.0.2:22", "172.16.0.1:9"), SYN | ACK), Verdict::Go);
    let to_host = node.tcp(B, ("10.0.0.2:9", "172.16.0.1:22"), SYN);
    assert_eq!(to_host, denied(Reason::PolicyEgress));
    let made = unreachable([172, 16, 0, 1], [10, 0, 0, 2], 1, &tcp("10.0.0.2:7", FAR, SYN)[14..]);
    assert_eq!(node.send(PortId::NONE, &made), Verdict::Go);
    let dropping = Sketch { to_host: ToHost::Drop, ..Sketch::of("web", "allow") };
    let mut node = Node::plain(Sketch { profiles: ["web", "web"], ..dropping });
    assert_eq!(node.tcp(B, (POD_B, "172.16.0.1:22"), SYN), denied(Reason::PolicyEgress));
}

#[test]
fn both_directions_of_a_flow_have_one_worker() {
    let limits = Limits { sessions: 1000, per_source: 0 };
    let rules = Rules::tracking(limits, Timeouts::default(), 4);
    let mut node = Node::new(Sketch::of("allow", "web"), rules);
    for port in 4000..4064 {
        let far = format!("198.51.100.1:{port}");
        assert_eq!(node.tcp(UPLINK, (&far, POD_B), SYN), Verdict::Go);
        assert_eq!(node.tcp(B, (POD_B, &far), SYN | ACK), Verdict::Go);
    }
    assert_eq!(node.bench.sessions(), 64);
    assert!(node.bench.workers.iter().all(|worker| worker.table.len() > 4));
}

#[test]
fn rules_are_counted_by_first_packets_and_keep_their_counts() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    let hits = |node: &mut Node| {
        let mut hits = node.bench.workers[0].hits(Some("b"));
        hits.sort_by_key(|hit| hit.origin.to_string());
        hits.iter().map(|hit| (hit.origin.to_string(), hit.count)).collect::<Vec<_>>()
    };
    node.tcp(UPLINK, (FAR, POD_B), SYN);
    node.tcp(UPLINK, (FAR, POD_B), ACK);
    node.tcp(UPLINK, (FAR, "10.0.0.2:22"), SYN);
    let none = || "no policy and no profile matched".to_owned();
    let web = || "profile web, rule 0".to_owned();
    assert_eq!(hits(&mut node), [(none(), 1), (web(), 1)]);
    node.follow(Some(Sketch { generation: 2, ..Sketch::of("allow", "web") }));
    node.tcp(UPLINK, ("198.51.100.1:5001", POD_B), SYN);
    assert_eq!(hits(&mut node), [(none(), 1), (web(), 2)]);
    assert_eq!(node.bench.workers[0].hits(Some("a")), []);
}

#[test]
fn without_policy_nothing_is_tracked_any_more() {
    let mut node = Node::plain(Sketch::of("allow", "web"));
    node.follow(None);
    assert_eq!(node.tcp(UPLINK, (FAR, "10.0.0.2:22"), SYN), Verdict::Go);
    assert_eq!(node.bench.sessions(), 0);
}
