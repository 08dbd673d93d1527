//! Records as lines: names, rules, staged verdicts, and the bound.

use super::*;
use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Place, Profile, Rule, Update};
use margay_fastpath::flow::Tuple;
use margay_fastpath::policy::{Endpoint, Layout, Policy, Question, Seat, ToHost};
use margay_fastpath::port::PortId;
use serde_json::json;
use std::net::IpAddr;

const POD: &str = "10.0.0.1";

/// A pod that lets TCP to port 80 in, noting it, and with staged policies to port 81 only.
fn policy() -> Policy {
    let compiled = |port: u16| {
        let mut compiler = Compiler::new();
        let mut rule = Rule::new(Action::Log);
        rule.protocol = Some(6);
        rule.destination.ports = vec![model::Port::Range(port, port)];
        let allow = Rule { action: Action::Allow, ..rule.clone() };
        let ingress = vec![rule, allow];
        let profile = Profile { ingress, ..Profile::default() };
        let endpoint = model::Endpoint {
            labels: model::Labels::new(),
            addresses: vec![POD.parse().unwrap()],
            ports: Vec::new(),
            profiles: vec!["web".to_owned()],
            place: Place::Workload,
        };
        for update in [
            Update::Profile("web".to_owned(), Some(Arc::new(profile))),
            Update::Endpoint("lab/pod".to_owned(), Some(Arc::new(endpoint))),
        ] {
            compiler.apply(update).unwrap();
        }
        (compiler.commit().unwrap(), compiler.handle("lab/pod"))
    };
    let ((classifier, handle), (staged, staged_handle)) = (compiled(80), compiled(81));
    let name: Arc<str> = "lab/pod".into();
    Policy::new(Layout {
        generation: 7,
        classifier,
        staged: Some(staged),
        endpoints: vec![Endpoint {
            name,
            handle,
            staged: staged_handle,
            open: false,
            connections: [None, None],
        }],
        guards: &[],
        tunnels: None,
        seats: &[(PortId(1), Seat::Endpoint(0))],
        behind: &[(POD.parse::<IpAddr>().unwrap().into(), 0)],
        local: &[],
        to_host: ToHost::Accept,
        rejudges: false,
    })
}

fn record(policy: &Policy, src_port: u16, dst_port: u16) -> Record {
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    let (src, dst) = (address("198.51.100.1"), address(POD));
    let tuple = Tuple { src, dst, src_port, dst_port, protocol: 6 };
    let question = Question { from: Seat::Network, tuple, icmp_code: 0 };
    let judgement = policy.judge(&question);
    Record { generation: policy.generation(), question, judgement, at_ns: u64::from(src_port) }
}

fn told(record: &Record, policy: Option<&Policy>) -> serde_json::Value {
    let name = |address: IpAddr| (address.to_string() == POD).then(|| "lab/pod".to_owned());
    let told = Told { record, packets: 2, time: "T".to_owned() };
    serde_json::to_value(line(told, policy, name)).unwrap()
}

#[test]
fn a_line_says_who_what_and_why_with_the_staged_verdict_beside() {
    let policy = policy();
    let line = told(&record(&policy, 4000, 81), Some(&policy));
    let expected = json!({
        "time": "T", "action": "drop", "reason": "policy-ingress", "protocol": "tcp",
        "rules": [{
            "endpoint": "lab/pod", "direction": "ingress", "action": "drop",
            "because": "no policy and no profile matched",
        }],
        "source": {"address": "198.51.100.1", "port": 4000},
        "destination": {"address": POD, "port": 81, "endpoint": "lab/pod"},
        "staged": {"action": "allow", "rules": [{
            "endpoint": "lab/pod", "direction": "ingress", "action": "allow",
            "profile": "web", "index": 1,
        }]},
        "packets": 2,
    });
    assert_eq!(line, expected);
}

#[test]
fn rules_with_action_log_are_named() {
    let policy = policy();
    let line = told(&record(&policy, 4000, 80), Some(&policy));
    assert_eq!(line["action"], "allow");
    assert_eq!(
        (&line["logged"][0]["profile"], &line["logged"][0]["index"]),
        (&json!("web"), &json!(0))
    );
    assert_eq!(line["staged"]["action"], "drop");
    let nothing_new = told(&record(&policy, 4000, 82), Some(&policy));
    assert_eq!(nothing_new["staged"], json!(null), "the same would be decided by the same");
}

#[test]
fn without_its_snapshot_a_record_still_tells_the_verdict() {
    let policy = policy();
    let line = told(&record(&policy, 4000, 81), None);
    assert_eq!((&line["action"], &line["staged"]), (&json!("drop"), &json!(null)));
    assert_eq!(line["rules"][0]["because"], "by policy that has changed since");
}

#[test]
fn what_differs_by_the_source_port_is_one_line() {
    let policy = policy();
    let records = [(1, 80), (2, 80), (3, 81), (4, 80)].map(|(src, dst)| record(&policy, src, dst));
    let gathered = gather(records.into_iter());
    let told: Vec<_> = gathered.iter().map(|(record, count)| (record.at_ns, *count)).collect();
    assert_eq!(told, [(1, 3), (3, 1)]);
}

#[test]
fn a_second_has_so_many_lines() {
    let mut budget = Budget { per_second: 2, second: 0, left: 0 };
    assert_eq!(
        [10, 10, 10, 11, 11, 11].map(|now| budget.take(now)),
        [true, true, false, true, true, false]
    );
}
