//! A part of callgrind's output: what each instruction has cost.

use std::collections::BTreeMap;

/// Instructions executed between two dumps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// By address in the program.
    pub(crate) own: BTreeMap<u64, u64>,
    /// In libraries.
    pub(crate) elsewhere: u64,
}

impl Part {
    /// Reads the text of a dump with `--dump-instr=yes` and nothing compressed.
    pub(crate) fn parse(text: &str, program: &str) -> Part {
        let mut part = Part::default();
        let (mut is_own, mut of_callee, mut said) = (false, false, None);
        for line in text.lines() {
            if let Some(object) = line.strip_prefix("ob=") {
                is_own = object == program;
            } else if let Some(total) = line.strip_prefix("totals: ") {
                said = total.parse::<u64>().ok();
            } else if line.starts_with("calls=") {
                of_callee = true;
            } else if let Some(place) = line.strip_prefix("0x") {
                let (address, cost) = place.split_once(' ').unwrap();
                let cost: u64 = cost.trim().parse().unwrap();
                match (std::mem::take(&mut of_callee), is_own) {
                    (true, _) => (),
                    (false, true) => {
                        *part.own.entry(u64::from_str_radix(address, 16).unwrap()).or_default() +=
                            cost;
                    }
                    (false, false) => part.elsewhere += cost,
                }
            }
        }
        assert_eq!(said, Some(part.total()), "callgrind's own total");
        part
    }

    /// Addresses in the program.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> {
        self.own.keys().copied()
    }

    /// All instructions.
    pub(crate) fn total(&self) -> u64 {
        self.own.values().sum::<u64>() + self.elsewhere
    }
}

#[test]
fn costs_of_callees_are_not_counted_twice() {
    let text = "\
ob=/x/program
fn=main
0x10 3
calls=2 0x20
0x12 50
0x14 1

fn=other
0x10 4
ob=/lib/libc.so.6
fn=memcpy
0x10 8

totals: 16
";
    let part = Part::parse(text, "/x/program");
    assert_eq!(part, Part { own: [(0x10, 7), (0x14, 1)].into(), elsewhere: 8 });
}
