//! UPDATE messages as the world sends them: captures, other projects' vectors, and a generated
//! table in the captures' likeness. What needs recorded data reads the folder that `MARGAY_DATA`
//! names, and says SKIPPED without it.

#[path = "../../../tests/data/bgp_feed.rs"]
mod bgp_feed;
mod captures;
#[path = "../../../tests/fuzz/src/bgp.rs"]
#[expect(unreachable_pub, reason = "it is part of a library for the fuzz targets")]
mod fuzz_body;
mod generated;
mod hostile;
mod malformed;
mod mrt;
mod normal;
mod other_codec;
mod vectors;

use margay_bgp::family::{Family, FamilySet};
use margay_bgp::wire::Negotiated;
use std::path::PathBuf;

/// The folder of recorded data, or `None` after saying so.
fn data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("MARGAY_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED {test}: MARGAY_DATA names no folder");
    }
    folder
}

/// Reads everything that a peer may send, as captures hold internal and external sessions alike.
fn session(asn4: bool) -> Negotiated {
    Negotiated {
        asn4,
        ibgp: true,
        families: FamilySet::from_iter(Family::ALL),
        extended_next_hop: true,
        ..Negotiated::default()
    }
}
