//! Faults of YAML and JSON text, as place and words for people.
//!
//! The parser renders errors with a source snippet over many lines; logs and `show status` need
//! one line with the place apart.

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1; 0 when the parser knows none.
    pub line: u64,
    /// Column, from 1; 0 when the parser knows none.
    pub column: u64,
    /// One line about what is wrong.
    pub what: String,
}

impl Fault {
    /// The fault that the parser's error reports.
    pub fn of(error: &serde_saphyr::Error) -> Fault {
        let location = error.location();
        let text = error.without_snippet().to_string();
        let what = text.lines().next().unwrap_or_default().trim();
        let what = match what.rsplit_once(" at line ") {
            Some((words, _)) => words,
            None => what,
        };
        Fault {
            line: location.as_ref().map_or(0, |location| location.line()),
            column: location.as_ref().map_or(0, |location| location.column()),
            what: what.trim_end_matches(':').to_owned(),
        }
    }

    /// `line:column`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.line, self.column)
    }
}
