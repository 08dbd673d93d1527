//! What feeds send: UPDATE messages, encoded before the clock starts. A table is a list of
//! attribute sets with their prefixes, made up from a seed or recorded ([`crate::recorded`]), told
//! in the words of whoever sends it.

use ipnet::{Ipv4Net, Ipv6Net};
use margay_bgp::Family;
use margay_bgp::wire::Negotiated;
use margay_bgp::wire::as_path::AsPath;
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::nlri::{Nlri, Prefix};
use margay_bgp::wire::pack::encode_update;
use std::net::IpAddr;
use std::sync::Arc;

#[path = "../../tests/data/bgp_feed.rs"]
mod bgp_feed;

use bgp_feed::Feed;

/// Prefixes of both families that share their attributes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Set {
    pub(crate) attributes: Attributes,
    pub(crate) v4: Vec<Nlri<Ipv4Net>>,
    pub(crate) v6: Vec<Nlri<Ipv6Net>>,
}

/// Encoded messages and how many prefixes they announce.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) prefixes: usize,
}

/// Who sends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    /// Decides the family, too.
    pub(crate) address: IpAddr,
    /// The AS that comes first in all paths; `None` for an internal peer.
    pub(crate) asn: Option<u32>,
    /// How often it comes first.
    pub(crate) times: usize,
}

impl Sender {
    fn adapt(self, mut attributes: Attributes) -> Attributes {
        attributes.next_hop = Some(self.next_hop());
        match self.asn {
            Some(asn) => {
                attributes.as_path.prepend(asn, self.times);
                attributes.local_pref = None;
            }
            None => attributes.local_pref = Some(attributes.local_pref.unwrap_or(100)),
        }
        attributes
    }

    fn next_hop(self) -> NextHop {
        match self.address {
            IpAddr::V4(address) => NextHop::V4(address),
            IpAddr::V6(address) => NextHop::V6(address),
        }
    }

    /// The messages that announce these sets' prefixes of the sender's family.
    pub(crate) fn table<'a>(self, sets: impl IntoIterator<Item = &'a Set>) -> Table {
        let agreed = Negotiated {
            ibgp: self.asn.is_none(),
            families: Family::ALL.into_iter().collect(),
            ..Negotiated::default()
        };
        let (mut out, mut prefixes) = (Vec::new(), 0);
        for set in sets {
            let attributes = self.adapt(set.attributes.clone());
            prefixes += match self.address {
                IpAddr::V4(_) => self.encode(&attributes, &set.v4, &agreed, &mut out),
                IpAddr::V6(_) => self.encode(&attributes, &set.v6, &agreed, &mut out),
            };
        }
        Table { bytes: Arc::new(out), prefixes }
    }

    fn encode<P: Prefix>(
        self,
        attributes: &Attributes,
        prefixes: &[Nlri<P>],
        agreed: &Negotiated,
        out: &mut Vec<u8>,
    ) -> usize {
        encode_update(attributes, self.next_hop(), prefixes.iter().copied(), agreed, out)
            .expect("short attributes, and a next hop of the family");
        prefixes.len()
    }
}

/// A made-up table of about `prefixes` IPv4 prefixes; with `v6`, there are IPv6 ones for every
/// sixth set, which makes the shares of the table of 2024.
pub(crate) fn made_up(seed: u64, prefixes: usize, v6: bool) -> Vec<Set> {
    let with_v6 = |at: usize| v6 && at.is_multiple_of(6);
    let sets = Feed::new(seed, prefixes).enumerate().map(|(at, shared)| Set {
        v6: if with_v6(at) { shared.prefixes_v6().collect() } else { Vec::new() },
        // BIRD refuses loopback prefixes, and then not all would come through.
        v4: shared.prefixes.iter().filter(|nlri| !is_loopback(&nlri.prefix)).copied().collect(),
        attributes: shared.attributes,
    });
    sets.collect()
}

/// 127.0.0.0/8, or a prefix that has it inside.
pub(crate) fn is_loopback(prefix: &Ipv4Net) -> bool {
    let [first, last] = [prefix.network(), prefix.broadcast()].map(|address| address.octets()[0]);
    first <= 127 && 127 <= last && prefix.prefix_len() > 0
}

/// `count` prefixes of 24 bits that only sender number `number` has, in sets of ten.
pub(crate) fn own_prefixes(number: u32, count: u32) -> Vec<Set> {
    let nets: Vec<Nlri<Ipv4Net>> = (0..count)
        .map(|at| {
            let address = 0x1400_0000 + ((number * count + at) << 8);
            Nlri::new(<Ipv4Net as Prefix>::read(24, &address.to_be_bytes()).expect("24 bits"))
        })
        .collect();
    let sets = nets.chunks(10).enumerate().map(|(at, part)| {
        let path = [3000 + at as u32 % 97, 200_000 + number];
        let as_path = AsPath::from_sequence(&path);
        let attributes = Attributes { as_path, ..Attributes::default() };
        Set { attributes, v4: part.to_vec(), v6: Vec::new() }
    });
    sets.collect()
}
