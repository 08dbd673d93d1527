use super::*;
use crate::family::FamilySet;
use crate::wire::attribute::Attributes;
use crate::wire::nlri::prefixes;
use proptest::collection::vec;
use proptest::prelude::*;

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const MED: &[u8] = &[0x80, 4, 4, 0, 0, 0, 1];
const UNREACH_V6: &[u8] = &[0x80, 15, 6, 0, 2, 1, 16, 0x20, 1];
const COMMUNITIES: &[u8] = &[0xc0, 8, 4, 0, 1, 0, 1];

fn both_families() -> Negotiated {
    Negotiated { families: FamilySet::from_iter(Family::ALL), ..Negotiated::default() }
}

fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let lengths = [withdrawn.len() as u16, attributes.len() as u16].map(u16::to_be_bytes);
    [&lengths[0], withdrawn, &lengths[1], &attributes, nlri].concat()
}

fn reach_v6(next_hop: &[u8]) -> Vec<u8> {
    let value = [&[0, 2, 1, next_hop.len() as u8], next_hop, &[0, 16, 0x20, 2]].concat();
    [&[0x80, 14, value.len() as u8], &value[..]].concat()
}

#[test]
fn all_sections_are_found() {
    let reach = reach_v6(&[1; 16]);
    let body = body(&[8, 10], &[ORIGIN, &reach, MED, UNREACH_V6, COMMUNITIES], &[8, 11]);
    let sections = split(&body, &both_families()).unwrap();
    assert_eq!((sections.withdrawn, sections.nlri), (&[8, 10][..], &[8, 11][..]));
    let family = Family::Ipv6Unicast;
    let mp_reach = MpReach { family, next_hop: &[1; 16], nlri: &[16, 0x20, 2] };
    assert_eq!(sections.mp_reach, Some(mp_reach));
    assert_eq!(sections.mp_unreach, Some(MpUnreach { family, nlri: &[16, 0x20, 1] }));
    let announced: Vec<(Family, &[u8])> =
        sections.announced().map(|(family, nlri, _)| (family, nlri)).collect();
    let v4 = Family::Ipv4Unicast;
    assert_eq!(announced, [(v4, &[8, 11][..]), (family, &[16, 0x20, 2])]);
    let withdrawn: Vec<_> = sections.withdrawals().collect();
    assert_eq!(withdrawn, [(v4, &[8, 10][..]), (family, &[16, 0x20, 1])]);
    assert_eq!(sections.orphans().map(|_| ()), None);
    assert_eq!(sections.is_end_of_rib(), None);
}

#[test]
fn material_is_the_block_without_prefixes() {
    let around = [ORIGIN, MED, COMMUNITIES].concat();
    let reach = reach_v6(&[1; 16]);
    let negotiated = both_families();
    let whole = |body: &[u8]| {
        let sections = split(body, &negotiated).unwrap();
        let blocks = sections.announced().map(|(_, _, block)| block.material().concat());
        blocks.collect::<Vec<_>>()
    };
    let inside = body(&[], &[ORIGIN, &reach, MED, UNREACH_V6, COMMUNITIES], &[8, 11]);
    let [plain, mp] = &whole(&inside)[..] else { panic!("two blocks") };
    assert!(plain.starts_with(&around) && mp.starts_with(&[&around, &[1; 16][..]].concat()));
    // Other prefixes, and the attribute in another place: the same set.
    let first = body(&[], &[&reach, ORIGIN, MED, COMMUNITIES], &[]);
    assert_eq!(&whole(&first)[0], mp);
    let alone = body(&[], &[ORIGIN, MED, COMMUNITIES], &[16, 1, 2]);
    assert_eq!(&whole(&alone)[0], plain);
    // Another next hop: another set, even when the bytes go on the same.
    let other = body(&[], &[&reach_v6(&[2; 16]), ORIGIN, MED, COMMUNITIES], &[]);
    assert_ne!(&whole(&other)[0], mp);
    assert_ne!(plain, mp);
}

#[test]
fn sessions_that_read_attributes_differently_have_different_material() {
    let mut all = std::collections::HashSet::new();
    for (asn4, ibgp) in [(false, false), (false, true), (true, false), (true, true)] {
        let negotiated = Negotiated { asn4, ibgp, ..both_families() };
        let body = body(&[], &[ORIGIN], &[8, 10]);
        let sections = split(&body, &negotiated).unwrap();
        all.extend(sections.announced().map(|(_, _, block)| block.material().concat()));
    }
    assert_eq!(all.len(), 4);
}

#[test]
fn rfc4724_section_2_end_of_rib() {
    let end =
        |body: &[u8], negotiated: &Negotiated| split(body, negotiated).unwrap().is_end_of_rib();
    let both = both_families();
    let v6: &[u8] = &[0x80, 15, 3, 0, 2, 1];
    assert_eq!(end(&body(&[], &[], &[]), &both), Some(Family::Ipv4Unicast));
    assert_eq!(end(&body(&[], &[v6], &[]), &both), Some(Family::Ipv6Unicast));
    assert_eq!(
        end(&body(&[], &[&[0x90, 15, 0, 3, 0, 1, 1]], &[]), &both),
        Some(Family::Ipv4Unicast)
    );
    assert_eq!(end(&body(&[], &[UNREACH_V6], &[]), &both), None);
    assert_eq!(end(&body(&[], &[v6, ORIGIN], &[]), &both), None);
    assert_eq!(end(&body(&[8, 10], &[v6], &[]), &both), None);
    assert_eq!(end(&body(&[8, 10], &[], &[]), &both), None);
    assert_eq!(end(&body(&[], &[ORIGIN], &[]), &both), None);
    // Of a family that the session does not carry.
    assert_eq!(end(&body(&[], &[v6], &[]), &Negotiated::default()), None);
}

#[test]
fn other_families_are_passed_over() {
    // VPN-IPv4, with a next hop of twelve bytes.
    let reach: &[u8] = &[0x80, 14, 19, 0, 1, 128, 12, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 1, 2];
    let message = body(&[], &[reach, ORIGIN], &[]);
    let sections = split(&message, &both_families()).unwrap();
    assert_eq!(sections.mp_reach, None);
    assert_eq!(sections.skipped, Some(Skipped { afi: 1, safi: 128 }));
    // The attributes are those of routes, though not of ours.
    assert!(sections.orphans().is_none());
    let only_v4 = body(&[], &[UNREACH_V6], &[]);
    let skipped = split(&only_v4, &Negotiated::default()).unwrap().skipped;
    assert_eq!(skipped, Some(Skipped { afi: 2, safi: 1 }));
    let only_v6 = Negotiated {
        families: FamilySet::EMPTY.with(Family::Ipv6Unicast),
        ..Negotiated::default()
    };
    let message = body(&[8, 10], &[ORIGIN], &[8, 11]);
    let sections = split(&message, &only_v6).unwrap();
    assert_eq!(sections.skipped, Some(Skipped { afi: 1, safi: 1 }));
    assert_eq!(sections.announced().count() + sections.withdrawals().count(), 0);
}

#[test]
fn lengths_that_do_not_fit_end_the_session() {
    let cases: [&[u8]; 6] =
        [&[], &[0], &[0, 0], &[0, 0, 0], &[0, 3, 1, 2, 0, 0], &[0, 0, 0, 5, 1, 2, 3, 4]];
    for body in cases {
        let error = split(body, &both_families()).unwrap_err();
        assert!(matches!(error, UpdateError::Lengths { .. }), "{body:?}: {error}");
        assert_eq!(error.notification(), Notification::new(3, 1));
    }
}

#[test]
fn rfc8950_ipv4_prefixes_with_an_ipv6_next_hop_where_agreed() {
    let mut reach = reach_v6(&[1; 16]);
    reach[4] = 1;
    let body = body(&[], &[&reach, ORIGIN], &[]);
    let family = Family::Ipv4Unicast;
    let error = UpdateError::NextHopLength { family, length: 16 };
    assert_eq!(split(&body, &both_families()), Err(error));
    let agreed = Negotiated { extended_next_hop: true, ..both_families() };
    let sections = split(&body, &agreed).unwrap();
    assert_eq!(sections.mp_reach.unwrap().family, family);
}

/// A message with some structure, so that the parser gets somewhere.
fn nearly_sound() -> impl Strategy<Value = Vec<u8>> {
    let attribute = prop_oneof![
        Just(ORIGIN.to_vec()),
        Just(UNREACH_V6.to_vec()),
        Just(reach_v6(&[1; 32])),
        (any::<u8>(), 0u8..40, vec(any::<u8>(), 0..20)).prop_map(|(flags, code, value)| {
            let flags = flags & 0xe0;
            [&[flags, code, value.len() as u8], &value[..]].concat()
        }),
    ];
    let parts = (vec(any::<u8>(), 0..10), vec(attribute, 0..6), vec(any::<u8>(), 0..10));
    let mutations = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (parts, mutations).prop_map(|((withdrawn, attributes, nlri), mutations)| {
        let attributes: Vec<&[u8]> = attributes.iter().map(Vec::as_slice).collect();
        let mut message = body(&withdrawn, &attributes, &nlri);
        for (at, value) in mutations {
            let at = at.index(message.len());
            message[at] = value;
        }
        message
    })
}

proptest! {
    #[test]
    fn no_message_upsets_the_receiver(
        body in prop_oneof![nearly_sound(), vec(any::<u8>(), 0..100)],
        asn4: bool, ibgp: bool, add_path: bool, extended_next_hop: bool,
    ) {
        let negotiated = Negotiated { asn4, ibgp, extended_next_hop, ..both_families() };
        let Ok(sections) = split(&body, &negotiated) else { return Ok(()) };
        for (family, nlri, block) in sections.announced() {
            let decoded = Attributes::decode(&block, &negotiated);
            let worst = decoded.errors.iter().map(|error| error.treatment).max();
            prop_assert_eq!(decoded.treatment, worst.unwrap_or(Treatment::Accept));
            let read = prefixes(family, nlri, add_path).take_while(Result::is_ok).count();
            prop_assert!(read <= nlri.len());
        }
        for (family, nlri) in sections.withdrawals() {
            prop_assert!(prefixes(family, nlri, add_path).count() <= nlri.len());
        }
        if let Some(block) = sections.orphans() {
            Attributes::decode(&block, &negotiated);
        }
        // Nothing is lost: the pieces and the two attributes make the block again.
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let block = u16::from_be_bytes([body[2 + length], body[3 + length]]);
        let pieces: usize = sections.pieces.iter().map(|piece| piece.len()).sum();
        prop_assert!(pieces <= usize::from(block));
        if sections.mp_reach.is_none() && sections.mp_unreach.is_none()
            && sections.skipped.is_none() {
            prop_assert_eq!(pieces, usize::from(block));
        }
    }
}
