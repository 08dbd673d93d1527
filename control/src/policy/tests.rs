//! Scenarios of `tests/cases/policy`: resources in `resources.yaml`, and one question a line in
//! `checks.txt`, which the reference evaluator and the classifier must both answer as written:
//!
//! `ENDPOINT DIRECTION[.STAGE] PROTOCOL SOURCE[:PORT] DESTINATION[:PORT|:TYPE.CODE] VERDICT BY`
//!
//! Addresses are literal or an endpoint's name, whose first address is meant (`name#2`: the
//! second). BY is `TIER/POLICY/RULE`, `end:TIER`, `profile:NAME/RULE`, or one of `missing`,
//! `no-profile`, `failsafe`, `tunnel`, `forwarded` and `stage`; `+log` and `+staged:VERDICT`
//! follow where a rule has logged, or staged policies would decide.

use super::*;
use margay_acl::compile::Compiler;
use margay_acl::model::{Failsafe, Model, Settings};
use margay_acl::origin::Origin;
use margay_acl::packet::{Packet, Transport, protocol};
use margay_acl::reference::evaluate;
use margay_acl::{Direction, Stage, Verdict};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Scenarios that there are at least.
const SCENARIOS: usize = 300;
const NODE: &str = "here";

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/policy");
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
fn updates(case: &Path) -> Vec<Update> {
    let text = std::fs::read_to_string(case.join("resources.yaml")).unwrap();
    let mut updates = built_in();
    updates.push(Update::Settings(settings()));
    let mut slices = Vec::new();
    for document in text.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(document)
            .unwrap_or_else(|error| panic!("{}: {error}\n{document}", case.display()));
        if value["kind"] == "EndpointSlice" {
            slices.push(value);
            continue;
        }
        let update = update(&value, NODE);
        let update = update.unwrap_or_else(|fault| panic!("{}: {fault}", case.display()));
        updates.push(update.unwrap_or_else(|| panic!("{document} means nothing")));
    }
    updates.extend(services(&slices).unwrap());
    updates
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
    let number = protocol.parse().map_or(Value::from(*protocol), |number: u8| number.into());
    let protocol = calico::protocol_number("protocol", &number).unwrap();
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

fn compiled(updates: impl IntoIterator<Item = Update>) -> Compiler {
    let mut compiler = Compiler::new();
    for update in updates {
        compiler.apply(update).unwrap();
    }
    compiler.commit().unwrap();
    compiler
}

#[test]
fn scenarios_are_decided_as_written_by_reference_and_classifier() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for case in cases() {
        let updates = updates(&case);
        let forward = compiled(updates.clone());
        let backward = compiled(updates.into_iter().rev());
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
            for compiler in [&forward, &backward] {
                let snapshot = compiler.snapshot();
                let handle = compiler.handle(endpoint).unwrap();
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
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        let fault = update(&value, NODE).unwrap_err().to_string();
        assert!(fault.starts_with(expected), "{spec}: {fault}");
    }
}

#[test]
fn names_of_both_generations_are_one_name() {
    let name = |text: &str| {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        match update(&value, NODE).unwrap() {
            Some(Update::Policy(key, _)) => key.name,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(name("{kind: GlobalNetworkPolicy, metadata: {name: default.p}}"), "p");
    assert_eq!(name("{kind: GlobalNetworkPolicy, metadata: {name: p}, spec: {tier: t}}"), "p");
    let annotated = "{kind: GlobalNetworkPolicy, metadata: {name: t.p, annotations: \
        {projectcalico.org/metadata: '{\"name\":\"p\"}'}}, spec: {tier: t}}";
    assert_eq!(name(annotated), "p");
}
