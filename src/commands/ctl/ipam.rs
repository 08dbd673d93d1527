//! `margay ctl ipam`: who has which address, whether all fits together, taking one back, and
//! cutting a pool into smaller ones.

mod split;

use super::table::boxed;
use super::write::out;
use anyhow::Result;
use margay_control::ipam::block::Release;
use margay_control::ipam::view::{Check, Usage};
use margay_control::ipam::{self, IpamError};
use margay_control::store::Store;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Addresses that `check` lists of each problem unless it is told to list all.
const LISTED_MAX: usize = 20;

/// What to do with addresses.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Ipam {
    /// How full the pools are, or whose an address is
    Show(Show),
    /// Compare blocks, handles, pools, endpoints and nodes
    Check(CheckArguments),
    /// Take an address back
    Release(ReleaseArguments),
    /// Change settings
    Configure(Configure),
    /// Cut a pool into smaller ones
    Split(split::Split),
}

/// How full the pools are, or whose an address is.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Whose is this address
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// Blocks too
    #[arg(long)]
    show_blocks: bool,
    /// Addresses that nodes have of others' blocks
    #[arg(long)]
    show_borrowed: bool,
    /// Settings
    #[arg(long)]
    show_configuration: bool,
}

/// Compare blocks, handles, pools, endpoints and nodes.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// List every address with a problem
    #[arg(long)]
    show_problem_ips: bool,
    /// Write the result here as JSON
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Take an address back.
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseArguments {
    /// The address
    #[arg(long, value_name = "IP")]
    ip: IpAddr,
}

/// Change settings.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Configure {
    /// Addresses come from a host's own blocks only
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    strictaffinity: Option<bool>,
    /// Most blocks of a host; 0 is the default of 20
    #[arg(long, value_name = "N")]
    max_blocks_per_host: Option<usize>,
    /// Seconds until a released address is given out again, up to 1200
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1200))]
    ip_cooldown_seconds: Option<u64>,
}

impl Configure {
    async fn execute(&self, ipam: &ipam::Ipam<'_, Store>) -> Result<ExitCode> {
        let mut config = ipam.config().await?;
        let mut told = String::new();
        if let Some(strict) = self.strictaffinity {
            config.strict_affinity = strict;
            told += &format!("Successfully set StrictAffinity to: {strict}\n");
        }
        if let Some(most) = self.max_blocks_per_host {
            config.max_blocks_per_host = most;
            told += &format!("Successfully set MaxBlocksPerHost to: {most}\n");
        }
        if let Some(seconds) = self.ip_cooldown_seconds {
            config.ip_cooldown_seconds = seconds;
            told += &format!("Successfully set IPCooldownSeconds to: {seconds}\n");
        }
        ipam.configure(&config).await?;
        out(&told)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Ipam {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        let ipam = ipam::Ipam::new(store);
        match self {
            Ipam::Show(show) => show.execute(&ipam).await,
            Ipam::Check(check) => check.execute(&ipam).await,
            Ipam::Release(release) => release.execute(&ipam).await,
            Ipam::Configure(configure) => configure.execute(&ipam).await,
            Ipam::Split(split) => split.execute(store).await,
        }
    }
}

impl Show {
    async fn execute(&self, ipam: &ipam::Ipam<'_, Store>) -> Result<ExitCode> {
        let text = if let Some(ip) = self.ip {
            whose(ipam, ip).await?
        } else if self.show_configuration {
            let config = ipam.config().await?;
            let most = config.max_blocks_per_host.to_string();
            boxed(&[
                row(["PROPERTY", "VALUE"]),
                row(["StrictAffinity", &config.strict_affinity.to_string()]),
                row(["AutoAllocateBlocks", &config.auto_allocate_blocks.to_string()]),
                row(["MaxBlocksPerHost", &most]),
                row(["IPCooldownSeconds", &config.ip_cooldown_seconds.to_string()]),
            ])
        } else if self.show_borrowed {
            let heading = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
            let mut rows = vec![row(heading)];
            for one in ipam.borrowed().await? {
                let (ip, block) = (one.ip.to_string(), one.block.to_string());
                rows.push(row([&ip, &one.node, &block, &one.owner, &one.kind, &one.allocated_to]));
            }
            boxed(&rows)
        } else {
            usage(&ipam.usage().await?, self.show_blocks)
        };
        out(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn whose(ipam: &ipam::Ipam<'_, Store>, ip: IpAddr) -> Result<String, IpamError> {
    let Some(attribute) = ipam.find(ip).await? else {
        return Ok(format!("{ip} is not assigned\n"));
    };
    let mut text = format!("IP {ip} is in use\n");
    if let Some(handle) = attribute.handle() {
        text.push_str(&format!("Handle ID: {handle}\n"));
    }
    text.push_str("Attributes:\n");
    for (name, value) in attribute.secondary.unwrap_or_default() {
        text.push_str(&format!("  {name}: {value}\n"));
    }
    Ok(text)
}

fn usage(pools: &[Usage], blocks: bool) -> String {
    let mut rows = vec![row(["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"])];
    let line = |name: &str, usage: &Usage| {
        let share = |part: u128| {
            // A percentage of what may not fit into 64 bits, rounded.
            let percent = part as f64 * 100.0 / usage.total.max(1) as f64;
            format!("{part} ({percent:.0}%)")
        };
        let free = usage.total.saturating_sub(usage.in_use);
        let (cidr, total) = (usage.cidr.to_string(), usage.total.to_string());
        row([name, &cidr, &total, &share(usage.in_use), &share(free)])
    };
    for pool in pools {
        rows.push(line("IP Pool", pool));
        if blocks {
            rows.extend(pool.blocks.iter().map(|block| line("Block", block)));
        }
    }
    boxed(&rows)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

impl CheckArguments {
    async fn execute(&self, ipam: &ipam::Ipam<'_, Store>) -> Result<ExitCode> {
        out("Checking IPAM for inconsistencies...\n\n")?;
        let check = ipam.check().await?;
        out(&report(&check, self.show_problem_ips))?;
        if let Some(file) = &self.output {
            std::fs::write(file, serde_json::to_string_pretty(&check)?)?;
        }
        out(&format!("Check complete; found {} problems.\n", check.problems()))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn report(check: &Check, all: bool) -> String {
    let mut text =
        format!("Found {} IPAM blocks with {} IPs in use.\n", check.blocks, check.allocated);
    let most = if all { usize::MAX } else { LISTED_MAX };
    let texts = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (what, found) in [
        ("IPs that are allocated in IPAM but not actually in use", texts(&check.not_used)),
        ("in-use IPs that are not allocated in IPAM", texts(&check.not_allocated)),
        ("in-use IPs that are not in active IP pools", texts(&check.not_in_pool)),
        ("handles with no matching IPs", check.handles_without_addresses.clone()),
        ("IPs with missing handle", texts(&check.missing_handle)),
        ("invalid blocks", check.invalid_blocks.clone()),
    ] {
        text.push_str(&format!("Found {} {what}.\n", found.len()));
        found.iter().take(most).for_each(|one| text.push_str(&format!("  {one}\n")));
    }
    text
}

impl ReleaseArguments {
    async fn execute(&self, ipam: &ipam::Ipam<'_, Store>) -> Result<ExitCode> {
        let release = Release { address: self.ip, handle: None, sequence: None };
        let free = ipam.release(&[release]).await?;
        match free.is_empty() {
            true => {
                out(&format!("Successfully released IP address {}\n", self.ip))?;
                Ok(ExitCode::SUCCESS)
            }
            false => {
                eprintln!("IP address {} is not assigned", self.ip);
                Ok(ExitCode::FAILURE)
            }
        }
    }
}
