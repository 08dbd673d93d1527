//! The fuzz target's body under `cargo test`: on generated messages, damaged ones, and any bytes.

use super::bgp_feed::Feed;
use super::fuzz_body::update;
use super::session;
use margay_bgp::wire::HEADER_LEN;
use margay_bgp::wire::pack::encode_update;
use proptest::collection::vec;
use proptest::prelude::*;

/// A sound body of a few prefixes.
fn body(seed: u64) -> Vec<u8> {
    let shared = Feed::new(seed, 20).next().expect("a set");
    let next_hop = shared.attributes.next_hop.expect("an IPv4 next hop");
    let mut out = Vec::new();
    let prefixes = shared.prefixes.iter().copied();
    encode_update(&shared.attributes, next_hop, prefixes, &session(true), &mut out)
        .expect("room for it");
    out.split_off(HEADER_LEN)
}

#[test]
fn the_fuzz_body_holds_on_sound_messages() {
    for seed in 0..2_000 {
        for choice in 0..16 {
            update(&[&[choice], &body(seed)[..]].concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_fuzz_body_holds_on_any_bytes(input in vec(any::<u8>(), 0..300)) {
        update(&input);
    }

    #[test]
    fn the_fuzz_body_holds_on_damaged_messages(
        seed in 0u64..1_000,
        choice in 0u8..16,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut input = [&[choice], &body(seed)[..]].concat();
        for (at, value) in damage {
            let at = at.index(input.len());
            input[at] = value;
        }
        update(&input);
    }
}
