use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
    let labels = labels(pairs);
    let selector = Selector::parse(selector).unwrap();
    selector.matches(|name| labels.get(name).map(String::as_str))
}

#[test]
fn every_form_picks_what_it_says() {
    let node = [("rack", "a1"), ("role", "edge"), ("example.com/x-y_z", "1"), ("in", "in")];
    for selector in [
        "",
        " \t",
        "all()",
        "all( )",
        "global()",
        "rack == 'a1'",
        "rack==\"a1\"",
        "rack != 'b1'",
        "missing != 'b1'",
        "rack contains '1'",
        "rack starts with 'a'",
        "rack startswith 'a'",
        "rack ends with '1'",
        "rack endswith '1'",
        "rack contains ''",
        "role in {'core', 'edge'}",
        "role in {'edge',}",
        "role not in {'core'}",
        "role notin {}",
        "missing not in {'x'}",
        "has(example.com/x-y_z)",
        "has( rack )",
        "!has(missing)",
        "!!has(rack)",
        "in in {'in'}",
        "(rack == 'a1')",
        "has(missing) || has(rack)",
    ] {
        assert!(matches(selector, &node), "{selector}");
    }
    for selector in [
        "!all()",
        "rack == 'a'",
        "missing == ''",
        "missing contains ''",
        "missing starts with ''",
        "missing ends with ''",
        "rack != 'a1'",
        "role in {}",
        "missing in {'x'}",
        "role not in {'edge'}",
        "has(missing)",
        "has(missing) && has(rack)",
    ] {
        assert!(!matches(selector, &node), "{selector}");
    }
}

#[test]
fn not_binds_tighter_than_and_and_and_tighter_than_or() {
    let a = [("a", "")];
    assert!(matches("has(a) || has(b) && has(c)", &a));
    assert!(!matches("(has(a) || has(b)) && has(c)", &a));
    assert!(!matches("!has(a) && has(b)", &a));
    assert!(matches("!(has(a) && has(b))", &a));
    assert!(matches("!has(b) && has(a)", &a));
}

#[test]
fn errors_name_their_column() {
    let cases = [
        ("rack", 5, "expected =="),
        ("rack = 'a'", 6, "'=' begins nothing"),
        ("rack == a", 9, "text in quotes"),
        ("rack == 'a", 9, "closing quote"),
        ("has (rack)", 5, "expected =="),
        ("has()", 5, "a label"),
        ("all() all()", 7, "&&, || or the end"),
        ("(all()", 7, "expected )"),
        ("all())", 6, "&&, || or the end"),
        ("&& all()", 1, "a label"),
        ("all() &&", 9, "a label"),
        ("k in {'a' 'b'}", 11, ", or }"),
        ("k in {a}", 7, "or }"),
        ("k not 'a'", 7, "expected in"),
        ("k starts 'a'", 10, "expected with"),
        ("é == 'a'", 1, "begins nothing"),
        ("k == 'é' ?", 10, "'?' begins nothing"),
        ("a\n== 'b'", 2, "begins nothing"),
    ];
    for (text, column, what) in cases {
        let error = Selector::parse(text).unwrap_err();
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.to_string().contains(what), "{text}: {error}");
    }
}

#[test]
fn depth_and_label_length_are_bounded() {
    let nested = |depth: usize| format!("{}all(){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(DEPTH_MAX - 1)).is_ok());
    let error = Selector::parse(&nested(DEPTH_MAX)).unwrap_err();
    assert_eq!((error.kind, error.column), (SelectorErrorKind::Deep, DEPTH_MAX + 1));
    assert!(Selector::parse(&format!("{}all()", "!".repeat(100_000))).is_err());
    assert!(Selector::parse(&format!("has({})", "x".repeat(LABEL_MAX))).is_ok());
    let long = Selector::parse(&format!("has({})", "x".repeat(LABEL_MAX + 1))).unwrap_err();
    assert_eq!((long.kind, long.column), (SelectorErrorKind::LongLabel, 5));
}

#[test]
fn the_canonical_form_does_not_depend_on_how_it_was_written() {
    let parse = |text: &str| Selector::parse(text).unwrap();
    let canonical = "(rack not in {\"a\", \"b\"} && !(has(x) || k == 'say \"hi\"'))";
    let written = "rack notin {'b','a','b',}   &&!( (has(x)) || k=='say \"hi\"' )";
    assert_eq!(parse(written).to_string(), canonical);
    assert_eq!(parse(canonical), parse(written));
}

fn any_node() -> impl Strategy<Value = Node> {
    let name = || prop_oneof!["a", "b", "in", "has", "x[.]y/z"].prop_map(|name| Box::from(&*name));
    let text = || "[ab'é]{0,2}".prop_map(|text| Box::from(&*text));
    let test = prop_oneof![
        Just(Test::Equal),
        Just(Test::NotEqual),
        Just(Test::Contains),
        Just(Test::StartsWith),
        Just(Test::EndsWith)
    ];
    let set = prop::collection::btree_set(text(), 0..4);
    let leaf = prop_oneof![
        Just(Node::All),
        name().prop_map(Node::Has),
        (name(), test, text()).prop_map(|(name, test, text)| Node::Test(name, test, text)),
        (name(), any::<bool>(), set).prop_map(|(name, wanted, values)| {
            Node::In(name, wanted, values.into_iter().collect())
        }),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|node| Node::Not(Box::new(node))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Node::And),
            prop::collection::vec(inner, 2..4).prop_map(Node::Or),
        ]
    })
}

#[test]
fn selectors_are_put_together() {
    let parse = |text: &str| Selector::parse(text).unwrap();
    let joined = Selector::all_of([
        parse(""),
        parse("a == '1' && has(b)").prefixed("pcns."),
        Selector::equal("ns", "x"),
        Selector::one_of("c", ["2", "1", "2"]),
    ]);
    let text = r#"(pcns.a == "1" && has(pcns.b) && ns == "x" && c in {"1", "2"})"#;
    assert_eq!(joined.to_string(), text);
    assert_eq!(parse(text), joined);
    assert_eq!(Selector::all_of([]), Selector::all());
    assert_eq!(Selector::all_of([Selector::has("a")]).negated(), parse("!has(a)"));
    assert!(parse("global()").is_global() && !parse("global() && has(a)").is_global());
    assert!(parse(" all( )").is_all() && !parse("has(a)").is_all());
}

proptest! {
    #[test]
    fn what_a_selector_picks_fulfils_its_anchors(
        root in any_node(),
        labels in prop::collection::btree_map("a|b|in|x/z", "[ab]{0,2}", 0..4),
    ) {
        let selector = Selector { root };
        if selector.matches(|name| labels.get(name).map(String::as_str)) {
            for Anchor { name, values } in selector.anchors() {
                let value = labels.get(&*name);
                prop_assert!(value.is_some(), "{selector} demands {name}");
                let has = |one: &str| Some(one) == value.map(String::as_str);
                let fits = |values: Vec<Box<str>>| values.iter().any(|one| has(one));
                prop_assert!(values.is_none_or(fits), "{selector}: {name} is {value:?}");
            }
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same(root in any_node()) {
        let selector = Selector { root };
        let text = selector.to_string();
        prop_assert_eq!(Selector::parse(&text).map_err(|error| error.to_string()), Ok(selector));
    }

    #[test]
    fn no_text_panics(text in "[a-c'\" ()!&|{},=é]{0,40}|.{0,40}") {
        if let Err(error) = Selector::parse(&text) {
            prop_assert!(error.column <= text.chars().count() + 1);
        }
    }
}
