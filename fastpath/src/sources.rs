//! Which source addresses packets of a port may have, so that no workload can speak for others.
//!
//! As strict as Felix's reverse path check: what leads to the endpoint may come from it. Nearly
//! every endpoint has one address of a family, which is compared first.

use crate::packet::Packet;
use ipnet::IpNet;
use margay_tunnels::wire::{ethernet, ipv4, ipv6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Offset of the source address in a frame with IPv4.
const PLAIN_V4_SOURCE: usize = ethernet::HEADER_LEN + 12;

/// The sources of a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    others: Vec<IpNet>,
}

impl Sources {
    /// From addresses and ranges.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Sources {
        let mut sources = Sources::default();
        for net in nets {
            let is_single = net.prefix_len() == net.max_prefix_len();
            match net.addr() {
                IpAddr::V4(address) if is_single && sources.v4.is_none() => {
                    sources.v4 = Some(address);
                }
                IpAddr::V6(address) if is_single && sources.v6.is_none() => {
                    sources.v6 = Some(address);
                }
                _ => sources.others.push(net),
            }
        }
        sources
    }

    /// True when a parsed packet's source is one of them.
    #[inline]
    pub fn allow(&self, packet: &Packet) -> bool {
        let head = packet.head();
        let ip = &head[usize::from(packet.l3).min(head.len())..];
        match ip.first().map(|byte| byte >> 4) {
            Some(4) => ipv4::View::new(ip).is_some_and(|view| self.has_v4(view.src())),
            Some(6) => ipv6::View::new(ip).is_some_and(|view| self.has_v6(view.src())),
            _ => false,
        }
    }

    /// The same of a frame with IPv4 behind a plain Ethernet header.
    #[inline]
    pub fn allow_plain_v4(&self, head: &[u8]) -> bool {
        let source = head.get(PLAIN_V4_SOURCE..).and_then(|bytes| bytes.first_chunk::<4>());
        source.is_some_and(|source| self.has_v4(Ipv4Addr::from(*source)))
    }

    #[inline]
    fn has_v4(&self, address: Ipv4Addr) -> bool {
        self.v4 == Some(address) || self.is_other(IpAddr::V4(address))
    }

    #[inline]
    fn has_v6(&self, address: Ipv6Addr) -> bool {
        self.v6 == Some(address) || self.is_other(IpAddr::V6(address))
    }

    fn is_other(&self, address: IpAddr) -> bool {
        self.others.iter().any(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_its_addresses_and_what_is_allowed_beside() {
        let nets = ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "192.0.2.0/24", "2001:db8::/64"];
        let sources = Sources::new(nets.map(|net| net.parse().unwrap()));
        let has = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(address) => sources.has_v4(address),
            IpAddr::V6(address) => sources.has_v6(address),
        };
        for own in ["10.0.0.1", "10.0.0.2", "192.0.2.255", "fd00::1", "2001:db8::9"] {
            assert!(has(own), "{own}");
        }
        for other in ["10.0.0.3", "192.0.3.0", "fd00::2", "2001:db8:0:1::", "::", "0.0.0.0"] {
            assert!(!has(other), "{other}");
        }
        assert!(!Sources::default().has_v4(Ipv4Addr::UNSPECIFIED));
        let mut frame = [0; 34];
        frame[26..30].copy_from_slice(&[10, 0, 0, 2]);
        assert!(sources.allow_plain_v4(&frame) && !sources.allow_plain_v4(&frame[..29]));
        frame[29] = 9;
        assert!(!sources.allow_plain_v4(&frame));
    }
}
