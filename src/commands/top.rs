//! `margay top`: rates, drops and workers of the running daemon, live.
//!
//! The daemon streams totals; rates are taken here, between two samples. A terminal gets a screen
//! that is redrawn (`q` ends it); anything else gets plain text, one block a sample.

mod rates;
mod view;

use anyhow::{Context, Result};
use margay_control::api::client;
use margay_control::api::top::{INTERVAL_MAX_MS, INTERVAL_MIN_MS, Sample};
use margay_control::config::SOCKET;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rates::Rates;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How often the keyboard is looked at.
const KEYS: Duration = Duration::from_millis(50);
/// Samples that wait to be shown; the daemon waits behind them.
const WAITING: usize = 4;

/// Watch rates, drops and workers of the running daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Milliseconds between two samples, 100 to 5000
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(INTERVAL_MIN_MS..=INTERVAL_MAX_MS))]
    interval: u64,
    /// End after so many samples
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The daemon's Unix socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

impl Top {
    /// Shows samples until told to stop.
    pub(crate) fn execute(self) -> Result<ExitCode> {
        let path = format!("/v1/top?intervalMilliseconds={}", self.interval);
        let lines = client::open(&self.socket, &path)?;
        let limit = self.count.unwrap_or(u64::MAX);
        if std::io::stdout().is_terminal() {
            live(lines, limit)?;
        } else {
            plain(lines, std::io::stdout().lock(), limit)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The next pair of samples as rates; the first sample alone gives totals with rates of 0.
fn next(lines: &mut impl BufRead, last: &mut Option<Sample>) -> Result<Option<Rates>> {
    let mut line = String::new();
    if lines.read_line(&mut line).context("the daemon's stream")? == 0 {
        return Ok(None);
    }
    let sample: Sample = serde_json::from_str(&line)
        .context("the daemon's answer: are the daemon and this command of one version?")?;
    let rates = Rates::between(last.as_ref().unwrap_or(&sample), &sample);
    *last = Some(sample);
    Ok(Some(rates))
}

fn plain(mut lines: impl BufRead, mut out: impl Write, limit: u64) -> Result<()> {
    let mut last = None;
    let mut shown = 0;
    while shown < limit
        && let Some(rates) = next(&mut lines, &mut last)?
    {
        shown += 1;
        match out.write_all(view::plain(&rates).as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            outcome => outcome.context("standard output")?,
        }
    }
    Ok(())
}

fn live(mut lines: impl BufRead + Send + 'static, limit: u64) -> Result<()> {
    let (sender, samples) = sync_channel(WAITING);
    std::thread::Builder::new().name("samples".to_owned()).spawn(move || {
        let mut last = None;
        while let Some(rates) = next(&mut lines, &mut last).transpose() {
            let failed = rates.is_err();
            if sender.send(rates).is_err() || failed {
                return;
            }
        }
    })?;
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let outcome = draw_all(&mut terminal, &samples, limit);
    ratatui::restore();
    outcome
}

fn draw_all(
    terminal: &mut ratatui::DefaultTerminal,
    samples: &Receiver<Result<Rates>>,
    limit: u64,
) -> Result<()> {
    let mut shown = 0;
    let mut latest = None;
    while shown < limit {
        match samples.recv_timeout(KEYS) {
            Ok(rates) => {
                shown += 1;
                latest = Some(rates?);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the daemon has ended"),
        }
        if let Some(rates) = &latest {
            terminal.draw(|frame| view::draw(frame, rates)).context("the terminal")?;
        }
        if wants_to_leave()? {
            return Ok(());
        }
    }
    Ok(())
}

fn wants_to_leave() -> Result<bool> {
    while event::poll(Duration::ZERO).context("the keyboard")? {
        if let Event::Key(key) = event::read().context("the keyboard")?
            && key.kind == KeyEventKind::Press
        {
            let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                KeyCode::Char('c') if interrupt => return Ok(true),
                _ => {}
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
