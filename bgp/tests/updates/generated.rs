//! The captures' twin, which needs no data: a generated table through encoder and decoder.

use super::bgp_feed::Feed;
use super::session;
use ipnet::{Ipv4Net, Ipv6Net};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::nlri::{Nlri, Prefix, Prefixes};
use margay_bgp::wire::pack::{encode_update, encode_withdrawal};
use margay_bgp::wire::treatment::Treatment;
use margay_bgp::wire::update::split;
use margay_bgp::wire::{HEADER_LEN, Negotiated};
use std::collections::{HashMap, HashSet};

const PREFIXES: usize = 100_000;
const NEXT_HOP_V6: NextHop = NextHop::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Prefixes by the canonical form of their attributes, which are decoded once a block.
fn table<P: Prefix>(
    mut bytes: &[u8],
    negotiated: &Negotiated,
) -> (HashMap<P, usize>, Vec<Vec<u8>>) {
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    let (mut table, mut sets) = (HashMap::new(), Vec::new());
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        let (message, rest) = bytes.split_at(length);
        bytes = rest;
        let sections = split(&message[HEADER_LEN..], negotiated).expect("sound messages");
        for (family, nlri, block) in sections.announced() {
            assert_eq!(family, P::FAMILY);
            let set = *known.entry(block.material().concat()).or_insert_with(|| {
                let decoded = Attributes::decode(&block, negotiated);
                assert_eq!(decoded.treatment, Treatment::Accept);
                sets.push(decoded.attributes.to_canonical().into_vec());
                sets.len() - 1
            });
            let add_path = negotiated.add_path_rx.contains(family);
            for nlri in Prefixes::<P>::new(nlri, add_path) {
                assert_eq!(table.insert(nlri.expect("sound messages").prefix, set), None);
            }
        }
        for (family, nlri) in sections.withdrawals() {
            let add_path = negotiated.add_path_rx.contains(family);
            for nlri in Prefixes::<P>::new(nlri, add_path) {
                assert!(table.remove(&nlri.expect("sound messages").prefix).is_some());
            }
        }
    }
    (table, sets)
}

fn sessions() -> [Negotiated; 3] {
    let all = FamilySet::from_iter(Family::ALL);
    [
        session(true),
        Negotiated { add_path_tx: all, add_path_rx: all, ..session(true) },
        Negotiated { max_tx: 65_535, ..session(false) },
    ]
}

#[test]
fn a_generated_table_arrives_whole() {
    for negotiated in sessions() {
        let (mut out, mut expected) = (Vec::new(), HashMap::new());
        for shared in Feed::new(1, PREFIXES) {
            let Shared { attributes, prefixes } = &shared;
            let next_hop = attributes.next_hop.expect("sound messages");
            encode_update(attributes, next_hop, prefixes.iter().copied(), &negotiated, &mut out)
                .expect("sound messages");
            let canonical = attributes.to_canonical().into_vec();
            expected.extend(prefixes.iter().map(|nlri| (nlri.prefix, canonical.clone())));
        }
        let (table, sets) = table::<Ipv4Net>(&out, &negotiated);
        assert_eq!((table.len(), expected.len()), (PREFIXES, PREFIXES));
        assert!(expected.iter().all(|(prefix, set)| sets[table[prefix]] == *set));
    }
}

#[test]
fn a_generated_ipv6_table_arrives_whole_and_goes_whole() {
    for negotiated in sessions() {
        let mut out = Vec::new();
        for shared in Feed::new(2, PREFIXES) {
            let prefixes = shared.prefixes_v6();
            encode_update(&shared.attributes, NEXT_HOP_V6, prefixes, &negotiated, &mut out)
                .expect("sound messages");
        }
        let (announced, _) = table::<Ipv6Net>(&out, &negotiated);
        assert_eq!(announced.len(), PREFIXES);
        let all = announced.keys().map(|prefix| Nlri::new(*prefix));
        encode_withdrawal(all, &negotiated, &mut out).expect("sound messages");
        assert_eq!(table::<Ipv6Net>(&out, &negotiated).0.len(), 0);
    }
}

#[test]
fn the_generated_table_is_shaped_like_the_recorded_one() {
    let sets: Vec<Shared> = Feed::new(3, 500_000).collect();
    let single = sets.iter().filter(|shared| shared.prefixes.len() == 1).count();
    let largest = sets.iter().map(|shared| shared.prefixes.len()).max().expect("sound messages");
    let (mean, single) = (500_000 / sets.len(), 100 * single / sets.len());
    assert!((5..=9).contains(&mean), "{mean} prefixes a set");
    assert!((45..=60).contains(&single), "{single} % of the sets have one prefix");
    assert!((800..5_000).contains(&largest), "{largest} prefixes in the largest set");
    let distinct: HashSet<_> =
        sets.iter().flat_map(|shared| &shared.prefixes).map(|nlri| nlri.prefix).collect();
    assert_eq!(distinct.len(), 500_000);
    let (blocks, bytes) = sets.iter().fold((0, 0), |(count, bytes), shared| {
        (count + 1, bytes + shared.attributes.to_canonical().len())
    });
    println!("{} bytes of canonical form a set", bytes / blocks);
    assert!(bytes / blocks < 66, "smaller than on the wire");
}

use super::bgp_feed::Shared;
