//! One packet, finished or not, through the whole pipeline.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::body::Way;
use std::cell::RefCell;

thread_local! {
    static WAY: RefCell<Way> = RefCell::default();
}

fuzz_target!(|input: &[u8]| WAY.with_borrow_mut(|way| way.fuzzed(input)));
