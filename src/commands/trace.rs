//! `margay trace`: why a packet goes or falls, stage by stage.
//!
//! Against a directory of resources, one question or a batch of them, or asking the running daemon.
//! Exit status 1 when the packet falls.

use crate::commands::batch;
use crate::commands::output::{Format, columns, print};
use anyhow::{Context, Result, bail};
use comfy_table::Table;
use margay_control::api::client;
use margay_control::config::SOCKET;
use margay_control::trace::{Answer, Protocol, Question, Staged, Tracer, reversed};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tell why a packet goes or falls, stage by stage.
#[derive(Debug, clap::Args)]
pub(crate) struct Trace {
    /// Who sends: namespace/pod, an endpoint's name, a host endpoint's name, or an address
    #[arg(long, value_name = "EP|IP", required_unless_present = "batch")]
    from: Option<String>,
    /// To whom
    #[arg(long, value_name = "EP|IP", required_unless_present = "batch")]
    to: Option<String>,
    /// tcp, udp, sctp, icmp, icmpv6, udplite, or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    proto: String,
    /// Port of the receiver; the type of an ICMP message
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Port of the sender
    #[arg(long, value_name = "N")]
    sport: Option<u16>,
    /// The port that the packet comes in by, if it is not that of the sender
    #[arg(long, value_name = "PORT")]
    in_port: Option<String>,
    /// Ask for a flow in the other direction too
    #[arg(long, value_enum, default_value_t)]
    direction: Direction,
    /// Directory of Calico and Kubernetes resources; without it the running daemon is asked
    #[arg(long, value_name = "DIR", required_if_eq("batch", "true"))]
    store: Option<PathBuf>,
    /// The node whose routes count; that of the sender where it is not said
    #[arg(long, value_name = "NAME", requires = "store")]
    node: Option<String>,
    /// Read {"from","to","proto","sport","port","in"} objects from standard input, one a line
    #[arg(long, conflicts_with_all = ["from", "to", "port", "sport", "in_port", "output"])]
    batch: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The daemon's Unix socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Direction {
    /// From the sender to the receiver
    #[default]
    Forward,
    /// That, and a flow that the receiver begins
    Both,
}

/// An answer to a line of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Answer(Box<Answer>),
    Error { error: String },
}

/// The answer to a question of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Whole {
    #[serde(flatten)]
    answer: Answer,
    /// What staged policies would do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    staged: Vec<Staged>,
    /// The flow that the receiver begins, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reverse: Option<Answer>,
}

impl Trace {
    pub(crate) fn execute(self) -> Result<ExitCode> {
        match &self.store {
            Some(store) if self.batch => self.answer_lines(store),
            Some(store) => {
                let tracer = Tracer::new(store, self.node.as_deref())?;
                let question = self.question();
                let ask = |question: &Question| tracer.trace(question).map_err(anyhow::Error::msg);
                let answer = ask(&question)?;
                let staged = tracer.staged(&question).map_err(anyhow::Error::msg)?;
                let back = self.direction == Direction::Both;
                let reverse = back.then(|| ask(&reversed(&question))).transpose()?;
                self.tell(Whole { answer, staged, reverse })
            }
            None if self.batch => bail!("a batch needs --store"),
            None => self.ask_daemon(),
        }
    }

    fn question(&self) -> Question {
        Question {
            from: self.from.clone().unwrap_or_default(),
            to: self.to.clone().unwrap_or_default(),
            proto: Some(Protocol::Name(self.proto.clone())),
            sport: self.sport,
            port: self.port,
            in_port: self.in_port.clone(),
        }
    }

    fn answer_lines(&self, store: &Path) -> Result<ExitCode> {
        let tracer = Tracer::new(store, self.node.as_deref())?;
        let line = |question: Question| match tracer.trace(&question) {
            Ok(answer) => Line::Answer(Box::new(answer)),
            Err(error) => Line::Error { error },
        };
        batch::run(std::io::stdin().lock(), &mut std::io::stdout().lock(), line)?;
        Ok(ExitCode::SUCCESS)
    }

    fn ask_daemon(&self) -> Result<ExitCode> {
        let question = serde_json::to_string(&self.question()).context("question")?;
        let path = format!("/v1/trace?question={}", percent(&question));
        let answer: Answer = client::get(&self.socket, &path)?;
        let back = self.direction == Direction::Both;
        let reverse = match back {
            true => {
                let question = serde_json::to_string(&reversed(&self.question()))?;
                let path = format!("/v1/trace?question={}", percent(&question));
                Some(client::get(&self.socket, &path)?)
            }
            false => None,
        };
        self.tell(Whole { answer, staged: Vec::new(), reverse })
    }

    fn tell(&self, whole: Whole) -> Result<ExitCode> {
        print(self.output, &whole, table)?;
        let falls = |answer: &Answer| answer.verdict == "drop";
        let any = falls(&whole.answer) || whole.reverse.as_ref().is_some_and(falls);
        Ok(if any { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// A text as a part of a URL.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let part = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(part).collect()
}

fn table(whole: &Whole) -> Table {
    let mut table = columns(["stage", "outcome", "detail"]);
    let mut rows = |answer: &Answer| {
        for stage in &answer.stages {
            table.add_row([&stage.stage, &stage.outcome, &stage.detail]);
            let sets = stage.rule.iter().flat_map(|rule| &rule.sets);
            for set in sets {
                table.add_row(["", "", set]);
            }
        }
        let reason = if answer.verdict == "drop" { &*answer.reason } else { "" };
        table.add_row(["verdict", &answer.verdict, reason]);
    };
    rows(&whole.answer);
    if let Some(reverse) = &whole.reverse {
        rows(reverse);
    }
    for staged in &whole.staged {
        let rule = staged.rule.as_ref().and_then(|rule| rule.policy.as_deref()).unwrap_or_default();
        table.add_row(["staged", &staged.verdict, &format!("{} {rule}", staged.endpoint)]);
    }
    table
}
