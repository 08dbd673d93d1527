//! `margay lab`: builds the network, runs real daemons, sends real traffic, says what happened.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use margay::lab::bird::Installation;
use margay::lab::network::Encap;
use margay::lab::node::Router;
use margay::lab::report::Report;
use margay::lab::steps::{self, News, Plan};
use margay::lab::tor::Peer;
use margay::lab::{process, requirements};

/// Builds a small network of namespaces with real daemons, and sends traffic through it.
///
/// Two router nodes with pods, and an outside host behind a top-of-rack router. Everything is
/// removed in the end, also after Ctrl-C; what a killed run left is removed by the next one. Needs
/// root, iproute2, iputils-ping, iperf3 and traceroute. Takes less than a minute.
#[derive(Debug, clap::Args)]
pub(crate) struct Lab {
    /// Leave the last network running, until the next lab starts
    #[arg(long)]
    keep: bool,
    /// How to print what happened
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Let the kernel forward instead of margay, to compare
    #[arg(long)]
    kernel: bool,
    /// How packets between pods of different nodes are carried
    #[arg(long, value_enum, default_value_t, conflicts_with = "kernel")]
    encap: Encap,
    /// Who speaks BGP on the top of rack: with `bird`, that is BIRD 2 of the package bird2, and
    /// there are steps on how packets follow what it says
    #[arg(long, value_enum, default_value_t = Speaker::Margay, conflicts_with = "kernel")]
    peer: Speaker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speaker {
    Margay,
    Bird,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

impl Lab {
    /// Runs the command; the exit status is 0 when every step went well.
    pub(crate) fn execute(&self) -> Result<ExitCode> {
        for tools in [requirements::NETWORK, requirements::STEPS] {
            requirements::check(tools).context("lab")?;
        }
        let peer = match self.peer {
            Speaker::Margay => Peer::Margay,
            Speaker::Bird => Peer::Bird(Installation::find().context("lab")?),
        };
        process::stop_on_signals()?;
        let router = match self.kernel {
            true => Router::Kernel,
            false => Router::Margay(std::env::current_exe().context("cannot find this program")?),
        };
        let plan = Plan { router, peer, encap: self.encap, keep: self.keep };
        let mut watch = |news: News| {
            if self.output == Format::Table {
                print_news(news);
            }
        };
        let report = steps::run(&plan, &mut watch).context("lab")?;
        print_report(&report, self.output)?;
        Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// One line a step; on a terminal it is there from the step's beginning.
fn print_news(news: News) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more when printing fails; the exit code still tells.
    match news {
        News::Begun(name) if out.is_terminal() => write!(out, "...     {name}").ok(),
        News::Begun(_) => None,
        News::Done(step) => {
            let start = if out.is_terminal() { "\r\x1b[K" } else { "" };
            let verdict = if step.ok { "ok    " } else { "FAILED" };
            writeln!(out, "{start}{verdict}  {}: {}", step.name, step.detail).ok()
        }
    };
    out.flush().ok();
}

fn print_report(report: &Report, format: Format) -> Result<()> {
    match format {
        Format::Table => println!("\n{}", report.summary()),
        Format::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Format::Yaml => println!("{}", serde_saphyr::to_string(report)?),
    }
    Ok(())
}
