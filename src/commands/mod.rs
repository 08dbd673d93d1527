//! The commands. Each file has the flags of one command and an `execute` that runs it.

mod batch;
mod capture;
pub(crate) mod cni;
mod ctl;
mod decode;
mod eval;
mod lab;
mod output;
mod pktgen;
mod replay;
mod run;
mod show;
mod top;
mod trace;

use std::process::ExitCode;

/// What margay is asked to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Capture(capture::Capture),
    Ctl(ctl::Ctl),
    /// Decode one message or frame into JSON.
    Decode(decode::Decode),
    /// Evaluate a selector against labels.
    Eval(eval::Eval),
    Lab(lab::Lab),
    Pktgen(pktgen::Pktgen),
    Replay(replay::Replay),
    Run(run::Run),
    Show(show::Show),
    Top(top::Top),
    Trace(trace::Trace),
}

impl Command {
    /// Runs the command; an error is printed by the caller and ends with exit status 1.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Capture(capture) => capture.execute(),
            Command::Ctl(ctl) => ctl.execute(),
            Command::Decode(decode) => decode.execute(),
            Command::Eval(eval) => eval.execute(),
            Command::Lab(lab) => lab.execute(),
            Command::Pktgen(pktgen) => pktgen.execute(),
            Command::Replay(replay) => replay.execute(),
            Command::Run(run) => run.execute(),
            Command::Show(show) => show.execute(),
            Command::Top(top) => top.execute(),
            Command::Trace(trace) => trace.execute(),
        }
    }
}

/// True when text on this stream may be coloured: a terminal, and no `NO_COLOR` (no-color.org).
pub(crate) fn wants_color(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints `error: WHAT: WHY` on one line. What follows the first line of a cause is a hint, and
/// gets lines of its own.
pub(crate) fn print_error(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let mut lines = text.lines();
    eprintln!("error: {}", lines.next().unwrap_or_default());
    lines.for_each(|hint| eprintln!("{hint}"));
}
