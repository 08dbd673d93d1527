//! `margay eval selector`: whether a selector picks labels.
//!
//! Stateless: needs no daemon, no root and no configuration. With `--batch` each line of standard
//! input is an object `{"selector":"...","labels":{"k":"v"}}`, the labels also as `"k=v,k=v"`, and
//! each answer is one line, `{"match":true}` or `{"error":"..."}`, in order.

use super::batch;
use margay_acl::selector::Selector;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

/// Flags of `margay eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Eval {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print true or false; an error in the selector points at its column.
    Selector {
        /// The selector, such as "app == 'db' && !has(legacy)".
        #[arg(required_unless_present = "batch", allow_hyphen_values = true)]
        expression: Option<String>,
        /// Labels to try it on, as in app=db,tier=back.
        #[arg(long, value_name = "K=V,...", default_value = "", value_parser = labels)]
        labels: Labels,
        /// How to print the answer.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        /// Read {"selector":"...","labels":{...}} objects from standard input, one a line.
        #[arg(long, conflicts_with_all = ["expression", "labels", "output"])]
        batch: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// true or false
    #[default]
    Table,
    /// One JSON value
    Json,
    /// YAML
    Yaml,
}

type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    selector: String,
    #[serde(default)]
    labels: Given,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Map(Labels),
    Text(String),
}

impl Default for Given {
    fn default() -> Given {
        Given::Map(Labels::new())
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Match {
        #[serde(rename = "match")]
        matches: bool,
    },
    Error {
        error: String,
    },
}

impl Eval {
    /// Exit status 1 when the selector cannot be parsed; false is a good answer.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let What::Selector { expression, labels, output, .. } = self.what;
        let Some(expression) = expression else {
            batch::run(std::io::stdin().lock(), &mut std::io::stdout().lock(), line)?;
            return Ok(ExitCode::SUCCESS);
        };
        let matches = matches(&expression, &labels).map_err(anyhow::Error::msg)?;
        let answer = Answer::Match { matches };
        let text = match output {
            Format::Table => matches.to_string(),
            Format::Json => serde_json::to_string(&answer)?,
            Format::Yaml => serde_saphyr::to_string(&answer)?,
        };
        writeln!(std::io::stdout(), "{}", text.trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn line(line: Line) -> Answer {
    let given = match line.labels {
        Given::Map(given) => Ok(given),
        Given::Text(text) => labels(&text),
    };
    let outcome = given.and_then(|labels| {
        let parsed = Selector::parse(&line.selector);
        let selector = parsed.map_err(|error| format!("selector: {error}"))?;
        Ok(selector.matches(|name| labels.get(name).map(String::as_str)))
    });
    match outcome {
        Ok(matches) => Answer::Match { matches },
        Err(error) => Answer::Error { error },
    }
}

/// The error of a selector shows it, with a mark under the column.
fn matches(expression: &str, labels: &Labels) -> Result<bool, String> {
    let selector = Selector::parse(expression).map_err(|error| {
        let blank = |letter: char| if letter == '\t' { '\t' } else { ' ' };
        let before: String = expression.chars().take(error.column - 1).map(blank).collect();
        let shown = expression.replace(['\n', '\r'], " ");
        format!("selector: {error}\n  {shown}\n  {before}^")
    })?;
    Ok(selector.matches(|name| labels.get(name).map(String::as_str)))
}

fn labels(text: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("'{pair}' is no label: write NAME=VALUE"));
        };
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("label {name} is there twice"));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_points_at_the_column() {
        let error = matches("app = 'db'", &Labels::new()).unwrap_err();
        assert_eq!(error, "selector: column 5: '=' begins nothing\n  app = 'db'\n      ^");
        let error = matches("app ==\n'db'", &Labels::new()).unwrap_err();
        assert!(error.ends_with("\n  app == 'db'\n        ^"), "{error}");
    }

    #[test]
    fn labels_are_pairs() {
        let read = labels("a=1, b=x=y,c=,").unwrap();
        let pairs = [("a", "1"), ("b", "x=y"), ("c", "")];
        assert_eq!(read, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for bad in ["a", "=1", "a=1,a=2"] {
            assert!(labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_batch_answers_every_line_in_order() {
        let input = concat!(
            "{\"selector\":\"a == '1'\",\"labels\":{\"a\":\"1\"}}\n",
            "{\"selector\":\"a == '1'\",\"labels\":\"a=2,b=1\"}\n",
            "no question\n",
            "{\"selector\":\"a ==\",\"labels\":{}}\n",
            "{\"selector\":\"\"}\n",
        );
        let mut out = Vec::new();
        batch::run(input.as_bytes(), &mut out, line).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[..2], ["{\"match\":true}", "{\"match\":false}"]);
        assert!(lines[2].starts_with("{\"error\":\"expected"), "{}", lines[2]);
        let error = "{\"error\":\"selector: column 5: expected a text in quotes\"}";
        assert_eq!(lines[3..], [error, "{\"match\":true}"]);
    }
}
