//! Questions about a small cluster: two nodes, pods on both, a service, policies of each kind.

use super::*;
use crate::scratch;

mod hosts;

const STORE: &str = "
{kind: Node, metadata: {name: a}, spec: {bgp: {ipv4Address: 172.16.0.1/24}}}
---
{kind: Node, metadata: {name: b}, spec: {bgp: {ipv4Address: 172.16.0.2/24}}}
---
{kind: IPPool, metadata: {name: p}, spec: {cidr: 10.0.0.0/16, natOutgoing: true, ipipMode: Always}}
---
{kind: BlockAffinity, metadata: {name: a-0}, spec: {state: confirmed, node: a, cidr: 10.0.0.0/26}}
---
{kind: BlockAffinity, metadata: {name: b-0}, spec: {state: confirmed, node: b, cidr: 10.0.1.0/26}}
---
{kind: WorkloadEndpoint, metadata: {name: a-k8s-web-eth0, namespace: shop, labels: {app: web}},
 spec: {node: a, orchestrator: k8s, pod: web, interfaceName: caliweb, ipNetworks: [10.0.0.1/32]}}
---
{kind: WorkloadEndpoint, metadata: {name: a-k8s-db-eth0, namespace: shop, labels: {app: db}},
 spec: {node: a, orchestrator: k8s, pod: db, interfaceName: calidb, ipNetworks: [10.0.0.2/32]}}
---
{kind: WorkloadEndpoint, metadata: {name: b-k8s-far-eth0, namespace: shop, labels: {app: far}},
 spec: {node: b, orchestrator: k8s, pod: far, interfaceName: califar, ipNetworks: [10.0.1.1/32]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
 spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress],
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}}
---
{kind: GlobalNetworkPolicy, metadata: {name: far}, spec: {selector: app == 'far', types: [Egress],
 egress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop},
 spec: {clusterIP: 10.96.0.1, ports: [{port: 80, protocol: TCP}]}}
---
{kind: EndpointSlice, metadata: {name: db-1, namespace: shop,
 labels: {kubernetes.io/service-name: db}}, addressType: IPv4,
 endpoints: [{addresses: [10.0.0.2]}], ports: [{port: 5432, protocol: TCP}]}
---
{apiVersion: v1, kind: Service, metadata: {name: none, namespace: shop},
 spec: {clusterIP: 10.96.0.2, ports: [{port: 80, protocol: TCP}]}}
---
{kind: StagedGlobalNetworkPolicy, metadata: {name: web}, spec: {selector: app == 'web',
 order: 1, types: [Ingress], ingress: [{action: Deny}]}}
";

fn tracer(node: Option<&str>) -> Tracer {
    tracer_of(STORE, node)
}

fn tracer_of(store: &str, node: Option<&str>) -> Tracer {
    let folder = scratch::Directory::new("trace");
    folder.write("a.yaml", store);
    Tracer::new(folder.path(), node).unwrap()
}

fn question(from: &str, to: &str, port: u16) -> Question {
    let (from, to) = (from.to_owned(), to.to_owned());
    Question { from, to, port: Some(port), ..Question::default() }
}

fn answer(from: &str, to: &str, port: u16) -> Answer {
    tracer(None).trace(&question(from, to, port)).unwrap()
}

fn verdict(from: &str, to: &str, port: u16) -> (String, String) {
    let answer = answer(from, to, port);
    (answer.verdict, answer.reason)
}

#[test]
fn policy_of_both_ends_decides() {
    let cases = [
        ("shop/web", "shop/db", 5432, "forward", "allowed"),
        ("shop/web", "shop/db", 80, "drop", "policy-ingress"),
        ("shop/far", "shop/db", 5432, "drop", "policy-egress"),
        ("shop/far", "shop/web", 80, "forward", "allowed"),
        ("10.0.0.1", "10.0.0.2", 5432, "forward", "allowed"),
        ("192.0.2.1", "shop/db", 5432, "drop", "policy-ingress"),
        ("a-k8s-web-eth0", "shop/far", 9, "forward", "allowed"),
        ("shop/a-k8s-web-eth0", "172.16.0.1", 22, "deliver", "allowed"),
        ("shop/web", "10.0.0.9", 80, "drop", "route-blackhole"),
        ("shop/web", "192.0.2.1", 80, "forward", "allowed"),
    ];
    for (from, to, port, expected, reason) in cases {
        let found = verdict(from, to, port);
        assert_eq!(found, (expected.to_owned(), reason.to_owned()), "{from} {to} {port}");
    }
}

#[test]
fn the_rule_that_decides_is_named_with_its_sets() {
    let answer = answer("shop/web", "shop/db", 5432);
    let stage = answer.stages.iter().find(|stage| stage.stage == "policy-ingress").unwrap();
    let rule = stage.rule.as_ref().unwrap();
    assert_eq!(rule.policy.as_deref(), Some("shop/db"));
    assert_eq!((rule.tier.as_deref(), rule.index), (Some("default"), Some(0)));
    assert!(
        rule.sets[0].starts_with("source in") && rule.sets[0].contains("a-k8s-web"),
        "{rule:?}"
    );
    let denied = self::answer("shop/web", "shop/db", 80);
    let rule = denied.stages.last().unwrap().rule.as_ref().unwrap();
    assert_eq!((rule.policy.as_deref(), rule.tier.as_deref()), (None, Some("default")));
}

#[test]
fn tunnels_and_translation_are_told() {
    let answer = answer("shop/web", "shop/far", 80);
    let encap = answer.encap.unwrap();
    assert_eq!((&*encap.kind, &*encap.remote), ("ipip", "172.16.0.2"));
    assert_eq!(answer.rewrite, None);
    let answer = self::answer("shop/web", "192.0.2.1", 80);
    assert_eq!(answer.rewrite.unwrap().src_ip.as_deref(), Some("172.16.0.1"));
    let near = self::answer("shop/web", "shop/db", 5432);
    assert_eq!((near.egress_port.as_deref(), near.encap), (Some("calidb"), None));
}

#[test]
fn services_are_their_endpoints_to_policy() {
    let found = answer("shop/web", "10.96.0.1", 80);
    assert_eq!((&*found.verdict, found.egress_port.as_deref()), ("forward", Some("calidb")));
    let rewrite = found.rewrite.unwrap();
    assert_eq!((rewrite.dst_ip.as_deref(), rewrite.dst_port), (Some("10.0.0.2"), Some(5432)));
    assert_eq!(verdict("shop/far", "10.96.0.1", 80).1, "policy-egress");
    assert_eq!(verdict("shop/web", "10.96.0.2", 80).1, "service-no-endpoint");
}

#[test]
fn the_node_that_is_asked_may_be_another() {
    let tracer = tracer(Some("b"));
    let answer = tracer.trace(&question("shop/web", "shop/far", 80)).unwrap();
    assert_eq!(answer.egress_port.as_deref(), Some("califar"));
    assert!(Tracer::new(Path::new("/nonexistent"), None).is_err());
}

#[test]
fn staged_policies_are_told_beside() {
    let staged = tracer(None).staged(&question("shop/db", "shop/web", 80)).unwrap();
    assert_eq!(staged.len(), 1);
    assert_eq!((&*staged[0].endpoint, &*staged[0].verdict), ("shop/a-k8s-web-eth0", "drop"));
}

#[test]
fn tunnels_of_pods_and_addresses_of_others_fall() {
    let tracer = tracer(None);
    let mut vxlan = question("shop/web", "192.0.2.1", 4789);
    vxlan.proto = Some(Protocol::Name("udp".to_owned()));
    assert_eq!(tracer.trace(&vxlan).unwrap().reason, "tunnel-from-workload");
    vxlan.from = "192.0.2.7".to_owned();
    vxlan.to = "shop/web".to_owned();
    assert_eq!(tracer.trace(&vxlan).unwrap().verdict, "forward");
}

#[test]
fn what_is_not_understood_is_named() {
    let tracer = tracer(None);
    let error = |question: &Question| tracer.trace(question).unwrap_err();
    assert!(error(&question("shop/nobody", "shop/db", 1)).starts_with("from: the store has no"));
    assert!(error(&question("shop/web", "", 1)).starts_with("to: it is missing"));
    assert!(error(&question("shop/web", "2001:db8::1", 1)).contains("one family"));
    let mut portless = question("shop/web", "shop/db", 1);
    portless.port = None;
    assert!(error(&portless).starts_with("port:"));
    portless.proto = Some(Protocol::Name("qx".to_owned()));
    assert!(error(&portless).starts_with("protocol 'qx'"));
}

#[test]
fn the_way_back_asks_for_the_other_end_s_flow() {
    let back = reversed(&question("shop/web", "shop/db", 5432));
    assert_eq!((&*back.from, &*back.to), ("shop/db", "shop/web"));
    assert_eq!((back.sport, back.port), (Some(5432), Some(USUAL_PORT)));
}

#[test]
fn what_is_left_out_of_an_answer_is_read_as_nothing() {
    use super::answer::{RuleAnswer, StageAnswer};
    let (rule, stage) = (RuleAnswer::default(), StageAnswer::default());
    let text = serde_json::to_string(&(&rule, &stage)).unwrap();
    assert_eq!(serde_json::from_str::<(RuleAnswer, StageAnswer)>(&text).unwrap(), (rule, stage));
}
