//! The screen of `margay top`, and the same as plain text.

use super::rates::{LimitRate, PortRate, Rates, WorkerRate, short};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Row, Table};
use std::fmt::Write;

const PORTS: [&str; 7] =
    ["PORT", "STATE", "RX PKT/S", "RX BIT/S", "TX PKT/S", "TX BIT/S", "TX FULL/S"];
const WORKERS: [&str; 7] =
    ["WORKER", "CORE", "STATE", "FORWARDED/S", "PUNTED/S", "DROPPED/S", "CYCLES/PKT"];
const LIMITS: [&str; 7] =
    ["ENDPOINT", "DIRECTION", "LIMIT BIT/S", "BIT/S", "PKT/S", "DROPPED/S", "QUEUED"];
const DROPS: [&str; 3] = ["DROPS", "PER SECOND", "IN ALL"];

/// Draws everything; what has no room is cut off at the bottom of its table.
pub(super) fn draw(frame: &mut Frame, rates: &Rates) {
    let rows = |count: usize| Constraint::Max(count as u16 + 2);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Max(if rates.limits.is_empty() { 0 } else { rates.limits.len() as u16 + 2 }),
        rows(rates.workers.len()),
        rows(rates.drops.len().max(1)),
        Constraint::Length(1),
    ]);
    let [head, ports, limits, workers, drops, foot] = areas.areas(frame.area());
    frame.render_widget(Line::from(title(rates)).bold(), head);
    let cells: Vec<_> = rates.ports.iter().map(port).collect();
    frame.render_widget(table(PORTS, cells), ports);
    if !rates.limits.is_empty() {
        let cells: Vec<_> = rates.limits.iter().map(limit).collect();
        frame.render_widget(table(LIMITS, cells), limits);
    }
    let cells: Vec<_> = rates.workers.iter().map(worker).collect();
    frame.render_widget(table(WORKERS, cells), workers);
    frame.render_widget(table(DROPS, drop_cells(rates)), drops);
    frame.render_widget(Line::from("q: leave").dim(), foot);
}

/// The same as lines of text, with an empty line behind.
pub(super) fn plain(rates: &Rates) -> String {
    let mut out = title(rates) + "\n";
    lines(&mut out, PORTS, rates.ports.iter().map(port).collect());
    if !rates.limits.is_empty() {
        lines(&mut out, LIMITS, rates.limits.iter().map(limit).collect());
    }
    lines(&mut out, WORKERS, rates.workers.iter().map(worker).collect());
    lines(&mut out, DROPS, drop_cells(rates));
    out.push('\n');
    out
}

fn title(rates: &Rates) -> String {
    let state = if rates.ready { "ready" } else { "not ready" };
    let mut line =
        format!("{}: {state}, up {} s, {} routes", rates.node, rates.uptime_s, rates.routes);
    if let Some(bgp) = &rates.bgp {
        let _ = write!(line, ", {} of {} BGP peers up", bgp.peers_up, bgp.peers);
    }
    line
}

fn port(port: &PortRate) -> [String; 7] {
    [
        port.name.clone(),
        port.state.clone(),
        short(port.rx_packets),
        short(port.rx_bits),
        short(port.tx_packets),
        short(port.tx_bits),
        short(port.tx_full),
    ]
}

fn limit(limit: &LimitRate) -> [String; 7] {
    [
        limit.pod.clone(),
        limit.direction.to_owned(),
        limit.limit_bits.map_or_else(|| "-".to_owned(), |bits| short(bits as f64)),
        short(limit.bits),
        short(limit.packets),
        short(limit.dropped),
        limit.queued.to_string(),
    ]
}

fn worker(worker: &WorkerRate) -> [String; 7] {
    [
        worker.index.to_string(),
        worker.core.map_or("-".to_owned(), |core| core.to_string()),
        worker.state.clone(),
        short(worker.forwarded),
        short(worker.punted),
        short(worker.dropped),
        short(worker.cycles),
    ]
}

fn drop_cells(rates: &Rates) -> Vec<[String; 3]> {
    let row = |(reason, rate, total): &(String, f64, u64)| {
        [reason.clone(), short(*rate), total.to_string()]
    };
    rates.drops.iter().map(row).collect()
}

fn table<const N: usize>(headings: [&'static str; N], rows: Vec<[String; N]>) -> Table<'static> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let heading = if no_color { Style::new() } else { Style::new().fg(Color::Cyan) };
    let mut widths = [Constraint::Min(11); N];
    widths[0] = Constraint::Min(18);
    Table::new(rows.into_iter().map(Row::new), widths)
        .header(Row::new(headings).style(heading.bold()))
        .block(Block::new())
}

fn lines<const N: usize>(out: &mut String, headings: [&str; N], rows: Vec<[String; N]>) {
    for row in std::iter::once(headings.map(str::to_owned)).chain(rows) {
        let [first, rest @ ..] = &row[..] else { continue };
        let _ = write!(out, "{first:<20}");
        for cell in rest {
            let _ = write!(out, " {cell:>11}");
        }
        out.push('\n');
    }
}
