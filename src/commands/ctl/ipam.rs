//! `margay ctl ipam`: who has which address, whether all fits together, taking one back, and
//! cutting a pool into smaller ones.

mod check;
mod release;
mod split;

use super::table::boxed;
use super::write::out;
use anyhow::Result;
use margay_control::ipam::block::Release;
use margay_control::ipam::view::Usage;
use margay_control::ipam::{self, IpamError};
use margay_control::store::Store;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to do with addresses.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Ipam {
    /// How full the pools are, or whose an address is
    Show(Show),
    /// Compare blocks, handles, pools, endpoints and nodes
    Check(check::CheckArguments),
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

/// Take an address back.
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseArguments {
    /// The address
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// All that is leaked by this report of `ipam check`; of several, what all of them say
    #[arg(long, value_name = "FILE")]
    from_report: Vec<PathBuf>,
    /// Although the store is not locked, or the report another version's
    #[arg(long)]
    force: bool,
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
            let rows = [
                row(["PROPERTY", "VALUE"]),
                row(["StrictAffinity", &config.strict_affinity.to_string()]),
                row(["AutoAllocateBlocks", &config.auto_allocate_blocks.to_string()]),
                row(["MaxBlocksPerHost", &most]),
                row(["IPCooldownSeconds", &config.ip_cooldown_seconds.to_string()]),
            ];
            boxed(&rows, &[])
        } else if self.show_borrowed {
            let heading = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
            let mut rows = vec![row(heading)];
            for one in ipam.borrowed().await? {
                let (ip, block) = (one.ip.to_string(), one.block.to_string());
                rows.push(row([&ip, &one.node, &block, &one.owner, &one.kind, &one.allocated_to]));
            }
            boxed(&rows, &[])
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
    text.push_str(&format!("Handle ID: {}\n", attribute.handle().unwrap_or("<none>")));
    let listed = |title: &str, all: &BTreeMap<String, String>| {
        let lines: String =
            all.iter().map(|(name, value)| format!("  {name}: {value}\n")).collect();
        format!("{title}:\n{lines}")
    };
    text += &match attribute.secondary.as_ref().filter(|all| !all.is_empty()) {
        Some(all) => listed("Active Owner Attributes", all),
        None => "No Active Owner attributes defined\n".to_owned(),
    };
    let others = attribute.alternate();
    if !others.is_empty() {
        text += &listed("Alternate Owner Attributes", &others);
    }
    Ok(text)
}

fn usage((pools, orphans): &(Vec<Usage>, Vec<Usage>), blocks: bool) -> String {
    let heading = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"];
    let mut rows = vec![row(heading)];
    let line = |name: &str, usage: &Usage| {
        // What may not fit into 64 bits, rounded.
        let share = |part: u128| {
            let percent = part as f64 * 100.0 / usage.total.max(1) as f64;
            format!("{} ({percent:.0}%)", short(part))
        };
        let Usage { in_use, reserved, free, .. } = *usage;
        let (cidr, total) = (usage.cidr.to_string(), short(usage.total));
        row([name, &cidr, &total, &share(in_use), &share(reserved), &share(free)])
    };
    for pool in pools {
        rows.push(line("IP Pool", pool));
        rows.extend(pool.blocks.iter().filter(|_| blocks).map(|block| line("Block", block)));
    }
    rows.extend(orphans.iter().filter(|_| blocks).map(|block| line("Block", block)));
    boxed(&rows, &[2, 3, 4, 5])
}

/// A number with five digits that count, as C's `%.5g` writes it.
fn short(number: u128) -> String {
    const DIGITS: u32 = 5;
    let text = format!("{:.4e}", number as f64);
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<u32>() {
        Ok(exponent) if exponent >= DIGITS => {
            let digits = match digits.contains('.') {
                true => digits.trim_end_matches('0').trim_end_matches('.'),
                false => digits,
            };
            format!("{digits}e+{exponent:02}")
        }
        _ => number.to_string(),
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

impl ReleaseArguments {
    async fn execute(&self, ipam: &ipam::Ipam<'_, Store>) -> Result<ExitCode> {
        if !self.from_report.is_empty() {
            return release::from_reports(ipam, &self.from_report, self.force).await;
        }
        let Some(address) = self.ip else { return Ok(ExitCode::SUCCESS) };
        let release = Release { address, handle: None, sequence: None };
        if ipam.release(&[release]).await?.is_empty() {
            out(&format!("Successfully released IP address {address}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("IP address {address} is not assigned");
        Ok(ExitCode::FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_five_digits() {
        let cases = [
            (0, "0"),
            (64, "64"),
            (65_536, "65536"),
            (99_999, "99999"),
            (100_000, "1e+05"),
            (1_048_576, "1.0486e+06"),
            (16_777_216, "1.6777e+07"),
            (1 << 64, "1.8447e+19"),
            (u128::MAX, "3.4028e+38"),
        ];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
    }
}
