//! The commands. Each file has the flags of one command and an `execute` that runs it.

mod decode;
mod lab;

use std::process::ExitCode;

/// What margay is asked to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Decode one message or frame into JSON.
    Decode(decode::Decode),
    Lab(lab::Lab),
}

impl Command {
    /// Runs the command; an error is printed by the caller and ends with exit status 1.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Decode(decode) => decode.execute(),
            Command::Lab(lab) => lab.execute(),
        }
    }
}

/// Prints `error: WHAT: WHY` on one line. What follows the first line of a cause is a hint, and
/// gets lines of its own.
pub(crate) fn print_error(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let mut lines = text.lines();
    eprintln!("error: {}", lines.next().unwrap_or_default());
    lines.for_each(|hint| eprintln!("{hint}"));
}
