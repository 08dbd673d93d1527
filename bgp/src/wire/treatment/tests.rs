use super::Treatment::{Accept, AttributeDiscard, SessionReset, TreatAsWithdraw};
use super::*;
use crate::family::{Family, FamilySet};
use crate::wire::Negotiated;
use crate::wire::attribute::Attributes;
use crate::wire::update::{UpdateError, split};

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const SOUND: [&[u8]; 3] = [ORIGIN, AS_PATH, NEXT_HOP];
/// 10.0.0.0/8.
const NLRI: &[u8] = &[8, 10];

fn session() -> Negotiated {
    let families = FamilySet::from_iter(Family::ALL);
    Negotiated { ibgp: true, families, ..Negotiated::default() }
}

fn external() -> Negotiated {
    Negotiated { ibgp: false, ..session() }
}

fn two_octets() -> Negotiated {
    Negotiated { asn4: false, ..session() }
}

fn body(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = (attributes.len() as u16).to_be_bytes();
    [&[0, 0], &length[..], &attributes, nlri].concat()
}

/// What a receiver does with the message: all that is decoded of it, and the strongest treatment.
fn verdict(body: &[u8], negotiated: &Negotiated) -> (Treatment, Vec<AttributeError>) {
    let Ok(sections) = split(body, negotiated) else { return (SessionReset, Vec::new()) };
    let mut treatment = sections.treatment();
    let mut errors = sections.errors.clone();
    let blocks = sections.announced().map(|(_, _, block)| block).chain(sections.orphans());
    for block in blocks {
        let decoded = Attributes::decode(&block, negotiated);
        treatment = treatment.max(decoded.treatment);
        errors.extend(decoded.errors);
    }
    (treatment, errors)
}

/// The verdict over sound attributes with `bad` in place of the sound one of its type.
fn with(bad: &[u8], negotiated: &Negotiated) -> Treatment {
    let mut attributes: Vec<&[u8]> = SOUND.to_vec();
    attributes.retain(|sound| sound[1] != bad[1]);
    attributes.push(bad);
    verdict(&body(&attributes, NLRI), negotiated).0
}

fn raw(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    [&[flags, code, value.len() as u8], value].concat()
}

/// A sound value of each attribute.
fn sound_value(code: u8, asn4: bool) -> Vec<u8> {
    match code {
        code::ORIGIN => vec![0],
        code::AS_PATH if !asn4 => vec![2, 1, 0xfd, 0xe8],
        code::AS_PATH | code::AS4_PATH => vec![2, 1, 0, 0, 0xfd, 0xe8],
        code::NEXT_HOP => vec![192, 0, 2, 1],
        code::ATOMIC_AGGREGATE => vec![],
        code::AGGREGATOR if !asn4 => vec![0xfd, 0xe8, 192, 0, 2, 1],
        code::AGGREGATOR | code::AS4_AGGREGATOR => vec![0, 0, 0xfd, 0xe8, 192, 0, 2, 1],
        code::MP_REACH_NLRI => {
            let next_hop = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            [&[0, 2, 1, 16][..], &next_hop, &[0, 16, 0x20, 1]].concat()
        }
        code::MP_UNREACH_NLRI => vec![0, 2, 1, 16, 0x20, 1],
        code::EXTENDED_COMMUNITIES => vec![0, 2, 0, 1, 0, 0, 0, 1],
        code::LARGE_COMMUNITIES => vec![0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3],
        _ => vec![0, 0, 0, 1],
    }
}

/// The session in which the attribute is sound.
fn home(code: u8) -> Negotiated {
    let is_as4 = matches!(code, code::AS4_PATH | code::AS4_AGGREGATOR);
    if is_as4 { two_octets() } else { session() }
}

/// A message in which everything is sound, whatever the width of AS numbers.
fn sound_with(bad: &[u8], negotiated: &Negotiated) -> Treatment {
    let path = raw(0x40, code::AS_PATH, &sound_value(code::AS_PATH, negotiated.asn4));
    let mut attributes: Vec<&[u8]> = vec![ORIGIN, &path, NEXT_HOP];
    attributes.retain(|sound| sound[1] != bad[1]);
    attributes.push(bad);
    verdict(&body(&attributes, NLRI), negotiated).0
}

fn all_codes() -> impl Iterator<Item = u8> {
    TABLE.iter().map(|(code, _)| *code)
}

#[test]
fn sound_attributes_are_accepted() {
    for code in all_codes() {
        let negotiated = home(code);
        let value = sound_value(code, negotiated.asn4);
        let sound = raw(code::flags(code).unwrap(), code, &value);
        assert_eq!(sound_with(&sound, &negotiated), Accept, "{code}");
    }
}

#[test]
fn rfc7606_section_3c_wrong_flags_withdraw_the_routes() {
    for code in all_codes() {
        let negotiated = home(code);
        let value = sound_value(code, negotiated.asn4);
        for wrong in [0x80, 0x40, 0xc0] {
            let flags = code::flags(code).unwrap() ^ wrong;
            let bad = raw(flags, code, &value);
            assert_eq!(sound_with(&bad, &negotiated), TreatAsWithdraw, "{code} {flags:#x}");
        }
    }
}

/// Lengths that each attribute cannot have, and what they do.
#[test]
fn rfc7606_section_7_wrong_lengths() {
    use super::code::*;
    let cells: [(u8, &[usize], Treatment); 16] = [
        (ORIGIN, &[0, 2], TreatAsWithdraw),
        (AS_PATH, &[1, 5, 7], TreatAsWithdraw),
        (NEXT_HOP, &[0, 3, 5, 16], TreatAsWithdraw),
        (MULTI_EXIT_DISC, &[0, 3, 5], TreatAsWithdraw),
        (LOCAL_PREF, &[0, 3, 5], TreatAsWithdraw),
        (ATOMIC_AGGREGATE, &[1, 4], AttributeDiscard),
        (AGGREGATOR, &[0, 6, 7, 9], AttributeDiscard),
        (COMMUNITIES, &[0, 3, 5], TreatAsWithdraw),
        (ORIGINATOR_ID, &[0, 3, 5], TreatAsWithdraw),
        (CLUSTER_LIST, &[0, 3, 6], TreatAsWithdraw),
        (MP_REACH_NLRI, &[0, 3, 4, 20], SessionReset),
        (MP_UNREACH_NLRI, &[0, 1, 2], SessionReset),
        (EXTENDED_COMMUNITIES, &[0, 7, 9], TreatAsWithdraw),
        (AS4_PATH, &[0, 1, 3], AttributeDiscard),
        (AS4_AGGREGATOR, &[0, 6, 9], AttributeDiscard),
        (LARGE_COMMUNITIES, &[0, 4, 13], TreatAsWithdraw),
    ];
    for (code, lengths, expected) in cells {
        for length in lengths {
            let negotiated = home(code);
            let mut value = sound_value(code, negotiated.asn4);
            value.resize(*length, 1);
            let bad = raw(flags(code).unwrap(), code, &value);
            assert_eq!(sound_with(&bad, &negotiated), expected, "{code} of {length}");
            if !matches!(code, AS_PATH | MP_REACH_NLRI | MP_UNREACH_NLRI) {
                assert_eq!(treatment(code, Fault::Length(*length)), expected, "{code}");
            }
        }
    }
    assert_eq!(all_codes().collect::<Vec<_>>(), cells.map(|(code, ..)| code));
}

#[test]
fn rfc7606_section_7_wrong_values() {
    use super::code::*;
    let cells: [(u8, &[&[u8]], Treatment); 6] = [
        (ORIGIN, &[&[3], &[255]], TreatAsWithdraw),
        (
            AS_PATH,
            &[
                &[5, 1, 0, 0, 0, 1],             // no such segment type
                &[0, 1, 0, 0, 0, 1],             // nor this
                &[2, 0],                         // empty segment
                &[2, 1, 0, 0, 0, 1, 2, 0],       // an empty one behind a sound one
                &[2, 2, 0, 0, 0, 1],             // longer than the attribute
                &[2, 1, 0, 0, 0, 1, 2],          // one octet left
                &[2, 1, 0, 0, 0, 0],             // AS 0 (RFC 7607)
                &[1, 2, 0, 0, 0, 1, 0, 0, 0, 0], // AS 0 in a set
            ],
            TreatAsWithdraw,
        ),
        (NEXT_HOP, &[&[0, 0, 0, 0], &[0, 1, 2, 3], &[224, 0, 0, 5]], TreatAsWithdraw),
        (AGGREGATOR, &[&[0, 0, 0, 0, 192, 0, 2, 1]], AttributeDiscard),
        (
            AS4_PATH,
            &[&[2, 0], &[9, 1, 0, 0, 0, 1], &[2, 2, 0, 0, 0, 1], &[2, 1, 0, 0, 0, 0]],
            AttributeDiscard,
        ),
        (AS4_AGGREGATOR, &[&[0, 0, 0, 0, 192, 0, 2, 1]], AttributeDiscard),
    ];
    for (code, values, expected) in cells {
        assert_eq!(treatment(code, Fault::Value), expected, "{code}");
        for value in values {
            let bad = raw(flags(code).unwrap(), code, value);
            assert_eq!(sound_with(&bad, &home(code)), expected, "{code} {value:?}");
        }
    }
}

#[test]
fn rfc7606_section_7_11_a_next_hop_of_zeros_withdraws_the_routes() {
    let mut value = sound_value(code::MP_REACH_NLRI, true);
    value[4..20].fill(0);
    assert_eq!(with(&raw(0x80, code::MP_REACH_NLRI, &value), &session()), TreatAsWithdraw);
    assert_eq!(treatment(code::MP_REACH_NLRI, Fault::Value), TreatAsWithdraw);
}

#[test]
fn rfc7606_section_7_11_a_next_hop_of_the_wrong_length_ends_the_session() {
    for length in [0, 4, 15, 17, 24, 31, 33, 48] {
        let mut value = vec![0, 2, 1, length];
        value.extend(std::iter::repeat_n(1, usize::from(length) + 1));
        let body = body(&[&raw(0x80, code::MP_REACH_NLRI, &value), ORIGIN, AS_PATH], &[]);
        let error =
            UpdateError::NextHopLength { family: Family::Ipv6Unicast, length: length.into() };
        assert_eq!(split(&body, &session()), Err(error));
        assert_eq!(error.notification(), Notification::new(3, 9));
    }
}

#[test]
fn rfc7606_section_3g_the_first_of_two_counts() {
    for code in all_codes() {
        let negotiated = home(code);
        let one = raw(code::flags(code).unwrap(), code, &sound_value(code, negotiated.asn4));
        // The second one is not even sound.
        let other = raw(0, code, &[9; 3]);
        let both = [&one[..], &other].concat();
        let is_mp = matches!(code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
        let expected = if is_mp { SessionReset } else { AttributeDiscard };
        assert_eq!(sound_with(&both, &negotiated), expected, "{code}");
        assert_eq!(treatment(code, Fault::Duplicate), expected, "{code}");
    }
    // One that is not known.
    let both = [raw(0xc0, 99, &[1]), raw(0xc0, 99, &[2])].concat();
    let (treatment, errors) = verdict(&body(&[SOUND.concat().as_slice(), &both], NLRI), &session());
    assert_eq!((treatment, errors.len()), (AttributeDiscard, 1));
}

#[test]
fn rfc7606_section_3d_a_missing_mandatory_attribute_withdraws_the_routes() {
    for missing in SOUND {
        let mut attributes = SOUND.to_vec();
        attributes.retain(|sound| *sound != missing);
        let (treatment, errors) = verdict(&body(&attributes, NLRI), &session());
        assert_eq!(treatment, TreatAsWithdraw);
        assert_eq!((errors[0].code, errors[0].fault), (missing[1], Fault::Missing));
        assert_eq!(errors[0].notification(), Notification::with_data(3, 3, &[missing[1]]));
    }
}

#[test]
fn next_hop_is_not_asked_for_beside_mp_reach() {
    let mp = raw(0x80, code::MP_REACH_NLRI, &sound_value(code::MP_REACH_NLRI, true));
    assert_eq!(verdict(&body(&[&mp, ORIGIN, AS_PATH], &[]), &session()).0, Accept);
    // RFC 4760 section 3: one that is there nevertheless is ignored, even a bad one.
    let bad = raw(0x40, code::NEXT_HOP, &[1, 2, 3]);
    assert_eq!(verdict(&body(&[&mp, ORIGIN, AS_PATH, &bad], &[]), &session()).0, Accept);
    for missing in [ORIGIN, AS_PATH] {
        let other = if missing == ORIGIN { AS_PATH } else { ORIGIN };
        let verdict = verdict(&body(&[&mp, other], &[]), &session());
        assert_eq!(verdict.0, TreatAsWithdraw);
    }
}

#[test]
fn rfc7606_sections_7_5_7_9_7_10_internal_attributes_from_outside_are_discarded() {
    for code in all_codes() {
        let value = sound_value(code, true);
        let sound = raw(code::flags(code).unwrap(), code, &value);
        let internal = matches!(code, code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST);
        let expected = if internal { AttributeDiscard } else { Accept };
        assert_eq!(sound_with(&sound, &external()), expected, "{code}");
        if internal {
            assert_eq!(treatment(code, Fault::External), AttributeDiscard);
            // Even when they are malformed.
            let bad = raw(code::flags(code).unwrap(), code, &[1]);
            assert_eq!(sound_with(&bad, &external()), AttributeDiscard, "{code}");
        }
    }
}

#[test]
fn rfc5065_section_4_confederation_segments_from_outside_withdraw_the_routes() {
    for kind in [3, 4] {
        let path = raw(0x40, code::AS_PATH, &[kind, 1, 0, 0, 0, 1]);
        assert_eq!(with(&path, &external()), TreatAsWithdraw);
        assert_eq!(with(&path, &session()), Accept);
    }
}

#[test]
fn rfc7606_section_4_an_overrun_withdraws_the_routes_and_finds_the_nlri() {
    let overruns: [&[u8]; 5] =
        [&[0xc0], &[0xc0, 8], &[0xd0, 8, 0], &[0xc0, 8, 4, 1, 2, 3], &[0xd0, 8, 1, 0, 9]];
    for overrun in overruns {
        let body = body(&[ORIGIN, AS_PATH, NEXT_HOP, overrun], NLRI);
        let (treatment, errors) = verdict(&body, &session());
        assert_eq!(treatment, TreatAsWithdraw);
        assert_eq!(errors[0].fault, Fault::Overrun);
        assert_eq!(split(&body, &session()).unwrap().nlri, NLRI);
    }
    // Its prefixes cannot be found.
    for code in [code::MP_REACH_NLRI, code::MP_UNREACH_NLRI] {
        let body = body(&[ORIGIN, AS_PATH, NEXT_HOP, &[0x80, code, 9, 0, 2, 1]], NLRI);
        assert_eq!(verdict(&body, &session()).0, SessionReset);
        assert_eq!(treatment(code, Fault::Overrun), SessionReset);
    }
}

#[test]
fn rfc7606_section_5_2_errors_without_any_reachable_nlri_end_the_session() {
    let bad_origin: &[u8] = &[0x40, 1, 1, 9];
    assert_eq!(verdict(&body(&[bad_origin], &[]), &session()).0, SessionReset);
    assert_eq!(verdict(&body(&[ORIGIN, &[0x40]], &[]), &session()).0, SessionReset);
    // Attribute discard stays what it is, and nothing is missing where nothing is announced.
    let discarded: &[u8] = &[0x40, 6, 1, 0];
    assert_eq!(verdict(&body(&[discarded], &[]), &session()).0, AttributeDiscard);
    let unreach = raw(0x80, code::MP_UNREACH_NLRI, &sound_value(code::MP_UNREACH_NLRI, true));
    assert_eq!(verdict(&body(&[&unreach], &[]), &session()).0, Accept);
    assert_eq!(verdict(&body(&[&unreach, bad_origin], &[]), &session()).0, SessionReset);
}

#[test]
fn rfc4271_section_6_3_an_unknown_well_known_attribute_ends_the_session() {
    let bad = raw(0x40, 99, &[1, 2]);
    let (treatment, errors) = verdict(&body(&[SOUND.concat().as_slice(), &bad], NLRI), &session());
    assert_eq!(treatment, SessionReset);
    assert_eq!(errors[0].notification(), Notification::with_data(3, 2, &bad));
}

#[test]
fn rfc7606_section_3h_the_strongest_treatment_counts() {
    let discard: &[u8] = &[0x40, 6, 1, 0];
    let withdraw: &[u8] = &[0xc0, 8, 1, 0];
    let reset: &[u8] = &[0x40, 99, 0];
    let all = SOUND.concat();
    let verdict = |bad: &[&[u8]]| {
        let (treatment, errors) = verdict(&body(&[&all, &bad.concat()], NLRI), &session());
        assert_eq!(errors.len(), bad.len());
        treatment
    };
    assert_eq!(verdict(&[discard]), AttributeDiscard);
    assert_eq!(verdict(&[withdraw, discard]), TreatAsWithdraw);
    assert_eq!(verdict(&[discard, reset, withdraw]), SessionReset);
}

#[test]
fn rfc6793_section_4_1_as4_attributes_from_a_new_speaker_are_passed_over() {
    for code in [code::AS4_PATH, code::AS4_AGGREGATOR] {
        assert_eq!(with(&raw(0xc0, code, &[9]), &session()), Accept);
    }
}

#[test]
fn every_cell_of_the_table_is_asked() {
    // A cell marked as one that cannot happen must not be one that a decoder asks for: each
    // column's test above has gone through all rows, and these are the `A`s that are left.
    let never: Vec<(u8, usize)> = TABLE
        .iter()
        .flat_map(|(code, cells)| cells.iter().enumerate().map(move |cell| (*code, cell)))
        .filter(|(_, (_, cell))| **cell == Accept)
        .map(|(code, (column, _))| (code, column))
        .collect();
    for (code, column) in never {
        let can_be_missing =
            matches!(code, code::ORIGIN | code::AS_PATH | code::NEXT_HOP) && column == 4;
        assert!(!can_be_missing && column >= 2 && column != 3, "{code} column {column}");
    }
}

#[test]
fn errors_name_their_notification() {
    let subcode = |code, fault| AttributeError::new(code, fault, &[1, 2]).notification().subcode;
    assert_eq!(subcode(code::ORIGIN, Fault::Flags(0)), 4);
    assert_eq!(subcode(code::ORIGIN, Fault::Length(2)), 5);
    assert_eq!(subcode(code::ORIGIN, Fault::Value), 6);
    assert_eq!(subcode(code::NEXT_HOP, Fault::Value), 8);
    assert_eq!(subcode(code::AGGREGATOR, Fault::Value), 9);
    assert_eq!(subcode(code::AS_PATH, Fault::Value), 11);
    assert_eq!(subcode(code::COMMUNITIES, Fault::Overrun), 1);
    let long = AttributeError::new(99, Fault::Unrecognized, &[0; 5000]);
    assert_eq!(long.notification().data.len(), MAX_NOTIFICATION_DATA);
    assert_eq!(long.to_string(), "attribute 99: well-known but not known");
}
