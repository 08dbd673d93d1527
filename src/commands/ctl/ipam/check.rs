//! `margay ctl ipam check`: the words of calicoctl's.

use super::super::version;
use super::super::write::out;
use anyhow::{Context, Result};
use margay_control::ipam::Ipam;
use margay_control::ipam::check::{Check, Origin};
use margay_control::store::Store;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Nodes that are listed by the number of their addresses.
const NODES_LISTED: usize = 20;

/// Compare blocks, handles, pools, endpoints and nodes.
#[derive(Debug, clap::Args)]
pub(in crate::commands::ctl) struct CheckArguments {
    /// List every address that is looked at
    #[arg(long)]
    show_all_ips: bool,
    /// List every address with a problem
    #[arg(long)]
    show_problem_ips: bool,
    /// Write a report here as JSON, for `ipam release --from-report`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl CheckArguments {
    pub(super) async fn execute(&self, ipam: &Ipam<'_, Store>) -> Result<ExitCode> {
        out("Checking IPAM for inconsistencies...\n\n")?;
        let mut check = ipam.check().await?;
        let problems = self.show_all_ips || self.show_problem_ips;
        out(&Words { check: &check, all: self.show_all_ips, problems }.text())?;
        if let Some(file) = &self.output {
            check.report.version = version::CLIENT.to_owned();
            let report = serde_json::to_string_pretty(&check.report)?;
            std::fs::write(file, report).with_context(|| file.display().to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

struct Words<'a> {
    check: &'a Check,
    /// Every address that is looked at.
    all: bool,
    /// Every address with a problem.
    problems: bool,
}

impl Words<'_> {
    fn text(&self) -> String {
        let parts = [
            self.blocks(),
            self.pools(),
            self.uses(),
            self.nodes(),
            self.addresses(),
            self.handles(),
        ];
        format!("{}Check complete; found {} problems.\n", parts.concat(), self.check.problems())
    }

    fn blocks(&self) -> String {
        let blocks = &self.check.blocks;
        let mut text = format!("Loading all IPAM blocks...\nFound {} IPAM blocks.\n", blocks.len());
        for block in blocks {
            let owner = block.affinity.as_deref().unwrap_or("<none>");
            text += &format!(" IPAM block {} affinity={owner}:\n", block.cidr);
            let listed = block.addresses.iter().filter(|_| self.all);
            for (address, attributes) in listed {
                text += &format!("  {address} allocated; attrs {attributes}\n");
            }
        }
        let count = self.check.allocated();
        text + &format!("IPAM blocks record {count} allocations.\n\n")
    }

    fn pools(&self) -> String {
        let pools = &self.check.pools;
        let listed: String = pools.iter().map(|pool| format!("  {pool}\n")).collect();
        let count = pools.len();
        format!("Loading all IPAM pools...\n{listed}Found {count} active IP pools.\n\n")
    }

    fn uses(&self) -> String {
        let of = |origin: Origin| {
            let own = self.check.uses.iter().filter(move |(from, ..)| *from == origin);
            let listed = own.clone().filter(|_| self.all);
            let lines = listed.map(|(_, address, who)| format!("  {address} belongs to {who}\n"));
            (lines.collect::<String>(), own.count())
        };
        let (lines, count) = of(Origin::Node);
        let mut text = format!("Loading all nodes.\n{lines}Found {count} node tunnel IPs.\n\n");
        text += "Loading all service load balancer IPs.\n";
        text += &of(Origin::Service).0;
        text += &match self.check.gives_services {
            true => format!("Found {} service load balancer(s).\n\n", self.check.services),
            false => "No configuration for LoadBalancer kubecontroller found, \
                      skipping service check\n\n"
                .to_owned(),
        };
        let (lines, count) = of(Origin::Workload);
        text += &format!("Loading all workload endpoints.\n{lines}Found {count} workload IPs.\n");
        let mut used: Vec<IpAddr> = self.check.uses.iter().map(|(_, ip, _)| *ip).collect();
        used.sort();
        used.dedup();
        text + &format!("Workloads and nodes are using {} IPs.\n\n", used.len())
    }

    fn nodes(&self) -> String {
        let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.check.report.allocations.values().flatten() {
            *by_node.entry(&one.node).or_default() += 1;
        }
        let mut nodes: Vec<(&str, usize)> = by_node.into_iter().collect();
        nodes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut text = "Loading all handles\n".to_owned();
        text += &format!("Looking for top (up to {NODES_LISTED}) nodes by allocations...\n");
        for (node, count) in nodes.iter().take(NODES_LISTED) {
            text += &format!("  {node} has {count} allocations\n");
        }
        if let Some((_, most)) = nodes.first() {
            let median = nodes[nodes.len() / 2].1;
            text += &format!("Node with most allocations has {most}; median is {median}\n");
        }
        text + "\n"
    }

    fn addresses(&self) -> String {
        let Check { not_used, not_allocated, not_in_pool, report, .. } = self.check;
        let told = |lines: Vec<String>| if self.problems { lines.concat() } else { String::new() };
        let leaked = not_used.iter().flat_map(|address| {
            let all = report.allocations.get(address).into_iter().flatten();
            all.map(move |one| format!("  {address} leaked; attrs {}\n", one.attributes))
        });
        let mut text =
            "Scanning for IPs that are allocated but not actually in use...\n".to_owned();
        text += &told(leaked.collect());
        let count = not_used.len();
        text += &format!("Found {count} IPs that are allocated in IPAM but not actually in use.\n");
        text += "Scanning for IPs that are in use by a workload or node but not allocated in \
                 IPAM...\n";
        text += &told(self.shared());
        let of = |addresses: &[IpAddr], what: &str| {
            let lines = addresses.iter().flat_map(|address| {
                let owners = self.check.owners(*address);
                owners.map(move |who| format!("  {address} in use by {who} {what}\n"))
            });
            lines.collect::<Vec<_>>()
        };
        text += &told(of(not_in_pool, "is not in any active IP pool."));
        let what = "and in active IPAM pool but has no IPAM allocation.";
        text += &told(of(not_allocated, what));
        let (foreign, missing) = (not_in_pool.len(), not_allocated.len());
        text += &format!("Found {foreign} in-use IPs that are not in active IP pools.\n");
        text + &format!(
            "Found {missing} in-use IPs that are in active IP pools but have no corresponding \
             IPAM allocation.\n\n"
        )
    }

    /// Addresses that several have.
    fn shared(&self) -> Vec<String> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        self.check.uses.iter().for_each(|(_, ip, _)| *counts.entry(*ip).or_default() += 1);
        let shared = counts.into_iter().filter(|(_, count)| *count > 1);
        shared.map(|(address, _)| format!("  {address} has multiple owners.\n")).collect()
    }

    fn handles(&self) -> String {
        let Check { report, good_handles, missing_handles, invalid_blocks, .. } = self.check;
        let leaked = &report.leaked_handles;
        let mut text = "Scanning for IPAM handles with no matching IPs...\n".to_owned();
        for handle in leaked.iter().filter(|_| self.all) {
            text += &format!("  {} doesn't have any active IPs.\n", handle.id);
        }
        let count = leaked.len();
        text += &format!("Found {count} handles with no matching IPs ");
        text += &format!("(and {good_handles} handles with matches).\n");
        text += "Scanning for IPs with missing handle...\n";
        for handle in missing_handles.iter().filter(|_| self.problems) {
            text += &format!("  {handle} is in use in a block but doesn't exist.\n");
        }
        let count = missing_handles.len();
        text += &format!("Found {count} handles mentioned in blocks with no matching handle ");
        text += "resource.\nValidating IPAMBlock structures...\n";
        for block in invalid_blocks {
            text += &format!("  IPAMBlock is invalid: {block}\n");
        }
        text + &format!("Found {} invalid IPAMBlocks.\n", invalid_blocks.len())
    }
}
