//! What each stage may cost, and how that is compared.

use std::fmt::Write;

use super::stages::STAGES;

/// A stage may differ by this part of its budget, and by this number of instructions a packet.
const MARGIN: (f64, f64) = (0.05, 1.0);
/// Another compiler makes other code: then only what is much too expensive is found.
const MARGIN_ELSEWHERE: (f64, f64) = (0.25, 10.0);

/// Instructions a packet of one case, in the order of the stages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    case: String,
    stages: [f64; STAGES.len()],
}

impl Row {
    /// Of so many `packets`; `case` is a name and the size of bursts.
    pub(crate) fn of(case: String, sums: [u64; STAGES.len()], packets: u64) -> Row {
        Row { case, stages: sums.map(|sum| sum as f64 / packets as f64) }
    }

    fn parse(line: &str) -> Option<Row> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, size, figures @ ..] = &words[..] else { return None };
        let figures = figures.iter().map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>()?;
        // The last one is the sum.
        let stages = figures.first_chunk().filter(|_| figures.len() == STAGES.len() + 1)?;
        Some(Row { case: format!("{name} {size}"), stages: *stages })
    }
}

/// The rows as a file of budgets has them.
pub(crate) fn table(compiler: &str, rows: &[Row]) -> String {
    let mut text = format!("# Instructions a packet. {}\n", compiler.trim());
    let _ = write!(text, "# {:12}", "case, burst");
    STAGES.iter().chain(&["all"]).for_each(|stage| {
        let _ = write!(text, "{stage:>8}");
    });
    for Row { case, stages } in rows {
        let _ = write!(text, "\n{case:14}");
        for figure in stages.iter().chain([&stages.iter().sum()]) {
            let _ = write!(text, "{figure:8.1}");
        }
    }
    text.push('\n');
    text
}

/// All budgets, and the compiler that they are for.
#[derive(Debug)]
pub(crate) struct Budgets {
    compiler: String,
    rows: Vec<Row>,
}

impl Budgets {
    /// Reads what [`table`] writes.
    pub(crate) fn parse(text: &str) -> Budgets {
        let compiler = text.lines().find_map(|line| Some(line.split_once("rustc ")?.1));
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let rows = lines.map(|line| Row::parse(line).unwrap_or_else(|| panic!("budgets: {line}")));
        Budgets { compiler: compiler.unwrap().to_owned(), rows: rows.collect() }
    }

    /// What is wrong: a stage that costs too much or too little, a case without a budget, or a
    /// budget without its case.
    pub(crate) fn compare(&self, compiler: &str, rows: &[Row]) -> Vec<String> {
        let same_compiler = compiler.trim().ends_with(&self.compiler);
        let mut findings = Vec::new();
        for row in rows {
            match self.rows.iter().find(|budget| budget.case == row.case) {
                None => findings.push(format!("{}: no budget", row.case)),
                Some(budget) => findings.extend(compare(budget, row, same_compiler)),
            }
        }
        let is_counted = |case: &str| rows.iter().any(|row| row.case == case);
        let idle = self.rows.iter().filter(|budget| !is_counted(&budget.case));
        findings.extend(idle.map(|budget| format!("{}: a budget that nothing uses", budget.case)));
        findings
    }
}

fn compare(budget: &Row, row: &Row, same_compiler: bool) -> Vec<String> {
    let (part, number) = if same_compiler { MARGIN } else { MARGIN_ELSEWHERE };
    let mut findings = Vec::new();
    for ((stage, budget), spent) in STAGES.iter().zip(budget.stages).zip(row.stages) {
        let margin = budget * part + number;
        let what = match spent - budget {
            over if over > margin => "too many",
            under if under < -margin && same_compiler => "so few that the budget is to be lowered",
            _ => continue,
        };
        let case = &row.case;
        findings.push(format!("{case}, {stage}: {spent:.1} of {budget:.1} instructions: {what}"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lookup: f64) -> Vec<Row> {
        let mut stages = [10.0; STAGES.len()];
        stages[5] = lookup;
        vec![Row { case: "route-v4 8".to_owned(), stages }]
    }

    #[test]
    fn a_stage_beyond_its_margin_is_found_on_either_side() {
        let budgets = Budgets::parse(&table("rustc 1.2.3 (abc)\n", &rows(100.0)));
        for (spent, same, other) in [
            (100.0, "", ""),
            (106.0, "", ""),
            (106.2, "too many", ""),
            (94.0, "", ""),
            (93.8, "so few that the budget is to be lowered", ""),
            (134.9, "too many", ""),
            (135.2, "too many", "too many"),
        ] {
            for (compiler, wanted) in [("rustc 1.2.3 (abc)", same), ("rustc 1.2.4 (d)", other)] {
                let found = budgets.compare(compiler, &rows(spent));
                assert_eq!(found.len(), usize::from(!wanted.is_empty()), "{spent} {found:?}");
                assert!(found.iter().all(|one| one.starts_with("route-v4 8, lookup: ")));
                assert!(found.iter().all(|one| one.ends_with(wanted)), "{found:?}");
            }
        }
    }

    #[test]
    fn the_readme_of_benches_shows_the_budgets() {
        let readme = include_str!("../../benches/README.md");
        let missing = include_str!("budgets.txt").lines().skip(1).find(|it| !readme.contains(it));
        assert_eq!(missing, None);
    }

    #[test]
    fn cases_without_a_budget_and_budgets_without_a_case_are_found() {
        let text = table("rustc 1 (a)", &rows(1.0)).replace("route-v4", "other");
        let found = Budgets::parse(&text).compare("rustc 1 (a)", &rows(1.0));
        assert_eq!(found, ["route-v4 8: no budget", "other 8: a budget that nothing uses"]);
    }
}
