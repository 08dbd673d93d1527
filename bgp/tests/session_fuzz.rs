//! The body of the session's fuzz target on seeded random inputs, so that it runs everywhere.

#[path = "../../tests/fuzz/src/session.rs"]
#[expect(unreachable_pub, reason = "the fuzz package uses it from outside")]
mod session;

/// xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn any_inputs_in_any_order_leave_a_session_whole() {
    let mut state = 0x2545_f491_4f6c_dd1d;
    for length in (0..600).cycle().take(6000) {
        let input: Vec<u8> = (0..length).map(|_| next(&mut state).to_le_bytes()[3]).collect();
        session::steps(&input);
    }
}

/// The same with inputs that mostly get somewhere: connections, OPENs and KEEPALIVEs.
#[test]
fn sessions_that_come_up_again_and_again_stay_whole() {
    let mut state = 1;
    let mut ups = 0;
    for _ in 0..3000 {
        let mut input = vec![next(&mut state).to_le_bytes()[0], 0, 0];
        for _ in 0..100 {
            let at = (next(&mut state) % 3) as u8;
            let step = [(next(&mut state) % 16) as u8, (next(&mut state) % 17) as u8];
            match next(&mut state) % 4 {
                0 => input.extend_from_slice(&[0, 0, 5, 0, 10, at, 11, at]),
                1 => input.extend_from_slice(&[12, 0, 3, at, 10, at, 11, at]),
                2 => input.extend_from_slice(&[13 + 16, 4, 0, 0, 0, 0]),
                _ => input.extend_from_slice(&step),
            }
        }
        ups += session::steps(&input);
    }
    assert!(ups > 1000, "{ups}");
}
