use super::*;
use crate::wire::Negotiated;
use crate::wire::treatment::Treatment;
use crate::wire::update::{Block, Reach};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use std::net::Ipv6Addr;

/// An AS that two octets hold, or one that they don't.
fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1u32..65_536, 1u32..]
}

fn as_path() -> impl Strategy<Value = AsPath> {
    use crate::wire::as_path::SegmentKind::{Sequence, Set};
    let kind = prop_oneof![4 => Just(Sequence), 1 => Just(Set)];
    vec((kind, vec(asn(), 1..6)), 0..4).prop_map(|segments| {
        let mut path = AsPath::default();
        for (kind, asns) in segments {
            path.push(kind, asns);
        }
        path
    })
}

pub(crate) fn next_hop_v4() -> impl Strategy<Value = NextHop> {
    (0x0100_0000u32..0xe000_0000).prop_map(|bits| NextHop::V4(Ipv4Addr::from_bits(bits)))
}

pub(crate) fn next_hop_v6() -> impl Strategy<Value = NextHop> {
    let global = any::<u64>().prop_map(|low| Ipv6Addr::from_bits(0x2001 << 112 | u128::from(low)));
    let link_local =
        any::<u64>().prop_map(|low| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low)));
    prop_oneof![
        global.clone().prop_map(NextHop::V6),
        link_local.clone().prop_map(NextHop::V6),
        (global, link_local)
            .prop_map(|(global, link_local)| NextHop::V6Pair { global, link_local }),
    ]
}

fn unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    let code = prop_oneof![Just(20u8), Just(23), 33u8..=255];
    let value = prop_oneof![8 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 250..300)];
    vec((code, value), 0..3).prop_map(|mut attributes| {
        attributes.sort_by_key(|(code, _)| *code);
        attributes.dedup_by_key(|(code, _)| *code);
        let flags = OPTIONAL | TRANSITIVE | PARTIAL;
        attributes
            .into_iter()
            .map(|(code, value)| UnknownAttribute { flags, code, value: value.into() })
            .collect()
    })
}

/// Any set of attributes that an internal peer may send over a two-octet session without loss.
pub(crate) fn attributes() -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let address = || any::<u32>().prop_map(Ipv4Addr::from_bits);
    let aggregator = (asn(), address()).prop_map(|(asn, router_id)| Aggregator { asn, router_id });
    let large = any::<[u8; 12]>().prop_map(LargeCommunity::from_bytes);
    let numbers = (of(any::<u32>()), of(any::<u32>()), any::<bool>());
    let lists = (
        vec(any::<u32>().prop_map(Community), 0..80),
        vec(any::<[u8; 8]>().prop_map(ExtendedCommunity), 0..5),
        vec(large, 0..30),
        vec(address(), 0..4),
    );
    let next_hop = prop_oneof![next_hop_v4(), next_hop_v6()];
    (origin, as_path(), next_hop, numbers, of(aggregator), lists, of(address()), unknown())
        .prop_map(|(origin, as_path, next_hop, numbers, aggregator, lists, originator, unknown)| {
            Attributes {
                origin,
                as_path,
                next_hop: Some(next_hop),
                med: numbers.0,
                local_pref: numbers.1,
                atomic_aggregate: numbers.2,
                aggregator,
                communities: lists.0,
                extended_communities: lists.1,
                large_communities: lists.2,
                originator_id: originator,
                cluster_list: lists.3,
                unknown,
            }
        })
}

/// What is left of the attributes at the other end of such a session.
pub(crate) fn as_sent(attributes: &Attributes, negotiated: &Negotiated) -> Attributes {
    let mut sent = attributes.clone();
    if !negotiated.ibgp {
        (sent.local_pref, sent.originator_id) = (None, None);
        sent.cluster_list.clear();
    }
    sent
}

pub(crate) fn decode_like(
    attributes: &Attributes,
    block: &[u8],
    negotiated: &Negotiated,
) -> Decoded {
    let mut next_hop = Vec::new();
    let reach = match attributes.next_hop {
        Some(NextHop::V4(_)) => Reach::Plain,
        Some(v6) => {
            v6.write(&mut next_hop);
            Reach::Multiprotocol { family: crate::Family::Ipv6Unicast, next_hop: &next_hop }
        }
        None => Reach::Nothing,
    };
    Attributes::decode(&Block::from_bytes(block, reach, negotiated), negotiated)
}

/// The same ASes, whatever segments they are in: merging joins neighboring sequences.
fn asns_in_groups(path: &AsPath) -> (String, usize) {
    (path.to_string(), path.length())
}

proptest! {
    #[test]
    fn every_set_survives_the_wire(
        attributes in attributes(), asn4: bool, ibgp: bool,
    ) {
        let negotiated = Negotiated { asn4, ibgp, ..Negotiated::default() };
        let mut block = Vec::new();
        attributes.encode(&negotiated, &mut block);
        let mut decoded = decode_like(&attributes, &block, &negotiated);
        prop_assert_eq!(&decoded.errors, &[]);
        prop_assert_eq!(decoded.treatment, Treatment::Accept);
        let mut again = Vec::new();
        decoded.attributes.encode(&negotiated, &mut again);
        prop_assert_eq!(&again, &block);
        let mut sent = as_sent(&attributes, &negotiated);
        prop_assert_eq!(
            asns_in_groups(&decoded.attributes.as_path),
            asns_in_groups(&sent.as_path)
        );
        (decoded.attributes.as_path, sent.as_path) = Default::default();
        prop_assert_eq!(decoded.attributes, sent);
    }

    #[test]
    fn every_set_survives_its_canonical_form(attributes in attributes()) {
        let canonical = attributes.to_canonical();
        prop_assert_eq!(Attributes::from_canonical(&canonical), Ok(attributes));
        for end in 0..canonical.len() {
            // An unknown attribute at the end may be missed by a cut; nothing else.
            if let Ok(shorter) = Attributes::from_canonical(&canonical[..end]) {
                prop_assert_eq!(&shorter.to_canonical()[2..], &canonical[2..end]);
            }
        }
    }

    #[test]
    fn no_bytes_upset_the_decoders(bytes in vec(any::<u8>(), 0..200), asn4: bool, ibgp: bool) {
        let negotiated = Negotiated { asn4, ibgp, ..Negotiated::default() };
        let block = Block::from_bytes(&bytes, Reach::Plain, &negotiated);
        let decoded = Attributes::decode(&block, &negotiated);
        prop_assert_ne!(decoded.treatment, Treatment::Accept);
        if let Ok(attributes) = Attributes::from_canonical(&bytes) {
            let canonical = attributes.to_canonical();
            prop_assert_eq!(Attributes::from_canonical(&canonical), Ok(attributes));
        }
    }
}
