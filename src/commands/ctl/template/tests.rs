use super::*;
use serde_json::json;

/// What was read: two pools in a List, as calicoctl hands it to a template.
fn pools() -> Value {
    let pool = |name: &str, cidr: &str, nat: bool| {
        json!({"kind": "IPPool", "metadata": {"name": name, "labels": {"app.io/x": "y"}},
            "spec": {"cidr": cidr, "natOutgoing": nat, "allowedUses": ["Workload", "Tunnel"],
                "blockSize": 26}})
    };
    json!([{"kind": "IPPoolList", "metadata": {"resourceVersion": "7"},
        "items": [pool("a", "10.0.0.0/16", true), pool("b", "10.1.0.0/16", false)]}])
}

fn rendered(template: &str) -> String {
    render(template, &pools()).unwrap_or_else(|error| panic!("{template}: {error}"))
}

/// Each with what Go's text/template prints for it (package documentation of text/template).
#[test]
fn templates_print_what_go_prints() {
    let items =
        |inner: &str| format!("{{{{range .}}}}{{{{range .Items}}}}{inner}{{{{end}}}}{{{{end}}}}");
    for (template, expected) in [
        (items("{{.ObjectMeta.Name}} {{.Spec.CIDR}}\n"), "a 10.0.0.0/16\nb 10.1.0.0/16\n"),
        (items("{{.Name}},"), "a,b,"),
        (items("{{.metadata.name}}={{.spec.natOutgoing}};"), "a=true;b=false;"),
        (items("{{if .Spec.NATOutgoing}}{{.Name}}{{else}}-{{end}}"), "a-"),
        (items("{{if eq .Name \"b\" \"c\"}}B{{else if not .Nothing}}none{{end}} "), "none B "),
        (items("{{with .Spec.Nothing}}x{{else}}{{.Name}}{{end}}"), "ab"),
        (items("{{with .Spec}}{{.BlockSize}}{{end}} "), "26 26 "),
        (items("{{join .Spec.AllowedUses \",\"}};"), "Workload,Tunnel;Workload,Tunnel;"),
        (
            items("{{index .Spec.AllowedUses 1}} {{index .Labels \"app.io/x\"}} "),
            "Tunnel y Tunnel y ",
        ),
        (items("{{(index .Spec.AllowedUses 0) | printf \"%-10s|\"}}"), "Workload  |Workload  |"),
        (
            items("{{len .Spec.AllowedUses}}{{.Spec.AllowedUses}}"),
            "2[Workload Tunnel]2[Workload Tunnel]",
        ),
        (items("{{if and .Spec.NATOutgoing (gt .Spec.BlockSize 20)}}{{.Name}}{{end}}"), "a"),
        (items("{{or .Nothing .Name}}"), "ab"),
        (
            items("{{range $i, $use := .Spec.AllowedUses}}{{$i}}:{{$use}} {{end}}"),
            "0:Workload 1:Tunnel 0:Workload 1:Tunnel ",
        ),
        (items("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}"), "app.io/x=y app.io/x=y "),
        (
            items(
                "{{range .Spec.AllowedUses}}{{if eq . \"Tunnel\"}}{{continue}}{{end}}{{.}} {{end}}",
            ),
            "Workload Workload ",
        ),
        (items("{{range .Spec.AllowedUses}}{{.}}{{break}}{{end}} "), "Workload Workload "),
        (items("{{range .Nothing}}x{{else}}empty {{end}}"), "empty empty "),
        (items("{{$n := .Name}}{{$n = print $n \"!\"}}{{$n}}"), "a!b!"),
    ] {
        assert_eq!(rendered(&template), expected, "{template}");
    }
    for (template, expected) in [
        ("a {{- /* gone */ -}} b", "ab"),
        ("x \n{{- 23 -}}\n y", "x23y"),
        ("{{/* }} */}}{{`raw \"}}\" text`}}", "raw \"}}\" text"),
        ("{{\"a\\tb\\\"\"}}", "a\tb\""),
        (
            "{{printf \"%05d|%5.1f|%q|%t|%x|%v|%%\" 42 3.14159 \"q\" true 255 nil}}",
            "00042|  3.1|\"q\"|true|ff|<nil>|%",
        ),
        ("{{printf \"%04d\" -7}}", "-007"),
        ("{{len $}} {{(index $ 0).metadata.resourceVersion}}", "1 7"),
        ("{{println 1 \"a\"}}", "1 a\n"),
        (
            "{{1 | eq 1}} {{ne 1 2}} {{lt 1 2}} {{le \"a\" \"a\"}} {{ge 1 2}}",
            "true true true true false",
        ),
        ("no action", "no action"),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (template, expected) in [
        ("{{", "line 1: this action has no end"),
        ("\n\n{{if .}}", "line 3: this block has no {{end}}"),
        ("{{end}}", "line 1: unexpected {{end}}"),
        ("a\n{{nonsense 1}}", "line 2: function \"nonsense\" not defined"),
        ("{{template \"x\"}}", "{{template}} is not supported"),
        ("{{$x}}", "undefined variable $x"),
        ("{{.a b}}", "arguments are for functions only"),
        ("{{index . 9}}", "index out of range: 9"),
        ("{{range .}}{{.kind.name}}{{end}}", "can't evaluate field name in \"IPPoolList\""),
        ("{{(1}}", "a bracket is not closed"),
        ("{{1)}}", "a bracket is closed that is not open"),
        ("{{\"a}}", "this action has no end"),
        ("{{|}}", "a command is missing"),
        ("{{break}}", "{{break}} outside of a range"),
        ("{{printf \"%y\" 1}}", "the verb %y is not supported"),
        ("{{printf \"%99999d\" 1}}", "more than 1000"),
        ("{{lt 1 \"a\"}}", "incompatible types"),
        ("{{range 5}}{{end}}", "range can't iterate over 5"),
    ] {
        let error = render(template, &pools()).expect_err(template);
        assert!(error.contains(expected) && error.starts_with("line "), "{template}: {error}");
    }
    let deep = "{{if 1}}".repeat(100) + &"{{end}}".repeat(100);
    assert!(render(&deep, &Value::Null).unwrap_err().contains("more than 64 blocks"));
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(100), ")".repeat(100));
    assert!(render(&deep, &Value::Null).unwrap_err().contains("more than 64 brackets"));
}

/// Pieces of templates, and what is none.
const PIECES: &str =
    "(\\{\\{|\\}\\}|[ -~\n\u{e9}]|range|if|end|else|\\.|\\$x|:=|\"|printf|%|-){0,40}";

proptest::proptest! {
    /// Whatever somebody types: an answer, or an error with a line.
    #[test]
    fn no_text_makes_it_panic(text in PIECES) {
        if let Err(error) = render(&text, &pools()) {
            proptest::prop_assert!(error.starts_with("line "), "{}", error);
        }
    }
}
