//! Draws what was found: bars with their spread beside margay's, and curves over powers of ten.

use super::svg::Svg;
use super::{Look, Outcome, Row};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 24.0;
/// Bars begin here, and have so much room; figures stand behind it.
const BARS: f64 = 300.0;
const BARS_WIDTH: f64 = 400.0;
const FIGURES: f64 = BARS + BARS_WIDTH + 14.0;
const BAR_STEP: f64 = 24.0;
const BAR: f64 = 14.0;
/// A curve's field.
const FIELD: f64 = 90.0;
const FIELD_WIDTH: f64 = 780.0;
const FIELD_HEIGHT: f64 = 190.0;
/// Longest text of a row that has no figure, in letters.
const REASON: usize = 85;
/// Longest line of a note.
const NOTE: usize = 135;
/// What a curve may cost more than its first point and still be flat.
const FLAT: f64 = 1.1;

/// All outcomes, one below the other.
pub(super) fn draw(facts: &[(&'static str, String)], outcomes: &[Outcome]) -> String {
    let mut svg = Svg::default();
    let mut y = 36.0;
    svg.text("title", (LEFT, y), "margay beside its peers, on one machine");
    y += 24.0;
    for (name, value) in facts {
        svg.text("small muted", (LEFT, y), format!("{name}: {}", shortened(value, 120)));
        y += 17.0;
    }
    let drawn = outcomes.iter().filter(|outcome| outcome.look != Look::TableOnly);
    for outcome in drawn {
        y += 28.0;
        svg.text("head", (LEFT, y), &outcome.title);
        y += 18.0;
        svg.text("small muted", (LEFT, y), reading(outcome));
        if let Some(note) = outcome.notes.get(1).filter(|_| outcome.look == Look::Curve) {
            for line in lines(note) {
                y += 16.0;
                svg.text("small muted", (LEFT, y), line);
            }
        }
        y += 12.0;
        y = if outcome.look == Look::Curve {
            curve(&mut svg, outcome, y)
        } else {
            bars(&mut svg, outcome, y)
        };
    }
    svg.finish(WIDTH, y + 24.0)
}

fn reading(outcome: &Outcome) -> String {
    let unit = outcome.unit;
    match outcome.look {
        Look::LessIsBetter => format!("{unit}: median, least to most; less is better"),
        Look::PerCent => format!("{unit}: median, least to most; 100 is what is asked for"),
        Look::Curve => format!(
            "{unit}: median, least to most; the band is {:.0} % above the first point",
            (FLAT - 1.0) * 100.0
        ),
        _ => format!("{unit}: median, least to most; more is better"),
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A note in as many lines as it takes.
fn lines(note: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in note.split(' ') {
        let last = lines.last_mut().filter(|last| last.len() + word.len() < NOTE);
        match last {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) => *last += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A figure with three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn most_of(rows: &[Row]) -> f64 {
    let most = rows.iter().filter(|row| row.median().is_some()).map(|row| row.spread().1);
    most.fold(0.0, f64::max).max(f64::MIN_POSITIVE)
}

/// A bar a row; gives where they end.
fn bars(svg: &mut Svg, outcome: &Outcome, top: f64) -> f64 {
    let scale = BARS_WIDTH / most_of(&outcome.rows);
    let mut y = top;
    for row in &outcome.rows {
        let (middle, base) = (y + BAR / 2.0, y + BAR - 2.0);
        svg.text("", (LEFT, base), shortened(row.name, 40));
        match (row.median().filter(|_| row.skipped.is_none()), row.spread()) {
            (Some(median), (least, most)) => {
                let class = if row.name.starts_with("margay") { "own" } else { "peer" };
                svg.rect(class, (BARS, y), (median * scale, BAR));
                svg.line("spread", (BARS + least * scale, middle), (BARS + most * scale, middle));
                for end in [least, most] {
                    let x = BARS + end * scale;
                    svg.line("spread", (x, middle - 4.0), (x, middle + 4.0));
                }
                svg.text("", (FIGURES, base), figure(median));
                svg.text("small muted", (FIGURES + 70.0, base), beside(outcome, row));
            }
            (None, _) => {
                let why = row.skipped.as_deref().and_then(|why| why.lines().next());
                let why = why.unwrap_or("not run");
                let text = shortened(&format!("SKIPPED: {why}"), REASON);
                svg.text("small muted", (BARS, base), text);
            }
        }
        y += BAR_STEP;
    }
    let reference = if outcome.look == Look::PerCent { Some(100.0) } else { outcome.base() };
    if let Some(x) = reference.map(|base| BARS + base * scale).filter(|x| *x <= BARS + BARS_WIDTH) {
        svg.line("mark", (x, top - 3.0), (x, y - BAR_STEP + BAR + 3.0));
    }
    y
}

/// What a peer is beside margay; nothing for margay itself.
fn beside(outcome: &Outcome, row: &Row) -> String {
    let own = outcome.rows.iter().find(|row| row.name.starts_with("margay"));
    match outcome.ratio(row) {
        Some(ratio) if own.is_some_and(|own| own.name != row.name) && ratio > 0.0 => {
            format!("margay / this: {}", figure(ratio))
        }
        _ => String::new(),
    }
}

/// Where a number stands: a decade each the same width, 0 one before the first.
fn decade(at: f64, first: f64) -> f64 {
    if at > 0.0 { at.log10() } else { first.log10() - 1.0 }
}

fn curve(svg: &mut Svg, outcome: &Outcome, top: f64) -> f64 {
    let rows: Vec<&Row> = outcome.rows.iter().filter(|row| row.median().is_some()).collect();
    let above_zero = rows.iter().map(|row| row.at).filter(|at| *at > 0.0);
    let first = above_zero.fold(f64::INFINITY, f64::min).min(1e9);
    let places: Vec<f64> = rows.iter().map(|row| decade(row.at, first)).collect();
    let least = places.iter().copied().reduce(f64::min);
    let (Some(low), Some(high)) = (least, places.iter().copied().reduce(f64::max)) else {
        let why = outcome.rows.iter().find_map(|row| row.skipped.as_deref()).unwrap_or("not run");
        svg.text("small muted", (LEFT, top + 14.0), format!("SKIPPED: {why}"));
        return top + BAR_STEP;
    };
    let step = step(most_of(&outcome.rows) * FLAT);
    let full = (most_of(&outcome.rows) * FLAT / step).ceil() * step;
    let (field_top, bottom) = (top + 10.0, top + 10.0 + FIELD_HEIGHT);
    let x =
        |place: f64| FIELD + 30.0 + (FIELD_WIDTH - 60.0) * (place - low) / (high - low).max(1.0);
    let y = |value: f64| bottom - FIELD_HEIGHT * value / full;
    if let Some(base) = outcome.base() {
        let height = y(base) - y(base * FLAT);
        svg.rect("band", (FIELD, y(base * FLAT)), (FIELD_WIDTH, height));
    }
    for at in 0..=(full / step).round() as u32 {
        let value = f64::from(at) * step;
        svg.line("grid", (FIELD, y(value)), (FIELD + FIELD_WIDTH, y(value)));
        let text = format!("{}", (value * 100.0).round() / 100.0);
        svg.text("small muted end", (FIELD - 8.0, y(value) + 4.0), text);
    }
    let points: Vec<(f64, f64)> = rows
        .iter()
        .zip(&places)
        .filter_map(|(row, place)| Some((x(*place), y(row.median()?))))
        .collect();
    svg.path("line", &points);
    for (row, (px, py)) in rows.iter().zip(&points) {
        let (least, most) = row.spread();
        svg.line("spread", (*px, y(least)), (*px, y(most)));
        svg.dot("own", (*px, *py));
        let above = (py.min(y(most)) - 9.0).max(field_top - 2.0);
        svg.text("middle", (*px, above), figure(row.median().unwrap_or_default()));
        svg.text("small muted middle", (*px, bottom + 18.0), row.name);
    }
    bottom + 26.0
}

/// Between two lines of the grid: 1, 2 or 5 of some power of ten, for four to nine lines.
fn step(full: f64) -> f64 {
    let power = 10f64.powf(full.log10().floor());
    let parts = [0.1, 0.2, 0.5, 1.0].map(|part| part * power);
    parts.into_iter().find(|part| full / part <= 6.0).unwrap_or(power)
}
