//! Words that have no place in the code, or only in some rooms of it.

use super::Finding;
use super::source::Source;

/// Where unsafe code may be.
const UNSAFE_ROOMS: &[&str] = &["fastpath/src/sys/", "control/src/sys.rs", "control/src/sys/"];

/// Code that is not written anywhere; put together so that this file has none of it.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("macro", "_rules!"), "no macros of our own"),
    (concat!("#[ign", "ore"), "no ignored tests: print SKIPPED and why"),
    (concat!("tod", "o!("), "nothing is left for later"),
    (concat!("unimpl", "emented!("), "nothing is left for later"),
];

/// Notes of work that is not done, in comments too.
const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// Paths and names of a particular machine or of the people's tools.
const WORKPLACE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("wt", "/lab"),
    concat!("../sha", "red"),
    concat!("BRI", "EF.md"),
    concat!("cla", "ude"),
    concat!("anthr", "opic"),
    concat!("chat", "gpt"),
];

/// The one file that looks beside the checkout for data.
const LOOKS_BESIDE: &str = ".ci/run";

/// Unsafe code, and leave to write it, outside its rooms.
pub(crate) fn unsafe_rooms(source: &Source) -> Vec<Finding> {
    if UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let is_word = |word: &str| word == "unsafe" || word == "unsafe_code";
        let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let forbids = line.contains("forbid(") || line.contains("deny(");
        if !forbids && words.any(is_word) {
            let what = "unsafe code lives in fastpath/src/sys/ and control/src/sys.rs only";
            findings.push(Finding::new(&source.path, at + 1, what));
        }
    }
    findings
}

/// Macros, ignored tests, open ends, and `unwrap` outside tests.
pub(crate) fn banned_code(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        for (word, rule) in NOWHERE {
            if line.contains(word) {
                findings.push(Finding::new(&source.path, at + 1, *rule));
            }
        }
        if !source.is_test[at] && line.contains(".unwrap()") {
            let what = "no unwrap outside tests: an error, or expect with the reason";
            findings.push(Finding::new(&source.path, at + 1, what));
        }
    }
    for (at, line) in source.lines.iter().enumerate() {
        if let Some(note) = NOTES.iter().find(|note| line.contains(*note)) {
            findings.push(Finding::new(&source.path, at + 1, format!("a note of {note}")));
        }
    }
    findings
}

/// Words of the workplace in any file.
pub(crate) fn workplace(path: &str, text: &str) -> Vec<Finding> {
    if path == LOOKS_BESIDE {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        if let Some(word) = WORKPLACE.iter().find(|word| line.contains(&word.to_lowercase())) {
            findings.push(Finding::new(path, at + 1, format!("the project does not know {word}")));
        }
    }
    findings
}

#[test]
fn unsafe_is_found_outside_its_rooms_only() {
    let text = "// unsafe\nfn a() { unsafe { b() } }\n#![forbid(unsafe_code)]\n\"unsafe\";\n";
    let found = unsafe_rooms(&Source::new("acl/src/a.rs", text));
    assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    assert_eq!(unsafe_rooms(&Source::new("fastpath/src/sys/a.rs", text)), []);
}

#[test]
fn banned_code_is_found() {
    let text = format!("{} a {{}}\n// {} b\nc.unwrap();\n", NOWHERE[0].0, NOTES[0]);
    let found = banned_code(&Source::new("acl/src/a.rs", &text));
    let mut lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3]);
    let in_test = banned_code(&Source::new("acl/src/a/tests.rs", "c.unwrap();\n"));
    assert_eq!(in_test, []);
}

#[test]
fn a_path_of_one_machine_is_found() {
    let text = format!("fine\nsee {}x\n", WORKPLACE[0]);
    assert_eq!(workplace("README.md", &text)[0].line, 2);
    assert_eq!(workplace(LOOKS_BESIDE, &text), []);
}
