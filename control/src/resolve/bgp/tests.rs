//! Scenarios of `tests/cases/bgp`: resources, and what a node's answer must hold. An object of
//! the expectation names the fields that count, but the names of sessions, advertisements and
//! peer routes are compared whole. Each scenario also runs with its resources in another order.

use super::*;
use crate::api::bgp_config::BgpConfigAnswer;
use crate::resource::{Key, Resource};
use crate::store::Event;
use crate::store::directory::Directory;
use serde_json::Value;
use std::path::{Path, PathBuf};

const WHOLE: [&str; 3] = ["sessions", "advertisements", "peerRoutes"];

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/bgp");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(found.len() >= 25, "{} scenarios", found.len());
    found
}

fn events(case: &Path) -> Vec<Event> {
    let mut directory = Directory::new(case);
    let read = directory.scan();
    let faults = &directory.report().faults;
    // The expectations are JSON without a kind, and reported as such.
    let own = faults.iter().filter(|fault| !fault.file.ends_with(".expected.json"));
    assert_eq!(own.collect::<Vec<_>>(), Vec::<&crate::store::Fault>::new(), "{}", case.display());
    read
}

fn model(events: impl IntoIterator<Item = Event>) -> Model {
    let mut model = Model::default();
    events.into_iter().for_each(|event| model.apply(event));
    model
}

/// Every field of `wanted` is in `got`; other values are equal.
fn demand(got: &Value, wanted: &Value, place: &str) {
    let (Value::Object(got_fields), Value::Object(fields)) = (got, wanted) else {
        assert_eq!(got, wanted, "{place}");
        return;
    };
    for (name, value) in fields {
        let inner = format!("{place}.{name}");
        let found = got_fields.get(name).unwrap_or_else(|| panic!("{inner} is missing in {got:#}"));
        if WHOLE.contains(&name.as_str())
            && let (Some(a), Some(b)) = (found.as_object(), value.as_object())
        {
            assert!(a.keys().eq(b.keys()), "{inner}: {:?}", a.keys().collect::<Vec<_>>());
        }
        demand(found, value, &inner);
    }
}

#[test]
fn scenarios_have_their_plans() {
    let mut checked = 0;
    for case in cases() {
        let model = model(events(&case));
        for entry in std::fs::read_dir(&case).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(node) = name.strip_suffix(".expected.json") else { continue };
            let wanted: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let plan = plan(&model, node, &LocalFacts::default());
            let got = serde_json::to_value(BgpConfigAnswer::from(&plan)).unwrap();
            demand(&got, &wanted, &format!("{}: {node}", case.display()));
            checked += 1;
        }
    }
    assert!(checked >= 25, "{checked} expectations");
}

/// Reversed, twice, and with everything removed and put again in between: the same plans.
#[test]
fn plans_depend_on_the_current_state_only() {
    for case in cases() {
        let once = events(&case);
        let removals = once.iter().map(|event| match event {
            Event::Put(key, _) => Event::Remove(key.clone()),
            Event::Remove(key) => Event::Remove(key.clone()),
        });
        let twice = once.iter().chain(&once).cloned();
        let half = once.len() / 2;
        let again =
            once.iter().cloned().chain(removals.take(half)).chain(once.iter().rev().cloned());
        let expected = model(once.iter().cloned());
        for other in [
            model(once.iter().rev().cloned()),
            model(twice),
            model(again),
            model(once[half..].iter().chain(&once[..half]).cloned()),
        ] {
            for node in expected.nodes.keys() {
                let facts = LocalFacts::default();
                assert_eq!(plan(&other, node, &facts), plan(&expected, node, &facts), "{node}");
            }
        }
    }
}

fn node_event(name: &str, address: &str) -> Event {
    let key = Key { kind: "Node".into(), namespace: String::new(), name: name.into() };
    let node = crate::resource::node::Node { ipv4: address.parse().ok(), ..Default::default() };
    Event::Put(key, Resource::Node(node))
}

#[test]
fn exactly_one_side_of_every_mesh_session_waits() {
    let names: Vec<String> = (1..30).map(|at| format!("n{at}")).collect();
    let nodes = names.iter().enumerate();
    let model =
        model(nodes.map(|(at, name)| node_event(name, &format!("10.0.0.{}/24", at * 7 + 1))));
    let plans: BTreeMap<&String, BgpPlan> =
        names.iter().map(|name| (name, plan(&model, name, &LocalFacts::default()))).collect();
    for (one, plan) in &plans {
        assert_eq!(plan.sessions.len(), names.len() - 1);
        for session in plan.sessions.values() {
            let mut others = plans.iter().filter(|(other, _)| other != &one);
            let back = others.find_map(|(_, other)| {
                let session_back = other.sessions.values().find(|back| {
                    Some(back.address) == session.source && back.source == Some(session.address)
                });
                session_back.map(|back| back.passive)
            });
            assert_eq!(back, Some(!session.passive), "{one} and {}", session.address);
        }
    }
}

#[test]
fn a_node_that_is_not_there_has_no_bgp() {
    let model = model([node_event("a", "10.0.0.1/24")]);
    assert_eq!(plan(&model, "b", &LocalFacts::default()), BgpPlan::default());
}
