//! An endpoint on the first port with so many policies.

use anyhow::Result;
use margay_acl::compile::Compiler;
use margay_acl::model::{self, Action, Kind, Place, PolicyKey, Port, Rule, Scope, Update};
use margay_acl::packet::protocol;
use margay_acl::selector::Selector;
use margay_fastpath::policy::{Endpoint, Layout, Policy, Seat, ToHost};
use margay_fastpath::port::PortId;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// 10.200.0.0: addresses that nobody sends to.
const OTHERS: u32 = 0x0ac8_0000;

/// Policies that each refuse one port of one address, and one behind them that lets all pass;
/// without any there is no endpoint that is asked.
pub(super) fn policy(count: u32) -> Result<Option<Policy>> {
    if count == 0 {
        return Ok(None);
    }
    let mut compiler = Compiler::new();
    let endpoint = model::Endpoint {
        labels: model::Labels::new(),
        addresses: Vec::new(),
        ports: Vec::new(),
        profiles: Vec::new(),
        place: Place::Workload,
    };
    compiler.apply(Update::Endpoint("client".to_owned(), Some(Arc::new(endpoint))))?;
    for at in 0..count {
        compiler.apply(update(at, refusing(at)))?;
    }
    // One condition, or it would be seen that the endpoint need not be asked.
    let mut last = Rule::new(Action::Allow);
    last.protocol = Some(protocol::UDP);
    compiler.apply(update(count, last))?;
    let classifier = compiler.commit()?.clone();
    let handle = compiler.handle("client");
    let (name, connections) = ("client".into(), [None, None]);
    Ok(Some(Policy::new(Layout {
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
    })))
}

fn refusing(at: u32) -> Rule {
    let mut rule = Rule::new(Action::Deny);
    rule.protocol = Some(protocol::UDP);
    rule.destination.nets = vec![ipnet::IpNet::from(IpAddr::from(Ipv4Addr::from(OTHERS + at)))];
    let port = 1000 + (at % 50_000) as u16;
    rule.destination.ports = vec![Port::Range(port, port)];
    rule
}

fn update(at: u32, rule: Rule) -> Update {
    let policy = model::Policy {
        tier: "default".to_owned(),
        order: Some(f64::from(at)),
        selector: Selector::all(),
        scope: Scope::Local,
        staged: None,
        ingress: None,
        egress: Some(vec![rule]),
    };
    let (kind, namespace) = (Kind::GlobalNetworkPolicy, String::new());
    let key = PolicyKey { kind, namespace, name: format!("p{at}") };
    Update::Policy(key, Some(Arc::new(policy)))
}
