//! Which stage of a packet's way an instruction belongs to.
//!
//! The optimiser makes one function of many, but debug information knows which source each
//! instruction came from, through all the functions that were inlined into each other. The
//! innermost one that has a stage decides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::callgrind::Part;

/// Stages in the order of a packet's way, then what belongs to none: the C library's copies, and
/// what holds the stages together.
pub(crate) const STAGES: [&str; 10] =
    ["ports", "parse", "flow", "policy", "nat", "lookup", "rewrite", "egress", "libc", "other"];

const LIBC: usize = 8;
const OTHER: usize = 9;

/// What stands in a function's name, or in the path of its file: "ports" are those that make and
/// take packets here, with their frames.
const RULES: &[(&str, &str)] = &[
    ("Pipeline::parse", "parse"),
    ("Burst::look_up", "lookup"),
    ("Pipeline::finish", "rewrite"),
    ("tests/counts/driver/", "ports"),
    ("fastpath/src/port/", "ports"),
    ("fastpath/src/sys/memory", "ports"),
    ("fastpath/src/parse.rs", "parse"),
    ("fastpath/src/flow/", "flow"),
    ("fastpath/src/pipeline/track.rs", "flow"),
    ("fastpath/src/nat/tracker", "flow"),
    ("fastpath/src/nat/subject.rs", "flow"),
    ("fastpath/src/nat/", "nat"),
    ("fastpath/src/service/", "nat"),
    ("fastpath/src/policy", "policy"),
    ("acl/src/", "policy"),
    ("fastpath/src/fib/", "lookup"),
    ("fastpath/src/pipeline/in_place.rs", "rewrite"),
    ("fastpath/src/forward.rs", "rewrite"),
    ("fastpath/src/egress.rs", "egress"),
];

/// The stages of a program's instructions.
#[derive(Debug)]
pub(crate) struct Attribution(BTreeMap<u64, usize>);

impl Attribution {
    /// Asks the debug information of `program` about all `places`.
    pub(crate) fn new(program: &Path, places: impl Iterator<Item = u64>) -> Attribution {
        let places: BTreeSet<u64> = places.collect();
        let mut command = Command::new("addr2line");
        command.args(["-a", "-i", "-f", "-C", "-e"]).arg(program);
        command.args(places.iter().map(|place| format!("{place:#x}")));
        Attribution::parse(&super::printed(&mut command))
    }

    /// What addr2line says: for each address a line with it, then a function and its place in the
    /// source, from the innermost to the outermost.
    fn parse(text: &str) -> Attribution {
        let mut stages = BTreeMap::new();
        let mut lines = text.lines();
        let mut address = 0;
        while let Some(line) = lines.next() {
            if let Some(digits) = line.strip_prefix("0x") {
                address = u64::from_str_radix(digits, 16).unwrap();
                stages.insert(address, OTHER);
                continue;
            }
            let file = lines.next().unwrap();
            if stages[&address] == OTHER {
                stages.insert(address, stage(line, file));
            }
        }
        Attribution(stages)
    }

    /// Instructions by stage, in the order of [`STAGES`].
    pub(crate) fn by_stage(&self, part: &Part) -> [u64; STAGES.len()] {
        let mut sums = [0; STAGES.len()];
        for (address, cost) in &part.own {
            sums[self.0.get(address).copied().unwrap_or(OTHER)] += cost;
        }
        sums[LIBC] += part.elsewhere;
        sums
    }
}

fn stage(function: &str, file: &str) -> usize {
    let rule = RULES.iter().find(|(what, _)| function.contains(what) || file.contains(what));
    let name = rule.map_or("other", |(_, stage)| stage);
    STAGES.iter().position(|stage| *stage == name).unwrap()
}

#[test]
fn the_innermost_source_with_a_stage_decides() {
    let text = "\
0x10
core::slice::iter::next
/rustc/library/core/src/slice/iter.rs:5
margay_tunnels::wire::ipv4::View::dst
/x/tunnels/src/wire/ipv4.rs:9
margay_fastpath::parse::plain_v4
/x/fastpath/src/parse.rs:40 (discriminator 2)
margay_fastpath::pipeline::Pipeline::process
/x/fastpath/src/pipeline.rs:160
0x20
margay_fastpath::pipeline::Pipeline::process
/x/fastpath/src/pipeline.rs:161
";
    let attribution = Attribution::parse(text);
    let part = Part { own: [(0x10, 3), (0x20, 4)].into(), elsewhere: 5 };
    assert_eq!(attribution.by_stage(&part), [0, 3, 0, 0, 0, 0, 0, 0, 5, 4]);
}
