//! A network namespace of the lab: commands in it, links, addresses, routes, sysctls.
//!
//! Work goes through `ip` in batches, one process for many commands, and through `ip netns exec`,
//! which also gives the command its own view of `/sys`. [`Namespace::enter`] is for sockets of our
//! own: it moves a fresh thread, which ends with the call.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};

use super::process::{self, Output};

/// Longest time that a set-up command may take.
const SETUP: Duration = Duration::from_secs(30);
/// When it is set, both ends of veths have GRO on, and so take redirected frames, and those called
/// `eth0`, where senders are, finish checksums: flow offload carries what it can.
const GRO: &str = "MARGAY_LAB_GRO";

/// What new namespaces start with: no delay by duplicate address detection, no strict source
/// check (margay does its own), and redirects neither sent nor believed.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// A named network namespace. A handle only: its [`super::scope::Scope`] removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct LinkEnd<'a> {
    /// Where this end lives.
    pub namespace: &'a Namespace,
    /// The device's name, at most 15 bytes.
    pub device: &'a str,
    /// Its MAC address in colon form; the kernel chooses one when `None`.
    pub mac: Option<&'a str>,
    /// Its addresses, each with the length of the on-link prefix.
    pub addresses: Vec<IpNet>,
}

/// What both ends of a veth pair share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSpec {
    /// In bytes of IP packet.
    pub mtu: u32,
    /// Receive and transmit queues each.
    pub queues: u32,
}

impl Namespace {
    pub(super) fn create(name: &str) -> Result<Namespace> {
        process::run_ok(process::command("ip", &["netns", "add", name]), "", SETUP)?;
        let namespace = Namespace { name: name.to_owned() };
        namespace.sysctl(SYSCTLS)?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command line that runs `program` inside.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let inside = ["netns", "exec", &self.name, program];
        process::command("ip", &[&inside, args].concat())
    }

    /// Runs a command inside to its end; see [`process::run`].
    pub fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<Output> {
        process::run(self.command(program, args), "", limit)
    }

    /// Feeds `ip` with commands, one a line; an error names the line that failed.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.ip_batch(&[], lines)
    }

    /// As [`Namespace::ip`], for commands that must be told that they are about IPv6.
    pub fn ip_v6(&self, lines: &str) -> Result<()> {
        self.ip_batch(&["-6"], lines)
    }

    fn ip_batch(&self, options: &[&str], lines: &str) -> Result<()> {
        let args = [options, &["-n", &self.name, "-batch", "-"]].concat();
        let command = process::command("ip", &args);
        let output = process::run(command, lines, SETUP)?;
        if !output.status.success() {
            let text = output.stderr.trim();
            let number = text.rsplit_once("-:").and_then(|(_, tail)| tail.parse::<usize>().ok());
            let line = number.and_then(|number| lines.lines().nth(number.saturating_sub(1)));
            return Err(anyhow!("in {}: ip {}: {text}", self.name, line.unwrap_or("-batch")));
        }
        Ok(())
    }

    /// Sets sysctls, named as under `/proc/sys`. One that this kernel lacks is an error.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (format!("/proc/sys/{name}"), (*value).to_owned()))
            .collect();
        self.enter(move || {
            for (path, value) in settings {
                fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
            }
            Ok(())
        })
    }

    /// Adds `addresses` to `device` and sets it up.
    pub fn configure(&self, device: &str, addresses: &[IpNet]) -> Result<()> {
        self.ip(&configuration(device, addresses))
    }

    /// Adds a route to `prefix` by the next hop `via`.
    pub fn route(&self, prefix: IpNet, via: IpAddr) -> Result<()> {
        self.ip(&format!("route add {prefix} via {via}"))
    }

    /// Runs `work` on a thread of its own inside the namespace, and gives what it gives.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file =
                    File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter {}", path.display()))?;
                work()
            });
            thread.join().map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// The text of a file that the kernel makes per namespace, such as `/proc/net/snmp`.
    pub fn read(&self, path: &str) -> Result<String> {
        // `/proc/net` speaks of the main thread's namespace; `thread-self` of this one's.
        let path = path.replacen("/proc/net/", "/proc/thread-self/net/", 1);
        self.enter(move || fs::read_to_string(&path).with_context(|| format!("cannot read {path}")))
    }

    /// True when the namespace has a device of that name.
    pub fn has_device(&self, device: &str) -> Result<bool> {
        let text = self.read("/proc/net/dev")?;
        Ok(text.lines().any(|line| line.trim_start().starts_with(&format!("{device}:"))))
    }
}

/// Makes a veth pair, each end in its own namespace from the start, addressed and up.
pub fn connect(spec: LinkSpec, left: &LinkEnd, right: &LinkEnd) -> Result<()> {
    make_pair(spec, left, right)?;
    offer_to_carry(&[left, right], true)
}

/// The same for ends that always leave checksums unfinished, as super-packets have them.
pub(super) fn connect_for_whole(spec: LinkSpec, left: &LinkEnd, right: &LinkEnd) -> Result<()> {
    make_pair(spec, left, right)?;
    offer_to_carry(&[left, right], false)
}

fn make_pair(spec: LinkSpec, left: &LinkEnd, right: &LinkEnd) -> Result<()> {
    let LinkSpec { mtu, queues } = spec;
    let mac = |end: &LinkEnd| end.mac.map(|mac| format!(" address {mac}")).unwrap_or_default();
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    let left_lines = configuration(left.device, &left.addresses);
    left.namespace.ip(&format!(
        "link add {} mtu {mtu}{} {queues} type veth peer name {} netns {} mtu {mtu}{} {queues}\n\
         {left_lines}",
        left.device,
        mac(left),
        right.device,
        right.namespace.name(),
        mac(right),
    ))?;
    right.namespace.configure(right.device, &right.addresses)
}

/// Whether the lab's veths let programs carry flows.
pub fn lets_carry() -> bool {
    std::env::var_os(GRO).is_some()
}

/// See [`GRO`].
fn offer_to_carry(ends: &[&LinkEnd], finishes: bool) -> Result<()> {
    if !lets_carry() {
        return Ok(());
    }
    for end in ends {
        let mut args = vec!["-K", end.device, "gro", "on"];
        if finishes && end.device == "eth0" {
            args.extend(["tx", "off"]);
        }
        let output = end.namespace.run("ethtool", &args, SETUP)?;
        ensure!(output.status.success(), "ethtool {args:?}: {}", output.stderr);
    }
    Ok(())
}

fn configuration(device: &str, addresses: &[IpNet]) -> String {
    let mut lines = format!("link set {device} up\n");
    for address in addresses {
        let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
        lines += &format!("addr add {address} dev {device}{nodad}\n");
    }
    lines
}
