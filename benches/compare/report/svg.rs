//! Text, lines and boxes of an SVG picture that reads on light and on dark ground.

use std::fmt::{Display, Write};

/// Classes with their colours; what is on dark ground has its own.
const STYLE: &str = "\
    text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\
    text{fill:#1f2933}\
    .title{font-size:17px;font-weight:600}.head{font-size:15px;font-weight:600}\
    .small{font-size:12px}.muted{fill:#52606d}.end{text-anchor:end}.middle{text-anchor:middle}\
    .ground{fill:#ffffff}.own{fill:#1769aa}.peer{fill:#9aa5b1}.band{fill:#dbeafe}\
    .grid{stroke:#d5dbe1}.mark{stroke:#1769aa;stroke-dasharray:4 3}\
    .spread{stroke:#1f2933;stroke-width:1.5}.line{fill:none;stroke:#1769aa;stroke-width:2}\
    @media (prefers-color-scheme:dark){text{fill:#e4e7eb}.muted{fill:#9aa5b1}\
    .ground{fill:#14181d}.own{fill:#4aa8f0}.peer{fill:#616e7c}.band{fill:#1d3349}\
    .grid{stroke:#323f4b}.mark,.line{stroke:#4aa8f0}.spread{stroke:#e4e7eb}}";

/// A picture that grows downwards.
#[derive(Debug, Default)]
pub(super) struct Svg {
    body: String,
}

impl Svg {
    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), text: impl Display) {
        let text = escape(&text.to_string());
        let _ = writeln!(self.body, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
    }

    /// From a corner, so wide and high.
    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let _ = writeln!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}"/>"#,
            width.max(0.0),
            height.max(0.0),
        );
    }

    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64)) {
        let _ = writeln!(self.body, r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
    }

    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.body, r#"<polyline class="{class}" points="{points}"/>"#);
    }

    /// The whole document.
    pub(super) fn finish(self, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" \
             width=\"{width}\" height=\"{height:.0}\">\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n{}</svg>\n",
            self.body
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
