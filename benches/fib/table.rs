//! What is loaded and what is looked up.

use crate::internet_table::{Random, internet_v4, internet_v6};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Prefixes of both families, in the order of the file.
pub(crate) struct Table {
    pub(crate) origin: &'static str,
    pub(crate) v4: Vec<Ipv4Net>,
    pub(crate) v6: Vec<Ipv6Net>,
}

impl Table {
    /// The real table where MARGAY_DATA names its directory, else a generated one.
    pub(crate) fn load() -> Table {
        let Some(directory) = std::env::var_os("MARGAY_DATA") else {
            let (mut v4, mut v6) = (internet_v4(901_899, 1), internet_v6(160_147, 2));
            v4.sort();
            v6.sort();
            return Table { origin: "generated (MARGAY_DATA is not set)", v4, v6 };
        };
        let path = std::path::Path::new(&directory).join("prefixes.txt.gz");
        let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut text = String::new();
        let read = flate2::read::GzDecoder::new(file).read_to_string(&mut text);
        read.unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for line in text.lines() {
            match line.parse().unwrap_or_else(|error| panic!("{path:?}: {line}: {error}")) {
                IpNet::V4(net) => v4.push(net),
                IpNet::V6(net) => v6.push(net),
            }
        }
        Table { origin: "real", v4, v6 }
    }

    /// All prefixes, IPv4 first.
    pub(crate) fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.iter().copied().map(IpNet::V4).chain(self.v6.iter().copied().map(IpNet::V6))
    }
}

/// Addresses to look up.
pub(crate) struct Addresses {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
}

impl Addresses {
    /// `count` of each family, each a random one inside a random prefix.
    pub(crate) fn inside(table: &Table, count: usize) -> Addresses {
        let mut random = Random(42);
        let v4 = (0..count).map(|_| {
            let net = table.v4[random.below(table.v4.len() as u64) as usize];
            let noise = (random.next() as u32).checked_shr(net.prefix_len().into()).unwrap_or(0);
            Ipv4Addr::from_bits(net.addr().to_bits() | noise)
        });
        let v4 = v4.collect();
        let v6 = (0..count).map(|_| {
            let net = table.v6[random.below(table.v6.len() as u64) as usize];
            let noise = random.wide().checked_shr(net.prefix_len().into()).unwrap_or(0);
            Ipv6Addr::from_bits(net.addr().to_bits() | noise)
        });
        let v6 = v6.collect();
        Addresses { v4, v6 }
    }
}
