//! The table of `show policy`.

use crate::commands::output::columns;
use comfy_table::Table;
use margay_control::api::policy::{PolicyAnswer, RuleHits};

pub(super) fn table(answer: &[PolicyAnswer]) -> Table {
    let mut table = columns(["endpoint", "direction", "tier", "policy", "rule", "action", "hits"]);
    for policy in answer {
        for (direction, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
            for rule in rules {
                let row = row(policy, direction, rule);
                table.add_row(row);
            }
        }
    }
    table
}

fn row(policy: &PolicyAnswer, direction: &str, hits: &RuleHits) -> [String; 7] {
    let RuleHits { rule, action, staged, hits } = hits;
    let place = rule.policy.clone().or_else(|| rule.profile.clone());
    let end = if rule.tier.is_some() { "end of tier" } else { "no profile matched" };
    let action = if *staged { format!("{action} (staged)") } else { action.clone() };
    [
        policy.endpoint.clone(),
        direction.to_owned(),
        rule.tier.clone().unwrap_or_default(),
        place.unwrap_or_else(|| end.to_owned()),
        rule.index.map_or_else(String::new, |index| index.to_string()),
        action,
        if policy.open { "-".to_owned() } else { hits.to_string() },
    ]
}
