//! A Rust file as the rules see it: its lines, the same with comments and text literals blanked,
//! and which lines are test code.

/// One file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the project's root.
    pub(crate) path: String,
    /// As written.
    pub(crate) lines: Vec<String>,
    /// As written, with blanks for everything in comments and in text and character literals.
    pub(crate) code: Vec<String>,
    /// True for lines of test code.
    pub(crate) is_test: Vec<bool>,
}

impl Source {
    /// Reads the text of the file at `path`.
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let is_test = test_lines(path, &code);
        Source { path: path.to_owned(), lines, code, is_test }
    }

    /// Lines of code outside tests, numbered from 1.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().enumerate().filter(|(at, _)| !self.is_test[*at]);
        lines.map(|(at, line)| (at + 1, line.as_str()))
    }
}

/// Blanks comments, text and character literals, keeping every line where it is.
fn blank(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut out: Vec<char> = letters.clone();
    let mut at = 0;
    while at < letters.len() {
        let end = span(&letters, at);
        for letter in &mut out[at..end] {
            if *letter != '\n' {
                *letter = ' ';
            }
        }
        at = end.max(at + 1);
    }
    out.into_iter().collect()
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn span(letters: &[char], at: usize) -> usize {
    let next = |offset: usize| letters.get(at + offset).copied().unwrap_or('\0');
    let in_word = at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_');
    match (letters[at], next(1)) {
        ('/', '/') => find(letters, at, |rest| rest[0] == '\n'),
        ('/', '*') => block_comment(letters, at),
        ('"', _) => text_literal(letters, at),
        ('r', '"' | '#') if !in_word => raw_literal(letters, at),
        ('b', 'r') if !in_word => match raw_literal(letters, at + 1) {
            end if end == at + 1 => at,
            end => end,
        },
        ('\'', '\\') => find(letters, at + 3, |rest| rest[0] == '\'') + 1,
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
    .min(letters.len())
}

fn find(letters: &[char], from: usize, wanted: impl Fn(&[char]) -> bool) -> usize {
    let mut places = from.min(letters.len())..letters.len();
    places.find(|at| wanted(&letters[*at..])).unwrap_or(letters.len())
}

fn block_comment(letters: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at + 1 < letters.len() {
        match (letters[at], letters[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 1),
            ('*', '/') => (depth, at) = (depth - 1, at + 1),
            _ => (),
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    letters.len()
}

fn text_literal(letters: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < letters.len() && letters[at] != '"' {
        at += if letters[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_literal(letters: &[char], from: usize) -> usize {
    let hashes = letters[from + 1..].iter().take_while(|letter| **letter == '#').count();
    if letters.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let closes = |rest: &[char]| {
        rest[0] == '"' && rest[1..].iter().take_while(|letter| **letter == '#').count() >= hashes
    };
    find(letters, from + 2 + hashes, closes) + 1 + hashes
}

/// The line in which the braces that open at or behind line `from` are closed again; `from` when
/// the item ends with a semicolon first.
pub(crate) fn end_of_item(code: &[String], from: usize) -> usize {
    let mut depth = 0i32;
    // Brackets too: a semicolon in an array type ends nothing.
    let mut nested = 0i32;
    for (at, line) in code.iter().enumerate().skip(from) {
        for letter in line.chars() {
            match letter {
                '(' | '[' => nested += 1,
                ')' | ']' => nested -= 1,
                '{' => depth += 1,
                '}' if depth == 1 => return at,
                '}' => depth -= 1,
                ';' if depth == 0 && nested == 0 => return at,
                _ => (),
            }
        }
    }
    code.len().saturating_sub(1)
}

fn test_lines(path: &str, code: &[String]) -> Vec<bool> {
    let parts: Vec<&str> = path.split('/').collect();
    let is_test_file = parts.contains(&"tests") || parts.contains(&"benches");
    let mut is_test = vec![is_test_file || path.ends_with("/tests.rs"); code.len()];
    for (at, line) in code.iter().enumerate() {
        let line = line.trim();
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            is_test[at..=end_of_item(code, at)].fill(true);
        }
    }
    is_test
}

#[test]
fn comments_and_literals_are_blanked() {
    let text = "a /* b /* c */ d */ e // f\n'\\'' \"g\\\"h\" i r#\"j\"k\"# br\"l\" m 'n' &'o p";
    let words: Vec<String> = blank(text).lines().map(|line| line.replace(' ', "")).collect();
    assert_eq!(words, ["ae", "im&'op"]);
}

#[test]
fn test_code_is_told_from_the_rest() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c(x: [u8; 2]) {\n}";
    let source = Source::new("x/src/y.rs", text);
    assert_eq!(source.is_test, [false, true, true, true, true, false, false]);
    assert_eq!(end_of_item(&source.code, 5), 6);
    assert!(Source::new("x/src/y/tests.rs", "fn a() {}").is_test[0]);
}
