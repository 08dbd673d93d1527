//! What feeds send: UPDATE messages, encoded before the clock starts.

use ipnet::Ipv4Net;
use margay_bgp::wire::Negotiated;
use margay_bgp::wire::as_path::AsPath;
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::nlri::{Nlri, Prefix};
use margay_bgp::wire::pack::encode_update;
use std::net::Ipv4Addr;
use std::sync::Arc;

#[path = "../../tests/data/bgp_feed.rs"]
#[allow(dead_code)]
mod bgp_feed;

use bgp_feed::Feed;

/// Encoded messages and how many prefixes they announce.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) prefixes: usize,
}

/// Who sends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) address: Ipv4Addr,
    /// The AS that comes first in all paths; `None` for an internal peer.
    pub(crate) asn: Option<u32>,
}

fn adapt(mut attributes: Attributes, sender: Sender) -> Attributes {
    attributes.next_hop = Some(NextHop::V4(sender.address));
    match sender.asn {
        Some(asn) => {
            let mut asns: Vec<u32> = attributes.as_path.asns().collect();
            match asns.first_mut() {
                Some(first) => *first = asn,
                None => asns.push(asn),
            }
            attributes.as_path = AsPath::from_sequence(&asns);
            attributes.local_pref = None;
        }
        None => attributes.local_pref = Some(attributes.local_pref.unwrap_or(100)),
    }
    attributes
}

fn encode(
    attributes: &Attributes,
    prefixes: &[Nlri<Ipv4Net>],
    agreed: &Negotiated,
    out: &mut Vec<u8>,
) {
    let hop = attributes.next_hop.expect("set before");
    encode_update(attributes, hop, prefixes.iter().copied(), agreed, out)
        .expect("short attributes");
}

fn agreed(sender: Sender) -> Negotiated {
    Negotiated { ibgp: sender.asn.is_none(), ..Negotiated::default() }
}

/// A made-up table. Equal seeds make equal prefixes, whoever sends them.
pub(crate) fn made_up(seed: u64, prefixes: usize, sender: Sender) -> Table {
    let (mut out, mut count) = (Vec::new(), 0);
    let agreed = agreed(sender);
    for mut set in Feed::new(seed, prefixes) {
        // BIRD refuses loopback prefixes, and then not all would come through.
        set.prefixes.retain(|nlri| !nlri.prefix.network().is_loopback());
        count += set.prefixes.len();
        encode(&adapt(set.attributes, sender), &set.prefixes, &agreed, &mut out);
    }
    Table { bytes: Arc::new(out), prefixes: count }
}

/// `count` prefixes of 24 bits that only this sender has, in sets of ten.
pub(crate) fn own_prefixes(number: u32, count: u32, sender: Sender) -> Table {
    let mut out = Vec::new();
    let agreed = agreed(sender);
    let nets: Vec<Nlri<Ipv4Net>> = (0..count)
        .map(|at| {
            let address = 0x1400_0000 + ((number * count + at) << 8);
            Nlri::new(<Ipv4Net as Prefix>::read(24, &address.to_be_bytes()).expect("24 bits"))
        })
        .collect();
    for (at, part) in nets.chunks(10).enumerate() {
        let path = [sender.asn.unwrap_or(0), 3000 + at as u32 % 97, 200_000 + number];
        let attributes =
            Attributes { as_path: AsPath::from_sequence(&path), ..Attributes::default() };
        encode(&adapt(attributes, sender), part, &agreed, &mut out);
    }
    Table { bytes: Arc::new(out), prefixes: nets.len() }
}
