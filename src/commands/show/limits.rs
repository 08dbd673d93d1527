//! `margay show limits`: two lines an endpoint, towards it and from it.

use crate::commands::output::columns;
use comfy_table::Table;
use margay_control::api::limits::{LimitAnswer, WayAnswer};

const NARROW: [&str; 9] = [
    "namespace",
    "pod",
    "direction",
    "bandwidth",
    "rate",
    "packet rate",
    "connections",
    "dropped",
    "queued",
];
const WIDE: [&str; 10] = [
    "interface",
    "burst",
    "peak",
    "packet burst",
    "dscp",
    "weight",
    "packets",
    "bytes",
    "delayed",
    "reasons",
];

pub(super) fn table(answer: &[LimitAnswer], wide: bool) -> Table {
    let more: &[&str] = if wide { &WIDE } else { &[] };
    let mut table = columns(NARROW.iter().chain(more).copied());
    for limited in answer {
        for (direction, way) in [("ingress", &limited.ingress), ("egress", &limited.egress)] {
            table.add_row(row(limited, direction, way, wide));
        }
    }
    table
}

fn row(limited: &LimitAnswer, direction: &str, way: &WayAnswer, wide: bool) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), metric);
    let mut row = vec![
        limited.namespace.clone(),
        limited.pod.clone(),
        direction.to_owned(),
        number(way.bandwidth),
        metric(way.bits_per_second),
        number(way.packet_rate),
        match way.max_connections {
            Some(most) => format!("{} of {most}", way.connections),
            None => "-".to_owned(),
        },
        way.dropped_packets().to_string(),
        way.queued.to_string(),
    ];
    if wide {
        let reasons: Vec<String> =
            way.dropped.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
        row.extend([
            limited.interface.clone(),
            number(way.burst),
            number(way.peak_rate),
            number(way.packet_burst),
            limited.dscp.map_or_else(|| "-".to_owned(), |dscp| dscp.to_string()),
            limited.weight.to_string(),
            way.packets.to_string(),
            way.bytes.to_string(),
            way.delayed.to_string(),
            reasons.join(" "),
        ]);
    }
    row
}

/// A number as people write limits: `10M`, `1.5G`, `999`.
fn metric(value: u64) -> String {
    const UNITS: [(u64, &str); 5] = [
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| value >= *unit) else {
        return value.to_string();
    };
    let text = format!("{:.2}", value as f64 / *unit as f64);
    format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_endpoint_has_a_line_for_each_direction() {
        let egress = WayAnswer {
            bandwidth: Some(10_000_000),
            bits_per_second: 9_998_000,
            max_connections: Some(5),
            connections: 2,
            dropped: BTreeMap::from([("limit-bandwidth".to_owned(), 7)]),
            queued: 3,
            ..WayAnswer::default()
        };
        let (namespace, pod) = ("default".to_owned(), "web".to_owned());
        let limited = LimitAnswer { namespace, pod, egress, ..LimitAnswer::default() };
        let text = table(std::slice::from_ref(&limited), false).to_string();
        let words: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        let expected = ["default", "web", "egress", "10M", "10M", "-", "2", "of", "5", "7", "3"];
        assert_eq!(words, expected);
        assert!(table(&[limited], true).to_string().contains("limit-bandwidth=7"));
    }

    #[test]
    fn numbers_are_as_people_write_limits() {
        let texts = [0, 999, 1000, 1_500_000, 4_294_967_296, 2_000_000_000_000_000].map(metric);
        assert_eq!(texts, ["0", "999", "1k", "1.5M", "4.29G", "2P"]);
    }
}
