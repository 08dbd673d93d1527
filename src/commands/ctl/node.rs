//! `margay ctl node`: BGP of this node's daemon, whether the machine can run one, and what helps to
//! find a fault.

mod diags;

use super::table::boxed;
use super::write::out;
use anyhow::{Result, bail};
use margay_control::api::bgp::PeerAnswer;
use margay_control::api::client;
use margay_control::config::SOCKET;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Oldest kernel whose AF_XDP has all that the packet path uses (multi-buffer packets).
const KERNEL_MIN: (u32, u32) = (6, 6);

/// This node.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Node {
    /// Says how the daemon is started: it runs on the host itself, in no container
    Run {
        /// What calicoctl takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<String>,
    },
    /// Sessions of BGP
    Status {
        /// Socket of the daemon
        #[arg(long, value_name = "PATH", default_value = SOCKET)]
        socket: PathBuf,
    },
    /// Whether this machine can run a node
    Checksystem,
    /// Collect what helps to find a fault
    Diags {
        /// Folder of logs
        #[arg(long, value_name = "DIR", default_value = "/var/log/calico")]
        log_dir: PathBuf,
        /// Socket of the daemon
        #[arg(long, value_name = "PATH", default_value = SOCKET)]
        socket: PathBuf,
        /// Where the archive goes [default: the system's folder for temporary files]
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

impl Node {
    pub(super) fn execute(&self) -> Result<ExitCode> {
        match self {
            Node::Run { .. } => bail!(
                "the node's daemon runs on the host itself, and not in a container that is started \
                 here\nhint: margay run --config FILE"
            ),
            Node::Status { socket } => status(socket),
            Node::Checksystem => check_system(),
            Node::Diags { log_dir, socket, directory } => {
                diags::collect(log_dir, socket, directory.as_deref())
            }
        }
    }
}

fn status(socket: &Path) -> Result<ExitCode> {
    let Ok(peers) = client::get::<Vec<PeerAnswer>>(socket, "/v1/bgp/peers") else {
        bail!("Calico process is not running.");
    };
    out("Calico process is running.\n")?;
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        out(&format!("\n{family} BGP status\n{}", table(&peers, family, v4)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(peers: &[PeerAnswer], family: &str, v4: bool) -> String {
    let mut rows =
        vec![["Peer address", "Peer type", "State", "Since", "Info"].map(str::to_owned).to_vec()];
    for peer in peers.iter().filter(|peer| peer.address.is_ipv4() == v4) {
        let address = peer.address.to_string();
        let (kind, state) = (peer.peer_type.clone(), peer.state.clone());
        rows.push(vec![address, kind, state, peer.since.clone(), peer.info.clone()]);
    }
    match rows.len() {
        1 => format!("No {family} peers found.\n"),
        _ => boxed(&rows, &[]),
    }
}

/// The first two numbers of a kernel's release.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn check_system() -> Result<ExitCode> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let protocols = read("/proc/net/protocols");
    let checks = [
        (format!("kernel version {kernel}"), release(&kernel).is_some_and(|own| own >= KERNEL_MIN)),
        ("AF_XDP".to_owned(), protocols.lines().any(|line| line.starts_with("XDP "))),
        ("/dev/net/tun".to_owned(), Path::new("/dev/net/tun").exists()),
        ("IPv6".to_owned(), Path::new("/proc/sys/net/ipv6").exists()),
        ("root".to_owned(), nix::unistd::geteuid().is_root()),
    ];
    for (what, fine) in &checks {
        out(&format!("Checking {what:40} {}\n", if *fine { "OK" } else { "FAIL" }))?;
    }
    match checks.iter().all(|(_, fine)| *fine) {
        true => {
            out("System meets minimum system requirements to run Calico!\n")?;
            Ok(ExitCode::SUCCESS)
        }
        false => bail!("System doesn't meet one or more minimum systems requirements"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(release("6.18.5-cloud"), Some((6, 18)));
        assert!(release("6.18.5").unwrap() > KERNEL_MIN && release("5.4.0").unwrap() < KERNEL_MIN);
        assert_eq!(release("next"), None);
    }
}
