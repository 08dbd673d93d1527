//! Policy of many rules for one endpoint.

use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Kind, Place, PolicyKey, Port, Rule, Scope, Update};
use margay_acl::packet::protocol;
use margay_acl::selector::Selector;
use margay_fastpath::policy::{Endpoint, Layout, Policy, Seat, ToHost};
use margay_fastpath::port::PortId;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// An endpoint on the first port with so many egress rules that match nothing, `each` of them to a
/// policy, and one behind them that lets everything pass.
pub(crate) fn policy(rules: u32, each: u32) -> Policy {
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
    for first in (0..rules).step_by(each as usize) {
        put(first, (first..rules.min(first + each)).map(other).collect());
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
