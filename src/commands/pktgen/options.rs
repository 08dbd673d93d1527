//! What is sent: the flags, and the frames that they ask for.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use margay_fastpath::pktgen::{Frames, IMIX, Protocol, Template};
use margay_fastpath::port::pcap::Capture;
use margay_tunnels::wire::ethernet::Mac;
use std::net::IpAddr;
use std::path::PathBuf;

/// RFC 2544 C.2.2 and RFC 5180 8: the addresses for benchmarks.
const DESTINATIONS: [&str; 2] = ["198.19.0.0/24", "2001:2:0:1::/64"];
const SOURCES: [&str; 2] = ["198.18.0.1", "2001:2::1"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Udp,
    TcpSyn,
}

/// The flags that say what is sent.
#[derive(Debug, Args)]
pub(super) struct Traffic {
    /// Bytes of a frame with its check sequence, as RFC 2544 counts
    #[arg(long, value_name = "N", default_value_t = 64, conflicts_with_all = ["imix", "pcap"])]
    size: usize,
    /// Frames of 64, 594 and 1518 bytes, 7 to 4 to 1; IPv6 and TCP take 96 for 64
    #[arg(long, conflicts_with = "pcap")]
    imix: bool,
    /// Flows, each with its own source port, going through the destinations in turn
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "pcap")]
    flows: usize,
    /// What the packets are
    #[arg(long, value_enum, default_value = "udp", conflicts_with = "pcap")]
    proto: Kind,
    /// IPv6 instead of IPv4, where no address says it
    #[arg(long, conflicts_with = "pcap")]
    ipv6: bool,
    /// The source address
    #[arg(long, value_name = "IP", conflicts_with = "pcap")]
    src: Option<IpAddr>,
    /// Destinations: an address, or a prefix whose addresses flows take in turn
    #[arg(long, value_name = "IP|CIDR", value_parser = destination, conflicts_with = "pcap")]
    dst: Option<IpNet>,
    /// The first flow's source port
    #[arg(long, value_name = "N", default_value_t = 1024, conflicts_with = "pcap",
        value_parser = clap::value_parser!(u16).range(1024..))]
    sport: u16,
    /// The destination port
    #[arg(long, value_name = "N", default_value_t = 9, conflicts_with = "pcap")]
    dport: u16,
    /// The router's MAC address; the only neighbour's of the device when left out
    #[arg(long, value_name = "MAC", value_parser = mac, conflicts_with = "pcap")]
    dst_mac: Option<Mac>,
    /// The packets of a capture, as they are and in turn
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

fn destination(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "neither an address nor a prefix".to_owned())
}

fn mac(text: &str) -> Result<Mac, String> {
    text.parse().map_err(|()| "a MAC address is six bytes as 02:00:00:00:00:01".to_owned())
}

impl Traffic {
    /// The frames to send out of `port`.
    pub(super) fn frames(&self, port: &str) -> Result<Frames> {
        if let Some(path) = &self.pcap {
            let name = || path.display().to_string();
            let capture = Capture::read(path).with_context(name)?;
            let list = capture.iter().map(|(_, bytes)| bytes.to_vec()).collect();
            return Frames::captured(list).with_context(name);
        }
        let template = self.template([self.next_hop(port)?, own_mac(port)?])?;
        Frames::stamped(&template).context("pktgen")
    }

    fn template(&self, macs: [Mac; 2]) -> Result<Template> {
        let is_v6 = match (self.dst, self.src) {
            (Some(dst), _) => dst.addr().is_ipv6(),
            (None, Some(src)) => src.is_ipv6(),
            (None, None) => self.ipv6,
        };
        let family = usize::from(is_v6);
        let dst = match self.dst {
            Some(dst) => dst,
            None => DESTINATIONS[family].parse()?,
        };
        let src = match self.src {
            Some(src) => src,
            None => SOURCES[family].parse()?,
        };
        let protocol = match self.proto {
            Kind::Udp => Protocol::Udp,
            Kind::TcpSyn => Protocol::TcpSyn,
        };
        let short = if is_v6 || protocol == Protocol::TcpSyn { 96 } else { 64 };
        let lengths = match self.imix {
            true => IMIX.map(|length| length.max(short)).to_vec(),
            false => vec![self.size],
        };
        Ok(Template {
            macs,
            src,
            dst: dst.network(),
            destinations: addresses(dst),
            protocol,
            ports: [self.sport, self.dport],
            flows: self.flows,
            lengths,
        })
    }

    fn next_hop(&self, port: &str) -> Result<Mac> {
        if let Some(mac) = self.dst_mac {
            return Ok(mac);
        }
        let table = std::fs::read_to_string("/proc/net/arp").context("/proc/net/arp")?;
        match neighbors(&table, port).as_slice() {
            [mac] => Ok(*mac),
            found => bail!(
                "{port} has {} neighbours that could be the router\n--dst-mac MAC says which one",
                found.len()
            ),
        }
    }
}

/// How many addresses of a prefix flows take: all, up to 2^20.
fn addresses(net: IpNet) -> u32 {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    1 << bits.min(20)
}

/// The resolved neighbours on a device, of the kernel's ARP table.
fn neighbors(table: &str, port: &str) -> Vec<Mac> {
    let complete = |flags: &str| {
        u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|bits| bits & 2 != 0)
    };
    let mut found: Vec<Mac> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, _, flags, mac, _, device] = words.as_slice() else { return None };
            (*device == port && complete(flags)).then(|| mac.parse().ok())?
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn own_mac(port: &str) -> Result<Mac> {
    let path = format!("/sys/class/net/{port}/address");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    text.trim().parse().map_err(|()| anyhow::anyhow!("{path}: {text:?} is no MAC address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.0.0.2         0x1         0x2         02:00:00:00:00:02     *        g0
10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        g0
10.0.0.4         0x1         0x6         02:00:00:00:00:02     *        g0
10.1.0.2         0x1         0x2         02:00:00:00:00:05     *        g1
";

    #[test]
    fn a_devices_only_neighbour_is_found() {
        assert_eq!(neighbors(TABLE, "g0"), [Mac([2, 0, 0, 0, 0, 2])]);
        assert_eq!(neighbors(TABLE, "g2"), []);
        let both = TABLE.replace("g1", "g0");
        assert_eq!(neighbors(&both, "g0").len(), 2);
    }

    #[test]
    fn a_prefix_gives_all_its_addresses() {
        for (net, number) in [("10.0.0.0/24", 256), ("10.0.0.1/32", 1), ("2001:2::/64", 1 << 20)] {
            assert_eq!(addresses(net.parse().unwrap()), number);
        }
        assert_eq!(destination("10.0.0.1").unwrap(), "10.0.0.1/32".parse().unwrap());
        assert!(destination("10.0.0.1/33").is_err());
    }
}
