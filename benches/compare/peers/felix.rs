//! Chains for nftables in the shape that Felix gives a workload's ingress policy: dispatch by
//! device, a chain for the endpoint, one for each policy, marks between them.
//!
//! What Felix adds for other tiers, for egress and for the host is left out, which is to the
//! chains' advantage.

use crate::sections::acl::{members, other_ports, port};
use std::fmt::Write;

/// Felix's marks (of 0xffff0000): accepted, and passed to the next tier.
const ACCEPT: &str = "0x10000";
const PASS: &str = "0x20000";

/// The rule set for a pod behind `device`: one policy with `size` rules that do not match, then
/// `size` policies with one rule each.
pub(crate) fn ruleset(device: &str, size: u16) -> String {
    let mut text = String::from("table ip calico {\n");
    for at in 0..size {
        let members: Vec<String> = members(at, size).iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "set s{at} {{ type ipv4_addr; elements = {{ {} }}; }}",
            members.join(", ")
        );
    }
    let others = other_ports(size).map(|port| (0, port)).collect();
    policy(&mut text, "others", others);
    for at in 0..size {
        policy(&mut text, &format!("p{at}"), vec![(at, port())]);
    }
    let _ = writeln!(text, "chain tw-{device} {{");
    text += "ct state established,related accept\nct state invalid drop\n";
    let _ = writeln!(text, "meta mark set meta mark & 0xfffeffff");
    if size > 0 {
        let _ = writeln!(text, "meta mark set meta mark & 0xfffdffff");
        let policies = (0..size).map(|at| format!("p{at}"));
        for name in ["others".to_owned()].into_iter().chain(policies) {
            // A policy that comes after a verdict is not asked.
            let _ = writeln!(text, "meta mark & {PASS} == 0 jump pi-{name}");
            let _ = writeln!(text, "meta mark & {ACCEPT} == {ACCEPT} return");
        }
        let _ = writeln!(text, "meta mark & {PASS} == 0 drop");
    } else {
        let _ = writeln!(text, "meta mark set meta mark | {ACCEPT} return");
    }
    text += "drop\n}\n";
    let _ = writeln!(
        text,
        "chain to-wl {{ oifname vmap {{ \"{device}\" : goto tw-{device} }}; drop; }}\n\
         chain forward {{ type filter hook forward priority 0; policy drop;\n\
         meta mark set meta mark & 0x0000ffff\n\
         iifname \"cali*\" drop\n\
         oifname \"cali*\" jump to-wl\n\
         meta mark & {ACCEPT} == {ACCEPT} accept\n}}\n}}"
    );
    text
}

/// A policy's chain: each rule marks what it lets through and goes back.
fn policy(text: &mut String, name: &str, rules: Vec<(u16, u16)>) {
    let _ = writeln!(text, "chain pi-{name} {{");
    for (set, port) in rules {
        let _ = writeln!(
            text,
            "ip saddr @s{set} udp dport {port} meta mark set meta mark | {ACCEPT}\n\
             meta mark & {ACCEPT} == {ACCEPT} return"
        );
    }
    text.push_str("}\n");
}
