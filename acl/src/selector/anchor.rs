//! What a selector demands of single labels, so that indexes need not try it on everything.

use super::{Node, Selector, Test};

/// A demand: whoever a selector picks has this label, with one of these values if they are told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Anchor {
    /// The label's name.
    pub name: Box<str>,
    /// Its values; `None` for any.
    pub values: Option<Vec<Box<str>>>,
}

impl Selector {
    /// Every demand that can be told; empty when the selector may pick things without labels.
    pub fn anchors(&self) -> Vec<Anchor> {
        anchors(&self.root)
    }
}

fn anchors(node: &Node) -> Vec<Anchor> {
    let one = |name: &str, values| vec![Anchor { name: name.into(), values }];
    match node {
        Node::All | Node::Global | Node::Not(_) => Vec::new(),
        Node::Test(_, Test::NotEqual, _) | Node::In(_, false, _) => Vec::new(),
        Node::Has(name) => one(name, None),
        Node::Test(name, Test::Equal, value) => one(name, Some(vec![value.clone()])),
        Node::Test(name, ..) => one(name, None),
        Node::In(name, true, values) => one(name, Some(values.to_vec())),
        Node::And(all) => all.iter().flat_map(anchors).collect(),
        Node::Or(any) => either(any),
    }
}

/// The demands that all operands make of the same label.
fn either(any: &[Node]) -> Vec<Anchor> {
    let operands: Vec<Vec<Anchor>> = any.iter().map(anchors).collect();
    let Some((first, others)) = operands.split_first() else { return Vec::new() };
    let mut common = Vec::new();
    for anchor in first {
        let mut joined = Some(anchor.clone());
        for other in others {
            let same = other.iter().find(|other| other.name == anchor.name);
            joined = joined.zip(same).map(|(mut joined, same)| {
                joined.values = joined.values.zip(same.values.clone()).map(|(mut a, b)| {
                    a.extend(b);
                    a.sort_unstable();
                    a.dedup();
                    a
                });
                joined
            });
        }
        common.extend(joined);
    }
    common
}
