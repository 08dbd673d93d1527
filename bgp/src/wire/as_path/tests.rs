use super::SegmentKind::{ConfedSequence, ConfedSet, Sequence, Set};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn path(segments: &[(SegmentKind, &[u32])]) -> AsPath {
    let mut path = AsPath::default();
    for (kind, asns) in segments {
        path.push(*kind, asns.iter().copied());
    }
    path
}

#[test]
fn rfc4271_section_9_1_2_2_a_set_counts_once() {
    let mixed = path(&[(Sequence, &[1, 2, 3]), (Set, &[4, 5, 6])]);
    assert_eq!(mixed.length(), 4);
    assert_eq!(mixed.to_string(), "1 2 3 {4,5,6}");
    assert_eq!(
        (mixed.first_as(), mixed.neighbor_as(), mixed.origin_as()),
        (Some(1), Some(1), None)
    );
    assert_eq!((mixed.count(2), mixed.count(6), mixed.count(7)), (1, 1, 0));
}

#[test]
fn rfc5065_section_5_3_confederations_count_nothing() {
    let confed = path(&[(ConfedSequence, &[9, 8]), (ConfedSet, &[7]), (Sequence, &[1, 1])]);
    assert_eq!((confed.length(), confed.count(1)), (2, 2));
    assert_eq!(confed.to_string(), "(9 8) [7] 1 1");
    assert_eq!((confed.first_as(), confed.neighbor_as()), (None, Some(1)));
    assert_eq!(confed.without_confed(), AsPath::from_sequence(&[1, 1]));
    assert_eq!(path(&[(ConfedSequence, &[9])]).neighbor_as(), None);
}

#[test]
fn prepending_goes_on_in_the_first_sequence() {
    let mut own = AsPath::default();
    own.prepend(65_000, 2);
    assert_eq!(own, AsPath::from_sequence(&[65_000, 65_000]));
    own.prepend(70_000, 1);
    assert_eq!(own, AsPath::from_sequence(&[70_000, 65_000, 65_000]));
    let mut set = path(&[(Set, &[1, 2])]);
    set.prepend(3, 1);
    assert_eq!(set, path(&[(Sequence, &[3]), (Set, &[1, 2])]));
    set.prepend(3, 0);
    assert_eq!(set.length(), 2);
}

#[test]
fn rfc4271_section_5_1_2_no_segment_has_more_than_255() {
    let asns: Vec<u32> = (1..=600).collect();
    let long = AsPath::from_sequence(&asns);
    let counts: Vec<usize> = long.segments().map(|segment| segment.asns().len()).collect();
    assert_eq!(counts, [255, 255, 90]);
    assert_eq!(long.asns().collect::<Vec<_>>(), asns);
    let mut full = AsPath::from_sequence(&asns[..254]);
    full.prepend(7, 3);
    let counts: Vec<usize> = full.segments().map(|segment| segment.asns().len()).collect();
    assert_eq!((counts, full.length(), full.first_as()), (vec![2, 255], 257, Some(7)));
    assert_eq!(AsPath::from_wire(full.as_bytes(), true), Ok(full));
}

#[test]
fn rfc6793_section_4_2_3_the_true_path_is_put_together() {
    let trans = u32::from(AS_TRANS);
    let old = AsPath::from_sequence(&[1, 2, trans, trans]);
    let as4 = AsPath::from_sequence(&[70_000, 80_000]);
    assert_eq!(old.merged(&as4), AsPath::from_sequence(&[1, 2, 70_000, 80_000]));
    // As long as the other: it is the path.
    assert_eq!(AsPath::from_sequence(&[trans, trans]).merged(&as4), as4);
    // "If the number of AS numbers in the AS_PATH attribute is less ... SHALL be ignored".
    let short = AsPath::from_sequence(&[trans]);
    assert_eq!(short.merged(&as4), short);
    // A set counts once, confederation segments not at all.
    let old =
        path(&[(ConfedSequence, &[9]), (Sequence, &[1]), (Set, &[5, 6]), (Sequence, &[trans])]);
    let as4 = path(&[(ConfedSequence, &[4]), (Sequence, &[70_000])]);
    let merged =
        path(&[(ConfedSequence, &[9]), (Sequence, &[1]), (Set, &[5, 6]), (Sequence, &[70_000])]);
    assert_eq!(old.merged(&as4), merged);
}

#[test]
fn two_octet_speakers_get_as_trans() {
    let mut out = Vec::new();
    let path = path(&[(Sequence, &[65_535, 65_536])]);
    path.write(false, &mut out);
    assert_eq!(out, [2, 2, 0xff, 0xff, 0x5b, 0xa0]);
    assert_eq!(path.wire_len(false), out.len());
    assert!(!path.fits_two_octets());
}

#[test]
fn bad_paths_are_refused() {
    let read = |bytes: &[u8]| AsPath::from_wire(bytes, true);
    assert_eq!(read(&[7, 1, 0, 0, 0, 1]), Err(AsPathError::SegmentType(7)));
    assert_eq!(read(&[2, 0]), Err(AsPathError::EmptySegment));
    assert_eq!(read(&[2, 1, 0, 0, 0]), Err(AsPathError::Truncated));
    assert_eq!(read(&[2]), Err(AsPathError::Truncated));
    assert_eq!(read(&[2, 1, 0, 0, 0, 0]), Err(AsPathError::Zero));
    assert_eq!(AsPath::from_wire(&[2, 1, 0, 0], false), Err(AsPathError::Zero));
    assert_eq!(read(&[]), Ok(AsPath::default()));
}

proptest! {
    #[test]
    fn prepending_is_putting_in_front(
        asns in vec(1u32.., 0..600), asn in 1u32.., times in 0usize..600,
    ) {
        let mut path = AsPath::from_sequence(&asns);
        path.prepend(asn, times);
        let expected: Vec<u32> =
            std::iter::repeat_n(asn, times).chain(asns.iter().copied()).collect();
        prop_assert_eq!(path.asns().collect::<Vec<_>>(), expected);
        prop_assert_eq!(path.length(), times + asns.len());
    }

    #[test]
    fn what_a_two_octet_speaker_passes_on_is_the_path_again(
        asns in vec(prop_oneof![1u32..65_536, 65_536u32..], 0..300),
        added in vec(1u32..65_536, 0..5),
    ) {
        let path = AsPath::from_sequence(&asns);
        let mut narrow = Vec::new();
        path.write(false, &mut narrow);
        let mut old = AsPath::from_wire(&narrow, false).unwrap();
        // Speakers in between know AS_PATH only.
        for asn in added.iter().rev() {
            old.prepend(*asn, 1);
        }
        let expected: Vec<u32> = added.iter().chain(&asns).copied().collect();
        prop_assert_eq!(old.merged(&path).asns().collect::<Vec<_>>(), expected);
    }
}
