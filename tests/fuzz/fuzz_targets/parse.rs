//! The header views and the walks over them, on bytes alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::views::views;

fuzz_target!(|input: &[u8]| views(input));
