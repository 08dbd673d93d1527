use super::*;
use proptest::prelude::*;

#[test]
fn well_known_communities_have_names() {
    for (value, name) in [
        (0xffff_0000, "graceful-shutdown"),
        (0xffff_029a, "blackhole"),
        (0xffff_ff01, "no-export"),
        (0xffff_ff02, "no-advertise"),
        (0xffff_ff03, "no-export-subconfed"),
        (0xffff_ff04, "no-peer"),
    ] {
        assert_eq!(Community(value).name(), Some(name));
        assert_eq!(name.parse(), Ok(Community(value)));
    }
    assert_eq!(Community::new(65_000, 1).name(), None);
}

#[test]
fn extended_communities_are_written_by_type() {
    for (bytes, text) in [
        ([0, 2, 0xfd, 0xe8, 0, 0, 0, 1], "rt:65000:1"),
        ([1, 3, 192, 0, 2, 1, 0, 7], "soo:192.0.2.1:7"),
        ([2, 2, 0, 1, 0, 0, 0, 7], "rt:65536L:7"),
        ([2, 2, 0, 0, 0, 5, 0, 7], "rt:5L:7"),
        ([3, 0x0c, 0, 0, 0, 0, 0, 8], "0x030c000000000008"),
    ] {
        assert_eq!(ExtendedCommunity(bytes).to_string(), text);
        assert_eq!(text.parse(), Ok(ExtendedCommunity(bytes)));
    }
    assert_eq!("rt:65536:7".parse(), Ok(ExtendedCommunity([2, 2, 0, 1, 0, 0, 0, 7])));
    assert!(ExtendedCommunity([0x40, 2, 0, 0, 0, 0, 0, 0]).is_non_transitive());
}

#[test]
fn other_text_is_refused() {
    for text in ["", "1", "1:2:3", "65536:1", "1:65536", "-1:2", "a:b", "noexport"] {
        let error = text.parse::<Community>().unwrap_err();
        assert_eq!(error.text, text);
    }
    for text in ["1:2", "1:2:3:4", "4294967296:1:1", "1::3"] {
        assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
    }
    for text in
        ["rt:1", "xx:1:2", "0x12", "rt:70000:70000", "rt:192.0.2.1:65536", "0x+123456789abcdef"]
    {
        assert!(text.parse::<ExtendedCommunity>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        value: u32, large: [u8; 12], extended: [u8; 8], kind in 0u8..4,
    ) {
        let community = Community(value);
        prop_assert_eq!(community.to_string().parse(), Ok(community));
        let community = LargeCommunity::from_bytes(large);
        prop_assert_eq!(community.to_bytes(), large);
        prop_assert_eq!(community.to_string().parse(), Ok(community));
        let community = ExtendedCommunity(extended);
        prop_assert_eq!(community.to_string().parse(), Ok(community));
        let mut known = extended;
        (known[0], known[1]) = (kind, 2 + (extended[1] & 1));
        prop_assert_eq!(ExtendedCommunity(known).to_string().parse(), Ok(ExtendedCommunity(known)));
    }
}
