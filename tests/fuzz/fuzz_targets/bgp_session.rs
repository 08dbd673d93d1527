//! The BGP session: any inputs in any order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::session::steps;

fuzz_target!(|input: &[u8]| {
    steps(input);
});
