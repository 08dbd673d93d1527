//! Calico's selectors: expressions over labels that pick endpoints, nodes and network sets.
//!
//! `k == 'v'`, `!=`, `in {..}`, `not in {..}`, `contains`, `starts with`, `ends with`, `has(k)`,
//! `all()`, `global()`, `!`, `&&`, `||` and parentheses; `!` binds tightest, then `&&`. The
//! negated forms `!=` and `not in` hold for a missing label too. An empty selector is `all()`.
//! Namespaces are the caller's business: `global()` is true here, as everywhere but in a
//! namespaceSelector.

mod anchor;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

pub use anchor::Anchor;
use std::fmt;

/// Deepest nesting of parentheses and negations.
pub const DEPTH_MAX: usize = 128;
/// Most bytes of a label's name.
pub const LABEL_MAX: usize = 512;

/// A parsed selector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    root: Node,
}

/// An expression. `And` and `Or` have two operands or more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    All,
    Global,
    Has(Box<str>),
    Test(Box<str>, Test, Box<str>),
    /// The values are sorted; `true` for `in`, `false` for `not in`.
    In(Box<str>, bool, Box<[Box<str>]>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// How a label's value is compared with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Test {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
}

/// Text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError {
    /// Where, in characters from 1; behind the end for a text that ends too early.
    pub column: usize,
    /// What is wrong.
    pub kind: SelectorErrorKind,
}

/// What is wrong with a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorErrorKind {
    /// A character that begins nothing.
    Character(char),
    /// A text without its closing quote.
    OpenText,
    /// Something else was due here.
    Expected(&'static str),
    /// A label's name is longer than [`LABEL_MAX`].
    LongLabel,
    /// More than [`DEPTH_MAX`] parentheses and negations inside one another.
    Deep,
}

impl Selector {
    /// The selector that picks everything.
    pub const fn all() -> Selector {
        Selector { root: Node::All }
    }

    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        Ok(Selector { root: parser::parse(text)? })
    }

    /// The selector that picks what all of these pick.
    pub fn all_of(selectors: impl IntoIterator<Item = Selector>) -> Selector {
        let mut roots: Vec<Node> = Vec::new();
        for selector in selectors {
            match selector.root {
                Node::All => {}
                Node::And(inner) => roots.extend(inner),
                root => roots.push(root),
            }
        }
        match roots.len() {
            0 => Selector::all(),
            1 => Selector { root: roots.remove(0) },
            _ => Selector { root: Node::And(roots) },
        }
    }

    /// `name == "value"`.
    pub fn equal(name: &str, value: &str) -> Selector {
        Selector { root: Node::Test(name.into(), Test::Equal, value.into()) }
    }

    /// `name in {...}`.
    pub fn one_of<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Selector {
        let mut values: Vec<Box<str>> = values.into_iter().map(Box::from).collect();
        values.sort_unstable();
        values.dedup();
        Selector { root: Node::In(name.into(), true, values.into()) }
    }

    /// `has(name)`.
    pub fn has(name: &str) -> Selector {
        Selector { root: Node::Has(name.into()) }
    }

    /// What this one does not pick.
    pub fn negated(self) -> Selector {
        Selector { root: Node::Not(Box::new(self.root)) }
    }

    /// True for `all()` and for an empty selector.
    pub fn is_all(&self) -> bool {
        self.root == Node::All
    }

    /// True for `global()` alone, which namespaceSelectors treat apart.
    pub fn is_global(&self) -> bool {
        self.root == Node::Global
    }

    /// The selector with every label's name behind a prefix, as in `pcns.` for the labels of a
    /// namespace.
    pub fn prefixed(&self, prefix: &str) -> Selector {
        Selector { root: self.root.prefixed(prefix) }
    }

    /// True when labels, looked up by name, are picked.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.root.holds(&label)
    }
}

impl Node {
    fn prefixed(&self, prefix: &str) -> Node {
        let with = |name: &str| -> Box<str> { format!("{prefix}{name}").into() };
        let each = |nodes: &[Node]| nodes.iter().map(|node| node.prefixed(prefix)).collect();
        match self {
            Node::All => Node::All,
            Node::Global => Node::Global,
            Node::Has(name) => Node::Has(with(name)),
            Node::Test(name, test, text) => Node::Test(with(name), *test, text.clone()),
            Node::In(name, wanted, values) => Node::In(with(name), *wanted, values.clone()),
            Node::Not(inner) => Node::Not(Box::new(inner.prefixed(prefix))),
            Node::And(all) => Node::And(each(all)),
            Node::Or(any) => Node::Or(each(any)),
        }
    }

    fn holds<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Node::All | Node::Global => true,
            Node::Has(name) => label(name).is_some(),
            Node::Test(name, test, text) => match (label(name), test) {
                (None, test) => *test == Test::NotEqual,
                (Some(value), Test::Equal) => value == &**text,
                (Some(value), Test::NotEqual) => value != &**text,
                (Some(value), Test::Contains) => value.contains(&**text),
                (Some(value), Test::StartsWith) => value.starts_with(&**text),
                (Some(value), Test::EndsWith) => value.ends_with(&**text),
            },
            Node::In(name, wanted, values) => {
                let found = |value: &str| values.binary_search_by(|one| (**one).cmp(value)).is_ok();
                label(name).is_some_and(found) == *wanted
            }
            Node::Not(inner) => !inner.holds(label),
            Node::And(all) => all.iter().all(|one| one.holds(label)),
            Node::Or(any) => any.iter().any(|one| one.holds(label)),
        }
    }
}

impl fmt::Display for Selector {
    /// One form for all ways to write the same expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.root, f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::All => f.write_str("all()"),
            Node::Global => f.write_str("global()"),
            Node::Has(name) => write!(f, "has({name})"),
            Node::Test(name, test, text) => {
                let operator = match test {
                    Test::Equal => "==",
                    Test::NotEqual => "!=",
                    Test::Contains => "contains",
                    Test::StartsWith => "starts with",
                    Test::EndsWith => "ends with",
                };
                write!(f, "{name} {operator} {}", Quoted(text))
            }
            Node::In(name, wanted, values) => {
                f.write_str(name)?;
                f.write_str(if *wanted { " in {" } else { " not in {" })?;
                for (at, value) in values.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", Quoted(value))?;
                }
                f.write_str("}")
            }
            Node::Not(inner) => write!(f, "!{inner}"),
            Node::And(all) => list(f, all, " && "),
            Node::Or(any) => list(f, any, " || "),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, nodes: &[Node], between: &str) -> fmt::Result {
    f.write_str("(")?;
    for (at, node) in nodes.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { between })?;
        fmt::Display::fmt(node, f)?;
    }
    f.write_str(")")
}

/// A text in quotes that it does not hold: there are no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: ", self.column)?;
        match &self.kind {
            SelectorErrorKind::Character(letter) => write!(f, "'{letter}' begins nothing"),
            SelectorErrorKind::OpenText => f.write_str("the text has no closing quote"),
            SelectorErrorKind::Expected(what) => write!(f, "expected {what}"),
            SelectorErrorKind::LongLabel => write!(f, "a label has at most {LABEL_MAX} bytes"),
            SelectorErrorKind::Deep => write!(f, "nested deeper than {DEPTH_MAX}"),
        }
    }
}

impl std::error::Error for SelectorError {}
