use super::*;
use crate::family::FamilySet;
use crate::wire::HEADER_LEN;
use crate::wire::as_path::AsPath;
use crate::wire::attribute::tests::{as_sent, attributes, next_hop_v4, next_hop_v6};
use crate::wire::community::Community;
use crate::wire::nlri::Prefixes;
use crate::wire::treatment::Treatment;
use crate::wire::update::split;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn session() -> Negotiated {
    Negotiated { ibgp: true, families: FamilySet::from_iter(Family::ALL), ..Negotiated::default() }
}

fn some_attributes() -> Attributes {
    Attributes { as_path: AsPath::from_sequence(&[65_000]), ..Attributes::default() }
}

const V4: NextHop = NextHop::V4(Ipv4Addr::new(192, 0, 2, 1));
const V6: NextHop = NextHop::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The bodies of the messages in `bytes`, each of which must say its own length.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..16], [0xff; 16]);
        assert_eq!(bytes[18], UPDATE);
        let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        let (message, rest) = bytes.split_at(length);
        bodies.push(&message[HEADER_LEN..]);
        bytes = rest;
    }
    bodies
}

fn slash_24s(count: u32) -> impl Iterator<Item = Nlri<Ipv4Net>> + Clone {
    (0..count).map(|at| {
        Nlri::new(Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 + (at << 8)), 24).unwrap())
    })
}

#[test]
fn one_message_holds_as_much_as_it_may() {
    // 19 + 4 + ORIGIN 4 + AS_PATH 9 + NEXT_HOP 7 = 43; (4096 - 43) / 4 = 1013 and one byte left.
    let mut out = Vec::new();
    let sent = encode_update(&some_attributes(), V4, slash_24s(1013), &session(), &mut out);
    assert_eq!((sent, out.len()), (Ok(1), 43 + 4 * 1013));
    out.clear();
    let sent = encode_update(&some_attributes(), V4, slash_24s(1014), &session(), &mut out);
    assert_eq!((sent, out.len()), (Ok(2), 43 + 4 * 1013 + 43 + 4));
}

#[test]
fn path_identifiers_count_in_the_size() {
    let add_path_tx = FamilySet::EMPTY.with(Family::Ipv4Unicast);
    let negotiated = Negotiated { add_path_tx, ..session() };
    // Eight bytes each: (4096 - 43) / 8 = 506.
    let mut out = Vec::new();
    let sent = encode_update(&some_attributes(), V4, slash_24s(507), &negotiated, &mut out);
    assert_eq!((sent, out.len()), (Ok(2), 43 + 8 * 506 + 43 + 8));
    assert!(messages(&out).iter().all(|body| body.len() + HEADER_LEN <= 4096));
    out.clear();
    // 23 + 8 * 509 = 4095.
    assert_eq!(encode_withdrawal(slash_24s(510), &negotiated, &mut out), Ok(2));
    assert_eq!(out.len(), 23 + 8 * 509 + 23 + 8);
}

#[test]
fn rfc8654_longer_messages_where_both_agree() {
    let negotiated = Negotiated { max_tx: 65_535, ..session() };
    let mut out = Vec::new();
    let sent = encode_update(&some_attributes(), V4, slash_24s(16_373), &negotiated, &mut out);
    assert_eq!((sent, out.len()), (Ok(1), 43 + 4 * 16_373));
    out.clear();
    let sent = encode_update(&some_attributes(), V4, slash_24s(16_374), &negotiated, &mut out);
    assert_eq!(sent, Ok(2));
}

#[test]
fn attributes_that_do_not_fit_are_an_error_that_leaves_nothing() {
    let mut attributes = some_attributes();
    attributes.communities = vec![Community(1); 1012];
    // 43 + 4 + 4 * 1012 = 4095: no room for a /24.
    let mut out = vec![7];
    let sent = encode_update(&attributes, V4, slash_24s(1), &session(), &mut out);
    assert_eq!(sent, Err(EncodeError::TooLong { length: 4099, limit: 4096 }));
    assert_eq!(out, [7]);
    let default = Nlri::new(Ipv4Net::default());
    let sent = encode_update(&attributes, V4, [default], &session(), &mut out);
    assert_eq!((sent, out.len()), (Ok(1), 1 + 4096));
    // More than a length field can say.
    attributes.communities = vec![Community(1); 20_000];
    let negotiated = Negotiated { max_tx: 65_535, ..session() };
    let sent = encode_update(&attributes, V4, slash_24s(1), &negotiated, &mut out);
    assert!(matches!(sent, Err(EncodeError::TooLong { limit: 65_535, .. })));
}

#[test]
fn next_hops_of_the_wrong_kind_are_refused() {
    let attributes = some_attributes();
    let mut out = Vec::new();
    let mut send_v4 = |next_hop, negotiated: &Negotiated| {
        encode_update(&attributes, next_hop, slash_24s(1), negotiated, &mut out)
    };
    let family = Family::Ipv4Unicast;
    let refused = |next_hop| Err(EncodeError::NextHop { family, next_hop });
    assert_eq!(send_v4(V6, &session()), refused(V6));
    assert_eq!(send_v4(V6, &Negotiated { extended_next_hop: true, ..session() }), Ok(1));
    // Rule of RFC 2545's many readers: zeros are never sent.
    let zeros = NextHop::V4(Ipv4Addr::UNSPECIFIED);
    assert_eq!(send_v4(zeros, &session()), refused(zeros));
    let v6 = Nlri::new("2001:db8::/32".parse::<Ipv6Net>().unwrap());
    let global = Ipv6Addr::UNSPECIFIED;
    let half = NextHop::V6Pair { global, link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1) };
    for next_hop in [V4, NextHop::V6(global), half] {
        let sent = encode_update(&attributes, next_hop, [v6], &session(), &mut out);
        assert_eq!(sent, Err(EncodeError::NextHop { family: Family::Ipv6Unicast, next_hop }));
    }
}

#[test]
fn rfc7606_section_5_1_the_multiprotocol_attribute_comes_first() {
    let v6 = Nlri::new("2001:db8::/32".parse::<Ipv6Net>().unwrap());
    let mut out = Vec::new();
    assert_eq!(encode_update(&some_attributes(), V6, [v6], &session(), &mut out), Ok(1));
    assert_eq!(out[HEADER_LEN..][..6], [0, 0, 0, 42, 0x80, code::MP_REACH_NLRI]);
}

#[test]
fn rfc4724_section_2_end_of_rib() {
    for family in Family::ALL {
        let mut out = Vec::new();
        encode_end_of_rib(family, &mut out);
        let sections = split(messages(&out)[0], &session()).unwrap();
        assert_eq!(sections.is_end_of_rib(), Some(family));
    }
}

#[test]
fn no_prefix_is_no_message() {
    let mut out = Vec::new();
    assert_eq!(encode_update(&some_attributes(), V4, slash_24s(0), &session(), &mut out), Ok(0));
    assert_eq!(encode_withdrawal(slash_24s(0), &session(), &mut out), Ok(0));
    assert_eq!(out, []);
}

fn nlri_v4() -> impl Strategy<Value = Vec<Nlri<Ipv4Net>>> {
    let one = (any::<u32>(), any::<u32>(), 0u8..=32).prop_map(|(path_id, address, bits)| {
        let prefix = Ipv4Net::new(Ipv4Addr::from_bits(address), bits).unwrap().trunc();
        Nlri { path_id, prefix }
    });
    prop_oneof![vec(one.clone(), 1..20), vec(one, 900..1100)]
}

fn nlri_v6() -> impl Strategy<Value = Vec<Nlri<Ipv6Net>>> {
    let one = (any::<u32>(), any::<u128>(), 0u8..=128).prop_map(|(path_id, address, bits)| {
        let prefix = Ipv6Net::new(Ipv6Addr::from_bits(address), bits).unwrap().trunc();
        Nlri { path_id, prefix }
    });
    prop_oneof![vec(one.clone(), 1..40), vec(one, 300..400)]
}

fn negotiated() -> impl Strategy<Value = Negotiated> {
    let max = prop_oneof![Just(4096usize), 1500usize..65_535];
    (any::<[bool; 3]>(), max).prop_map(|([asn4, ibgp, add_path], max_tx)| {
        let families = FamilySet::from_iter(Family::ALL);
        let add_path_tx = if add_path { families } else { FamilySet::EMPTY };
        Negotiated { asn4, ibgp, add_path_tx, extended_next_hop: true, max_tx, ..session() }
    })
}

/// Reads all of `out` back, and looks at every message.
fn received<P: Prefix>(
    out: &[u8],
    negotiated: &Negotiated,
    expected: Option<&Attributes>,
) -> Vec<Nlri<P>> {
    let add_path = negotiated.add_path_tx.contains(P::FAMILY);
    let mut received = Vec::new();
    for body in messages(out) {
        assert!(body.len() + HEADER_LEN <= negotiated.max_tx);
        let sections = split(body, negotiated).unwrap();
        assert_eq!((sections.errors.len(), sections.skipped), (0, None));
        assert!(sections.orphans().is_none());
        let mut add = |nlri: &[u8]| {
            received.extend(Prefixes::<P>::new(nlri, add_path).map(|nlri| nlri.unwrap()));
        };
        for (family, nlri, block) in sections.announced() {
            assert_eq!(family, P::FAMILY);
            let mut decoded = Attributes::decode(&block, negotiated);
            assert_eq!(decoded.treatment, Treatment::Accept);
            let expected = expected.expect("an announcement");
            assert_eq!(decoded.attributes.as_path.to_string(), expected.as_path.to_string());
            decoded.attributes.as_path = expected.as_path.clone();
            assert_eq!(&decoded.attributes, expected);
            add(nlri);
        }
        for (family, nlri) in sections.withdrawals() {
            assert_eq!((family, expected), (P::FAMILY, None));
            add(nlri);
        }
    }
    received
}

fn round_trip<P: Prefix>(
    attributes: Attributes,
    next_hop: NextHop,
    mut prefixes: Vec<Nlri<P>>,
    negotiated: &Negotiated,
) {
    if negotiated.add_path_tx.is_empty() {
        prefixes.iter_mut().for_each(|nlri| nlri.path_id = 0);
    }
    let mut out = Vec::new();
    let sent = encode_update(&attributes, next_hop, prefixes.clone(), negotiated, &mut out);
    if let Err(error) = sent {
        assert!(matches!(error, EncodeError::TooLong { .. }), "{error}");
        assert_eq!(out, []);
    } else {
        let mut expected = as_sent(&attributes, negotiated);
        expected.next_hop = Some(next_hop);
        assert_eq!(received::<P>(&out, negotiated, Some(&expected)), prefixes);
        assert_eq!(messages(&out).len(), sent.unwrap());
    }
    out.clear();
    encode_withdrawal(prefixes.clone(), negotiated, &mut out).unwrap();
    assert_eq!(received::<P>(&out, negotiated, None), prefixes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ipv4_routes_arrive_as_they_were_sent(
        attributes in attributes(),
        next_hop in prop_oneof![next_hop_v4(), next_hop_v6()],
        prefixes in nlri_v4(),
        negotiated in negotiated(),
    ) {
        round_trip(attributes, next_hop, prefixes, &negotiated);
    }

    #[test]
    fn ipv6_routes_arrive_as_they_were_sent(
        attributes in attributes(),
        next_hop in next_hop_v6(),
        prefixes in nlri_v6(),
        negotiated in negotiated(),
    ) {
        round_trip(attributes, next_hop, prefixes, &negotiated);
    }
}
