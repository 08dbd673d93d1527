//! Questions that host endpoints answer: `edge` is the uplink of node a, `all` every device of
//! node b.

use super::*;

const HOSTS: &str = "
---
{kind: HostEndpoint, metadata: {name: edge, labels: {role: edge}},
 spec: {node: a, interfaceName: eth0}}
---
{kind: HostEndpoint, metadata: {name: all, labels: {role: all}},
 spec: {node: b, interfaceName: '*', profiles: [projectcalico-default-allow]}}
---
{kind: GlobalNetworkSet, metadata: {name: office, labels: {who: office}},
 spec: {nets: [192.0.2.0/28]}}
---
{kind: Tier, metadata: {name: infra}, spec: {order: 10}}
---
{kind: GlobalNetworkPolicy, metadata: {name: infra.normal}, spec: {tier: infra, order: 5,
 selector: role == 'edge', types: [Ingress, Egress],
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [7]}},
  {action: Allow, protocol: TCP, source: {selector: who == 'office'}, destination: {ports: [8]}}],
 egress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}}
---
{kind: GlobalNetworkPolicy, metadata: {name: early}, spec: {selector: role == 'edge', order: 1,
 types: [Ingress], preDNAT: true, applyOnForward: true,
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}},
  {action: Allow, protocol: TCP, destination: {ports: [82]}}]}}
---
{kind: GlobalNetworkPolicy, metadata: {name: stateless}, spec: {selector: role == 'edge',
 order: 2, types: [Ingress, Egress], doNotTrack: true, applyOnForward: true,
 ingress: [{action: Deny, protocol: TCP, destination: {ports: [83]}},
  {action: Allow, protocol: TCP, destination: {ports: [90]}}],
 egress: [{action: Allow, protocol: TCP, source: {ports: [90]}}]}}
---
{kind: GlobalNetworkPolicy, metadata: {name: through}, spec: {selector: has(role), order: 3,
 types: [Ingress, Egress], applyOnForward: true,
 ingress: [{action: Allow, protocol: TCP, destination: {ports: ['8:80', 5432]}}],
 egress: [{action: Deny, protocol: TCP, destination: {ports: [84]}}, {action: Allow}]}}
";

const OFFICE: &str = "192.0.2.1";
const STRANGER: &str = "198.51.100.1";
const NODE_A: &str = "172.16.0.1";
const NODE_B: &str = "172.16.0.2";

fn tracer() -> Tracer {
    tracer_of(&format!("{STORE}{HOSTS}"), None)
}

/// Verdict, and what has said so.
fn told(answer: &Answer) -> (String, Option<String>) {
    let stage = answer.stages.iter().rev().find(|stage| stage.rule.is_some() || is_host(stage));
    (answer.verdict.clone(), stage.map(|stage| format!("{}: {}", stage.stage, stage.detail)))
}

fn is_host(stage: &StageAnswer) -> bool {
    stage.detail.starts_with("edge:") || stage.detail.starts_with("all:")
}

fn asked(from: &str, to: &str, port: u16) -> (String, String) {
    let question = question(from, to, port);
    let (verdict, said) = told(&tracer().trace(&question).unwrap());
    (verdict, said.unwrap_or_default())
}

#[test]
fn each_stage_of_a_host_endpoint_is_told_with_what_decided() {
    let normal = |rule| {
        format!(
            "policy-ingress: edge: tier infra, policy infra.normal//GlobalNetworkPolicy, {rule}"
        )
    };
    let early = |stage: &str, policy: &str, rule| {
        let policy = format!("tier default, policy {policy}//GlobalNetworkPolicy");
        format!("{stage}: edge: {policy}, rule {rule}")
    };
    let end = "policy-ingress: edge: tier infra, no rule matched".to_owned();
    let cases = [
        (OFFICE, NODE_A, 8, "deliver", normal("rule 1")),
        (STRANGER, NODE_A, 8, "drop", end.clone()),
        (OFFICE, NODE_A, 7, "drop", normal("rule 0")),
        (OFFICE, "edge", 9, "drop", end),
        (STRANGER, NODE_A, 22, "deliver", "policy-ingress: edge: failsafe port".to_owned()),
        (OFFICE, NODE_A, 81, "drop", early("pre-dnat", "early", 0)),
        (STRANGER, NODE_A, 82, "deliver", early("pre-dnat", "early", 1)),
        (OFFICE, NODE_A, 83, "drop", early("untracked", "stateless", 0)),
        (STRANGER, NODE_A, 90, "deliver", early("untracked", "stateless", 1)),
    ];
    for (from, to, port, verdict, said) in cases {
        assert_eq!(asked(from, to, port), (verdict.to_owned(), said), "{from} {to} {port}");
    }
}

#[test]
fn sets_by_which_a_host_endpoint_decides_are_named() {
    let answer = tracer().trace(&question(OFFICE, NODE_A, 8)).unwrap();
    let rule = answer.stages.last().unwrap().rule.clone().unwrap();
    assert_eq!((rule.tier.as_deref(), rule.index), (Some("infra"), Some(1)));
    assert!(rule.sets[0].contains("office"), "{rule:?}");
    assert_eq!(answer.stages.last().unwrap().node, "a");
}

#[test]
fn what_is_forwarded_passes_the_forward_rules_of_both_devices() {
    let in_from = |port| tracer().trace(&question(STRANGER, "shop/web", port)).unwrap();
    let stages = |answer: &Answer| {
        let named = answer.stages.iter().map(|stage| (stage.stage.clone(), stage.outcome.clone()));
        named.collect::<Vec<_>>()
    };
    assert_eq!(in_from(79).verdict, "forward");
    let denied = in_from(99);
    assert_eq!((&*denied.verdict, &*denied.reason), ("drop", "policy-ingress"));
    assert!(stages(&denied).contains(&("forward-ingress".to_owned(), "drop".to_owned())));
    let early = in_from(82);
    let names: Vec<&str> = early.stages.iter().map(|stage| &*stage.stage).collect();
    assert_eq!(early.verdict, "forward");
    assert!(!names.contains(&"forward-ingress"), "accepted before: {names:?}");
    let out = |port| tracer().trace(&question("shop/web", STRANGER, port)).unwrap();
    assert_eq!(out(80).verdict, "forward");
    assert_eq!((&*out(84).verdict, &*out(84).reason), ("drop", "policy-egress"));
    let near = tracer().trace(&question("shop/web", "shop/db", 5432)).unwrap();
    assert!(near.stages.iter().all(|stage| !stage.stage.starts_with("forward")));
}

#[test]
fn tunnels_are_guarded_by_the_endpoint_of_all_devices_only() {
    let tracer = tracer_of(&format!("{STORE}{HOSTS}"), Some("a"));
    let to_b = tracer.trace(&question("shop/web", "shop/far", 84)).unwrap();
    assert_eq!(to_b.verdict, "forward", "inside of a tunnel from node a: {to_b:?}");
    let tracer = tracer_of(&format!("{STORE}{HOSTS}"), Some("b"));
    let from_a = tracer.trace(&question("shop/web", "shop/far", 99)).unwrap();
    let stage = from_a.stages.last().unwrap();
    assert_eq!((&*stage.stage, &*from_a.verdict), ("forward-ingress", "drop"));
    assert!(stage.detail.starts_with("all:"), "{stage:?}");
}

#[test]
fn what_the_host_sends_passes_its_normal_rules() {
    for from in ["edge", NODE_A] {
        assert_eq!(asked(from, STRANGER, 80).0, "forward");
        let end = "policy-egress: edge: tier infra, no rule matched".to_owned();
        assert_eq!(asked(from, STRANGER, 81), ("drop".to_owned(), end));
        assert_eq!(asked(from, STRANGER, 6443).0, "forward", "a failsafe port");
        assert_eq!(asked(from, "shop/db", 9).0, "forward", "its own pods it may always reach");
    }
    let mut answers = question("edge", STRANGER, 4000);
    answers.sport = Some(90);
    let answer = tracer().trace(&answers).unwrap();
    assert_eq!(answer.stages.last().unwrap().stage, "untracked");
    assert_eq!(answer.verdict, "forward");
}

#[test]
fn the_other_node_s_host_endpoint_is_asked_there() {
    assert_eq!(asked("shop/web", NODE_B, 9).0, "forward", "its profile lets all in");
    assert_eq!(asked("shop/far", NODE_A, 9).0, "drop", "edge's tier ends with a drop");
    assert_eq!(asked("shop/web", NODE_A, 9).0, "deliver", "pods meet no host endpoint at home");
}

#[test]
fn the_port_that_is_named_chooses_the_host_endpoint() {
    let mut by_other = question(OFFICE, NODE_A, 9);
    by_other.in_port = Some("eth9".to_owned());
    assert_eq!(tracer().trace(&by_other).unwrap().verdict, "deliver");
    by_other.in_port = Some("eth0".to_owned());
    assert_eq!(tracer().trace(&by_other).unwrap().verdict, "drop");
}
