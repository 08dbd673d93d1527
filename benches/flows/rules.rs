//! Flows under policy: what its rules cost packets of known flows, and first ones.

use crate::Arguments;
use crate::traffic::Traffic;
use crate::worker::{Cost, Worker};
use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Kind, Place, PolicyKey, Port, Rule, Scope, Update};
use margay_acl::packet::protocol;
use margay_acl::selector::Selector;
use margay_fastpath::policy::{Endpoint, Layout, Policy, Seat, ToHost};
use margay_fastpath::port::PortId;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Rules of one policy.
const EACH: u32 = 100;

/// An endpoint on the first port with so many egress rules that match nothing, and one behind them
/// that lets everything pass.
pub(crate) fn policy(rules: u32) -> Policy {
    let mut compiler = Compiler::new();
    let mut apply = |update| compiler.apply(update).expect("within the limits");
    let endpoint = model::Endpoint {
        labels: model::Labels::new(),
        addresses: Vec::new(),
        ports: Vec::new(),
        profiles: Vec::new(),
        place: Place::Workload,
    };
    apply(Update::Endpoint("client".to_owned(), Some(Arc::new(endpoint))));
    let other = |number: u32| {
        let mut rule = Rule::new(Action::Deny);
        rule.protocol = Some(protocol::UDP);
        rule.destination.nets =
            vec![ipnet::IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(0x0ac8_0000 + number)))];
        let port = 1000 + (number % 50_000) as u16;
        rule.destination.ports = vec![Port::Range(port, port)];
        rule
    };
    let mut put = |at: u32, egress: Vec<Rule>| {
        let policy = model::Policy {
            tier: "default".to_owned(),
            order: Some(f64::from(at)),
            selector: Selector::all(),
            scope: Scope::Local,
            staged: None,
            ingress: None,
            egress: Some(egress),
        };
        let (kind, namespace) = (Kind::GlobalNetworkPolicy, String::new());
        let key = PolicyKey { kind, namespace, name: format!("p{at}") };
        apply(Update::Policy(key, Some(Arc::new(policy))));
    };
    for first in (0..rules).step_by(EACH as usize) {
        put(first, (first..rules.min(first + EACH)).map(other).collect());
    }
    // One condition, or it would be seen that the endpoint need not be asked.
    let mut last = Rule::new(Action::Allow);
    last.protocol = Some(protocol::UDP);
    put(rules, vec![last]);
    let classifier = compiler.commit().expect("within the limits").clone();
    let handle = compiler.handle("client");
    let (name, connections) = ("client".into(), [None, None]);
    Policy::new(Layout {
        generation: 1,
        classifier,
        staged: None,
        endpoints: vec![Endpoint { name, handle, staged: None, open: false, connections }],
        guards: &[],
        tunnels: None,
        seats: &[(PortId(0), Seat::Endpoint(0))],
        behind: &[],
        local: &[],
        to_host: ToHost::Accept,
        rejudges: false,
    })
}

/// First packets and later ones with each number of rules, in turns.
pub(crate) fn run(arguments: &Arguments) {
    let flows = arguments.flows.first().copied().unwrap_or(1 << 16);
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut costs: Vec<Vec<[Cost; 2]>> = vec![Vec::new(); arguments.rules.len()];
    for _ in 0..arguments.repeats {
        for (rules, costs) in arguments.rules.iter().zip(&mut costs) {
            let mut traffic = Traffic::new(flows, 1);
            let mut worker = Worker::with_policy(flows as usize, policy(*rules));
            // Once for the table's memory.
            worker.open_all(&mut traffic);
            worker.end_all(flows);
            let new = worker.open_all(&mut traffic);
            let known = crate::steady(&mut worker, &mut traffic, time, false);
            worker.assert_no_loss();
            costs.push([new, known]);
        }
    }
    println!("one worker, {flows} flows from an endpoint with policy, no translation");
    println!("{:>7} {:>20} {:>24} {:>7}", "rules", "new flows, ns", "known flows, ns", "");
    let mut first = None;
    for (rules, costs) in arguments.rules.iter().zip(&costs) {
        let median = |at: usize| {
            let mut values: Vec<f64> = costs.iter().map(|pair| pair[at].ns()).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (new, known) = (median(0), median(1));
        let first = *first.get_or_insert(known);
        println!("{rules:>7} {new:>20.1} {known:>24.1} {:>+6.1}%", (known / first - 1.0) * 100.0);
    }
}
