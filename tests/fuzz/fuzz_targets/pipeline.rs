//! One packet, finished or not, through the whole pipeline; or a sequence of them through one that
//! translates and polices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_fuzz::body::Way;
use margay_fuzz::stateful::Conversation;
use std::cell::RefCell;

thread_local! {
    static WAY: RefCell<Way> = RefCell::default();
    static CONVERSATION: RefCell<Conversation> = RefCell::default();
}

fuzz_target!(|input: &[u8]| match input.split_first() {
    Some((choices, steps)) if choices & 0x80 != 0 => {
        CONVERSATION.with_borrow_mut(|conversation| conversation.fuzzed(steps));
    }
    _ => WAY.with_borrow_mut(|way| way.fuzzed(input)),
});
