//! Where packets were lost: margay's own reasons, what the kernel says about its sockets, both ends
//! of each veth, the sockets in pods, and the backlogs of the cores.

use anyhow::Result;
use margay::lab::daemon::Daemon;
use margay::lab::namespace::Namespace;
use margay::lab::process;
use std::collections::BTreeMap;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// Named totals that are no loss, or one that another total has too: what a sink drops, which is
/// all; and of sockets and reasons the sums of others.
const HARMLESS: [&str; 4] = ["xdp_drops", "tx_ring_empty", "rx_dropped", "rx-no-frame-posted"];

/// A name, a namespace, and devices there; the totals of devices with one name are added up.
pub(crate) type Place<'a> = (&'a str, &'a Namespace, Vec<&'a str>);

/// Totals of everybody who can lose a packet, by name.
#[derive(Debug, Default)]
pub(crate) struct Losses(BTreeMap<String, u64>);

impl Losses {
    /// The totals now: of these devices, of margay's sockets on them, and of what has no device.
    pub(crate) fn read(daemon: Option<&Daemon>, places: &[Place<'_>]) -> Result<Losses> {
        let mut losses = Losses::default();
        if let Some(daemon) = daemon {
            losses.read_margay(daemon, places)?;
        }
        for (place, namespace, devices) in places {
            for device in devices {
                losses.read_device(place, namespace, device)?;
            }
            losses.read_sockets(place, namespace)?;
        }
        losses.read_cores()?;
        Ok(losses)
    }

    fn read_margay(&mut self, daemon: &Daemon, places: &[Place<'_>]) -> Result<()> {
        for (reason, count) in daemon.drops()? {
            self.add("margay, of all packets", &reason, count);
        }
        let shown = daemon.show("ports")?;
        for port in shown.as_array().into_iter().flatten() {
            let is_here = |(_, _, devices): &&Place<'_>| {
                devices.iter().any(|device| port["name"] == **device)
            };
            let Some((place, ..)) = places.iter().find(is_here) else { continue };
            for (total, count) in port["kernel"].as_object().into_iter().flatten() {
                self.add(&format!("{place}, AF_XDP"), total, count.as_u64().unwrap_or(0));
            }
        }
        Ok(())
    }

    fn add(&mut self, place: &str, total: &str, count: u64) {
        if !HARMLESS.iter().any(|harmless| total.ends_with(harmless)) {
            *self.0.entry(format!("{place}: {total}")).or_default() += count;
        }
    }

    fn read_device(&mut self, place: &str, namespace: &Namespace, device: &str) -> Result<()> {
        let text = process::run_ok(namespace.command("ethtool", &["-S", device]), "", LIMIT)?;
        for (name, count) in text.lines().filter_map(|line| line.trim().split_once(": ")) {
            if ["drop", "err"].iter().any(|part| name.contains(part)) {
                self.add(place, name, count.parse().unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Of UDP sockets: what did not get out.
    fn read_sockets(&mut self, place: &str, namespace: &Namespace) -> Result<()> {
        let text = namespace.read("/proc/net/snmp")?;
        let mut udp = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
        let both = names.split(' ').zip(values.split(' '));
        for (name, value) in both.filter(|(name, _)| *name == "SndbufErrors") {
            self.add(place, name, value.parse().unwrap_or(0));
        }
        Ok(())
    }

    fn read_cores(&mut self) -> Result<()> {
        let text = std::fs::read_to_string("/proc/net/softnet_stat")?;
        for line in text.lines() {
            let dropped = line.split(' ').nth(1).map(|word| u64::from_str_radix(word, 16));
            self.add("cores", "backlog drops", dropped.and_then(Result::ok).unwrap_or(0));
        }
        Ok(())
    }

    /// What has grown since `before`.
    pub(crate) fn since(&self, before: &Losses) -> String {
        let grown = self.0.iter().filter_map(|(name, count)| {
            let count = count.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (count > 0).then(|| format!("{name} {count}"))
        });
        let grown: Vec<_> = grown.collect();
        if grown.is_empty() { "nobody".to_owned() } else { grown.join(", ") }
    }
}
