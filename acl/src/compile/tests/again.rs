//! What has been compiled is not compiled again by the next change.

use super::*;

#[test]
fn a_change_leaves_programs_with_named_ports_alone() {
    let mut rule = Rule::new(Action::Allow);
    rule.protocol = Some(6);
    rule.destination.ports = vec![Port::Named("http".to_owned())];
    let mut told = Rule::new(Action::Allow);
    told.source.set = Some("s0".to_owned());
    let policy = Policy {
        tier: "t0".to_owned(),
        order: None,
        selector: Selector::all(),
        scope: Scope::Local,
        staged: None,
        ingress: Some(vec![rule, told]),
        egress: None,
    };
    let endpoint = |label: &str| Endpoint {
        labels: [("a".to_owned(), label.to_owned())].into(),
        addresses: vec![[10, 0, 0, 1].into()],
        ports: vec![NamedPort { name: "http".to_owned(), protocol: 6, port: 8080 }],
        profiles: Vec::new(),
        place: Place::Workload,
    };
    let (kind, namespace, name) = (Kind::GlobalNetworkPolicy, String::new(), "n0".to_owned());
    let set = AddressSet::Ports([([10, 0, 0, 2].into(), 6, 80)].into_iter().collect());
    let mut compiler = compiled(
        [
            Update::AddressSet("s0".to_owned(), Some(Arc::new(set))),
            Update::Endpoint("e".to_owned(), Some(Arc::new(endpoint("1")))),
            Update::Policy(PolicyKey { kind, namespace, name }, Some(Arc::new(policy))),
        ],
        usize::MAX,
    );
    let before = compiler.snapshot().clone();
    compiler.apply(Update::Endpoint("e".to_owned(), Some(Arc::new(endpoint("2"))))).unwrap();
    compiler.commit().unwrap();
    let mut programs = before.programs.iter().zip(&compiler.snapshot().programs);
    let is_same = |pair: (&Option<Arc<_>>, &Option<Arc<_>>)| match pair {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        (before, after) => before.is_none() && after.is_none(),
    };
    assert!(before.programs.iter().any(Option::is_some));
    assert!(programs.all(is_same));
}
