//! DPDK's testpmd between two veth devices over AF_XDP, rewriting link addresses.

use crate::ROUTER_CORE;
use crate::machine::HugePages;
use crate::rig::Rig;
use anyhow::{Result, bail};
use margay::lab::process::{Process, wait_for};
use margay_tunnels::wire::ethernet::Mac;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(30);

/// A running testpmd; ended when dropped.
pub(crate) struct Testpmd {
    _process: Process,
}

impl Testpmd {
    /// Starts it and waits until it forwards.
    pub(crate) fn start(rig: &Rig, huge: &HugePages, next_hop: Mac) -> Result<Testpmd> {
        let log = rig.scope.directory().join("testpmd.log");
        let cores = format!("0,{ROUTER_CORE}");
        // libxdp pins its maps; the mount is in a mount namespace that ends with the process.
        let line = format!(
            "mount -t bpf bpf /sys/fs/bpf; exec dpdk-testpmd -l {cores} --no-pci \
             --file-prefix mgy{} --huge-dir {} --vdev net_af_xdp0,iface=in0 \
             --vdev net_af_xdp1,iface=out0 -- --nb-cores=1 --forward-mode=mac \
             --eth-peer=1,{next_hop} --auto-start --stats-period 1 > {} 2>&1",
            std::process::id(),
            huge.path(),
            log.display(),
        );
        let mut command = rig.router.command("sh", &["-c", &line]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(command)?;
        wait_for("testpmd to forward", START_LIMIT, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = process.exit_status()? {
                let last = text.lines().rev().find(|line| !line.trim().is_empty());
                bail!("testpmd: {status}: {}", last.unwrap_or("no output; is it installed?"));
            }
            Ok(text.contains("Port statistics").then_some(()))
        })?;
        Ok(Testpmd { _process: process })
    }
}
