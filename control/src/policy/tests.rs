//! Scenarios of `tests/cases/policy`: a store with `resources.yaml`, and one question a line in
//! `checks.txt`, which the reference evaluator and the classifier must both answer as written:
//!
//! `ENDPOINT DIRECTION[.STAGE] PROTOCOL SOURCE[:PORT] DESTINATION[:PORT|:TYPE.CODE] VERDICT BY`
//!
//! Addresses are literal or an endpoint's name, whose first address is meant (`name#2`: the
//! second). BY is `TIER/POLICY/RULE`, `end:TIER`, `profile:NAME/RULE`, or one of `missing`,
//! `no-profile`, `failsafe`, `tunnel`, `forwarded` and `stage`; `+log` and `+staged:VERDICT`
//! follow where a rule has logged, or staged policies would decide.

mod live;

use super::*;
use crate::scratch;
use crate::store::directory::Directory;
use margay_acl::model::Failsafe;
use margay_acl::origin::Origin;
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::reference::evaluate;
use margay_acl::{Direction, Stage, Verdict};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Scenarios that there are at least.
const SCENARIOS: usize = 300;
const NODE: &str = "here";

fn cases(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(folder);
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn settings() -> Settings {
    let port = |protocol, port, net: Option<&str>| Failsafe {
        protocol,
        port,
        net: net.map(|net| net.parse().unwrap()),
    };
    Settings {
        failsafe_in: vec![port(protocol::TCP, 22, None), port(protocol::UDP, 68, None)],
        failsafe_out: vec![
            port(protocol::UDP, 53, None),
            port(protocol::TCP, 6443, Some("172.16.0.0/16")),
        ],
        vxlan_port_denied: Some(4789),
        denies_ipip: true,
    }
}

/// What the resources of a case say.
fn events(case: &Path) -> Vec<Event> {
    let mut directory = Directory::new(case);
    let events = directory.scan();
    assert_eq!(directory.report().faults, [], "{}", case.display());
    events
}

fn policies<'a>(events: impl IntoIterator<Item = &'a Event>) -> Policies {
    let mut policies = Policies::new(Some(NODE), settings());
    events.into_iter().for_each(|event| policies.apply(event));
    assert!(policies.commit());
    assert_eq!(policies.faults(), Vec::<String>::new());
    policies
}

fn protocol_number(text: &str) -> u8 {
    match text {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        "icmp" => protocol::ICMP,
        "icmpv6" => protocol::ICMP6,
        "udplite" => protocol::UDP_LITE,
        number => number.parse().unwrap_or_else(|_| panic!("{number} is no protocol")),
    }
}

struct Check {
    endpoint: String,
    direction: Direction,
    stage: Stage,
    packet: Packet,
    verdict: Verdict,
    by: String,
}

fn address(model: &Model, text: &str) -> IpAddr {
    let (name, index) =
        text.split_once('#').map_or((text, 1), |(name, index)| (name, index.parse().unwrap()));
    match model.endpoints.get(name) {
        Some(endpoint) => endpoint.addresses[index - 1],
        None => name.trim_matches(['[', ']']).parse().unwrap_or_else(|_| panic!("who is {text}?")),
    }
}

/// A name or address, and what follows its colon; IPv6 addresses stand in brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.rfind(':').filter(|at| !text[*at..].contains(']')) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn verdict(text: &str) -> Verdict {
    match text {
        "allow" => Verdict::Allow,
        "deny" => Verdict::Deny,
        "continue" => Verdict::Continue,
        other => panic!("{other} is no verdict"),
    }
}

fn check(model: &Model, line: &str) -> Check {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [endpoint, direction, protocol, source, destination, verdict_word, by @ ..] = &words[..]
    else {
        panic!("{line}");
    };
    let (direction, stage) = direction.split_once('.').unwrap_or((direction, "normal"));
    let direction = match direction {
        "in" => Direction::Ingress,
        "out" => Direction::Egress,
        other => panic!("{other} is no direction"),
    };
    let stage = match stage {
        "normal" => Stage::Normal,
        "forward" => Stage::Forward,
        "prednat" => Stage::PreDnat,
        "untracked" => Stage::Untracked,
        other => panic!("{other} is no stage"),
    };
    let protocol = protocol_number(protocol);
    let ((source, source_port), (destination, what)) = (split(source), split(destination));
    let port = |text: Option<&str>| text.map_or(40_000, |text| text.parse().unwrap());
    let transport = if protocol::is_icmp(protocol) {
        let (kind, code) = what.unwrap_or("8.0").split_once('.').unwrap();
        Transport::Icmp { kind: kind.parse().unwrap(), code: code.parse().unwrap() }
    } else if what == Some("fragment") || !protocol::has_ports(protocol) {
        Transport::Absent
    } else {
        Transport::Ports { source: port(source_port), destination: port(what) }
    };
    let packet = Packet {
        source: address(model, source),
        destination: address(model, destination),
        protocol,
        transport,
    };
    Check {
        endpoint: (*endpoint).to_owned(),
        direction,
        stage,
        packet,
        verdict: verdict(verdict_word),
        by: by.join(" "),
    }
}

fn short(origin: &Origin) -> String {
    match origin {
        Origin::Rule { tier, policy, index } => format!("{tier}/{}/{index}", policy.name),
        Origin::EndOfTier { tier } => format!("end:{tier}"),
        Origin::ProfileRule { profile, index } => format!("profile:{profile}/{index}"),
        Origin::MissingProfile { .. } => "missing".to_owned(),
        Origin::NoProfile => "no-profile".to_owned(),
        Origin::Failsafe => "failsafe".to_owned(),
        Origin::Encapsulation => "tunnel".to_owned(),
        Origin::NotForwarded => "forwarded".to_owned(),
        Origin::EndOfStage => "stage".to_owned(),
        Origin::UnknownEndpoint => "unknown".to_owned(),
        Origin::Excess => "excess".to_owned(),
    }
}

#[test]
fn scenarios_are_decided_as_written_by_reference_and_classifier() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for case in cases("policy") {
        let events = events(&case);
        let forward = policies(&events);
        let backward = policies(events.iter().rev());
        let model = forward.model();
        let text = std::fs::read_to_string(case.join("checks.txt")).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let check = check(model, line);
            let Check { endpoint, direction, stage, packet, .. } = &check;
            let why = evaluate(model, endpoint, *stage, *direction, packet);
            let mut by = short(&why.origin);
            why.logged.iter().for_each(|_| by.push_str(" +log"));
            if let Some((staged, _)) = &why.staged {
                by.push_str(&format!(" +staged:{staged:?}").to_lowercase());
            }
            if (why.verdict, &by) != (check.verdict, &check.by) {
                let place = case.file_name().unwrap().display();
                wrong.push(format!("{place}: {line}\n    is {:?} {by}", why.verdict));
            }
            for policies in [&forward, &backward] {
                let snapshot = policies.classifier();
                let handle = policies.handle(endpoint).unwrap();
                let outcome = snapshot.classify(handle, *stage, *direction, packet);
                let origin = snapshot.origin(&outcome);
                assert_eq!((outcome.verdict, origin), (why.verdict, &why.origin), "{line}");
                assert_eq!(outcome.logged, !why.logged.is_empty(), "{line}");
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked >= SCENARIOS, "{checked} scenarios");
}

/// The faults of a store that has one file with this text.
fn faults(text: &str) -> Vec<String> {
    let folder = scratch::Directory::new("policy");
    folder.write("a.yaml", text);
    let mut directory = Directory::new(folder.path());
    directory.scan();
    directory.report().faults.iter().map(|fault| fault.what.clone()).collect()
}

#[test]
fn what_the_api_does_not_allow_is_told_with_its_field() {
    let cases = [
        ("selector: a = 'b'", "spec.selector: column 3"),
        ("tier: t, ingress: [{action: Reject}]", "spec.ingress[0].action: 'Reject'"),
        ("ingress: [{action: Allow, destination: {ports: [80]}}]", "spec.ingress[0]: ports need"),
        ("ingress: [{action: Allow, protocol: 256}]", "spec.ingress[0].protocol: 256"),
        ("ingress: [{action: Allow, icmp: {type: 8}}]", "spec.ingress[0].icmp: needs protocol"),
        ("egress: [{action: Allow, source: {nets: [10.0.0.0/33]}}]", "spec.egress[0].source.nets"),
        ("preDNAT: true, doNotTrack: true", "spec.preDNAT"),
        ("preDNAT: true", "spec.applyOnForward"),
        ("doNotTrack: true", "spec.applyOnForward"),
        ("preDNAT: true, applyOnForward: true, egress: [{action: Deny}]", "spec.egress"),
        (
            "ingress: [{action: Deny, source: {nets: [10.0.0.0/8], notNets: ['::/0']}}]",
            "spec.ingress[0]: IPv4 and IPv6",
        ),
        (
            "ingress: [{action: Allow, protocol: TCP, source: {ports: ['9:1']}}]",
            "spec.ingress[0].source.ports",
        ),
    ];
    for (spec, expected) in cases {
        let text =
            format!("{{kind: GlobalNetworkPolicy, metadata: {{name: p}}, spec: {{{spec}}}}}");
        let faults = faults(&text);
        let expected = format!("GlobalNetworkPolicy p: {expected}");
        assert!(faults.len() == 1 && faults[0].starts_with(&expected), "{spec}: {faults:?}");
    }
}

#[test]
fn names_of_both_generations_are_one_name() {
    let name = |text: &str| {
        let folder = scratch::Directory::new("policy");
        folder.write("a.yaml", text);
        let keys: Vec<Key> = Directory::new(folder.path())
            .scan()
            .into_iter()
            .map(|event| match event {
                Event::Put(key, _) | Event::Remove(key) => key,
            })
            .collect();
        assert_eq!(keys.len(), 1, "{text}");
        keys[0].name.clone()
    };
    assert_eq!(name("{kind: GlobalNetworkPolicy, metadata: {name: default.p}}"), "p");
    assert_eq!(name("{kind: GlobalNetworkPolicy, metadata: {name: p}, spec: {tier: t}}"), "p");
    let annotated = "{kind: GlobalNetworkPolicy, metadata: {name: t.p, annotations: \
        {projectcalico.org/metadata: '{\"name\":\"p\"}'}}, spec: {tier: t}}";
    assert_eq!(name(annotated), "p");
}

#[test]
fn both_network_policies_of_one_name_are_two() {
    let folder = scratch::Directory::new("policy");
    for (file, version) in [("a.yaml", "networking.k8s.io/v1"), ("b.yaml", "projectcalico.org/v3")]
    {
        let metadata = "metadata: {name: p, namespace: n}";
        folder.write(file, &format!("{{apiVersion: {version}, kind: NetworkPolicy, {metadata}}}"));
    }
    let events = events(folder.path());
    assert_eq!(policies(&events).model().policies.len(), 2);
}

/// Endpoint `n/e` of this node, with these lines in its spec.
fn endpoint(spec: &str) -> String {
    format!(
        "{{kind: WorkloadEndpoint, metadata: {{name: e, namespace: n}}, spec: {{node: {NODE}, \
         interfaceName: cali1, ipNetworks: [10.0.0.1/32], {spec}}}}}"
    )
}

fn verdict_of_endpoint(text: &str) -> Verdict {
    let folder = scratch::Directory::new("policy");
    folder.write("a.yaml", text);
    let policies = policies(&events(folder.path()));
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let packet = Packet {
        source: address,
        destination: "10.0.0.1".parse().unwrap(),
        protocol: protocol::TCP,
        transport: Transport::Ports { source: 1, destination: 2 },
    };
    let handle = policies.handle("n/e").unwrap();
    policies.classifier().classify(handle, Stage::Normal, Direction::Ingress, &packet).verdict
}

#[test]
fn a_namespace_that_the_store_does_not_have_is_implied() {
    for (spec, expected) in [
        ("orchestrator: k8s", Verdict::Allow),
        ("profiles: [kns.n]", Verdict::Allow),
        ("profiles: [ksa.n.a, kns.n]", Verdict::Allow),
        ("profiles: []", Verdict::Deny),
        ("profiles: [ksa.n.a]", Verdict::Deny),
        ("profiles: [other, kns.n]", Verdict::Deny),
        ("orchestrator: openstack", Verdict::Deny),
        ("profiles: [projectcalico-default-allow]", Verdict::Allow),
    ] {
        assert_eq!(verdict_of_endpoint(&endpoint(spec)), expected, "{spec}");
    }
    let text = endpoint("profiles: [kns.n]")
        + "\n---\n{kind: Profile, metadata: {name: kns.n}, spec: {ingress: [{action: Deny}]}}";
    assert_eq!(verdict_of_endpoint(&text), Verdict::Deny);
}

#[test]
fn what_is_beyond_a_limit_is_named_and_the_rest_applies() {
    let rules = "{action: Allow},".repeat(1025);
    let folder = scratch::Directory::new("policy");
    folder.write(
        "a.yaml",
        &format!(
            "{{kind: GlobalNetworkPolicy, metadata: {{name: p}}, spec: {{ingress: [{rules}]}}}}"
        ),
    );
    folder.write("b.yaml", "{kind: GlobalNetworkPolicy, metadata: {name: q}}");
    let mut policies = Policies::new(Some(NODE), settings());
    events(folder.path()).iter().for_each(|event| policies.apply(event));
    assert!(policies.commit());
    let faults = policies.faults();
    let expected = "policy: GlobalNetworkPolicy p: p//GlobalNetworkPolicy: 1025 rules";
    assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
    assert_eq!(policies.model().policies.len(), 1);
    folder.write("a.yaml", "{kind: GlobalNetworkPolicy, metadata: {name: p}}");
    events(folder.path()).iter().for_each(|event| policies.apply(event));
    assert_eq!(policies.faults(), Vec::<String>::new());
}
