//! The body of an UPDATE, split, decoded, and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::bgp::update;

fuzz_target!(|input: &[u8]| update(input));
